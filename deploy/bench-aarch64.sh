#!/bin/sh
# Runs the benchmarks as a 64-bit ARM board would, without a board: under qemu-user, with Debian's own Python. It shows
# that all of it works there: the runtime's ARM kernels, the stand-ins, the processes of their own for memory, the whole
# daemon. Its times say nothing, so everything is looked at once, the daemon at two faces, and the result and its page
# are marked as emulated.
#
#   deploy/bench-aarch64.sh [OPTION...]     # default: --tiny, two frames' worth; with `latency growth memory daemon`
#                                           # the whole quick grid, three hours or so, as a cascade takes minutes
#                                           # for a frame of a hundred faces
#
# Needs debootstrap (as root, or with fakeroot), qemu-user-static, and this tree's benchmark environment (make bench makes
# it); for the daemon part mosquitto and GStreamer's RTSP server of this machine. The tree is kept in .cache and is that
# of try-aarch64.sh.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
own=${PYTHON:-$root/.venv/bin/python} tree=$root/.cache/aarch64-bookworm
PATH=$PATH:/usr/sbin:/sbin
for tool in qemu-aarch64-static debootstrap; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt install qemu-user-static debootstrap" >&2; exit 1; }
done
[ $# -gt 0 ] || set -- --tiny

if [ ! -e "$tree.done" ]; then
  echo "Unpacking a Debian bookworm for arm64 into $tree..."
  rm -rf "$tree"
  mkdir -p "$(dirname "$tree")"
  debootstrap --foreign --arch=arm64 --variant=minbase --include=python3.11 bookworm "$tree" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$tree.log" || { tail -5 "$tree.log" >&2; exit 1; }
  # Its second stage would run under emulation; all that is needed is the files.
  for package in "$tree"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$tree"; done
  touch "$tree.done"
fi

packages=$tree/bench
if ! cmp -s "$root/requirements/bench.lock" "$packages.lock"; then
  echo "Installing the wheels of bench.lock for aarch64..."
  rm -rf "$packages" "$packages.lock"
  platforms=""
  for glibc in 28 27 26 24 17; do platforms="$platforms --platform manylinux_2_${glibc}_aarch64"; done
  # shellcheck disable=SC2086 # words on purpose
  "$own" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    --target "$packages" --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
    $platforms --platform manylinux2014_aarch64 --platform any -r "$root/requirements/bench.lock"
  cp "$root/requirements/bench.lock" "$packages.lock"
fi

# XNNPACK asks /proc/cpuinfo what the processor can do, and qemu would show it this machine's.
mkdir -p "$tree/proc"
for core in 0 1; do
  printf 'processor\t: %s\nBogoMIPS\t: 108.00\n' "$core"
  printf 'Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n'
  printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
done > "$tree/proc/cpuinfo"

# What runs in a process of its own must be emulated too: this is the Python that it finds.
python=$root/.cache/aarch64-python
cat > "$python" <<END
#!/bin/sh
exec qemu-aarch64-static -cpu cortex-a76 -L "$tree" -0 "$python" -E ONELOOK_EMULATED=1 -E PYTHONHOME="$tree/usr" \\
  -E PYTHONPATH="$root/daemon:$root:$packages" -E PYTHONDONTWRITEBYTECODE=1 "$tree/usr/bin/python3.11" "\$@"
END
chmod +x "$python"
exec "$python" -m benchmarks "$@" --threads 1 --host aarch64-emulated --out "$root/.cache/aarch64-results"

#!/bin/sh
# Tries onelook as a 64-bit ARM board would run it, without a board: under qemu-user, with Debian's own Python.
#
#   deploy/try-aarch64.sh [bookworm|trixie]
#
# Installs the locked wheels for aarch64 into a Debian tree, replays the test clip there and here, and compares the
# events. It says nothing about speed. Needs debootstrap (as root, or with fakeroot), qemu-user-static, and this tree's
# test environment (make test). The tree is kept in .cache.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
suite=${1:-bookworm}
case $suite in
  bookworm) python=3.11 ;;
  trixie) python=3.13 ;;
  *) echo "There is no $suite here: bookworm or trixie." >&2; exit 2 ;;
esac
own=$root/.venv/bin/python tree=$root/.cache/aarch64-$suite

if [ ! -e "$tree.done" ]; then
  echo "Unpacking a Debian $suite for arm64 into $tree..."
  rm -rf "$tree"
  mkdir -p "$(dirname "$tree")"
  debootstrap --foreign --arch=arm64 --variant=minbase --include="python$python" "$suite" "$tree" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$tree.log"
  # Its second stage would run under emulation; all that is needed is the files.
  for package in "$tree"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$tree"; done
  touch "$tree.done"
fi

echo "Installing the wheels of runtime.lock for Python $python on aarch64..."
rm -rf "$tree/onelook"
mkdir -p "$tree/onelook/site" "$tree/proc"
platforms=""
for glibc in 28 27 26 24 17; do platforms="$platforms --platform manylinux_2_${glibc}_aarch64"; done
"$own" "$root/deploy/lock-for.py" "$root/requirements/runtime.lock" "$python" > "$tree.lock"
# shellcheck disable=SC2086 # words on purpose
"$own" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
  --ignore-requires-python --only-binary :all: --target "$tree/onelook/site" --implementation cp --python-version "$python" \
  --abi "cp$(echo $python | tr -d .)" --abi abi3 --abi none $platforms --platform manylinux2014_aarch64 \
  --platform any -r "$tree.lock"
cp -a "$root/daemon" "$tree/onelook/daemon"
mkdir -p "$tree/onelook/edge_models"
cp -a "$root/edge_models/onelook" "$tree/onelook/edge_models/onelook"

# The runtime asks /proc/cpuinfo what the CPU can do, and qemu would show it this machine's.
for core in 0 1 2 3; do
  printf 'processor\t: %s\nBogoMIPS\t: 108.00\n' "$core"
  printf 'Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n'
  printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
done > "$tree/proc/cpuinfo"

echo "Replaying the test clip here and there..."
# As pictures, which decode to the same bytes everywhere; films do not: FFmpeg turns colours by each CPU's own code.
rm -rf "$tree/onelook/clip"
PYTHONPATH=$root/daemon "$own" "$root/tests/clip.py" "$tree/onelook/clip"
PYTHONPATH=$root/daemon "$own" -m onelook replay "$tree/onelook/clip/" > "$tree/here.jsonl"
qemu-aarch64-static -cpu cortex-a76 -L "$tree" -E PYTHONPATH=/onelook/site:/onelook/daemon -E PYTHONDONTWRITEBYTECODE=1 \
  -E PYTHONHOME=/usr "$tree/usr/bin/python$python" -m onelook replay /onelook/clip/ > "$tree/there.jsonl"

"$own" "$root/deploy/same-events.py" "$tree/here.jsonl" "$tree/there.jsonl"

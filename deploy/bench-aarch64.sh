#!/bin/sh
# Runs the benchmarks' tiny grid on an emulated 64-bit ARM, to see that all of it works there: the runtime's ARM
# kernels, the stand-ins, the report's numbers. Its times say nothing, and the result is marked as emulated.
#
#   deploy/bench-aarch64.sh [FOLDER]      # default: .cache/aarch64, about 900 MB; Debian on x86-64, no board, no root
#
# Needs: apt install qemu-user-static debootstrap
# shellcheck disable=SC2010 # Python's own names are plain
set -eu
cd "$(dirname "$0")/.."
here=$PWD
root=${1:-$here/.cache/aarch64}
for tool in qemu-aarch64-static debootstrap; do
  command -v "$tool" >/dev/null || [ -x "/usr/sbin/$tool" ] || {
    echo "$tool is missing: apt install qemu-user-static debootstrap"; exit 1; }
done
PATH=$PATH:/usr/sbin
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")

if [ ! -e "$root/complete" ]; then
  echo "Unpacking Debian $suite for arm64 into $root..."
  rm -rf "$root" && mkdir -p "$root"
  # The first stage only downloads and unpacks; nothing of it has to run, so neither root nor chroot is needed.
  fakeroot=$(command -v fakeroot || true)
  ${fakeroot} debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libstdc++6,libgomp1,git \
    "$suite" "$root/system" ${MIRROR:-} > "$root/debootstrap.log" 2>&1 || { tail -5 "$root/debootstrap.log"; exit 1; }
  for deb in "$root"/system/var/cache/apt/archives/*.deb; do dpkg-deb -x "$deb" "$root/system"; done
  version=$(ls "$root"/system/usr/bin | grep -E '^python3\.[0-9]+$' | head -1)
  ${PYTHON:-.venv/bin/python} -m pip install --quiet --disable-pip-version-check --target "$root/packages" \
    --python-version "${version#python}" --implementation cp --only-binary :all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 --require-hashes -r requirements/demo.lock
  # XNNPACK reads the processor from /proc/cpuinfo, and must find the one that is emulated there.
  mkdir -p "$root/system/proc"
  for core in 0 1; do
    printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n' "$core"
  done > "$root/system/proc/cpuinfo"
  touch "$root/complete"
fi

version=$(ls "$root"/system/usr/bin | grep -E '^python3\.[0-9]+$' | head -1)
qemu-aarch64-static -cpu cortex-a76 -L "$root/system" \
  -E ONELOOK_EMULATED=1 -E PYTHONPATH="$here/daemon:$here:$root/packages" -E PYTHONDONTWRITEBYTECODE=1 \
  -E PYTHONHOME="$root/system/usr" \
  "$root/system/usr/bin/$version" -m benchmarks --tiny latency --systems onelook,plain --threads 1 \
  --host aarch64-emulated --out "$root/results"

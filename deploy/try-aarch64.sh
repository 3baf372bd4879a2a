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
# shellcheck disable=SC2086 # words on purpose
"$own" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
  --target "$tree/onelook/site" --implementation cp --python-version "$python" \
  --abi "cp$(echo $python | tr -d .)" --abi abi3 --abi none $platforms --platform manylinux2014_aarch64 \
  --platform any -r "$root/requirements/runtime.lock"
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
PYTHONPATH=$root/daemon:$root/tests "$own" -c '
import sys
from pathlib import Path
from clip import write_mp4
write_mp4(Path(sys.argv[1]))' "$tree/onelook/clip.mp4"
PYTHONPATH=$root/daemon "$own" -m onelook replay "$tree/onelook/clip.mp4" > "$tree/here.jsonl"
qemu-aarch64-static -cpu cortex-a76 -L "$tree" -E PYTHONPATH=/onelook/site:/onelook/daemon -E PYTHONDONTWRITEBYTECODE=1 \
  -E PYTHONHOME=/usr "$tree/usr/bin/python$python" -m onelook replay /onelook/clip.mp4 > "$tree/there.jsonl"

"$own" - "$tree/here.jsonl" "$tree/there.jsonl" <<'END'
import json
import sys
from pathlib import Path


def events(file):
    return [{k: v for k, v in json.loads(line).items() if k != "id"} for line in Path(file).read_text().splitlines()]


def apart(a, b):
    """How far two events are from each other: the largest difference of two numbers; infinite where words differ."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((apart(a[k], b[k]) for k in a), default=0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(map(apart, a, b), default=0)
    if type(a) is float or type(b) is float:
        return abs(a - b)
    return 0 if a == b else float("inf")


here, there = map(events, sys.argv[1:])
far = apart(here, there)
print(f"{len(here)} events here, {len(there)} there; largest difference of two numbers in them: {far:g}")
sys.exit(not here or far > 0.01)
END

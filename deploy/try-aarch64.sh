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
mkdir "$tree/onelook/clip"
PYTHONPATH=$root/daemon:$root/tests "$own" -c '
import sys
from itertools import islice
from PIL import Image
from clip import pictures
for number, picture in enumerate(islice(pictures(), 50)):
    Image.fromarray(picture).save(f"{sys.argv[1]}/{number:03}.png")' "$tree/onelook/clip"
PYTHONPATH=$root/daemon "$own" -m onelook replay "$tree/onelook/clip/" > "$tree/here.jsonl"
qemu-aarch64-static -cpu cortex-a76 -L "$tree" -E PYTHONPATH=/onelook/site:/onelook/daemon -E PYTHONDONTWRITEBYTECODE=1 \
  -E PYTHONHOME=/usr "$tree/usr/bin/python$python" -m onelook replay /onelook/clip/ > "$tree/there.jsonl"

"$own" - "$tree/here.jsonl" "$tree/there.jsonl" <<'END'
"""The same people must come and go, be named and described by the same words; numbers may be a rounding apart."""
import json
import sys
from pathlib import Path

NEAR = {"time": 0.25, "frame": 2.5, "box": 3.0, "age": 2.0, "age_range": 2.0, "seconds": 0.25}
"""How far numbers may be apart, in their own units; all others are shares of 1."""


def events(file):
    told = {}
    for line in Path(file).read_text().splitlines():
        event = json.loads(line)
        data = event["data"] | {"time": float(event["time"][-7:-1])}
        told.setdefault((event["type"], data.get("track")), []).append(data)
    return told


def compare(a, b, place, apart):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            compare(a[key], b[key], key, apart)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for one, other in zip(a, b):
            compare(one, other, place, apart)
    elif type(a) in (int, float) and type(b) in (int, float):
        apart[place] = max(apart.get(place, 0), abs(a - b))
    elif a != b:
        apart[place] = float("inf")
        print(f"{place}: {a!r} here, {b!r} there")


here, there = map(events, sys.argv[1:])
apart = {"events": 0.0 if here.keys() == there.keys() else float("inf")}
for who in here.keys() & there.keys():
    compare(here[who], there[who], "events", apart)
count = sum(map(len, here.values()))
print(f"{count} events here, {sum(map(len, there.values()))} there; numbers apart by at most:",
      ", ".join(f"{place} {far:.3g}" for place, far in sorted(apart.items()) if far) or "nothing")
sys.exit(not count or any(far > NEAR.get(place, 0.05) for place, far in apart.items()))
END

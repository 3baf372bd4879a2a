#!/bin/sh
# Tries onelook as a 32-bit Raspberry Pi OS (Bookworm) would run it, without a board: under qemu-user.
#
#   deploy/try-armv7l.sh
#
# As install.sh does there: tflite-runtime and what else has 32-bit wheels, as locked; numpy, OpenCV, Pillow, PyYAML
# and cffi from Debian 12. Finds the faces of the two portraits there and here. It says nothing about speed. Needs
# debootstrap (as root, or with fakeroot), qemu-user-static, and this tree's test environment. The tree is kept in .cache.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
own=$root/.venv/bin/python tree=$root/.cache/armv7l
if [ ! -e "$tree.done" ]; then
  echo "Unpacking a Debian bookworm for armhf into $tree..."
  rm -rf "$tree"
  mkdir -p "$(dirname "$tree")"
  debootstrap --foreign --arch=armhf --variant=minbase \
    --include=python3.11,python3-numpy,python3-opencv,python3-pil,python3-yaml,python3-cffi-backend \
    bookworm "$tree" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$tree.log"
  for package in "$tree"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$tree"; done
  touch "$tree.done"
fi

echo "Installing the wheels of tflite-runtime.lock for armv7l..."
rm -rf "$tree/onelook"
mkdir -p "$tree/onelook/site" "$tree/proc"
awk -f "$root/deploy/armv7l.awk" "$root/requirements/tflite-runtime.lock" > "$tree.lock"
platforms=""
for glibc in 36 35 34 31 28 17; do platforms="$platforms --platform manylinux_2_${glibc}_armv7l"; done
# shellcheck disable=SC2086 # words on purpose
"$own" -m pip -qq --disable-pip-version-check install --require-hashes --no-deps --only-binary :all: \
  --target "$tree/onelook/site" --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none $platforms \
  --platform manylinux2014_armv7l --platform any -r "$tree.lock"
cp -a "$root/daemon" "$tree/onelook/daemon"
mkdir -p "$tree/onelook/edge_models"
cp -a "$root/edge_models/onelook" "$tree/onelook/edge_models/onelook"
# The runtime asks /proc/cpuinfo what the CPU can do, and qemu would show it this machine's: a Pi 3's, in 32 bits.
for core in 0 1 2 3; do
  printf 'processor\t: %s\nmodel name\t: ARMv7 Processor rev 4 (v7l)\nBogoMIPS\t: 38.40\n' "$core"
  printf 'Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32\n'
  printf 'CPU implementer\t: 0x41\nCPU architecture: 7\nCPU variant\t: 0x0\nCPU part\t: 0xd03\nCPU revision\t: 4\n\n'
done > "$tree/proc/cpuinfo"

echo "Looking at the portraits here and there..."
cat > "$tree/onelook/look.py" <<'END'
import json
import platform
from pathlib import Path

import onelook
from onelook.model import FaceModel, shipped
from onelook.picture import read_picture

model = FaceModel(shipped(), threads=1)
for portrait in sorted((Path(onelook.__file__).parent / "portraits").glob("*.jpg")):
    faces = model(read_picture(portrait))
    sure = faces.scores > 0.5
    print(json.dumps({"portrait": portrait.name, "machine": platform.machine(), "boxes": faces.boxes[sure].tolist(),
                      "embeddings": faces.embeddings[sure].tolist()}))
END
PYTHONPATH=$root/daemon "$own" "$tree/onelook/look.py" > "$tree/here.jsonl"
libraries=$tree/usr/lib/arm-linux-gnueabihf
qemu-arm-static -cpu max -L "$tree" -E LD_LIBRARY_PATH="$libraries/blas:$libraries/lapack:$libraries/pulseaudio" \
  -E PYTHONPATH="$tree/onelook/site:$tree/onelook/daemon:$tree/usr/lib/python3/dist-packages" -E PYTHONHOME="$tree/usr" \
  -E PYTHONDONTWRITEBYTECODE=1 "$tree/usr/bin/python3.11" "$tree/onelook/look.py" > "$tree/there.jsonl"
"$own" - "$tree/here.jsonl" "$tree/there.jsonl" <<'END'
"""The same faces in the same places, told by nearly the same numbers; the pictures are decoded by another libjpeg there."""
import json
import sys
from pathlib import Path

import numpy as np

good = True
for one, other in zip(*(map(json.loads, Path(file).read_text().splitlines()) for file in sys.argv[1:]), strict=True):
    boxes = [np.array(side["boxes"]) for side in (one, other)]
    if boxes[0].shape != boxes[1].shape or not len(boxes[0]):
        good = False
        print(f"{one['portrait']}: {len(boxes[0])} faces on {one['machine']}, {len(boxes[1])} on {other['machine']}")
        continue
    low, high = np.maximum(boxes[0][:, :2], boxes[1][:, :2]), np.minimum(boxes[0][:, 2:], boxes[1][:, 2:])
    common, areas = np.maximum(high - low, 0).prod(1), [(box[:, 2:] - box[:, :2]).prod(1) for box in boxes]
    overlap = (common / (areas[0] + areas[1] - common)).min()
    alike = min(np.sum(np.array(one["embeddings"]) * np.array(other["embeddings"]), axis=1))
    print(f"{one['portrait']}: {len(boxes[0])} face on {one['machine']} and on {other['machine']}, "
          f"boxes overlap by {overlap:.3f}, similarity {alike:.3f}")
    good &= bool(overlap > 0.95 and alike > 0.95)  # as tests/test_runtimes.py asks: a step of int8 in a size is 3 %
sys.exit(not good)
END

"""FER2013 knows no landmarks: find them, align, and pack it like the other faces.

    python -m edge_models.training.align_fer FER.npz YUNET.onnx OUT   ->   OUT.bin, OUT.npz

Reads `fer2013.npz` beside `fer2013.bin` (48x48 grey JPEGs). Where the detector sees no
face, the mean of the landmarks that it found elsewhere stands in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from edge_models.training.door import leave, packed
from tqdm import tqdm

from onelook.align import similarity

PATCH, MARGIN = 144, 16
ENLARGE, BORDER = 4, 64


def main() -> None:
    """Parse, pack."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("source", type=Path, help="fer2013.npz")
    ask.add_argument("detector", type=Path, help="yunet_n_dynamic.onnx")
    ask.add_argument("out", type=Path, help="the shard to write, without .bin or .npz")
    options = ask.parse_args()
    pack(options.source, options.detector, options.out)


def pack(source: Path, detector: Path, out: Path) -> None:
    """Write OUT.bin and OUT.npz."""
    table = packed(source)
    blob = np.memmap(source.with_suffix(".bin"), np.uint8)
    side = 48 * ENLARGE + 2 * BORDER
    finder = cv2.FaceDetectorYN.create(str(detector), "", (side, side), 0.4)
    count = len(table["offset"])
    marks = np.full((count, 5, 2), np.nan, np.float32)
    pictures = []
    for i in tqdm(range(count), disable=None):
        start = table["offset"][i]
        small = cv2.imdecode(blob[start:start + table["length"][i]], cv2.IMREAD_COLOR)
        pictures.append(small)
        big = cv2.resize(small, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
        _, found = finder.detect(cv2.copyMakeBorder(big, *[BORDER] * 4, cv2.BORDER_REPLICATE))
        if found is not None:
            best = found[found[:, 14].argmax()]
            marks[i] = ((best[4:14].reshape(5, 2) - BORDER) + 0.5) / ENLARGE - 0.5
    seen = np.isfinite(marks[:, 0, 0])
    marks[~seen] = np.median(marks[seen], 0)
    print(f"landmarks found on {seen.sum()} of {count}")
    lay = similarity(marks)
    offsets, lengths, written, where = [], [], bytearray(), np.empty_like(marks)
    for i, picture in enumerate(tqdm(pictures, disable=None)):
        a, b = lay[i, 0, 0], lay[i, 1, 0]
        size = a * a + b * b
        turn = np.array([[a, b], [-b, a]]) / size
        shift = MARGIN - turn @ lay[i, :, 2]
        where[i] = marks[i] @ turn.T + shift
        patch = cv2.warpAffine(picture, np.column_stack([turn, shift]), (PATCH, PATCH), flags=cv2.INTER_CUBIC,
                               borderMode=cv2.BORDER_REPLICATE)
        data = cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        offsets.append(len(written))
        lengths.append(len(data))
        written += data
    out.with_suffix(".bin").write_bytes(written)
    np.savez(
        out.with_suffix(".npz"), offset=np.array(offsets), length=np.array(lengths), landmarks=where,
        emotion=table["emotion"], split=table["split"], source=np.full(count, "fer"), seen=seen,
        native_size=(112 * np.sqrt((lay[:, :, 0] ** 2).sum(1)) / 112).astype(np.float32) * 112,
    )


if __name__ == "__main__":
    leave(main)

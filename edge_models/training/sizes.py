"""What the same file makes of a camera of 1920x1080 at other input sizes, and in tiles, into MODEL/sizes.json.

    python -m edge_models.training.sizes MODEL --data faces.npz

Held-out faces are composed into frames of the camera at the stated size (the side of the aligned 112 template, in the
camera's pixels), which the network reads scaled down to its input, whole, or tile by tile. Time is the median of what the
same frames took, turn by turn with 640x480, as a ratio to it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, describe, frames_of, interval
from edge_models.training.graph import macs

from onelook.face import Faces
from onelook.model import FaceModel, Image

CAMERA = (1920, 1080)
INPUTS = ((320, 256), (640, 480), (1280, 736), (1920, 1088))
FACES = (16, 24, 32, 48, 80)
OVERLAP = 128
"""Pixels that neighbouring tiles share: a face of up to that size is whole on one of them."""


class Tiled:
    """The network at its own size, laid over a larger frame tile by tile."""

    def __init__(self, model: FaceModel, overlap: int = OVERLAP) -> None:
        """`overlap`: pixels that neighbouring tiles share at the least."""
        self._model, self._overlap = model, overlap

    def corners(self, image: Image) -> list[tuple[int, int]]:
        """x, y of each tile: as few as there can be, spread evenly."""
        def along(length: int, tile: int) -> list[int]:
            count = max(1, -(-(length - self._overlap) // (tile - self._overlap)))
            return [round(x) for x in np.linspace(0, max(0, length - tile), count)]

        height, width = image.shape[:2]
        return [(x, y) for y in along(height, self._model.size[1]) for x in along(width, self._model.size[0])]

    def __call__(self, image: Image) -> Faces:
        """Every face once, from the tile in whose middle it lies most."""
        width, height = self._model.size
        corners = self.corners(image)
        middles = np.array(corners) + np.array([width, height]) / 2
        parts = []
        for i, (x, y) in enumerate(corners):
            faces = self._model(np.ascontiguousarray(image[y:y + height, x:x + width]))
            shift = np.array([x, y], np.float32)
            faces.boxes[:] += np.tile(shift, 2)
            faces.landmarks[:] += shift
            where = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
            away = np.abs((where[:, None] - middles) / (width, height)).max(2)
            parts.append(faces.take(away.argmin(1) == i))
        whole = Faces(*(np.concatenate([getattr(part, name) for part in parts]) for name in Faces.__slots__))
        corner_and_size = np.concatenate([whole.boxes[:, :2], whole.boxes[:, 2:] - whole.boxes[:, :2]], 1, dtype=np.float64)
        # One whose middle lies between two tiles may be seen by both, each a little on its own side.
        once = cv2.dnn.NMSBoxes(corner_and_size, whole.scores, 0.0, self._model.spec.detector.nms_iou)
        return whole.take(np.asarray(once, np.intp).reshape(-1))


def compared(systems: dict[str, FaceModel | Tiled], frame: Image, rounds: int) -> dict[str, float]:
    """Median over `rounds` of each system's time on `frame` over that of 640x480 in the same round."""
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, system in systems.items():
            began = time.perf_counter()
            system(frame)
            taken[name].append(time.perf_counter() - began)
    return {name: round(median(t / base for t, base in zip(times, taken["640x480"], strict=True)), 2)
            for name, times in taken.items()}


def main() -> None:
    """Find, describe, time, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, required=True, help="faces.npz")
    ask.add_argument("--faces", type=int, default=600, help="held-out faces of each size")
    ask.add_argument("--rounds", type=int, default=30)
    ask.add_argument("--threads", type=int, default=2)
    options = ask.parse_args()
    systems: dict[str, FaceModel | Tiled] = {
        f"{width}x{height}": FaceModel(options.model, threads=options.threads, size=(width, height))
        for width, height in INPUTS}
    own = FaceModel(options.model, threads=options.threads)
    tiles = Tiled(own)
    systems["tiles"] = tiles
    packed = Packed(options.data)
    rows = packed.rows("test")
    rows = rows[np.abs(packed.table["teacher"][rows].astype(np.float32)).sum(1) > 0]
    rows = np.sort(np.random.default_rng(0).choice(rows, min(options.faces, len(rows)), replace=False))
    teacher = packed.table["teacher"][rows].astype(np.float32)
    twenty = next(frames_of(packed, rows[:20], 80, CAMERA))[0]
    ratios = compared(systems, twenty, options.rounds)
    frame_macs = macs((options.model / "model.tflite").read_bytes())["frame"]
    count = len(tiles.corners(twenty))
    record: dict[str, Any] = {"model": own.spec.sha256, "camera": CAMERA, "tiles": count, "overlap": OVERLAP, "inputs": {}}
    for name, system in systems.items():
        looked = count * own.size[0] * own.size[1] if isinstance(system, Tiled) else system.size[0] * system.size[1]
        row: dict[str, Any] = {"mmac": round(frame_macs * looked / (own.size[0] * own.size[1]), 1), "time": ratios[name], "faces": {}}
        for size in FACES:
            faces, found = describe(system, packed, rows, size, name, CAMERA)
            row["faces"][str(size)] = {"found": interval(found), **(
                {"cosine": interval((faces.embeddings * teacher).sum(1)[found])} if found.any() else {})}
        record["inputs"][name] = row
    text = json.dumps(record, indent=1)
    print(text)
    (options.model / "sizes.json").write_text(text + "\n")


if __name__ == "__main__":
    leave(main)

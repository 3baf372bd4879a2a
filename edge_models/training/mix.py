"""Faces of nobody, each made of two that are packed: more pictures to learn embeddings from, where no more can be had.

    python -m edge_models.training.mix OUT --count 30000 --faces faces.npz … --reid reid-0095.xml \\
        --mobilefacenet MobileFaceNet.tflite --y1 model-y1.xml --basis teacher_basis.npz

writes OUT.bin and OUT.npz as `prepare` does, without any label but what the teacher makes of each. A network that learns to answer
as its teacher does, learns from whatever both are shown (Beyer et al. 2022, arXiv 2106.05237, mix pictures for that). Two
faces whose landmarks lie nearly alike are laid over each other by a mask that changes slowly, so that a face may have one's eyes
and the other's mouth.

Needs what training needs, and openvino for the teacher.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from edge_models.training import data, evaluate
from edge_models.training.door import leave
from edge_models.training.prepare import MARGIN, PATCH, Face, Label, Teacher, encode, write_shard
from tqdm import tqdm

CANDIDATES = 96
"""Partners looked at, of whom the one is taken whose landmarks are nearest."""
SMALLEST = 48
"""Pixels that a face's 112 had in its picture: smaller ones are blurred."""
TOGETHER = 64


def mixed(one: np.ndarray, other: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """One patch (S, S, 3) uint8 of two, and how much of it is the first's in the middle of the face, 0 to 1."""
    side = len(one)
    field = cv2.resize(random.normal(size=(4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    mask = 1 / (1 + np.exp(-(random.uniform(0.3, 2.5) * field + 0.5 * random.normal())))
    first, second = one.astype(np.float32), other.astype(np.float32)
    if random.random() < 0.5:  # in the first's light
        spread = first.std((0, 1)) / (second.std((0, 1)) + 1)
        second = (second - second.mean((0, 1))) * spread + first.mean((0, 1))
    laid = first * mask[..., None] + second * (1 - mask[..., None])
    middle = slice(side // 5, side - side // 5)
    return np.clip(np.rint(laid), 0, 255).astype(np.uint8), float(mask[middle, middle].mean())


class Packed:
    """The faces to learn from of some packed files."""

    def __init__(self, files: list[Path]) -> None:
        """Read their tables."""
        held = data.held_out(files)
        self._where, landmarks = [], []
        for pack in map(evaluate.Packed, files):
            wanted = data.of_split(pack.table, "train", held)
            if "native_size" in pack.table:
                wanted &= pack.table["native_size"] >= SMALLEST
            rows = np.flatnonzero(wanted)
            self._where += [(pack, int(row)) for row in rows]
            landmarks.append(pack.table["landmarks"][rows].astype(np.float32))
        self.landmarks = np.concatenate(landmarks)
        """(N, 5, 2) pixels of the patches."""

    def patch(self, index: int) -> np.ndarray:
        """(PATCH, PATCH, 3), BGR."""
        pack, row = self._where[index]
        picture = np.ascontiguousarray(pack.patch(row)[:, :, ::-1])
        return picture if len(picture) == PATCH else cv2.resize(picture, (PATCH, PATCH), interpolation=cv2.INTER_CUBIC)


def made(packed: Packed, count: int, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` patches and their landmarks."""
    marks = packed.landmarks
    for _ in range(count):
        first, *candidates = random.integers(len(marks), size=1 + CANDIDATES)
        second = candidates[int(np.abs(marks[candidates] - marks[first]).sum((1, 2)).argmin())]
        patch, share = mixed(packed.patch(first), packed.patch(second), random)
        yield patch, marks[first] * share + marks[second] * (1 - share)


def main() -> None:
    """Mix, let the teacher look, pack."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path, help="the shard to write, without .bin or .npz")
    ask.add_argument("--faces", type=Path, nargs="+", required=True)
    ask.add_argument("--count", type=int, default=30_000)
    for name in ("reid", "mobilefacenet", "y1", "basis"):
        ask.add_argument(f"--{name}", required=True, help="as `prepare` has it")
    ask.add_argument("--seed", type=int, default=1)
    options = ask.parse_args()
    for file in (options.reid, options.mobilefacenet, options.y1, options.basis):
        Path(file).stat()  # openvino tells of it in a page
    cv2.setNumThreads(1)
    teacher = Teacher(options.reid, options.mobilefacenet, options.y1, options.basis)
    faces: list[Face] = []
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for face in tqdm(made(Packed(options.faces), options.count, np.random.default_rng(options.seed)), total=options.count, mininterval=5):
        waiting.append(face)
        if len(waiting) == TOGETHER or len(faces) + len(waiting) == options.count:
            seen = teacher([np.ascontiguousarray(patch[MARGIN:-MARGIN, MARGIN:-MARGIN]) for patch, _ in waiting])
            faces += [Face(len(faces) + i, encode(patch), marks, PATCH - 2 * MARGIN, embedding)
                      for i, ((patch, marks), embedding) in enumerate(zip(waiting, seen, strict=True))]
            waiting = []
    write_shard(options.out, faces, [Label(file="", name=f"mixed {options.seed} {i}", source="mixed") for i in range(len(faces))])
    print(f"{options.out}: {len(faces)} faces.")


if __name__ == "__main__":
    leave(main)

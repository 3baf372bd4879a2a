"""Cut packed faces into pieces of bounded size, to carry them to another machine.

    python -m edge_models.training.shard OUT faces.npz fairface.npz ... [--most 45] [--quality 75]

writes OUT/NAME-00.npz + .bin, NAME-01 …, each pair under `--most` MB; `train --faces OUT/*.npz` reads them like
the whole. Patches are coded anew as WebP at `--quality`, the teachers' answers as bytes, and what training leaves
out is left out: columns, and held-out faces except the first file's. Rows are shuffled first, so that any few
pieces are a fair sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from edge_models.training import data
from edge_models.training.door import leave, packed
from tqdm import tqdm

COLUMNS = ("landmarks", "teacher", "attributes", "male", "age", "age_low", "age_high", "ethnicity", "race7", "emotion",
           "split", "name", "identity", "source")
"""What `data.Faces` reads."""
SMOOTH = ("fer",)
"""Sources of 48 px, enlarged: half of the side and no colour lose nothing."""


def as_bytes(teacher: np.ndarray) -> np.ndarray:
    """Unit vectors or zero rows (N, E) as int8 (N, E), each by its own largest number; `data.Faces` makes them units again."""
    largest = np.abs(teacher.astype(np.float32)).max(1, keepdims=True)
    return np.rint(teacher / np.maximum(largest, 1e-6) * 127).astype(np.int8)


def cut(file: Path, out: Path, most: int, quality: int, taken: np.ndarray) -> int:
    """Write the pieces of one packed file's `taken` rows (N,), each of at most `most` bytes; returns how many."""
    table = packed(file)
    columns = {name: table[name] for name in COLUMNS if name in table}
    if "teacher" in columns:
        columns["teacher"] = as_bytes(columns["teacher"])
    per_row = sum(c.nbytes // len(c) for c in columns.values()) + 12
    blob = np.memmap(file.with_suffix(".bin"), np.uint8)
    offset, length = table["offset"], table["length"]
    order = np.random.default_rng(0).permutation(np.flatnonzero(taken))
    piece, rows, blobs, sizes = 0, [], bytearray(), []

    def write() -> None:
        stem = out / f"{file.stem}-{piece:02d}"
        ends = np.cumsum(sizes)
        stem.with_suffix(".bin").write_bytes(blobs)
        extra = {"attribute_names": table["attribute_names"]} if "attribute_names" in table else {}
        np.savez_compressed(stem.with_suffix(".npz"), offset=ends - sizes, length=np.array(sizes),
                            **{k: v[rows] for k, v in columns.items()}, **extra)

    for row in tqdm(order, file.stem, disable=None):
        picture = cv2.imdecode(blob[offset[row]:offset[row] + length[row]], cv2.IMREAD_COLOR)
        if file.stem in SMOOTH:
            picture = cv2.cvtColor(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
        coded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        if rows and len(blobs) + len(coded) + per_row * (len(rows) + 1) > most:
            write()
            piece, rows, blobs, sizes = piece + 1, [], bytearray(), []
        rows.append(row)
        sizes.append(len(coded))
        blobs += coded
    write()
    return piece + 1


def main() -> None:
    """Cut every file."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path)
    ask.add_argument("files", type=Path, nargs="+")
    ask.add_argument("--most", type=float, default=45.0, help="MB a piece")
    ask.add_argument("--quality", type=int, default=75, help="of the pictures")
    options = ask.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    held = data.held_out(options.files)
    for file in options.files:
        table = packed(file)
        taken = data.of_split(table, "train", held)
        if file == options.files[0]:
            taken |= table["split"] == "test"
        print(f"{file.stem}: {cut(file, options.out, int(options.most * 1e6), options.quality, taken)} pieces", flush=True)


if __name__ == "__main__":
    leave(main)

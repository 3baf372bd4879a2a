"""Cut packed faces into pieces of bounded size, to carry them to another machine.

    python -m edge_models.training.shard OUT faces.npz fairface.npz ... [--most 60] [--quality 80]

writes OUT/NAME-00.npz + .bin, NAME-01 …, each pair under `--most` MB; `train --faces OUT/*.npz` reads them like
the whole. Patches are coded anew at `--quality`; only columns that training reads are kept. Rows are shuffled
first, so that any few pieces are a fair sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

COLUMNS = ("landmarks", "teacher", "attributes", "male", "age", "age_low", "age_high", "ethnicity", "race7", "emotion",
           "split", "name", "identity", "source")
"""What `data.Faces` and `evaluate` read."""


def cut(file: Path, out: Path, most: int, quality: int) -> int:
    """Write the pieces of one packed file, each of at most `most` bytes; returns how many."""
    table = np.load(file, allow_pickle=False)
    columns = {name: table[name] for name in COLUMNS if name in table}
    per_row = sum(c.nbytes // len(c) for c in columns.values()) + 12
    blob = np.memmap(file.with_suffix(".bin"), np.uint8)
    offset, length = table["offset"], table["length"]
    order = np.random.default_rng(0).permutation(len(offset))
    piece, rows, data, sizes = 0, [], bytearray(), []

    def write() -> None:
        stem = out / f"{file.stem}-{piece:02d}"
        ends = np.cumsum(sizes)
        stem.with_suffix(".bin").write_bytes(data)
        extra = {"attribute_names": table["attribute_names"]} if "attribute_names" in table else {}
        np.savez_compressed(stem.with_suffix(".npz"), offset=ends - sizes, length=np.array(sizes),
                            **{k: v[rows] for k, v in columns.items()}, **extra)

    for row in tqdm(order, file.stem, disable=None):
        picture = cv2.imdecode(blob[offset[row]:offset[row] + length[row]], cv2.IMREAD_COLOR)
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if rows and len(data) + len(coded) + per_row * (len(rows) + 1) > most:
            write()
            piece, rows, data, sizes = piece + 1, [], bytearray(), []
        rows.append(row)
        sizes.append(len(coded))
        data += coded
    write()
    return piece + 1


def main() -> None:
    """Cut every file."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path)
    ask.add_argument("files", type=Path, nargs="+")
    ask.add_argument("--most", type=float, default=60.0, help="MB a piece")
    ask.add_argument("--quality", type=int, default=80, help="of the JPEGs")
    options = ask.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for file in options.files:
        print(f"{file.stem}: {cut(file, options.out, int(options.most * 1e6), options.quality)} pieces")


if __name__ == "__main__":
    main()

"""How faces are read best: how far off each sample its four points should lie, by the size of the face, into OUT.json.

    python -m edge_models.training.reach MODEL OUT.json --data faces.npz

Held-out faces are composed into frames at the stated size and described through onelook's own FaceModel with each of
REACHES in turn (`maps.features.reach` in model.json; none: each sample is one point). What counts is the mean cosine of their
embeddings to those of the teacher. Faces whose samples lie no further apart than cells of the map are read alike by all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, describe, interval

from onelook.model import FaceModel

SIZES = (48, 64, 80, 112, 160)
REACHES = (0.0, 1.0, 1.5, 2.0, 2.5)


class Reaching(FaceModel):
    """Reads faces with another reach than model.json tells."""

    def __init__(self, path: Path, reach: float) -> None:
        super().__init__(path, threads=1)
        for each in self._maps:
            each.shape = each.shape.model_copy(update={"reach": reach})


def main() -> None:
    """Describe, compare, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--data", type=Path, required=True, help="faces.npz")
    options = ask.parse_args()
    packed = Packed(options.data)
    rows = packed.rows("test")
    rows = rows[np.abs(packed.table["teacher"][rows].astype(np.float32)).sum(1) > 0]
    teacher = packed.table["teacher"][rows].astype(np.float32)
    record: dict[str, dict[str, dict[str, float | int]]] = {}
    for reach in REACHES:
        model = Reaching(options.model, reach)
        for size in SIZES:
            faces, found = describe(model, packed, rows, size, f"reach {reach:g}")
            alike = (faces.embeddings * teacher).sum(1)[found]
            record.setdefault(str(size), {})[f"{reach:g}"] = interval(alike)
    options.out.write_text(json.dumps({"model": model.spec.sha256, "cosine": record}, indent=1) + "\n")
    for size, told in record.items():
        print(f"{size:>4} px", *(f"{reach}: {row['value']:.4f}" for reach, row in told.items()))


if __name__ == "__main__":
    leave(main)

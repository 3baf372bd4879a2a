"""How it fares with whom: found, told rightly and mistaken by gender, age and origin, into MODEL/groups.json.

    python -m edge_models.training.groups MODEL --data FOLDER

FOLDER holds the packed faces: fairface.npz, whose validation split has nearly one picture a person and labels of
gender, age and race, and faces.npz, whose held-out UTKFace faces have years. All at 80 px, through onelook's own
FaceModel; a face that is not found is told wrongly, and never mistaken for another.

False match rate: the share of pairs of two people of one group, a face of 80 px and a photo as it is enrolled, that pass the shipped
threshold for a false accept rate of 1 in 1,000. That was calibrated on pairs of everybody with everybody, which are
easier: people of one group are more alike (Grother, Ngan and Hanaoka, NISTIR 8280, 2019).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from edge_models.training.calibrate import SIZE, different, enrollable
from edge_models.training.evaluate import Packed, all_alike, confident, describe, interval, photographed
from edge_models.training.prepare import RACES

from onelook.cohort import NOBODY
from onelook.model import FaceModel

FAR = 1e-3
AGES = ((0, 17), (18, 39), (40, 59), (60, 116))
BANDS = ((0, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 116))
"""Years that FairFace's own bands can be joined to."""
GENDERED = ((0, 9), (10, 19), (20, 39), (40, 59), (60, 116))
"""Years in which women and men are told of by themselves."""
FEWEST = 50
"""Faces that a group must have to be told of."""

Masks = Iterator[tuple[str, np.ndarray]]


def of_fairface(table: dict[str, np.ndarray], rows: np.ndarray) -> Masks:
    """Names of groups, and which of the faces at `rows` are in them."""
    yield "everybody", np.ones(len(rows), bool)
    for value, name in enumerate(("female", "male")):
        yield name, table["male"][rows] == value
    for value, name in enumerate(RACES):
        yield name.replace("_", " or "), table["race7"][rows] == value
    for low, high in BANDS:
        yield f"{low} to {high} years", (table["age_low"][rows] >= low) & (table["age_high"][rows] <= high)
    yield from by_both(table["male"][rows], table["age_low"][rows], table["age_high"][rows])


def of_utkface(table: dict[str, np.ndarray], rows: np.ndarray, ethnicities: list[str]) -> Masks:
    """The same of UTKFace."""
    yield "everybody", np.ones(len(rows), bool)
    for value, name in enumerate(("female", "male")):
        yield name, table["male"][rows] == value
    for value, name in enumerate(ethnicities):
        yield name, table["ethnicity"][rows] == value
    for low, high in AGES:
        yield f"{low} to {high} years", (table["age"][rows] >= low) & (table["age"][rows] <= high)
    yield from by_both(table["male"][rows], table["age"][rows], table["age"][rows])


def by_both(male: np.ndarray, youngest: np.ndarray, oldest: np.ndarray) -> Masks:
    """The same of women and men of each age; all (N,), 0 or 1 and years."""
    for low, high in GENDERED:
        for value, name in enumerate(("female", "male")):
            yield f"{name}, {low} to {high} years", (male == value) & (youngest >= low) & (oldest <= high)


def fairface(model: FaceModel, packed: Packed) -> dict[str, dict[str, Any]]:
    """Found, gender and false matches by group."""
    rows = packed.rows("test")
    table = packed.table
    faces, found = describe(model, packed, rows, SIZE, "fairface")
    photos, seen = photographed(model, packed, rows, "fairface")
    seen = enrollable(photos, seen)
    alike = all_alike(model.cohort, faces.embeddings, photos.embeddings)
    apart = different(np.full(len(rows), ""), table["teacher"][rows].astype(np.float32))
    apart &= found[:, None] & seen[None]
    similar = alike >= model.spec.threshold(FAR, SIZE)
    # What the cosine alone would do, at a bar that as many pairs of everybody pass.
    cosine = all_alike(NOBODY, faces.embeddings, photos.embeddings)
    near = cosine >= np.quantile(cosine[apart], 1 - similar[apart].mean())
    right = ((faces.gender > 0.5) == (table["male"][rows] == 1)) & found
    out = {}
    for name, mine in of_fairface(table, rows):
        if mine.sum() < FEWEST:
            continue
        pairs = apart[np.ix_(mine, mine)]
        passed, by_cosine = (rule[np.ix_(mine, mine)] & pairs for rule in (similar, near))
        out[name] = {
            "faces": int(mine.sum()), "found": interval(found[mine]), "gender": interval(right[mine]),
            "false_match_rate": float(passed.sum() / pairs.sum()), "pairs": int(pairs.sum()),
            "false_match_rate_by_cosine": float(by_cosine.sum() / pairs.sum()),
        }
    return out


def utkface(model: FaceModel, packed: Packed) -> dict[str, dict[str, Any]]:
    """Gender and years by group."""
    table = packed.table
    rows = packed.rows("test")
    rows = rows[table["source"][rows] == "utk"]
    faces, found = describe(model, packed, rows, SIZE, "utkface")
    right = ((faces.gender > 0.5) == (table["male"][rows] == 1)) & found
    error = faces.age - table["age"][rows]
    sure = np.maximum(faces.gender, 1 - faces.gender)
    return {
        name: {
            "faces": int(mine.sum()), "gender": interval(right[mine]), "gender_ece": confident(sure[mine], right[mine]),
            "age_mae": interval(np.abs(error)[mine & found]), "age_bias": interval(error[mine & found]),
        }
        for name, mine in of_utkface(table, rows, model.spec.labels.ethnicity) if mine.sum() >= FEWEST
    }


def main() -> None:
    """Describe, count, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, required=True, help="folder of packed faces")
    ask.add_argument("--threads", type=int, default=1)
    options = ask.parse_args()
    model = FaceModel(options.model, threads=options.threads)
    record = {
        "model": model.spec.sha256, "far": FAR, "similarity": model.spec.threshold(FAR, SIZE),
        "fairface": fairface(model, Packed(options.data / "fairface.npz")),
        "utkface": utkface(model, Packed(options.data / "faces.npz")),
    }
    text = json.dumps(record, indent=1)
    print(text)
    (options.model / "groups.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

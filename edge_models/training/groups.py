"""How it fares with whom: found, told rightly and mistaken by gender, age and origin, into MODEL/groups.json.

    python -m edge_models.training.groups MODEL --data FOLDER

FOLDER holds the packed faces: fairface.npz, whose validation split has nearly one picture a person and labels of
gender, age and race, and faces.npz, whose held-out UTKFace faces have years, and whose CelebA faces attributes and names. All at
80 px, through onelook's own FaceModel; a face that is not found is told wrongly, and never mistaken for another. Faces with an
emotion, and LFW's, have no labels of a group.

False match rate: the share of pairs of two people of one group, a face of 80 px and a photo as it is enrolled, that pass the shipped
threshold for a false accept rate of 1 in 1,000: people of one group are more alike (Grother, Ngan and Hanaoka, NISTIR 8280, 2019).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from edge_models.training.calibrate import SIZE, different, enrollable
from edge_models.training.door import leave
from edge_models.training.evaluate import (
    Packed,
    SevenRaces,
    all_alike,
    confident,
    describe,
    interval,
    misplaced,
    photographed,
)
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


def of_celeba(table: dict[str, np.ndarray], rows: np.ndarray) -> Masks:
    """The same of CelebA, whose annotators said who is male and who is young."""
    names = [str(name) for name in table["attribute_names"]]
    yield "everybody", np.ones(len(rows), bool)
    for attribute, (without, having) in (("Male", ("female", "male")), ("Young", ("not young", "young"))):
        of = table["attributes"][rows, names.index(attribute)]
        yield without, of < 0
        yield having, of > 0


def by_both(male: np.ndarray, youngest: np.ndarray, oldest: np.ndarray) -> Masks:
    """The same of women and men of each age; all (N,), 0 or 1 and years."""
    for low, high in GENDERED:
        for value, name in enumerate(("female", "male")):
            yield f"{name}, {low} to {high} years", (male == value) & (youngest >= low) & (oldest <= high)


def fairface(model: FaceModel, seven: FaceModel, packed: Packed) -> dict[str, dict[str, Any]]:
    """Found, gender, origin and false matches by group; `seven`: the same network, telling FairFace's origins."""
    rows = packed.rows("test")
    table = packed.table
    faces, found = describe(seven, packed, rows, SIZE, "fairface")
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
    origin = (faces.ethnicity.argmax(1) == table["race7"][rows]) & found
    out = {}
    for name, mine in of_fairface(table, rows):
        if mine.sum() < FEWEST:
            continue
        pairs = apart[np.ix_(mine, mine)]
        passed, by_cosine = (rule[np.ix_(mine, mine)] & pairs for rule in (similar, near))
        out[name] = {
            "faces": int(mine.sum()), "found": interval(found[mine]), "gender": interval(right[mine]),
            "race7": interval(origin[mine]), "false_match_rate": float(passed.sum() / pairs.sum()), "pairs": int(pairs.sum()),
            "false_match_rate_by_cosine": float(by_cosine.sum() / pairs.sum()),
        }
    return out


def utkface(model: FaceModel, packed: Packed) -> dict[str, dict[str, Any]]:
    """Gender, origin and years by group."""
    table = packed.table
    rows = packed.rows("test")
    rows = rows[table["source"][rows] == "utk"]
    faces, found = describe(model, packed, rows, SIZE, "utkface")
    right = ((faces.gender > 0.5) == (table["male"][rows] == 1)) & found
    origin = (faces.ethnicity.argmax(1) == table["ethnicity"][rows]) & found
    error = faces.age - table["age"][rows]
    sure = np.maximum(faces.gender, 1 - faces.gender)
    return {
        name: {
            "faces": int(mine.sum()), "gender": interval(right[mine]), "gender_ece": confident(sure[mine], right[mine]),
            "ethnicity": interval(origin[mine]),
            "age_mae": interval(np.abs(error)[mine & found]), "age_bias": interval(error[mine & found]),
        }
        for name, mine in of_utkface(table, rows, model.spec.labels.ethnicity) if mine.sum() >= FEWEST
    }


def celeba(model: FaceModel, packed: Packed) -> dict[str, dict[str, Any]]:
    """Found, landmarks, attributes and true matches by group: of the pairs of one person, a face and a photo, those that pass the
    threshold."""
    table = packed.table
    rows = packed.rows("test")
    rows = rows[(table["attributes"][rows] != 0).any(1)]
    faces, found = describe(model, packed, rows, SIZE, "celeba")
    photos, seen = photographed(model, packed, rows, "celeba")
    known = table["attributes"][rows] != 0
    right = np.where(known, ((faces.attributes > 0.5) == (table["attributes"][rows] > 0)) & found[:, None], np.nan)
    off = misplaced(faces, packed, rows, SIZE)
    identity = table["identity"][rows]
    together = (identity[:, None] == identity) & (identity != "") & found[:, None] & enrollable(photos, seen)
    np.fill_diagonal(together, False)
    similar = all_alike(model.cohort, faces.embeddings, photos.embeddings) >= model.spec.threshold(FAR, SIZE)
    out = {}
    for name, mine in of_celeba(table, rows):
        pairs = together & mine[:, None] & mine
        out[name] = {
            "faces": int(mine.sum()), "found": interval(found[mine]), "landmarks": interval(off[mine & found]),
            "attributes": interval(np.nanmean(right[mine], 1)), "same": interval(similar[pairs]),
        }
    return out


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
        "fairface": fairface(model, SevenRaces(options.model, threads=options.threads), Packed(options.data / "fairface.npz")),
        "utkface": utkface(model, Packed(options.data / "faces.npz")),
        "celeba": celeba(model, Packed(options.data / "faces.npz")),
    }
    text = json.dumps(record, indent=1)
    print(text)
    (options.model / "groups.json").write_text(text + "\n")


if __name__ == "__main__":
    leave(main)

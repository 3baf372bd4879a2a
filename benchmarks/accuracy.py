"""Accuracy: what each system with real weights gets right, on the same pictures, frames in.

As `edge_models.training.evaluate`, whose frames and protocols these are: a face is composed into
a 640x480 frame at the stated size, and whoever does not find it has not recognised it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from edge_models.training import evaluate
from edge_models.training.evaluate import Packed, describe, folds, interval

from benchmarks.cascade import Cascade, System, build
from benchmarks.result import Accuracy
from onelook.errors import OwnerError

SIZES = (112, 80, 48, 32, 24)
FRAME = (640, 480)
PACKED = ("lfw", "faces", "fer")
VOC = ("training.xml", "testing.xml")


KINDS = (*(f"lfw.{size}" for size in SIZES), "faces", "fer", "voc")
"""What can be looked at by itself: LFW's pairs at a size; attributes, gender, age and ethnicity; emotion; detection."""


def there(data: Path | None, pictures: Path | None) -> None:
    """Raises OwnerError with one sentence where a folder holds nothing to look at."""
    if data is not None and not any((data / f"{name}.npz").is_file() for name in PACKED):
        raise OwnerError(f"There is none of {', '.join(f'{name}.npz' for name in PACKED)} in {data}.")
    for file in VOC:
        if pictures is not None and not (pictures / "voc" / file).is_file():
            raise OwnerError(f"There is no voc/{file} in {pictures}.")


def run(names: Iterable[str], data: Path, *, threads: int, most: int, pictures: Path | None = None,
        kinds: Iterable[str] = KINDS) -> list[Accuracy]:
    """Every figure of every system.

    data: folder with any of lfw, faces, fer (.npz beside .bin). most: faces of a kind to look
    at. pictures: folder with voc/, photographs with hand-made boxes. kinds: some of KINDS alone.
    """
    packed = {name: Packed(data / f"{name}.npz") for name in PACKED if (data / f"{name}.npz").exists()}
    rows = []
    for name in names:
        system = build(name, threads=threads, size=FRAME)
        found = measured(system, packed, most, set(kinds))
        if pictures is not None and "voc" in kinds:
            found["detection.ap50.voc"] = detection(name, pictures, threads)
        rows += [Accuracy(system=name, key=key, **figure) for key, figure in found.items()]
    return rows


def measured(system: System, packed: dict[str, Packed], most: int, kinds: set[str]
             ) -> dict[str, dict[str, float | int]]:
    """Figures by the names that metrics.json uses."""
    out: dict[str, dict[str, float | int]] = {}
    evaluate.random = np.random.default_rng(5)  # the same draws for every system's intervals
    sizes = [size for size in SIZES if f"lfw.{size}" in kinds]
    if "lfw" in packed and sizes:
        out |= verification(system, packed["lfw"], most, sizes)
    if "faces" in packed and "faces" in kinds:
        out |= looks(system, packed["faces"], most)
    if "fer" in packed and "fer" in kinds:
        rows = packed["fer"].rows("test")[:most]
        faces, found = describe(system, packed["fer"], rows, 80, "FER2013")
        out["emotion.accuracy.fer2013"] = interval(
            (faces.emotion.argmax(1) == packed["fer"].table["emotion"][rows]) & found)
    return out


def some(count: int, most: int) -> np.ndarray:
    """About `most` of LFW's pairs, evenly over the ten folds: of each fold the first half is of the same people."""
    fold = count // 10
    within = np.arange(0, fold, max(1, fold // max(20, most // 10)))
    return (np.arange(10)[:, None] * fold + within).ravel()


def verification(system: System, lfw: Packed, most: int, sizes: Iterable[int] = SIZES
                 ) -> dict[str, dict[str, float | int]]:
    """LFW's ten folds with faces of each size."""
    out = {}
    chosen = some(len(lfw.table["same"]), most)
    first, second, same = (lfw.table[key].astype(np.intp)[chosen] for key in ("first", "second", "same"))
    rows = np.unique(np.concatenate([first, second]))
    traits = system._jobs.traits if isinstance(system, Cascade) else None
    if isinstance(system, Cascade):
        system._jobs.traits = lambda _faces: {}  # they do not change who it is, and take most of the time
    for size in sizes:
        faces, found = describe(system, lfw, rows, size, "LFW")
        a, b = np.searchsorted(rows, first), np.searchsorted(rows, second)
        both = found[a] & found[b]
        alike = np.where(both, evaluate.alike(system.cohort, faces.embeddings[a], faces.embeddings[b]), -1.0)
        out[f"lfw.accuracy.{size}"] = interval(folds(alike, same == 1) & both)
        out[f"lfw.found.{size}"] = interval(found)
    if isinstance(system, Cascade) and traits is not None:
        system._jobs.traits = traits
    return out


def looks(system: System, packed: Packed, most: int) -> dict[str, dict[str, float | int]]:
    """Gender, age, and whatever else the system tells."""
    out = {}
    rows = packed.rows("test")
    table = packed.table
    utk = table["source"][rows] == "utk"
    rows = np.concatenate([rows[utk][:most], rows[~utk][:most]])
    utk = table["source"][rows] == "utk"
    faces, found = describe(system, packed, rows, 80, "faces")
    male = table["male"][rows]
    right = ((faces.gender > 0.5) == (male == 1)) & found
    out["gender.accuracy.utkface"] = interval(right[utk & (male >= 0)])
    out["gender.accuracy.celeba"] = interval(right[~utk & (male >= 0)])
    age = table["age"][rows]
    out["age.mae"] = interval(np.where(found, np.abs(faces.age - age), 40.0)[age >= 0])
    if not isinstance(system, Cascade):
        known = table["attributes"][rows] != 0
        hit = ((faces.attributes > 0.5) == (table["attributes"][rows] > 0)) & found[:, None]
        out["celeba40.mean_accuracy"] = interval(hit.mean(1)[known.all(1)])
        ethnicity = table["ethnicity"][rows]
        out["ethnicity.accuracy"] = interval(((faces.ethnicity.argmax(1) == ethnicity) & found)[ethnicity >= 0])
    return out


def detection(name: str, pictures: Path, threads: int) -> dict[str, float | int]:
    """AP at an overlap of 0.5 on photographs with hand-made boxes, each at its own size."""
    rows = []
    for file in VOC:
        for node in evaluate.ElementTree.parse(pictures / "voc" / file).iter("image"):
            image = cv2.cvtColor(cv2.imread(str(pictures / "voc" / node.attrib["file"])), cv2.COLOR_BGR2RGB)
            system = build(name, threads=threads, size=(image.shape[1], image.shape[0]), score=0.02)
            found = system._detect(image) if isinstance(system, Cascade) else system(image)
            truth = np.array([[float(box.attrib[key]) for key in ("left", "top", "width", "height")]
                              for box in node.iter("box")]).reshape(-1, 4)
            truth[:, 2:] += truth[:, :2]
            rows.append(evaluate.matched(found.boxes, found.scores, truth))
    return interval(np.arange(len(rows)), lambda chosen: evaluate.average_precision([rows[int(i)] for i in chosen]))

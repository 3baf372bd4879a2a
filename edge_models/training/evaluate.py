"""Measure the exported file as a user would meet it: through onelook's FaceModel, frames in.

    python -m edge_models.training.evaluate MODEL --data FOLDER [--reference detections.json] [--pictures FOLDER]

Every face is composed into a 640x480 frame at the stated size (the side of its aligned
112 template, in frame pixels), found, aligned and described by the one pass. A face that is
not found counts as wrong. Writes everything measured into MODEL/metrics.json, beside what was measured of the same network
before on data that is not given now.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from edge_models.training.door import leave, packed
from edge_models.training.graph import macs, patches
from tqdm import tqdm

from onelook.align import FACE_BOX
from onelook.capture import frames as read_frames
from onelook.cohort import FILE, Cohort
from onelook.decode import Found, softmax
from onelook.enroll import LOOKS
from onelook.face import Faces
from onelook.model import FaceModel
from onelook.spec import ModelSpec

WIDTH, HEIGHT = 640, 480
SIZES = (112, 80, 48, 32)
MOST = 200
"""Faces laid on a frame: of more, the daemon describes the best alone."""
random = np.random.default_rng(5)


class Packed:
    """A packed file's patches and labels."""

    def __init__(self, file: Path) -> None:
        """FILE.npz beside FILE.bin."""
        self.table = dict(packed(file))
        self.blob = np.memmap(file.with_suffix(".bin"), np.uint8)
        lengths = self.table.get("length")
        offsets = self.table["offset"]
        self.ends = offsets + lengths if lengths is not None else offsets[1:]

    def patch(self, row: int) -> np.ndarray:
        """RGB patch of one face; its margin is (side - 112) / 2."""
        data = self.blob[self.table["offset"][row]:self.ends[row]]
        return cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]

    def people(self) -> np.ndarray:
        """(N,) who it is, a number for each name; pictures are called as LFW calls them, `Some_Body_0001.jpg`."""
        return np.unique([str(name).rpartition("_")[0] for name in self.table["name"]], return_inverse=True)[1]

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split."""
        return np.flatnonzero(self.table["split"] == split)


def frames_of(packed: Packed, rows: np.ndarray, size: int, canvas: tuple[int, int] = (WIDTH, HEIGHT)
              ) -> Iterator[tuple[np.ndarray, list[tuple[int, float, float, float]]]]:
    """Frames of `canvas` pixels with the faces laid in rows; and of each its row, x, y of the template, and scale."""
    margin = round(size * 16 / 112 * 1.1)
    cell = size + 2 * margin
    across, down = canvas[0] // cell, canvas[1] // cell
    room = min(across * down, MOST)
    for start in range(0, len(rows), room):
        frame = np.full((canvas[1], canvas[0], 3), 110, np.uint8)
        placed = []
        for k, row in enumerate(rows[start:start + room]):
            patch = packed.patch(int(row))
            border = (patch.shape[0] - 112) / 2
            scale = size / 112
            side = round(patch.shape[0] * scale)
            small = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            x, y = k % across * cell + (cell - side) // 2, k // across * cell + (cell - side) // 2
            x, y = max(x, 0), max(y, 0)
            part = small[: canvas[1] - y, : canvas[0] - x]
            frame[y:y + part.shape[0], x:x + part.shape[1]] = part
            placed.append((int(row), x + border * side / patch.shape[0], y + border * side / patch.shape[0],
                           side / patch.shape[0]))
        yield frame, placed


def describe(model: Callable[[np.ndarray], Faces], packed: Packed, rows: np.ndarray, size: int, name: str,
             canvas: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[Faces, np.ndarray]:
    """Describe the faces of `rows` on frames of `canvas` pixels; returns one row each, zeros where it was not found, and
    whether it was. Ends with a sentence where there are no rows."""
    if not len(rows):
        raise SystemExit(f"There are no held-out faces in {name}.")
    kept: dict[int, tuple[Faces, int]] = {}
    for frame, placed in tqdm(frames_of(packed, rows, size, canvas), f"{name} {size}px", disable=None):
        faces = model(frame)
        if not len(faces):
            continue
        centre = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        side = np.sqrt(np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1))
        middle = np.array([(FACE_BOX[0] + FACE_BOX[2]) / 2, (FACE_BOX[1] + FACE_BOX[3]) / 2])
        for row, x, y, scale in placed:
            away = np.linalg.norm(centre - (np.array([x, y]) + middle * scale), axis=1)
            near = np.flatnonzero((away < 0.3 * size) & (side > 0.4 * size) & (side < 1.6 * size))
            if len(near):
                kept[row] = (faces, int(near[faces.scores[near].argmax()]))
    found = np.array([int(row) in kept for row in rows])
    like = next((faces for faces, _ in kept.values()), Faces.none())
    nothing = Faces(*(np.zeros((1, *getattr(like, f).shape[1:]), np.float32) for f in Faces.__slots__))
    picked = [kept[int(r)][0].take([kept[int(r)][1]]) if int(r) in kept else nothing for r in rows]
    whole = Faces(*(np.concatenate([getattr(p, f) for p in picked]) for f in Faces.__slots__))
    return whole, found


def misplaced(faces: Faces, packed: Packed, rows: np.ndarray, size: int) -> np.ndarray:
    """How far the landmarks of `faces`, as `describe` gave them of `rows`, lie from the packed ones: (N,) means over the five, in
    distances of the eyes."""
    placed = {row: rest for _, part in frames_of(packed, rows, size) for row, *rest in part}
    # Landmarks count from the middle of a pixel, and cv2.resize scales from its edge.
    truth = np.stack([(packed.table["landmarks"][r].astype(np.float32) - 16) * placed[int(r)][2] +
                      np.array(placed[int(r)][:2]) + (placed[int(r)][2] - 1) / 2 for r in rows])
    eyes = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    return np.linalg.norm(faces.landmarks - truth, axis=2).mean(1) / eyes


class Altered(Packed):
    """The same faces, each patch changed."""

    def __init__(self, packed: Packed, change: Callable[[np.ndarray, int], np.ndarray]) -> None:
        """`change`: of a patch and its row, another of the same size."""
        self.table, self.blob, self.ends = packed.table, packed.blob, packed.ends
        self._patch, self._change = packed.patch, change

    def patch(self, row: int) -> np.ndarray:
        """RGB patch of one face."""
        return self._change(self._patch(row), row)


def photographed(model: Callable[[np.ndarray], Faces], packed: Packed, rows: np.ndarray, name: str) -> tuple[Faces, np.ndarray]:
    """As `describe`, of photos, as `onelook enroll` describes them: the largest of its looks, with the mean embedding of all."""
    whole, found = describe(model, packed, rows, LOOKS[0], name)
    means = whole.embeddings.copy()
    mirrored = Altered(packed, lambda patch, _: patch[:, ::-1])
    for size, kind in itertools.product(LOOKS, (packed, mirrored)):
        if (size, kind) != (LOOKS[0], packed):
            faces, also = describe(model, kind, rows, size, name)
            means += faces.embeddings * also[:, None]
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    return replace(whole, embeddings=means), found


class SevenRaces(FaceModel):
    """Tells FairFace's seven classes in the place of the five of `ethnicity`, which is what the daemon shows."""

    def _read(self, found: Found, embeddings: np.ndarray, traits: np.ndarray, scale: float) -> Faces:
        names = list(self.spec.traits)
        start = sum(self.spec.traits[name] for name in names[:names.index("race7")])
        seven = softmax(traits[:, start:start + self.spec.traits["race7"]])
        return replace(super()._read(found, embeddings, traits, scale), ethnicity=seven)


def alike(cohort: Cohort, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Similarity, as the daemon has it, of each of `ours` (N, D) to the one of `theirs` (N, D) in the same row -> (N,)."""
    return (ours * theirs).sum(1) - (cohort.commonness(ours) + cohort.commonness(theirs)) / 2


def all_alike(cohort: Cohort, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The same of every pair of `ours` (N, D) and `theirs` (M, D) -> (N, M)."""
    return ours @ theirs.T - (cohort.commonness(ours)[:, None] + cohort.commonness(theirs)[None]) / 2


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean) -> dict[str, float | int]:
    """Value with its 95 % bootstrap interval (Efron, percentile, 1,000 draws)."""
    values = np.asarray(values, np.float64)
    draws = [statistic(values[random.integers(len(values), size=len(values))]) for _ in range(1000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": round(float(statistic(values)), 4), "low": round(float(low), 4), "high": round(float(high), 4),
            "n": len(values)}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015): mean distance of confidence from accuracy, over equal bins."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def confident(chances: np.ndarray, right: np.ndarray) -> dict[str, float | int]:
    """Calibration error of answers, by the chance (N,) of each answer given and whether it was right (N,)."""
    chances, right = np.asarray(chances, np.float64), np.asarray(right, np.float64)
    return interval(np.arange(len(right)), lambda v: calibration_error(chances[v.astype(int)], right[v.astype(int)]))


def folds(similarity: np.ndarray, same: np.ndarray) -> np.ndarray:
    """LFW's protocol: for each of ten folds, the threshold that is best on the other nine. Returns hits, as many as pairs."""
    hits = np.empty(len(same), bool)
    size = len(same) // 10
    for fold in range(10):
        test = np.zeros(len(same), bool)
        test[fold * size:(fold + 1) * size] = True
        order = np.sort(similarity[~test])
        right = (np.searchsorted(np.sort(similarity[~test & ~same]), order) +
                 (~test & same).sum() - np.searchsorted(np.sort(similarity[~test & same]), order))
        best = order[right.argmax()]
        hits[test] = (similarity[test] >= best) == same[test]
    return hits


def passed_by(far: float, similarity: np.ndarray, who: np.ndarray) -> float:
    """The similarity that a share `far` of all pairs of two people pass; similarity (N, N), who (N,) numbers."""
    return float(np.quantile(similarity[who[:, None] < who], 1 - far))


def at_bars(spec: ModelSpec, strangers: np.ndarray, same: np.ndarray) -> list[dict[str, float | int]]:
    """What passes the thresholds that the daemon takes for faces of 80 px, at each of the model's stated rates.

    strangers: (N,) similarities of pairs of two people; same: (M,) those of pairs of one, -1 where a face was not found.
    """
    rows: list[dict[str, float | int]] = []
    for far in sorted({row.far for row in spec.thresholds}, reverse=True):
        bar = spec.threshold(far, 80)
        rows.append({"far": far, "similarity": bar, "strangers": float(f"{(strangers >= bar).mean():.3g}"), "pairs": len(strangers),
                     "same": round(float((same >= bar).mean()), 4), "same_pairs": len(same)})
    return rows


def verification(model: FaceModel, lfw: Packed) -> dict[str, Any]:
    """LFW's ten folds, faces of each of SIZES: by the similarity that the daemon decides by, and by the plain cosine, as what others
    publish is measured."""
    out: dict[str, Any] = {}
    first, second, same = (lfw.table[k].astype(np.intp) for k in ("first", "second", "same"))
    for size in SIZES:
        faces, found = describe(model, lfw, np.arange(len(lfw.table["landmarks"])), size, "LFW")
        similarity = alike(model.cohort, faces.embeddings[first], faces.embeddings[second])
        both = found[first] & found[second]
        hits = folds(np.where(both, similarity, -1.0), same == 1)
        hits &= both
        out[f"lfw.accuracy.{size}"] = interval(hits)
        cosine = (faces.embeddings[first] * faces.embeddings[second]).sum(1)
        out[f"lfw.accuracy.cosine.{size}"] = interval(folds(np.where(both, cosine, -1.0), same == 1) & both)
        out[f"lfw.found.{size}"] = interval(found)
        if size == 80:
            wrong = np.sort(similarity[(same == 0) & both])[::-1]
            bar = wrong[max(0, int(len(wrong) * 1e-3) - 1)]
            out["lfw.tar_at_far_1e-3.80"] = interval((similarity[same == 1] > bar) & both[same == 1])
            # A bar that three pairs set is luck: by all pairs of two people there, as well.
            everybody, who = all_alike(model.cohort, faces.embeddings, faces.embeddings), lfw.people()
            bar = passed_by(1e-3, everybody, who)
            out["lfw.tar_at_far_1e-3.80.all_pairs"] = interval((similarity[same == 1] > bar) & both[same == 1])
            # The shipped bars were set by people of many collections, whom much tells apart; these are of one.
            apart = (who[:, None] < who) & found[:, None] & found[None]
            out["_bars"] = at_bars(model.spec, everybody[apart], np.where(both, similarity, -1.0)[same == 1])
    return out


def looks(model: FaceModel, main: Packed) -> dict[str, Any]:
    """Attributes, gender, age, ethnicity, landmarks and the likeness to the teacher, on the held-out faces."""
    out: dict[str, dict] = {}
    rows = main.rows("test")
    table = {k: v[rows] for k, v in main.table.items() if len(v) == len(main.table["offset"])}
    faces, found = describe(model, main, rows, 80, "faces")
    known = table["attributes"] != 0
    hit = ((faces.attributes > 0.5) == (table["attributes"] > 0)) & found[:, None]
    has = known.any(1)
    out["celeba40.mean_accuracy"] = interval(np.where(known, hit, np.nan)[has].mean(1))
    each = {str(n): float(hit[:, i][known[:, i]].mean()) for i, n in enumerate(main.table["attribute_names"])}
    majority = np.maximum((table["attributes"][has] > 0).mean(0), (table["attributes"][has] < 0).mean(0))
    male = ((faces.gender > 0.5) == (table["male"] == 1)) & found
    utk = table["source"] == "utk"
    sure = found & (table["male"] >= 0)
    out["gender.ece"] = confident(np.maximum(faces.gender, 1 - faces.gender)[sure], male[sure])
    sure = found & (table["ethnicity"] >= 0)
    out["ethnicity.ece"] = confident(faces.ethnicity.max(1)[sure], (faces.ethnicity.argmax(1) == table["ethnicity"])[sure])
    sure = known & found[:, None]
    out["celeba40.ece"] = confident(np.maximum(faces.attributes, 1 - faces.attributes)[sure], hit[sure])
    out["gender.accuracy.utkface"] = interval(male[utk & (table["male"] >= 0)])
    out["gender.accuracy.celeba"] = interval(male[~utk & (table["male"] >= 0)])
    out["age.mae"] = interval(np.where(found, np.abs(faces.age - table["age"]), 40.0)[table["age"] >= 0])
    out["ethnicity.accuracy"] = interval(
        ((faces.ethnicity.argmax(1) == table["ethnicity"]) & found)[table["ethnicity"] >= 0])
    taught = np.abs(table["teacher"].astype(np.float32)).sum(1) > 0
    out["embedding.teacher_cosine"] = interval(
        (faces.embeddings * table["teacher"].astype(np.float32)).sum(1)[taught & found])
    out["landmarks.nme"] = interval(misplaced(faces, main, rows, 80)[found])
    out["_attributes"] = {"each": each, "majority": float(majority.mean())}
    out["_embeddings"] = faces.embeddings
    return out


def measure(path: Path, threads: int, data: dict[str, Packed]) -> dict[str, Any]:
    """Every accuracy of the model in the folder `path` that there is data for."""
    model = FaceModel(path, threads=threads)
    out: dict[str, Any] = {}
    if "lfw" in data:
        out |= verification(model, data["lfw"])
    if "faces" in data:
        out |= looks(model, data["faces"])
    for name in ("fer", "rafdb"):
        if name not in data:
            continue
        rows = data[name].rows("test")
        faces, found = describe(model, data[name], rows, 80, name)
        want = data[name].table["emotion"][rows]
        key = {"fer": "fer2013", "rafdb": "rafdb"}[name]
        out[f"emotion.accuracy.{key}"] = interval((faces.emotion.argmax(1) == want) & found)
        out[f"emotion.ece.{key}"] = confident(faces.emotion.max(1)[found], (faces.emotion.argmax(1) == want)[found])
    if "fairface" in data and "race7" in model.spec.traits:
        table = data["fairface"].table
        rows = data["fairface"].rows("test")
        rows = rows[table["race7"][rows] >= 0]
        seven = SevenRaces(path, threads=threads)
        faces, found = describe(seven, data["fairface"], rows, 80, "fairface")
        out["ethnicity.accuracy.fairface7"] = interval((faces.ethnicity.argmax(1) == table["race7"][rows]) & found)
        out["gender.accuracy.fairface"] = interval(((faces.gender > 0.5) == (table["male"][rows] == 1)) & found)
    return out


def area(boxes: np.ndarray) -> np.ndarray:
    """Of boxes (N, 4) -> (N,)."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)


def common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that boxes (N, 4) and (M, 4) have in common -> (N, M)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(2)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) with boxes (M, 4) -> (N, M)."""
    inner, (ours, theirs) = common(a, b), map(area, (a, b))
    return inner / (ours[:, None] + theirs[None] - inner + 1e-9)


def covered(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of boxes (N, 4) that lies within boxes (M, 4) -> (N, M)."""
    return common(a, b) / (area(a)[:, None] + 1e-9)


def matched(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, unsure: np.ndarray | None = None, at: float = 0.5
            ) -> tuple[np.ndarray, np.ndarray, int]:
    """Which boxes of a picture are right at an IoU (Everingham et al. 2010): each of `truth` (M, 4) is found once.

    boxes: (N, 4). scores: (N,). unsure: (K, 4) what is neither right nor wrong. Returns scores, hits and the count wanted.
    """
    share = overlap(boxes, truth)
    if unsure is not None:
        keep = (share.max(1, initial=0) >= at) | (overlap(boxes, unsure).max(1, initial=0) < 0.4)
        scores, share = scores[keep], share[keep]
    free, hits = np.ones(len(truth), bool), np.zeros(len(scores), bool)
    for i in scores.argsort()[::-1]:
        j = int(np.where(free, share[i], -1).argmax()) if len(truth) else -1
        hits[i] = j >= 0 and free[j] and share[i, j] >= at
        if hits[i]:
            free[j] = False
    return scores, hits, len(truth)


def average_precision(pictures: list[tuple[np.ndarray, np.ndarray, int]]) -> float:
    """AP over all points (Everingham et al. 2010) of what `matched` gave of each picture."""
    scores, hits = (np.concatenate([p[k] for p in pictures]) for k in (0, 1))
    right = np.cumsum(hits[scores.argsort(kind="stable")[::-1]])
    precision = right / np.arange(1, len(right) + 1)
    recall = right / max(1, sum(p[2] for p in pictures))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(np.concatenate([[0], recall])) * precision).sum())


def picture(folder: Path, name: str) -> np.ndarray:
    """A still, or frame `file.mp4#INDEX`."""
    if "#" in name:
        file, index = name.split("#")
        return next(f.image for f in read_frames(str(folder / file)) if f.index == int(index))
    return cv2.imread(str(folder / name))[:, :, ::-1]


def wanted(reference: dict, name: str, smallest: float = 16) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a picture that SCRFD is sure of and whose sides are `smallest` px and more (N, 4); and those that it
    suspects or are smaller (M, 4). What YuNet sees is not asked: it is measured here itself."""
    def boxes(who: str) -> np.ndarray:
        return np.array([f["box"] for f in reference[who].get(name, [])], np.float64).reshape(-1, 4)

    sure = boxes("scrfd")
    large = (sure[:, 2:] - sure[:, :2]).min(1, initial=np.inf) >= smallest
    return sure[large], np.concatenate([sure[~large], boxes("scrfd_doubt")])


def at_own_size(path: Path, score: float) -> Callable[[np.ndarray], Faces]:
    """The model, reading every picture at about that picture's own size; faces from `score` on."""
    models: dict[tuple[int, ...], FaceModel] = {}

    def find(image: np.ndarray) -> Faces:
        size = tuple(max(128, -(-n // 32) * 32) for n in image.shape[1::-1])
        if size not in models:
            models[size] = FaceModel(path, size=size, score=score)
        return models[size](image)

    return find


def seen_by(yunet: Path, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) and scores (N,) of the faces that YuNet finds in an RGB picture, read at its own size."""
    finder = cv2.FaceDetectorYN.create(str(yunet), "", image.shape[1::-1], 0.02, 0.4, 5000)
    found = finder.detect(np.ascontiguousarray(image[:, :, ::-1]))[1]
    found = np.empty((0, 15)) if found is None else found
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1), found[:, 14]


def detection(path: Path, folder: Path, reference: dict | None, yunet: Path | None = None) -> dict[str, dict]:
    """Detection on real photographs, each read at its own size; by YuNet as well, if it is given."""
    find = at_own_size(path, 0.02)
    out: dict[str, dict] = {}
    rows = []
    for file in ("training.xml", "testing.xml"):
        for node in ElementTree.parse(folder / "voc" / file).iter("image"):
            faces = find(picture(folder / "voc", node.attrib["file"]))
            truth = np.array([[float(b.attrib[k]) for k in ("left", "top", "width", "height")]
                              for b in node.iter("box")]).reshape(-1, 4)
            truth[:, 2:] += truth[:, :2]
            rows.append(matched(faces.boxes, faces.scores, truth))
    values = np.arange(len(rows))
    out["detection.ap50.voc"] = interval(values, lambda v: average_precision([rows[int(i)] for i in v]))
    if reference is None:
        return out
    default = FaceModel(path).score
    hits, false, ours, theirs = [], [], [], []
    for name, seen in reference["scrfd"].items():
        image = picture(folder, name)
        faces = find(image)
        sought, unsure = wanted(reference, name)
        ours.append(matched(faces.boxes, faces.scores, sought, unsure))
        if yunet:
            theirs.append(matched(*seen_by(yunet, image), sought, unsure))
        sure = faces.scores >= default
        truth = np.array([f["box"] for f in seen]).reshape(-1, 4)
        share = overlap(faces.boxes[sure], truth)
        big = (np.minimum(truth[:, 2] - truth[:, 0], truth[:, 3] - truth[:, 1]) >= 24) if len(truth) else np.zeros(0, bool)
        hits += list((share.max(0, initial=0) >= 0.4)[big])
        known = np.array([f["box"] for f in seen + reference["yunet"].get(name, [])]).reshape(-1, 4)
        false.append(int((overlap(faces.boxes[sure], known).max(1, initial=0) < 0.3).sum()))
    values = np.arange(len(ours))
    out["detection.ap50.crowds"] = interval(values, lambda v: average_precision([ours[int(i)] for i in v]))
    if yunet:
        out["detection.ap50.crowds.yunet"] = interval(values, lambda v: average_precision([theirs[int(i)] for i in v]))
    out["detection.recall_24px"] = interval(np.array(hits))
    out["detection.false_per_picture"] = interval(np.array(false))
    film = np.array(["#" in name for name in reference["scrfd"]])  # most of the pictures, and all of them of one street
    for kind, some in (("stills", values[~film]), ("film", values[film])):
        out[f"detection.ap50.{kind}"] = interval(some, lambda v: average_precision([ours[int(i)] for i in v]))
        if yunet:
            out[f"detection.ap50.{kind}.yunet"] = interval(some, lambda v: average_precision([theirs[int(i)] for i in v]))
    return out


@contextmanager
def as_float(folder: Path) -> Iterator[Path]:
    """A model folder with the unquantised network in the place of the shipped one."""
    with tempfile.TemporaryDirectory() as scratch:
        network = (folder / "float.tflite").read_bytes()
        described = json.loads((folder / "model.json").read_text())
        described["patches"] = [p.model_dump() for p in patches(network, HEIGHT)]
        described["sha256"] = hashlib.sha256(network).hexdigest()
        (Path(scratch) / "model.json").write_text(json.dumps(described))
        (Path(scratch) / "model.tflite").write_bytes(network)
        if described.get("cohort"):
            shutil.copy(folder / FILE, scratch)
        yield Path(scratch)


def main() -> None:
    """Calibrate, measure, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, nargs="+", required=True, help="packed .npz files: lfw faces fer rafdb fairface")
    ask.add_argument("--pictures", type=Path, help="folder with voc/ and other photographs")
    ask.add_argument("--reference", type=Path, help="what strong detectors found on them")
    ask.add_argument("--yunet", type=Path, help="yunet_n_dynamic.onnx, to compare with")
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--quick", action="store_true", help="leave the float twin out")
    options = ask.parse_args()
    data = {file.stem: Packed(file) for file in options.data}
    found, spec = measure(options.model, options.threads, data), FaceModel(options.model).spec
    before = json.loads((options.model / "metrics.json").read_text()) if (options.model / "metrics.json").exists() else {}
    details, bars = found.pop("_attributes", before.get("attributes")), found.pop("_bars", before.get("bars"))
    ours = found.pop("_embeddings", None)
    if options.pictures:
        reference = json.loads(options.reference.read_text()) if options.reference else None
        found |= detection(options.model, options.pictures, reference, options.yunet)
    cost = macs((options.model / "model.tflite").read_bytes())
    for key, value in (("cost.frame_mmac_640x480", cost["frame"]),
                       ("cost.face_mmac", cost["faces"] / spec.faces_at_once)):
        found[key] = {"value": round(value, 2), "low": round(value, 2), "high": round(value, 2), "n": 1}
    if not options.quick:
        with as_float(options.model) as folder:
            whole = measure(folder, options.threads, data)
            if options.pictures:
                whole |= detection(folder, options.pictures, reference)
        for key, row in found.items():
            if not key.endswith(".yunet"):  # which is a float network
                row["float_value"] = whole[key]["value"] if key in whole else row["value"]
        if ours is not None:
            both = ours.any(1) & whole["_embeddings"].any(1)
            found["embedding.float_cosine"] = interval((ours * whole["_embeddings"]).sum(1)[both])
    if before.get("model") == spec.sha256:  # what was not measured now stays as it was
        found = before["metrics"] | found
    record = {"model": spec.sha256, "attributes": details, "bars": bars, "metrics": dict(sorted(found.items()))}
    (options.model / "metrics.json").write_text(json.dumps(record, indent=1) + "\n")
    for key, row in sorted(found.items()):
        print(f"{key:32} {row['value']:8} [{row['low']}, {row['high']}] n={row['n']}"
              + (f" float {row['float_value']}" if "float_value" in row else ""))


if __name__ == "__main__":
    leave(main)

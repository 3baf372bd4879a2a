"""Thresholds of likeness for stated false accept rates, of the detector, and temperatures, into MODEL/model.json.

    python -m edge_models.training.calibrate MODEL --data faces.npz [fairface.npz ...] [--expressions fer.npz]
        [--scenes HELD_OUT ...]

A face on a frame is compared with a photo that somebody was enrolled from: so the pairs here are a face at
each of SIZES against a photo that `onelook enroll` would take, described as it does that, through the exported file and
onelook's own FaceModel. (Faces in full profile are alike to any network: had they been enrolled, they would set the bars.)
Impostors: all pairs of held-out faces of two people of one sex and one origin, where these are labelled (FairFace, UTKFace): who
stands before a camera is mostly of few origins, and by all pairs of everybody five times as many of LFW's strangers passed as was
said at 1 in 1,000, and 15 times at 1 in 100,000. Genuine: all pairs within a held-out identity.
A rate is only given where at least EXCEED impostor pairs lie beyond it; a stricter one would be a guess.

People are enrolled from several photos, and a track is many faces: `averaging` measures what means do to the
similarities of strangers.

Temperatures: one number a head, by which its logits are divided so that probabilities mean what they say (Guo et al.
2017). The split of EXPRESSIONS that is `val` serves for emotion, the held-out faces for the rest.
What EXPRESSIONS or HELD_OUT would tell stays as it was without them.

The detector's threshold: the least at which held-out photographs, each read at its own size, have no more than FALSE
boxes where their labels.json tells of no face.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, all_alike, at_own_size, covered, describe, overlap, photographed

from onelook.cohort import NOBODY, Cohort
from onelook.enroll import USEFUL, looks_away
from onelook.face import Faces, Floats
from onelook.model import FaceModel
from onelook.spec import ModelSpec, Threshold

FARS = (5e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SIZES = (112, 80, 48, 32, 24)
"""Sides, in pixels of the network's input, of the faces' aligned 112 template."""
SIZE = 80
"""Of the faces that temperatures are found with."""
CAUTION = 3
"""See `ModelSpec.similarities`: without it, a stranger's track of ten frames passes before a thousand people, each enrolled from up to
three photos, two to three times as often as it is meant to (`openset`)."""
EXCEED = 15
"""Pairs: their number then tells the rate within a quarter of it (one standard deviation). Held-out pairs of one sex and origin are 1.6
million, so that 1 in 100,000 is the strictest of which so much can be said."""
FALSE = 0.7
"""Boxes a picture. Some of them are faces that the labelling detector missed: tiny, blurred, turned away."""
MISLABELLED = 0.45
"""Cosine of the teacher's embeddings from which two "different" people are taken for one with two labels.

One pair in 10,000 of differently labelled faces has more, and one in 180 of UTKFace's, which has no labels and shows
many people several times; four in five pairs of one person have more.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Held-out faces described at one size, or as photos."""

    embeddings: Floats
    """(N, D) unit length."""
    found: np.ndarray
    """(N,) whether the network found the face at all; of photos, whether somebody could be enrolled from it too."""


def enrollable(faces: Faces, found: np.ndarray) -> np.ndarray:
    """(N,) which of the `found` faces `onelook enroll` takes: such as look into the camera and are of use."""
    away = np.array([looks_away(landmarks) for landmarks in faces.landmarks], bool)
    return found & ~away & (faces.quality >= USEFUL)


def different(identity: np.ndarray, teacher: Floats | None = None) -> np.ndarray:
    """(N, N) True where two faces are of two people. Faces without a label ('') are each a person of their own.

    teacher: (N, D) embeddings of a strong recogniser, zero where there are none; a pair that it is sure of
    is left out, because public labels name some people twice.
    """
    apart = (identity[:, None] != identity[None]) | (identity == "")[:, None]
    np.fill_diagonal(apart, False)
    if teacher is not None:
        apart &= teacher @ teacher.T < MISLABELLED
    return apart


def groups(table: dict[str, np.ndarray]) -> np.ndarray:
    """(N,) a number for each sex and origin, as the faces of one data set are labelled; -1 where that is not known."""
    origin, sex = (table[name] if name in table else np.full(len(table["offset"]), -1) for name in (
        "race7" if "race7" in table else "ethnicity", "male"))
    return np.where((origin >= 0) & (sex >= 0), 2 * origin + sex, -1)


def thresholds(
    held: dict[int, Held], photos: Held, identity: np.ndarray, apart: np.ndarray, fars: Sequence[float] = FARS,
    cohort: Cohort = NOBODY,
) -> list[Threshold]:
    """A threshold for each size and false accept rate, the sizes largest first.

    held: size -> the same N faces described at it. photos: the same as they are enrolled. identity: (N,) labels, '' where
    unknown. apart: (N, N), see `different`. Found faces alone are counted.
    """
    together = (identity[:, None] == identity[None]) & (identity != "")[:, None]
    np.fill_diagonal(together, False)
    rows = []
    for size in sorted(held, reverse=True):
        faces = held[size]
        both = faces.found[:, None] & photos.found[None]
        similarity = all_alike(cohort, faces.embeddings, photos.embeddings)
        impostor, genuine = np.sort(similarity[apart & both]), similarity[together & both]
        for far in fars:
            if len(impostor) * far < EXCEED:
                continue
            bar = float(np.quantile(impostor, 1 - far))
            tar = float((genuine > bar).mean()) if len(genuine) else 0.0
            rows.append(Threshold(far=far, similarity=round(bar, 4), tar=round(tar, 4), size=size, pairs=len(impostor)))
    return rows


def averaging(faces: Held, photos: Held, identity: np.ndarray) -> float:
    """The exponent g for which strangers' means, at similarity * agreement ** g, pass as often as single faces do.

    People are means of one, three or five photos, tracks means of one or four faces; agreement is
    the product of the two means' lengths. Found by trying: least squares of the thresholds at two rates.
    """
    usable = photos.found & faces.found & (identity != "")
    trials = []
    for of_photos, of_faces in ((1, 1), (1, 4), (3, 1), (3, 4), (5, 1), (5, 4)):
        people, tracks, owner = [], [], []
        for name in np.unique(identity[usable]):
            mine = np.flatnonzero(usable & (identity == name))
            if len(mine) < of_photos + of_faces:
                continue
            people.append(photos.embeddings[mine[:of_photos]].mean(0))
            rest = mine[of_photos:]
            for start in range(0, len(rest) - of_faces + 1, of_faces):
                tracks.append(faces.embeddings[rest[start:start + of_faces]].mean(0))
                owner.append(len(people) - 1)
        if len(people) < 20:
            continue
        a, b = np.stack(tracks), np.stack(people)
        agreement = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
        others = np.ones(agreement.shape, bool)
        others[np.arange(len(a)), owner] = False
        trials.append(((a @ b.T / agreement)[others], agreement[others]))
    if len(trials) < 2:
        raise ValueError("too few people with several faces to measure what averaging does")
    far = np.array([1e-2, 3e-3])
    single = np.quantile(trials[0][0], 1 - far)

    def miss(exponent: float) -> float:
        return sum(float(((np.quantile(s * a**exponent, 1 - far) - single) ** 2).sum()) for s, a in trials[1:])

    return float(min(np.arange(0, 1.01, 0.02), key=miss))


def temperature(logits: Floats, truth: np.ndarray) -> float:
    """What to divide logits by for the least negative log-likelihood (Guo et al. 2017), by trying.

    logits: (N, C) of classes, truth (N,) which; or (N,) of yes or no, truth (N,) bool.
    """
    def cost(divisor: float) -> float:
        x = logits / divisor
        if x.ndim == 1:
            return float(np.logaddexp(0, np.where(truth, -x, x)).mean())
        return float((np.logaddexp.reduce(x, 1) - x[np.arange(len(x)), truth]).mean())

    return round(float(min(np.geomspace(0.5, 4, 209), key=cost)), 3)


def logits(chances: Floats) -> Floats:
    """What a probability of yes, or of each class along the last axis where it is one of several, was made from."""
    sure = np.clip(chances.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(sure) - np.log1p(-sure) if chances.ndim == 1 else np.log(sure)


def temperatures(model: FaceModel, packed: Packed, expressions: Packed | None) -> dict[str, float]:
    """Of each head, given a model that divides by none."""
    rows = packed.rows("test")
    faces, found = describe(model, packed, rows, SIZE, "temperatures")
    known = {name: packed.table[name][rows] for name in ("attributes", "male", "ethnicity")}
    told = (known["attributes"] != 0) & found[:, None]
    sex, origin = found & (known["male"] >= 0), found & (known["ethnicity"] >= 0)
    out = {
        "attributes": temperature(logits(faces.attributes[told]), known["attributes"][told] > 0),
        "gender": temperature(logits(faces.gender[sex]), known["male"][sex] == 1),
        "ethnicity": temperature(logits(faces.ethnicity[origin]), known["ethnicity"][origin]),
    }
    if expressions is not None:
        rows = expressions.rows("val")
        faces, found = describe(model, expressions, rows, SIZE, "temperatures")
        out["emotion"] = temperature(logits(faces.emotion[found]), expressions.table["emotion"][rows][found])
    return out


def false_boxes(path: Path, folders: Sequence[Path]) -> tuple[Floats, int]:
    """Scores (N,) of the boxes that hold no face on the pictures in `folders`, and how many pictures those are."""
    find = at_own_size(path, 0.2)
    found, pictures = [np.empty(0, np.float32)], 0
    for folder in folders:
        for row in json.loads((folder / "labels.json").read_text()):
            image = cv2.imread(str(folder / row["file"]))[:, :, ::-1]
            faces = find(image)
            there = np.array([face["box"] for face in row["faces"]], np.float64).reshape(-1, 4)
            unsure = np.array(row.get("ignore", []), np.float64).reshape(-1, 4)
            wrong = (overlap(faces.boxes, there).max(1, initial=0) < 0.4) & (covered(faces.boxes, unsure).max(1, initial=0) < 0.5)
            found.append(faces.scores[wrong])
            pictures += 1
    return np.concatenate(found), pictures


def held_out(model: FaceModel, packs: Sequence[Packed], sizes: Sequence[int]
             ) -> tuple[dict[int, Held], Held, np.ndarray, np.ndarray, np.ndarray]:
    """The packs' test faces at each size, and as photos; their identities (N,), '' where unknown; their teacher's view (N, 256);
    their groups (N,), another for each pack."""
    identity = np.concatenate([
        p.table["identity"][p.rows("test")] if "identity" in p.table else np.full(len(p.rows("test")), "") for p in packs])
    teacher = np.concatenate([
        p.table["teacher"][p.rows("test")].astype(np.float32) if "teacher" in p.table
        else np.zeros((len(p.rows("test")), 256), np.float32) for p in packs])
    held = {}
    for size in sizes:
        parts = [describe(model, p, p.rows("test"), size, "held out") for p in packs]
        held[size] = Held(np.concatenate([faces.embeddings for faces, _ in parts]), np.concatenate([found for _, found in parts]))
    parts = [photographed(model, p, p.rows("test"), "photos") for p in packs]
    photos = Held(np.concatenate([faces.embeddings for faces, _ in parts]),
                  np.concatenate([enrollable(faces, found) for faces, found in parts]))
    group = np.concatenate([np.where(g < 0, -1, g + 100 * i) for i, g in enumerate(
        groups(p.table)[p.rows("test")] for p in packs)])
    return held, photos, identity, teacher, group


def main() -> None:
    """Describe, calibrate, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, nargs="+", required=True, help="packed .npz files with a test split")
    ask.add_argument("--expressions", type=Path, help="a packed .npz with emotions and a val split")
    ask.add_argument("--scenes", type=Path, nargs="*", default=[], help="folders of held-out photographs, labelled")
    ask.add_argument("--threads", type=int, default=1)
    options = ask.parse_args()
    model = FaceModel(options.model, threads=options.threads)
    before = model.spec.temperature
    model.spec = model.spec.model_copy(update={"temperature": {}})
    divisors = temperatures(model, Packed(options.data[0]), Packed(options.expressions) if options.expressions else None)
    print("temperatures:", divisors)
    detector = model.spec.detector
    if options.scenes:
        wrong, pictures = false_boxes(options.model, options.scenes)
        allowed = np.sort(wrong)[::-1][: int(FALSE * pictures) + 1]
        detector = detector.model_copy(update={"score": round(float(np.ceil(allowed[-1] * 100)) / 100, 2)})
        print(f"detector: {detector.score} for {FALSE} false boxes on each of {pictures} pictures")
    held, photos, identity, teacher, group = held_out(model, [Packed(file) for file in options.data], SIZES)
    apart = different(identity, teacher) & (group[:, None] == group[None]) & (group >= 0)[:, None]
    rows = thresholds(held, photos, identity, apart, cohort=model.cohort)
    spec = model.spec.model_copy(update={"thresholds": rows, "temperature": before | divisors, "detector": detector, "caution": CAUTION})
    (options.model / "model.json").write_text(ModelSpec.model_validate(spec.model_dump()).model_dump_json(indent=1) + "\n")
    for row in rows:
        print(f"{row.size:4} px  FAR {row.far:g}  similarity {row.similarity:.4f}  TAR {row.tar:.4f}  of {row.pairs} pairs")
    print(f"averaging, measured but not written, see ModelSpec.similarities: {averaging(held[SIZE], photos, identity):.2f}")


if __name__ == "__main__":
    leave(main)

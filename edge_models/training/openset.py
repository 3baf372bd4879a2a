"""Open-set identification: of people at the door, who is named rightly, and how many strangers are named at all.

    python -m edge_models.training.openset MODEL --data FOLDER    # writes MODEL/openset.json

FOLDER holds the packed faces: faces.npz, and fairface.npz and rafdb.npz for padding; and lfw.npz, whose people are enrolled and
come to the door as well, by single frames: pictures of one kind, as of those before one camera.

Held-out people with several photos are enrolled from one to three of them that `onelook enroll` would take, and as it does; their other photos come to the
door, at 80 px, and so do held-out people who are not enrolled. The gallery is padded to each of ENROLLED with real
templates of others, of one photo each, none of whom are in the model's cohort: first the people of the training split, then FairFace's, then RAF-DB's (where
some may be there twice, under no name). Each photo comes once as a single frame, and once as a track: FRAMES frames of the same photo,
each turned, shifted, scaled, blurred, lit and compressed anew, of which the mean is compared; that is all that can be
had of a track without films of held-out people, so a track here knows no new pose. Where people have enough
photos, tracks of PHOTOS different ones show the other end. A true track lies between the two.

FPIR: share of strangers for whom anybody is named. DIR: share of the enrolled who are named, rightly (Grother, Quinn
and Phillips, NIST IR 7709, 2010). Reported at thresholds that give an FPIR of 1 % and 0.1 % on these strangers, and
at the threshold that the daemon takes for a `far` of the config, with what FPIR that has in truth; once more for the
strangers of each source alone, as those from where the enrolled are from are more like them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from edge_models.training.calibrate import MISLABELLED, enrollable
from edge_models.training.cohort import in_cohort
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, describe, photographed

from onelook.cohort import Cohort
from onelook.face import Floats
from onelook.model import FaceModel
from onelook.spec import ModelSpec

ENROLLED = (100, 1000, 10_000)
OF_LFW = (10, 100, 1000)
"""Of LFW's people so many; where they are few, of one gallery after the other until a thousand were enrolled."""
FRAMES = 10
PHOTOS = 4
TEMPLATES = 3
SIZE = 80


class Shaken(Packed):
    """Photos as a camera has them from frame to frame."""

    def __init__(self, file: Path, seed: int) -> None:
        """`seed`: of this frame."""
        super().__init__(file)
        self.random = np.random.default_rng(seed)

    def patch(self, row: int) -> np.ndarray:
        """RGB patch of one face, a little different each time."""
        image, random = super().patch(row), self.random
        side = image.shape[0]
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), random.normal(0, 5), np.exp(random.normal(0, 0.06)))
        turn[:, 2] += random.normal(0, 2, 2)
        image = cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
        blur = abs(random.normal(0, 1))
        if blur > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), blur)
        light = 255 * (image / 255.0) ** np.exp(random.normal(0, 0.25)) * np.exp(random.normal(0, 0.1))
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 90))]
        return cv2.imdecode(cv2.imencode(".jpg", np.clip(light, 0, 255).astype(np.uint8), quality)[1], cv2.IMREAD_COLOR)


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Who comes to the door."""

    looks: Floats
    """(N, D) means of faces, not of unit length."""
    who: np.ndarray
    """(N,) row of the gallery; -1: a stranger."""


def judged(probes: Probes, people: Floats, cohort: Cohort) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each probe (N,): its nearest person, the similarity as `Gallery.match` has it, and the agreement of what was
    compared."""
    own, theirs = np.linalg.norm(probes.looks, axis=1), np.linalg.norm(people, axis=1)
    looks, people = probes.looks / own[:, None], people / theirs[:, None]
    cosine = looks @ people.T
    best = cosine.argmax(1)
    common = (cohort.commonness(looks) + cohort.commonness(people)[best]) / 2
    return best, cosine[np.arange(len(best)), best] - common, own * theirs[best]


def rates(probes: Probes, people: Floats, spec: ModelSpec, cohort: Cohort, fars: tuple[float, ...] = (1e-2, 1e-3)
          ) -> dict[str, float]:
    """DIR at two FPIRs, and both at the daemon's own thresholds."""
    best, similarity, agreement = judged(probes, people, cohort)
    stranger, right = probes.who < 0, best == probes.who
    score = similarity * np.clip(agreement, 0.2, 1) ** spec.averaging
    out: dict[str, float] = {"strangers": int(stranger.sum()), "enrolled": int((~stranger).sum()),
                             "rank_1": round(float(right[~stranger].mean()), 4)}
    for fpir in (1e-2, 1e-3):
        bar = np.sort(score[stranger])[::-1][max(round(fpir * stranger.sum()), 0)]
        out[f"dir_at_fpir_{fpir:g}"] = round(float((right & (score > bar))[~stranger].mean()), 4)
    sizes = np.full(len(best), SIZE, np.float32)
    for far in fars:
        for name, count, agreed in (("", len(people), agreement), ("uncorrected_", 1, 1.0)):
            passed = similarity >= spec.similarities(far, sizes, count, agreed)
            out[f"{name}fpir_at_far_{far:g}"] = round(float(passed[stranger].mean()), 4)
            out[f"{name}dir_at_far_{far:g}"] = round(float((passed & right)[~stranger].mean()), 4)
    return out


def padding(
    model: FaceModel, packed: Packed, folder: Path, teacher: np.ndarray, count: int
) -> tuple[Floats, dict[str, int]]:
    """`count` templates of other people than those of `teacher` (N, D), one photo each; and how many of which data."""
    looks: list[Floats] = []
    told: dict[str, int] = {}
    for name in ("faces", "fairface", "rafdb"):
        short = count - sum(map(len, looks))
        if short <= 0 or not (folder / f"{name}.npz").exists():
            continue
        data = packed if name == "faces" else Packed(folder / f"{name}.npz")
        others = data.rows("train") if name == "faces" else np.arange(len(data.table["offset"]))
        labels = data.table["identity"][others]
        _, first = np.unique(labels, return_index=True)
        one_each = labels == ""
        one_each[first] = True
        others = others[one_each]
        if model.spec.cohort:
            others = others[~in_cohort(data, others)]
        apart = (data.table["teacher"][others].astype(np.float32) @ teacher.T).max(1) < MISLABELLED
        # More than are needed, as some faces are not found and others look away.
        others = np.random.default_rng(3).permutation(others[apart])[: 2 * short]
        faces, there = photographed(model, data, others, name)
        looks.append(faces.embeddings[enrollable(faces, there)][:short])
        told[name] = len(looks[-1])
    return np.concatenate(looks), told


def counted(values: np.ndarray) -> dict[str, int]:
    """How many there are of each of `values` (N,)."""
    return {str(value): int(many) for value, many in zip(*np.unique(values, return_counts=True), strict=True)}


def of_lfw(model: FaceModel, lfw: Packed) -> dict[str, dict[str, float]]:
    """What `rates` gives with each of OF_LFW enrolled, from one to TEMPLATES photos; as many others of theirs and one of everybody
    else come to the door."""
    rows, who = np.arange(len(lfw.table["landmarks"])), lfw.people()
    faces, found = describe(model, lfw, rows, SIZE, "LFW's frames")
    photos, seen = photographed(model, lfw, rows, "LFW's photos")
    fit, mine = seen & enrollable(photos, seen), [np.flatnonzero(found & (who == one)) for one in range(who.max() + 1)]
    several = [one for one, pictures in enumerate(mine) if len(pictures) > 1 and fit[pictures].any()]
    several = np.random.default_rng(1).permutation(several)
    out = {}
    for count in OF_LFW:
        told = []
        for some in several[: max(OF_LFW)].reshape(-1, count):
            taken = [mine[one][fit[mine[one]]][: min(TEMPLATES, len(mine[one]) - 1)] for one in some]
            left = [np.setdiff1d(mine[one], photo)[:TEMPLATES] for one, photo in zip(some, taken, strict=True)]
            others = np.array([mine[one][0] for one in range(len(mine)) if one not in some and len(mine[one])])
            at_door = np.concatenate([*left, others])
            names = np.concatenate([np.repeat(np.arange(count), [len(pictures) for pictures in left]), np.full(len(others), -1)])
            told.append(rates(Probes(faces.embeddings[at_door], names), np.stack([photos.embeddings[photo].mean(0) for photo in taken]),
                              model.spec, model.cohort))
        out[str(count)] = {name: round(float(np.mean([row[name] for row in told])), 5) for name in told[0]} | {"galleries": len(told)}
    return out


def main() -> None:
    """Describe, identify, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, required=True, help="folder of packed faces")
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--out", type=Path, help="default: MODEL/openset.json")
    options = ask.parse_args()
    model, packed = FaceModel(options.model, threads=options.threads), Packed(options.data / "faces.npz")
    rows = packed.rows("test")
    identity, teacher = packed.table["identity"][rows], packed.table["teacher"][rows].astype(np.float32)
    source = packed.table["source"][rows]
    photos, seen = photographed(model, packed, rows, "photos")
    frames, found = describe(model, packed, rows, SIZE, "frames")
    shaken = [describe(model, Shaken(options.data / "faces.npz", seed), rows, SIZE, f"track {seed}") for seed in range(FRAMES)]
    found &= np.all([ok for _, ok in shaken], axis=0)
    track = np.mean([faces.embeddings for faces, _ in shaken], axis=0)
    usable = found & seen
    enrolled = usable & enrollable(photos, seen)

    people, names, left = [], [], {}
    for name in np.unique(identity[usable & (identity != "")]):
        mine = np.flatnonzero(usable & (identity == name))
        if len(mine) < 2 or not enrolled[mine].any():
            continue
        taken = mine[enrolled[mine]][: min(TEMPLATES, len(mine) - 1)]
        people.append(photos.embeddings[taken].mean(0))
        left[len(names)] = np.setdiff1d(mine, taken)
        names.append(name)
    known_by_name = np.isin(identity, names)
    strangers = np.flatnonzero(usable & ~known_by_name)
    # Labels name some people twice: whom the teacher takes for an enrolled person is no stranger.
    strangers = strangers[(teacher[strangers] @ teacher[known_by_name].T).max(1) < MISLABELLED]

    padding_looks, padded = padding(model, packed, options.data, teacher, max(ENROLLED) - min(len(names), *ENROLLED))

    result: dict[str, object] = {"model": model.spec.sha256, "averaging": model.spec.averaging,
                                 "people": len(names), "size": SIZE, "frames": FRAMES, "photos": PHOTOS,
                                 "padded_with": padded, "strangers_from": counted(source[strangers]),
                                 "enrolled_from": counted(source[[mine[0] for mine in left.values()]])}
    for count in ENROLLED:
        known = min(count, len(names))
        gallery = np.concatenate([np.stack(people[:known]), padding_looks[: count - known]])
        mine = np.concatenate([left[i] for i in range(known)])
        who = np.concatenate([np.repeat(np.arange(known), [len(left[i]) for i in range(known)]),
                              np.full(len(strangers), -1)])
        at_door = np.concatenate([mine, strangers])
        for looks, name in ((frames.embeddings, "frame"), (track, "track")):
            result[f"{len(gallery)}.{name}"] = rates(Probes(looks[at_door], who), gallery, model.spec, model.cohort)
            for kind in np.unique(source[strangers]):
                here = (who >= 0) | (source[at_door] == kind)
                result[f"{len(gallery)}.{name}.{kind}"] = rates(
                    Probes(looks[at_door[here]], who[here]), gallery, model.spec, model.cohort)
        several, whose = [], []
        for i in range(known):
            for start in range(0, len(left[i]) - PHOTOS + 1, PHOTOS):
                several.append(frames.embeddings[left[i][start:start + PHOTOS]].mean(0))
                whose.append(i)
        if several:
            looks = np.concatenate([np.stack(several), track[strangers]])
            result[f"{len(gallery)}.photos"] = rates(
                Probes(looks, np.concatenate([whose, np.full(len(strangers), -1)])), gallery, model.spec, model.cohort)
    if (options.data / "lfw.npz").exists():
        result["lfw"] = of_lfw(model, Packed(options.data / "lfw.npz"))
    text = json.dumps(result, indent=1)
    print(text)
    (options.out or options.model / "openset.json").write_text(text + "\n")


if __name__ == "__main__":
    leave(main)

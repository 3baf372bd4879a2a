"""What is left of it where faces are tilted, dark, blurred, covered or turned away, into MODEL/hard.json.

    python -m edge_models.training.hard MODEL --data FOLDER [--scenes HELD_OUT --yunet yunet_n_dynamic.onnx]

FOLDER holds the packed faces faces.npz and lfw.npz. Held-out faces at 80 px, through onelook's own FaceModel: altered in each of
CASES; and as they are, of those whose labels or landmarks tell of one of the things in `by_nature`. How many are found, how like
their embeddings are to the teacher's, which saw the face as it was, how many are told the right gender; and of LFW's pairs of one
person, the first as the case has it and the second as it is, how many pass the bar for each of FARS.

Photographs of HELD_OUT, with labels.json as `label_scenes` writes it: AP50 of each source by itself, each photograph read at its
own size, YuNet's beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from edge_models.training.calibrate import SIZE
from edge_models.training.door import leave
from edge_models.training.evaluate import (
    Altered,
    Packed,
    alike,
    at_own_size,
    average_precision,
    describe,
    interval,
    matched,
    seen_by,
)
from edge_models.training.groups import FEWEST

from onelook.enroll import looks_away
from onelook.face import Faces, Floats
from onelook.model import FaceModel, Image

FARS = (1e-2, 1e-3)
GREY = (110, 110, 110)
"""What is around the patches on a frame, see `evaluate.frames_of`."""
CLOTH = (150, 190, 205)
"""A surgical mask's, RGB."""
NOISE = 3.0
"""Of a sensor in little light: standard deviation of each number, in steps of 255."""

Change = Callable[[Image, int], Image]
"""Of a patch and its row in the packed file, another of the same size."""


def tilted(degrees: float) -> Change:
    """Turned in the picture's plane, every other face the other way round."""
    def change(patch: Image, row: int) -> Image:
        side = patch.shape[0]
        turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees * (-1) ** row, 1)
        return cv2.warpAffine(patch, turn, (side, side), flags=cv2.INTER_LINEAR, borderValue=GREY)

    return change


def dimmed(share: float) -> Change:
    """Every number this share of what it was, and NOISE on it."""
    def change(patch: Image, row: int) -> Image:
        noise = np.random.default_rng(row).normal(0, NOISE, patch.shape)
        return np.clip(patch * share + noise, 0, 255).round().astype(np.uint8)

    return change


def moved(share: float) -> Change:
    """Smeared along the row, over this share of the side of the aligned template."""
    length = round(share * 112)
    return lambda patch, _: cv2.blur(patch, (length, 1), borderType=cv2.BORDER_REPLICATE)


def compressed(quality: int) -> Change:
    """A JPEG of this quality, of the patch at SIZE, as a frame is compressed."""
    def change(patch: Image, _: int) -> Image:
        side = round(patch.shape[0] * SIZE / 112)
        small = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.resize(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), patch.shape[:2], interpolation=cv2.INTER_CUBIC)

    return change


def masked(landmarks: Floats) -> Change:
    """A mask's cloth from under the eyes to the chin, by the landmarks (N, 5, 2) of the patches."""
    def change(patch: Image, row: int) -> Image:
        left, right, nose, *corners = landmarks[row].astype(np.float32)
        eyes, mouth = (left + right) / 2, (corners[0] + corners[1]) / 2
        across, down = right - left, mouth - eyes
        bridge, chin = (eyes + nose) / 2, eyes + 1.8 * down
        cloth = np.array([bridge - 0.3 * across, bridge + 0.3 * across, nose + across, mouth + 0.9 * across, chin + 0.45 * across,
                          chin - 0.45 * across, mouth - 0.9 * across, nose - across])
        out = patch.copy()
        cv2.fillPoly(out, [cloth.round().astype(np.int32)], CLOTH, cv2.LINE_AA)
        return out

    return change


CASES: dict[str, Callable[[Floats], Change]] = {
    "as they are": lambda _: lambda patch, _: patch,
    "tilted by 15°": lambda _: tilted(15),
    "tilted by 30°": lambda _: tilted(30),
    "tilted by 45°": lambda _: tilted(45),
    "a quarter as bright, with a sensor's noise": lambda _: dimmed(1 / 4),
    "a tenth as bright, with a sensor's noise": lambda _: dimmed(1 / 10),
    "smeared by a twelfth of the face's width": lambda _: moved(1 / 12),
    "smeared by a sixth of it": lambda _: moved(1 / 6),
    "JPEG of quality 20": lambda _: compressed(20),
    "a mask drawn over nose, mouth and chin": masked,
}
"""Name -> how a face is altered, given all faces' landmarks (N, 5, 2) in pixels of their patches."""


def by_nature(table: dict[str, np.ndarray], rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Names of what some of the faces at `rows` are by nature, and which of them are."""
    names = [str(name) for name in table["attribute_names"]]
    for name, attribute in (("with glasses", "Eyeglasses"), ("with a hat", "Wearing_Hat"), ("blurred", "Blurry")):
        yield f"{name} (CelebA's label)", table["attributes"][rows, names.index(attribute)] > 0
    yield "turned or nodding so far that nobody is enrolled from it", np.array([looks_away(marks) for marks in table["landmarks"][rows]])


def told(table: dict[str, np.ndarray], rows: np.ndarray, faces: Faces, found: np.ndarray) -> dict[str, Any]:
    """How many of the held-out faces at `rows` are found, how like the teacher's their embeddings are, of how many the gender is right."""
    teacher, male = table["teacher"][rows].astype(np.float32), table["male"][rows]
    taught, sexed = found & (np.abs(teacher).sum(1) > 0), male >= 0
    right = ((faces.gender > 0.5) == (male == 1)) & found
    return {"found": interval(found), "cosine": interval((faces.embeddings * teacher).sum(1)[taught]),
            **({"gender": interval(right[sexed])} if sexed.sum() >= FEWEST else {})}


def altered(model: FaceModel, main: Packed, lfw: Packed) -> dict[str, dict[str, Any]]:
    """Each of CASES, and what is known of faces by nature."""
    rows = main.rows("test")
    first, second = (lfw.table[name][lfw.table["same"] == 1].astype(np.intp) for name in ("first", "second"))
    firsts, at = np.unique(first, return_inverse=True)
    plain, there = describe(model, lfw, np.arange(len(lfw.table["landmarks"])), SIZE, "LFW")
    out: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        faces, found = describe(model, Altered(main, case(main.table["landmarks"])), rows, SIZE, name)
        probes, seen = describe(model, Altered(lfw, case(lfw.table["landmarks"])), firsts, SIZE, name)
        both = seen[at] & there[second]
        similarity = alike(model.cohort, probes.embeddings[at], plain.embeddings[second])
        out[name] = told(main.table, rows, faces, found) | {
            "same": {str(far): interval((similarity >= model.spec.threshold(far, SIZE)) & both) for far in FARS}}
        if name == "as they are":
            for kind, mine in by_nature(main.table, rows):
                out[kind] = told(main.table, rows[mine], faces.take(np.flatnonzero(mine)), found[mine])
    return out


def photographs(path: Path, folder: Path, yunet: Path | None) -> dict[str, dict[str, Any]]:
    """Source -> how well its faces of labels.json are found."""
    find = at_own_size(path, 0.02)
    ours: dict[str, list[tuple[np.ndarray, np.ndarray, int]]] = {}
    theirs: dict[str, list[tuple[np.ndarray, np.ndarray, int]]] = {}
    for row in json.loads((folder / "labels.json").read_text()):
        image = cv2.imread(str(folder / row["file"]))[:, :, ::-1]
        boxes = np.array([face["box"] for face in row["faces"]], np.float64).reshape(-1, 4)
        large = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= 16
        unsure = np.concatenate([boxes[~large], np.array(row["ignore"], np.float64).reshape(-1, 4)])
        faces = find(image)
        ours.setdefault(row["source"], []).append(matched(faces.boxes, faces.scores, boxes[large], unsure))
        if yunet:
            theirs.setdefault(row["source"], []).append(matched(*seen_by(yunet, image), boxes[large], unsure))

    def precision(pictures: list[tuple[np.ndarray, np.ndarray, int]]) -> dict[str, float | int]:
        return interval(np.arange(len(pictures)), lambda v: average_precision([pictures[int(i)] for i in v]))

    return {source: {"faces": sum(wanted for *_, wanted in pictures), "ap50": precision(pictures),
                     **({"yunet": precision(theirs[source])} if yunet else {})} for source, pictures in ours.items()}


def main() -> None:
    """Alter, describe, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, required=True, help="folder of packed faces")
    ask.add_argument("--scenes", type=Path, help="folder of held-out photographs, labelled")
    ask.add_argument("--yunet", type=Path, help="yunet_n_dynamic.onnx, to compare with")
    ask.add_argument("--threads", type=int, default=1)
    options = ask.parse_args()
    model = FaceModel(options.model, threads=options.threads)
    record: dict[str, Any] = {"model": model.spec.sha256, "cases": altered(
        model, Packed(options.data / "faces.npz"), Packed(options.data / "lfw.npz"))}
    if options.scenes:
        record["photographs"] = photographs(options.model, options.scenes, options.yunet)
    text = json.dumps(record, indent=1)
    print(text)
    (options.model / "hard.json").write_text(text + "\n")


if __name__ == "__main__":
    leave(main)

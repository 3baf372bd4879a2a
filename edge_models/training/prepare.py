"""Pictures of people and a table of labels in; a packed shard of aligned, embedded faces out.

    python prepare.py labels.csv shard --pictures FOLDER --detector scrfd.onnx \\
        --reid reid-0095.xml --mobilefacenet MobileFaceNet.tflite --y1 model-y1.xml \\
        --basis teacher_basis.npz [--known OTHER.npz ...] [--avoid lfw.npz ...]

writes `shard.bin` (JPEG patches, one after the other) and `shard.npz` (one row per face). Every picture
gives at most one face: the largest near the middle.

labels.csv has one line per picture. `file` is its path below FOLDER; all other columns may be missing or
left empty:

    name       what the face is called in the shard (default: file)
    source     where it comes from (default: --source)
    identity   anything that is the same for the same person
    split      train or test (default: train)
    age        years ("31"), a band ("20-29"), or "more than 70"
    gender     male / female, or 1 / 0
    ethnicity  0 White, 1 Black, 2 Asian, 3 Indian, 4 Other (default: from race)
    race       one of RACES, in words
    emotion    one of EMOTIONS, in words
    and any of the 40 CelebA attributes by its name: 1, -1, or 0 for unknown

A patch is 144x144 with the 112x112 five-point template at offset (16, 16), so that a reader has a margin
to turn and scale in. The teacher is made of three recognisers: their unit embeddings side by side, less
`mean`, times `basis` (both from --basis), made unit again. Faces too close to one that is there already
(--known, or this shard itself) are dropped, and so are those that resemble anyone in --avoid: the
pictures of a benchmark must not be learnt from, nor the people in them.

Needs numpy, opencv-python-headless, openvino, ai-edge-litert and tqdm.
"""

import argparse
import csv
import hashlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process: the workers are the parallelism

import cv2
import numpy as np
from tqdm import tqdm

# openvino and ai_edge_litert are imported where a network is loaded: only the workers need them.

PATCH, TEMPLATE_SIDE, MARGIN = 144, 112, 16
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
JPEG_QUALITY = 90
MIN_SCORE = 0.5  # of the detector
SAME_PICTURE = 0.97  # cosine of two teachers above which two faces are one picture twice
SAME_PERSON = 0.75  # cosine above which a face is taken for somebody in --avoid

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")
ETHNICITY_OF_RACE = (0, 1, 4, 2, 2, 3, 4)
ATTRIBUTES = tuple(
    ["5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"]
)


class BadInput(Exception):
    """Something the caller gave is wrong; the message is one sentence that says what."""


# ---------------------------------------------------------------- labels


@dataclass
class Label:
    """One line of the table, in the units of the shard; -1 (attributes: 0) is unknown."""

    file: str
    name: str
    source: str
    identity: str = ""
    split: str = "train"
    age: int = -1
    age_low: int = -1
    age_high: int = -1
    male: int = -1
    ethnicity: int = -1
    race7: int = -1
    emotion: int = -1
    attributes: tuple[int, ...] = (0,) * len(ATTRIBUTES)


def parse_age(text: str) -> tuple[int, int, int]:
    """(age, low, high). "31" is known exactly, "20-29" only as a band.

    Spreadsheets have turned bands into dates in copies of some tables: "03-Sep" is 3-9, "Oct-19" 10-19.
    """
    if not text:
        return -1, -1, -1
    if text == "more than 70":
        return -1, 70, 116
    try:
        low, *high = (round(float(part)) for part in text.replace("Sep", "9").replace("Oct", "10").split("-"))
    except ValueError:
        raise ValueError(f"'{text}': not an age or a band of ages") from None
    return (-1, low, high[0]) if high else (low, low, low)


def one_of(words: tuple[str, ...], text: str) -> int:
    """Index of a word, -1 where there is none; a word that is not among them is an error."""
    if text and text not in words:
        raise ValueError(f"'{text}': not one of {', '.join(words)}")
    return words.index(text) if text else -1


def parse_label(row: dict[str, str], source: str) -> Label:
    def get(key: str) -> str:
        return (row.get(key) or "").strip()

    age, low, high = parse_age(get("age"))
    race = one_of(RACES, get("race"))
    ethnicity = int(get("ethnicity")) if get("ethnicity") else -1 if race < 0 else ETHNICITY_OF_RACE[race]
    split = get("split") or "train"
    one_of(("train", "test"), split)
    gender = get("gender").lower()
    one_of(("male", "female", "1", "0"), gender)
    return Label(
        file=row["file"],
        name=get("name") or row["file"],
        source=get("source") or source,
        identity=get("identity"),
        split=split,
        age=age,
        age_low=low,
        age_high=high,
        male={"": -1, "male": 1, "female": 0, "1": 1, "0": 0}[gender],
        ethnicity=ethnicity,
        race7=race,
        emotion=one_of(EMOTIONS, get("emotion").lower()),
        attributes=tuple(int(get(a) or 0) for a in ATTRIBUTES),
    )


def read_labels(path: Path, source: str) -> list[Label]:
    with path.open(newline="", encoding="utf-8") as table:
        reader = csv.DictReader(table)
        if "file" not in (reader.fieldnames or ()):
            raise BadInput(f"{path} has no column 'file'.")
        labels = []
        for row in reader:
            try:
                labels.append(parse_label(row, source))
            except ValueError as error:
                raise BadInput(f"{path}, line {reader.line_num}: {error}.") from error
    if not labels:
        raise BadInput(f"{path} names no picture.")
    return labels


# ---------------------------------------------------------------- the networks


def compile_openvino(path: str, shape: list[int] | None = None):
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    if shape:
        network.reshape({network.inputs[0]: shape})
    return core.compile_model(
        network, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()


def planar(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)


class Detector:
    """SCRFD with five points, on a square canvas with a border for crops that are tight."""

    STRIDES = (8, 16, 32)
    ANCHORS = 2  # per cell

    def __init__(self, path: str, side: int):
        self.side = side
        self.network = compile_openvino(path, [1, 3, side, side])
        self.anchors = []
        for stride in self.STRIDES:
            cells = side // stride
            y, x = np.mgrid[:cells, :cells]
            self.anchors.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2) * stride, self.ANCHORS, 0))
        shapes = [tuple(output.shape)[-2:] for output in self.network.model_outputs]
        wanted = [[(len(anchors), width) for anchors in self.anchors] for width in (1, 4, 10)]
        if sorted(shapes) != sorted(shape for head in wanted for shape in head):
            raise BadInput(f"{path} is no SCRFD with five points.")
        self.heads = [[shapes.index(shape) for shape in head] for head in wanted]

    def all_faces(self, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N,4), landmarks (N,5,2) and scores (N) on the canvas, best first, overlaps removed."""
        self.network.infer({0: planar((canvas[..., ::-1].astype(np.float32) - 127.5) / 128)})
        boxes, points, scores = [], [], []
        for level, stride in enumerate(self.STRIDES):
            score, box, point = (
                self.network.get_output_tensor(head[level]).data.reshape(-1, width)
                for head, width in zip(self.heads, (1, 4, 10), strict=True)
            )
            keep = score[:, 0] >= MIN_SCORE
            at = self.anchors[level][keep]
            box = box[keep] * stride
            boxes.append(np.hstack([at - box[:, :2], at + box[:, 2:]]))
            points.append(point[keep].reshape(-1, 5, 2) * stride + at[:, None])
            scores.append(score[keep, 0])
        box, point, score = map(np.concatenate, (boxes, points, scores))
        sizes = np.hstack([box[:, :2], box[:, 2:] - box[:, :2]])
        keep = np.asarray(cv2.dnn.NMSBoxes(sizes.tolist(), score.tolist(), MIN_SCORE, 0.4), int).reshape(-1)
        return box[keep], point[keep], score[keep]

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        """Landmarks (5,2) of the largest face near the middle, in pixels of the image; None without one."""
        for border in (1 / 8, 1 / 3):  # of the longest side; wide for faces that fill the picture
            height, width = image.shape[:2]
            scale = self.side / (max(height, width) * (1 + 2 * border))
            shrunk = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=shrunk)
            left, top = (self.side - small.shape[1]) // 2, (self.side - small.shape[0]) // 2
            canvas = np.zeros((self.side, self.side, 3), np.uint8)
            canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
            box, point, _ = self.all_faces(canvas)
            if len(box):
                area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
                off = (box[:, :2] + box[:, 2:]) / 2 - self.side / 2
                best = int(np.argmax(area - 2 * (off**2).sum(1)))
                return (point[best] - (left, top)) / scale
        return None


class Teacher:
    """Three recognisers and the projection that makes one embedding of theirs."""

    def __init__(self, reid: str, mobilefacenet: str, y1: str, basis: str):
        from ai_edge_litert.interpreter import Interpreter

        self.reid = compile_openvino(reid)  # 128x128, BGR, 0..255
        self.y1 = compile_openvino(y1)  # 112x112, RGB, 0..255
        self.mobile = Interpreter(mobilefacenet, num_threads=1)  # 112x112, RGB, about -1..1
        self.mobile.allocate_tensors()
        self.mobile_input = self.mobile.get_input_details()[0]
        self.mobile_output = self.mobile.get_output_details()[0]["index"]
        with np.load(basis) as stored:
            self.mean, self.basis = stored["mean"], stored["basis"]

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        """112x112 BGR crops on the template -> (N, 256), unit length."""
        reid = [self._openvino(self.reid, cv2.resize(crop, (128, 128))) for crop in crops]
        y1 = [self._openvino(self.y1, crop[..., ::-1]) for crop in crops]
        parts = [np.stack(reid), self._mobilefacenet(crops), np.stack(y1)]
        joined = np.hstack([unit(part) for part in parts]) / np.sqrt(len(parts))
        return unit((joined - self.mean) @ self.basis)

    @staticmethod
    def _openvino(network, image: np.ndarray) -> np.ndarray:
        network.infer({0: planar(image)})
        return network.get_output_tensor(0).data.reshape(-1).copy()

    def _mobilefacenet(self, crops: list[np.ndarray]) -> np.ndarray:
        batch = int(self.mobile_input["shape"][0])  # fixed in the file
        images = np.stack([(crop[..., ::-1].astype(np.float32) - 127.5) / 128 for crop in crops])
        found = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
            self.mobile.set_tensor(self.mobile_input["index"], filled)
            self.mobile.invoke()
            found.append(self.mobile.get_tensor(self.mobile_output)[: len(part)].copy())
        return np.concatenate(found)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


# ---------------------------------------------------------------- alignment


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The 2x3 rotation, scale and shift that brings points nearest to target (least squares)."""
    a, b = points - points.mean(0), target - target.mean(0)
    spread = (a**2).sum()
    cos = (a * b).sum() / spread
    sin = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.hstack([turn, (target.mean(0) - turn @ points.mean(0))[:, None]])


def align(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The 144x144 patch, the landmarks on it, and how many pixels the template's 112 had in the picture."""
    matrix = similarity(points.astype(np.float64), TEMPLATE + MARGIN)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    landmarks = points @ matrix[:, :2].T + matrix[:, 2]
    if scale < 0.6:  # bilinear sampling would skip pixels: shrink by area first
        shrink = scale / 0.8
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        half = 0.5 * (1 / shrink - 1)  # pixel centres, not corners, lie at whole numbers
        matrix = np.hstack([matrix[:, :2] / shrink, (matrix[:, 2] + matrix[:, :2] @ (half, half))[:, None]])
    patch = cv2.warpAffine(
        image, matrix, (PATCH, PATCH), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return patch, landmarks, TEMPLATE_SIDE / scale


# ---------------------------------------------------------------- workers


@dataclass
class Face:
    index: int
    jpeg: bytes
    landmarks: np.ndarray
    native_size: float
    teacher: np.ndarray


@dataclass
class Miss:
    index: int
    reason: str


class Worker:
    """What one process holds: the networks, loaded once."""

    here: "Worker"

    def __init__(self, options: argparse.Namespace):
        cv2.setNumThreads(1)
        self.pictures = options.pictures
        self.detector = Detector(options.detector, options.detect_side)
        self.teacher = Teacher(options.reid, options.mobilefacenet, options.y1, options.basis)

    @classmethod
    def start(cls, options: argparse.Namespace) -> None:
        cls.here = cls(options)

    def faces(self, chunk: list[tuple[int, str]]) -> list[Face | Miss]:
        found, misses, patches = [], [], []
        for index, file in chunk:
            image = cv2.imread(str(self.pictures / file), cv2.IMREAD_COLOR)
            if image is None:
                misses.append(Miss(index, "unreadable"))
                continue
            points = self.detector(image)
            if points is None:
                misses.append(Miss(index, "without a face"))
                continue
            patch, landmarks, native = align(image, points)
            patches.append(patch)
            found.append((index, landmarks, native))
        if not found:
            return misses
        teachers = self.teacher([p[MARGIN:-MARGIN, MARGIN:-MARGIN] for p in patches])
        return misses + [
            Face(index, encode(patch), landmarks, native, teacher)
            for (index, landmarks, native), patch, teacher in zip(found, patches, teachers, strict=True)
        ]

    def packed(self, chunk: list[bytes]) -> np.ndarray:
        """Embeddings of faces that are packed already, whatever the margin of their patches."""
        patches = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in chunk]
        margin = (patches[0].shape[0] - TEMPLATE_SIDE) // 2
        inside = slice(margin, margin + TEMPLATE_SIDE)
        return self.teacher([patch[inside, inside] for patch in patches])


def work_faces(chunk):
    return Worker.here.faces(chunk)


def work_packed(chunk):
    return Worker.here.packed(chunk)


def encode(patch: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def chunks(items: list, size: int = 16) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


# ---------------------------------------------------------------- what to leave out


def packed_teacher(path: Path, pool, cache: Path) -> np.ndarray:
    """The embeddings of a packed file: its own, or made now and kept beside the shard for the next one."""
    with np.load(path) as stored:
        if "teacher" in stored:
            return stored["teacher"].astype(np.float32)
        offset = stored["offset"]
    kept = cache / f"{path.stem}.teacher.npy"
    if kept.exists():
        return np.load(kept)
    blob = path.with_suffix(".bin").read_bytes()
    ends = offset if offset[-1] == len(blob) else np.append(offset, len(blob))
    jobs = chunks([blob[start:end] for start, end in pairwise(ends)])
    teacher = np.concatenate(list(tqdm(pool.imap(work_packed, jobs), f"embed {path.stem}", len(jobs))))
    np.save(kept, teacher)
    return teacher


def highest_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For every row of a, its highest cosine to any row of b."""
    return np.concatenate([(a[start : start + 1024] @ b.T).max(1) for start in range(0, len(a), 1024)])


def first_of_each(teacher: np.ndarray) -> np.ndarray:
    """Mask that keeps, of faces that are nearly one, the first."""
    keep = np.ones(len(teacher), bool)
    for start in range(0, len(teacher), 1024):
        part = teacher[start : start + 1024]
        twin = part @ teacher[: start + len(part)].T > SAME_PICTURE
        for row in range(len(part)):
            earlier = np.flatnonzero(twin[row, : start + row])
            keep[start + row] = not keep[earlier].any()
    return keep


def drop_same_files(labels: list[Label], pictures: Path) -> tuple[list[Label], int]:
    """Without byte-for-byte repetitions; the copy in the test split stays."""
    kept: dict[bytes, Label] = {}
    for label in sorted(labels, key=lambda label: label.split != "test"):
        try:
            digest = hashlib.md5((pictures / label.file).read_bytes()).digest()
        except FileNotFoundError:
            raise BadInput(f"{pictures / label.file} is in the table but not there.") from None
        kept.setdefault(digest, label)
    return list(kept.values()), len(labels) - len(kept)


# ---------------------------------------------------------------- the shard


def write_shard(out: Path, faces: list[Face], labels: list[Label]) -> None:
    """Both files under temporary names first: who sees the .npz sees a whole shard."""
    of = [labels[face.index] for face in faces]
    length = np.array([len(face.jpeg) for face in faces], np.int32)

    def column(key: str, kind: type) -> np.ndarray:
        return np.array([getattr(label, key) for label in of], kind)

    rows = {
        "source": column("source", str),
        "name": column("name", str),
        "offset": np.concatenate([[0], np.cumsum(length[:-1], dtype=np.int64)]).astype(np.int64),
        "length": length,
        "landmarks": np.array([face.landmarks for face in faces], np.float16),
        "native_size": np.array([face.native_size for face in faces], np.float16),
        "teacher": np.array([face.teacher for face in faces], np.float16),
        "identity": column("identity", str),
        "age": column("age", np.int16),
        "age_low": column("age_low", np.int16),
        "age_high": column("age_high", np.int16),
        "male": column("male", np.int8),
        "ethnicity": column("ethnicity", np.int8),
        "race7": column("race7", np.int8),
        "emotion": column("emotion", np.int8),
        "attributes": column("attributes", np.int8),
        "attribute_names": np.array(ATTRIBUTES),
        "split": column("split", str),
    }
    blob, table = out.with_suffix(".bin"), out.with_suffix(".npz")
    unfinished_blob, unfinished_table = blob.with_suffix(".bin.part"), table.with_suffix(".npz.part")
    with unfinished_blob.open("wb") as stream:
        for face in faces:
            stream.write(face.jpeg)
    with unfinished_table.open("wb") as stream:
        np.savez(stream, **rows)
    unfinished_blob.replace(blob)
    unfinished_table.replace(table)


def prepare(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    weights = [options.detector, options.reid, options.mobilefacenet, options.y1, options.basis]
    for path in [options.labels, options.pictures, *weights, *options.known, *options.avoid]:
        if not Path(path).exists():
            raise BadInput(f"{path} is not there.")
    if options.detect_side % 32:
        raise BadInput(f"--detect-side must be a multiple of 32, not {options.detect_side}.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    labels = read_labels(options.labels, options.source)
    dropped = Counter()
    labels, dropped["same file"] = drop_same_files(labels, options.pictures)
    np.random.default_rng(options.seed).shuffle(labels)
    labels = labels[: options.limit]
    jobs = chunks([(index, label.file) for index, label in enumerate(labels)])

    try:
        Worker(options)  # a pool would go on restarting workers that cannot load
    except (RuntimeError, ValueError, KeyError) as error:
        raise BadInput(f"The networks cannot be loaded: {str(error).strip().splitlines()[-1]}") from error

    context = multiprocessing.get_context("spawn")  # the runtimes do not survive a fork
    with context.Pool(options.workers, Worker.start, (options,)) as pool:
        avoid = [packed_teacher(path, pool, options.out.parent) for path in options.avoid]
        known = [packed_teacher(path, pool, options.out.parent) for path in options.known]
        faces: list[Face] = []
        with tqdm(total=len(labels), desc=options.out.name, unit="picture", mininterval=5) as bar:
            for found in pool.imap_unordered(work_faces, jobs):
                for item in found:
                    if isinstance(item, Miss):
                        dropped[item.reason] += 1
                    else:
                        faces.append(item)
                bar.update(len(found))
    if not faces:
        raise BadInput(f"No face was found in the {len(labels)} pictures of {options.pictures}.")

    # Of two that are one picture stays the one for testing, else the one with more pixels.
    faces.sort(key=lambda face: (labels[face.index].split != "test", -face.native_size, face.index))
    for name, others, limit in (("like the avoided", avoid, SAME_PERSON), ("known", known, SAME_PICTURE)):
        for other in others:
            close = highest_cosine(np.array([face.teacher for face in faces]), other) > limit
            faces = [face for face, is_close in zip(faces, close, strict=True) if not is_close]
            dropped[name] += int(close.sum())
            if not faces:
                raise BadInput(f"Every face is {name}: nothing to pack.")
    keep = first_of_each(np.array([face.teacher for face in faces]))
    dropped["near duplicates"] = int((~keep).sum())
    faces = sorted((f for f, k in zip(faces, keep, strict=True) if k), key=lambda face: face.index)
    write_shard(options.out, faces, labels)
    left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "none"
    seconds = time.monotonic() - begun
    print(f"{options.out}: {len(faces)} faces in {seconds:.0f} s; left out: {left_out}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("labels", type=Path, help="the table, one line per picture")
    add("out", type=Path, help="the shard to write, without .bin or .npz")
    add("--pictures", type=Path, required=True, help="folder that the table's files lie below")
    add("--source", default="", help="name of the data set, where the table has none")
    add("--detector", required=True, help="SCRFD with five points, .onnx")
    add("--reid", required=True, help="face-reidentification-retail-0095, .xml")
    add("--mobilefacenet", required=True, help="MobileFaceNet, 192 values, .tflite")
    add("--y1", required=True, help="mobilefacenet y1, 128 values, .xml")
    add("--basis", required=True, help=".npz with the teacher's mean and basis")
    add("--known", type=Path, action="append", default=[], help="packed .npz whose pictures are not repeated")
    add("--avoid", type=Path, action="append", default=[], help="packed .npz whose people are left out")
    add("--detect-side", type=int, default=224, help="canvas of the detector; more where faces are small")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    add("--limit", type=int, help="only so many pictures, drawn at random")
    add("--seed", type=int, default=0, help="of the order of the faces")
    try:
        prepare(parser.parse_args())
    except BadInput as error:
        sys.exit(f"prepare: {error}")


if __name__ == "__main__":
    main()

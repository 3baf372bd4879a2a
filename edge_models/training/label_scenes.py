"""A folder of photographs in, photographs with boxed faces out, for training the detector.

    python -m edge_models.training.label_scenes PICTURES OUT --detector scrfd.onnx --source NAME \\
        [--boxes VOC_FOLDER] [--held-out FOLDER] [--names names.txt] [--limit 300] [--avoid FOLDER ...]

writes every picture as a JPEG of at most 1024 pixels a side to OUT and one row per picture to
OUT/labels.json, behind the rows that are there already:

    {"file", "width", "height", "source", "name",
     "faces": [{"box": [x1, y1, x2, y2], "score", "landmarks": 5 x [x, y], or null}],
     "ignore": [[x1, y1, x2, y2], ...]}

in pixels of the written picture. labels.json is replaced in one step: who reads it meanwhile sees the old
rows or the new. The same --source again replaces its rows.

A detector with five points looks at each picture at several sizes, as it is best at faces of 16 to 300
pixels. What it is sure of is a face; what it doubts is listed under "ignore", for training neither to
reward nor to punish.

With --boxes there are boxes made by hand, in <stem>.xml of the Pascal VOC form. They decide what is a face:
the detector lends its closer box and its landmarks where it agrees, and adds only what it is very sure of.
A face that the hand alone found has no landmarks and the score 1; one too small or too oddly shaped to be
relied on is ignored.

Pictures that look like another of this run, of OUT, of --held-out or of an --avoid folder are left out.

Needs numpy, opencv-python-headless, openvino and tqdm.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process: the workers are the parallelism

import cv2
import numpy as np
from edge_models.training.prepare import BadInput, compile_openvino, planar
from tqdm import tqdm

LONGEST = 1024
JPEG_QUALITY = 95
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

FACE_SCORE = 0.45
DOUBT_SCORE = 0.2
NOT_BY_HAND_SCORE = 0.6  # for a face that whoever drew the boxes has left out
SAME_FACE = 0.4  # IoU
INSIDE = 0.7  # share of the smaller of two boxes above which they are one face
TOUCHING = 0.5  # the same share, for a find that a box drawn by hand merely points at
SMALLEST_BY_HAND = 12  # pixels of the written picture
MOST_OBLONG_BY_HAND = 2.2
LEFT_OF_IGNORED = 0.3  # share below which what no face lies on is not worth ignoring

LOOKS = (
    # (scale, shortest and longest side of a face that it is asked for, in pixels of the written picture)
    (2.0, 0, 64),
    (1.0, 0, 320),
    (0.5, 96, 640),
    (0.25, 256, 4096),
)
BORDER = 0.25  # of the longest side, on looks that shrink: faces that fill the picture need room around

FINGERPRINT_SIDE = 24
SAME_PICTURE = 0.95  # cosine of two fingerprints


# ---------------------------------------------------------------- the detector


@dataclass
class Finds:
    """Faces of one picture, in its pixels."""

    boxes: np.ndarray  # (N, 4) x1 y1 x2 y2
    scores: np.ndarray  # (N,)
    landmarks: np.ndarray  # (N, 5, 2)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.boxes)

    def __getitem__(self, rows: np.ndarray) -> "Finds":
        """Some of them, by mask or by index."""
        return Finds(self.boxes[rows], self.scores[rows], self.landmarks[rows])

    def moved(self, scale: float, shift: np.ndarray) -> "Finds":
        """All of them scaled, then shifted."""
        return Finds(self.boxes * scale + np.tile(shift, 2), self.scores, self.landmarks * scale + shift)

    @staticmethod
    def joined(parts: list["Finds"]) -> "Finds":
        """The finds of several looks, one after the other."""
        return Finds(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
        )


class Detector:
    """SCRFD with five points, on pictures of any size."""

    STRIDES = (8, 16, 32)
    ANCHORS = 2  # per cell
    MULTIPLE = 64  # canvas sides; a finer one would make the runtime prepare for ever new shapes

    def __init__(self, path: str, enlarge: bool) -> None:
        """Load the network; RuntimeError where it is none. `enlarge`: also look at twice the size."""
        self.network = compile_openvino(path, [1, 3, -1, -1])
        self.looks = [look for look in LOOKS if enlarge or look[0] <= 1]
        self.heads: list[list[int]] | None = None

    def __call__(self, image: np.ndarray) -> Finds:
        """Every face of a BGR picture with a score of at least DOUBT_SCORE, best first."""
        height, width = image.shape[:2]
        looks = []
        for scale, shortest, longest in self.looks:
            if scale < 1 and shortest > max(height, width):
                continue
            shrunk = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            view = image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=shrunk)
            border = round(BORDER * max(view.shape[:2])) if scale < 1 else 0
            # Pixel centres, not corners, lie at whole numbers.
            found = self._look(view, border).moved(1 / scale, np.full(2, 0.5 / scale - 0.5 - border / scale))
            side = (found.boxes[:, 2:] - found.boxes[:, :2]).max(1)
            looks.append(found[(side >= shortest) & (side < longest)])
        found = without_overlaps(Finds.joined(looks))
        np.clip(found.boxes, 0, (width, height, width, height), out=found.boxes)
        return found[(found.boxes[:, 2:] - found.boxes[:, :2]).min(1, initial=np.inf) >= 1]

    def _look(self, view: np.ndarray, border: int) -> Finds:
        sides = [-(-(side + 2 * border) // self.MULTIPLE) * self.MULTIPLE for side in view.shape[:2]]
        canvas = np.zeros((*sides, 3), np.uint8)
        canvas[border : border + view.shape[0], border : border + view.shape[1]] = view
        self.network.infer({0: planar((canvas[..., ::-1].astype(np.float32) - 127.5) / 128)})
        outputs = [self.network.get_output_tensor(i).data for i in range(len(self.network.model_outputs))]
        outputs = [output.reshape(-1, output.shape[-1]) for output in outputs]
        if self.heads is None:
            self.heads = self._order(outputs, *sides)
        parts = []
        for stride, head in zip(self.STRIDES, self.heads, strict=True):
            score, box, point = (outputs[i] for i in head)
            keep = np.flatnonzero(score[:, 0] >= DOUBT_SCORE)
            row, column = np.divmod(keep // self.ANCHORS, sides[1] // stride)
            at = np.stack([column, row], -1) * float(stride)
            box = box[keep] * stride
            parts.append(
                Finds(
                    np.hstack([at - box[:, :2], at + box[:, 2:]]),
                    score[keep, 0].copy(),
                    point[keep].reshape(-1, 5, 2) * stride + at[:, None],
                )
            )
        return Finds.joined(parts)

    def _order(self, outputs: list[np.ndarray], height: int, width: int) -> list[list[int]]:
        """Which output is the score, the box and the points of which stride."""
        shapes = [output.shape for output in outputs]
        cells = [height // stride * (width // stride) * self.ANCHORS for stride in self.STRIDES]
        try:
            return [[shapes.index((count, values)) for values in (1, 4, 10)] for count in cells]
        except ValueError:
            raise BadInput("The detector is no SCRFD with five points.") from None


def overlap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes (N, 4) and (M, 4): IoU (N, M), and the share of the smaller that lies in both."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clip(0).prod(-1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b))
    return (
        both / np.maximum(area_a[:, None] + area_b - both, 1e-9),
        both / np.maximum(np.minimum(area_a[:, None], area_b), 1e-9),
    )


def without_overlaps(found: Finds) -> Finds:
    """The best of what lies on one another, best first."""
    found = found[np.argsort(-found.scores, kind="stable")]
    iou, inside = overlap(found.boxes, found.boxes)
    same = (iou > SAME_FACE) | (inside > INSIDE)
    keep: list[int] = []
    for i in range(len(found)):
        if not same[i, keep].any():
            keep.append(i)
    return found[np.array(keep, int)]


# ---------------------------------------------------------------- what is a face


@dataclass
class Labels:
    """What is said of one picture."""

    faces: list[dict] = field(default_factory=list)
    ignore: list[list[float]] = field(default_factory=list)

    def add(self, found: Finds) -> None:
        """Take finds for faces."""
        for box, score, landmarks in zip(found.boxes, found.scores, found.landmarks, strict=True):
            self.faces.append(
                {
                    "box": rounded(box),
                    "score": round(float(score), 3),
                    "landmarks": [rounded(point) for point in landmarks],
                }
            )

    def add_by_hand(self, box: np.ndarray) -> None:
        """Take a box for a face that nothing more is known of."""
        self.faces.append({"box": rounded(box), "score": 1.0, "landmarks": None})

    def leave(self, boxes: np.ndarray) -> None:
        """Take boxes for what is to be ignored."""
        self.ignore += [rounded(box) for box in boxes]


def rounded(values: np.ndarray) -> list[float]:
    """Tenths of a pixel are enough."""
    return [round(float(value), 1) for value in values]


def judge(found: Finds) -> Labels:
    """What the detector alone says."""
    labels = Labels()
    sure = found.scores >= FACE_SCORE
    labels.add(found[sure])
    labels.leave(found.boxes[~sure])
    return labels


def judge_by_hand(found: Finds, drawn: np.ndarray) -> Labels:
    """What boxes drawn by hand, (M, 4), and the detector say together."""
    labels = Labels()
    iou, inside = overlap(drawn, found.boxes)
    agreed: dict[int, int] = {}  # drawn box -> find
    pairs = np.argwhere(iou >= SAME_FACE)
    for hand, find in pairs[np.argsort(-iou[tuple(pairs.T)])].tolist():
        if hand not in agreed and find not in agreed.values():
            agreed[hand] = find
    faces = set(agreed.values())
    for hand, box in enumerate(drawn):
        if hand in agreed:
            continue
        near = [find for find in np.flatnonzero(inside[hand] > TOUCHING).tolist() if find not in faces]
        sides = box[2:] - box[:2]
        sound = sides.min() >= SMALLEST_BY_HAND and sides.max() <= MOST_OBLONG_BY_HAND * sides.min()
        sure = [find for find in near if found.scores[find] >= FACE_SCORE]
        if sure:  # a careless box round a face that the detector has closer
            faces.add(max(sure, key=lambda find: found.scores[find]))
        elif near or not sound or (inside[hand] > TOUCHING).any():
            labels.leave(box[None])
        else:
            labels.add_by_hand(box)
    is_face = np.zeros(len(found), bool)
    is_face[sorted(faces)] = True
    is_face |= found.scores >= NOT_BY_HAND_SCORE
    labels.add(found[is_face])
    labels.leave(found.boxes[~is_face])
    return labels


def clear_of(faces: list[list[float]], ignored: list[list[float]]) -> list[list[float]]:
    """Ignored boxes cut back to where no face is, so that hiding them hides no face."""
    kept = []
    for whole in ignored:
        x1, y1, x2, y2 = whole
        for left, top, right, bottom in faces:
            if left < x2 and right > x1 and top < y2 and bottom > y1:
                parts = (
                    (x1, y1, min(x2, left), y2),
                    (max(x1, right), y1, x2, y2),
                    (x1, y1, x2, min(y2, top)),
                    (x1, max(y1, bottom), x2, y2),
                )
                x1, y1, x2, y2 = max(parts, key=area)
                if area((x1, y1, x2, y2)) <= 0:
                    break
        if area((x1, y1, x2, y2)) >= LEFT_OF_IGNORED * area(whole):
            kept.append([x1, y1, x2, y2])
    return kept


def area(box: Sequence[float]) -> float:
    """Of one box; nothing where it is turned inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def read_boxes(path: Path, picture: np.ndarray) -> np.ndarray:
    """Boxes (M, 4) of a Pascal VOC file, in pixels of the picture; BadInput where they do not fit it."""
    try:
        tree = ElementTree.parse(path)
        size = [float(tree.findtext(f"size/{side}") or 0) for side in ("width", "height")]
        boxes = [
            [float(each.findtext(f"bndbox/{edge}") or "") for edge in ("xmin", "ymin", "xmax", "ymax")]
            for each in tree.iter("object")
        ]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    height, width = picture.shape[:2]
    if all(size) and abs(size[0] * height - size[1] * width) > 0.02 * size[0] * height:
        raise BadInput(f"{path} is of a picture of {size[0]:.0f}x{size[1]:.0f}, not {width}x{height}.")
    scale = width / size[0] if size[0] else 1.0
    drawn = np.array(boxes, float).reshape(-1, 4) * scale
    drawn = drawn.reshape(-1, 2, 2)
    drawn = np.hstack([drawn.min(1), drawn.max(1)]).clip(0, (width, height, width, height))
    return drawn[(drawn[:, 2:] > drawn[:, :2]).all(1)]


# ---------------------------------------------------------------- workers


@dataclass
class Job:
    """One picture to be labelled."""

    picture: Path
    name: str
    boxes: Path | None
    out: Path
    source: str


class Worker:
    """What one process holds: the network, loaded once."""

    here: "Worker"

    def __init__(self, detector: str, enlarge: bool) -> None:
        """Load the network."""
        cv2.setNumThreads(1)
        self.detector = Detector(detector, enlarge)

    @classmethod
    def start(cls, detector: str, enlarge: bool) -> None:
        """Make this process a worker."""
        cls.here = cls(detector, enlarge)

    def label(self, job: Job) -> dict:
        """Write the picture and give its row."""
        original = cv2.imread(str(job.picture), cv2.IMREAD_COLOR)
        if original is None:
            raise BadInput(f"{job.picture} cannot be read.")
        scale = min(1.0, LONGEST / max(original.shape[:2]))
        picture = original
        if scale < 1:
            picture = cv2.resize(original, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found = self.detector(picture)
        if job.boxes is None:
            labels = judge(found)
        else:
            labels = judge_by_hand(found, read_boxes(job.boxes, original) * scale)
        if not cv2.imwrite(str(job.out), picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise BadInput(f"{job.out} cannot be written.")
        return {
            "file": job.out.name,
            "width": picture.shape[1],
            "height": picture.shape[0],
            "source": job.source,
            "name": job.name,
            "faces": labels.faces,
            "ignore": clear_of([face["box"] for face in labels.faces], labels.ignore),
        }


def work(job: Job) -> dict | BadInput:
    """One row, or why there is none."""
    try:
        return Worker.here.label(job)
    except BadInput as error:
        return error


# ---------------------------------------------------------------- what to leave out


def pictures_below(folder: Path) -> list[Path]:
    """All pictures of a folder and those below it, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def fingerprint(path: Path) -> np.ndarray | None:
    """A tiny copy of a picture as a vector of length one; None where it cannot be read or is one colour."""
    picture = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2)
    if picture is None:
        return None
    tiny = cv2.resize(picture, (FINGERPRINT_SIDE, FINGERPRINT_SIDE), interpolation=cv2.INTER_AREA)
    vector = tiny.astype(np.float32).reshape(-1)
    vector -= vector.mean()
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1 else None


class Seen:
    """Fingerprints of pictures that may not come again."""

    def __init__(self, folders: list[Path]) -> None:
        """Start with all pictures of some folders."""
        self.names = [path for folder in folders for path in pictures_below(folder)]
        prints = ((path, fingerprint(path)) for path in tqdm(self.names, "seen", disable=None))
        kept = [(path, each) for path, each in prints if each is not None]
        self.names = [path for path, _ in kept]
        self.prints = np.zeros((max(1024, 2 * len(kept)), 3 * FINGERPRINT_SIDE**2), np.float32)
        for i, (_, each) in enumerate(kept):
            self.prints[i] = each

    def like(self, vector: np.ndarray) -> Path | None:
        """A picture that looks the same."""
        if not self.names:
            return None
        cosine = self.prints[: len(self.names)] @ vector
        best = int(cosine.argmax())
        return self.names[best] if cosine[best] > SAME_PICTURE else None

    def add(self, path: Path, vector: np.ndarray) -> None:
        """One more."""
        if len(self.names) == len(self.prints):
            self.prints = np.concatenate([self.prints, np.zeros_like(self.prints)])
        self.prints[len(self.names)] = vector
        self.names.append(path)


def choose(options: argparse.Namespace, dropped: Counter) -> list[Path]:
    """The pictures to label: in random order, each once, at most `limit`."""
    pictures = pictures_below(options.pictures)
    if options.names:
        wanted = set(options.names.read_text(encoding="utf-8").split("\n"))
        pictures = [path for path in pictures if path.relative_to(options.pictures).as_posix() in wanted]
    np.random.default_rng(options.seed).shuffle(pictures)
    seen = Seen([folder for folder in (options.out, options.held_out, *options.avoid) if folder])
    chosen = []
    for path in tqdm(pictures, "choose", disable=None):
        if len(chosen) == options.limit:
            break
        vector = fingerprint(path)
        if vector is None:
            dropped["unreadable"] += 1
        elif (twin := seen.like(vector)) is not None:
            dropped["seen already"] += 1
            if options.verbose:
                print(f"{path} looks like {twin}")
        else:
            seen.add(path, vector)
            chosen.append(path)
    return chosen


# ---------------------------------------------------------------- the scenes


def read_rows(folder: Path) -> list[dict]:
    """The rows of a folder that may have none yet."""
    path = folder / "labels.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def publish(folder: Path, rows: list[dict]) -> None:
    """Replace labels.json in one step."""
    unfinished = folder / "labels.json.part"
    unfinished.write_text(json.dumps(rows), encoding="utf-8")
    unfinished.replace(folder / "labels.json")


def drop_source(folder: Path, source: str) -> list[dict]:
    """Forget what the same source left here before, finished or not; gives the other rows."""
    rows = read_rows(folder)
    others = [row for row in rows if row.get("source") != source]
    if len(others) < len(rows):
        publish(folder, others)
    for path in folder.glob(f"{source}-{'[0-9]' * 5}.jpg"):
        path.unlink()
    return others


def label_scenes(options: argparse.Namespace) -> None:
    """Do all of it."""
    begun = time.monotonic()
    folders = [options.pictures, options.boxes, *options.avoid]
    for path in [path for path in (*folders, options.names, options.detector) if path]:
        if not Path(path).exists():
            raise BadInput(f"{path} is not there.")
    outs = {"train": options.out, "test": options.held_out}
    kept: dict[str, list[dict]] = {}
    for split, folder in outs.items():
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            kept[split] = drop_source(folder, options.source)

    try:
        Worker(options.detector, options.enlarge)  # a pool would go on restarting workers that cannot load
    except RuntimeError as error:
        raise BadInput(f"The detector cannot be loaded: {str(error).strip().splitlines()[-1]}") from error

    dropped: Counter = Counter()
    chosen = choose(options, dropped)
    if not chosen:
        raise BadInput(f"No picture of {options.pictures} is left to label.")
    tested = round(options.held_share * len(chosen)) if options.held_out else 0
    jobs = []
    for i, path in enumerate(chosen):
        boxes = options.boxes / f"{path.stem}.xml" if options.boxes else None
        folder = outs["test" if i < tested else "train"]
        name = path.relative_to(options.pictures).as_posix()
        jobs.append(Job(path, name, boxes, folder / f"{options.source}-{i:05d}.jpg", options.source))

    rows: dict[str, list[dict]] = {split: [] for split in outs}
    context = multiprocessing.get_context("spawn")  # the runtime does not survive a fork
    with context.Pool(options.workers, Worker.start, (options.detector, options.enlarge)) as pool:
        bar = tqdm(pool.imap(work, jobs), options.source, len(jobs), unit="picture", mininterval=5)
        for i, found in enumerate(bar):
            if isinstance(found, BadInput):
                dropped["unlabelled"] += 1
                print(found, file=sys.stderr)
            else:
                rows["test" if i < tested else "train"].append(found)
    for split, folder in outs.items():
        if folder:
            publish(folder, kept[split] + rows[split])

    both = rows["train"] + rows["test"]
    faces = [face for row in both for face in row["faces"]]
    unmarked = sum(face["landmarks"] is None for face in faces)
    left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none"
    print(
        f"{options.source}: {len(rows['train'])} pictures, {len(rows['test'])} held out; {len(faces)} faces "
        f"({unmarked} without landmarks), {sum(len(row['ignore']) for row in both)} ignored boxes; "
        f"left out: {left_out}; {time.monotonic() - begun:.0f} s."
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    add = parser.add_argument
    add("pictures", type=Path, help="folder of photographs, read with those below it")
    add("out", type=Path, help="folder to write to")
    add("--detector", required=True, help="SCRFD with five points, .onnx")
    add("--source", required=True, help="name of the data set; the files are called after it")
    add("--boxes", type=Path, help="folder of boxes drawn by hand, one Pascal VOC file per picture")
    add("--held-out", type=Path, help="folder for the pictures that are not for training")
    add("--held-share", type=float, default=0.1, help="share of the pictures that go there")
    add("--names", type=Path, help="take only these, one path below PICTURES per line")
    add("--avoid", type=Path, action="append", default=[], help="folder of pictures not to be repeated")
    add("--limit", type=int, help="only so many pictures, drawn at random")
    add("--seed", type=int, default=0, help="of the order of the pictures")
    add("--no-enlarge", dest="enlarge", action="store_false", help="four times faster; misses faces under 16 px")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    add("--verbose", action="store_true", help="say which pictures look alike")
    try:
        label_scenes(parser.parse_args())
    except BadInput as error:
        sys.exit(f"label_scenes: {error}")


if __name__ == "__main__":
    main()

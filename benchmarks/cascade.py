"""Cascade: what the one pass replaces, with the same call shape as onelook's FaceModel.

A detector finds faces, each face is cut out and turned upright, and a network for each
question looks at it. `cascade(image)` gives Faces, as `FaceModel(image)` does.

Tuned as one would who wants it fast: every picture of a face is cut once and shared by all
networks, buffers are kept, int8 networks are fed bytes without any conversion to float,
batches have the size that a search found best (`tune`), and all runtimes get as many threads
as the one pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import machine, nets, standin
from onelook import align, spec
from onelook.cohort import NOBODY
from onelook.decode import Found, Quantisation, sigmoid, softmax
from onelook.face import Faces, Floats
from onelook.model import FaceModel, Image, Whom, _interpreter, shipped

Stage: TypeAlias = Callable[[str], AbstractContextManager[object]]

BATCHES = (1, 2, 4, 8, 16, 32)
SIDE = 112


class TfliteNet:
    """A TFLite network of one input; the batch changes with what it is given, unless it is fixed."""

    def __init__(self, content: bytes, threads: int, *, fixed: bool = False) -> None:
        """`fixed`: the file computes the same number of pictures at every call."""
        self._interpreter = _interpreter()(model_content=content, num_threads=threads)
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = self._interpreter.get_output_details()
        self.batch = int(self._input["shape"][0]) if fixed else None
        self._now = int(self._input["shape"][0])
        self._interpreter.allocate_tensors()

    def __call__(self, pictures: NDArray[Any]) -> list[Floats]:
        """(N, h, w, c) as the network stores its input; gives its outputs (N, numbers) as real numbers."""
        count = len(pictures)
        if self.batch is not None and count < self.batch:
            pictures = np.concatenate([pictures, np.repeat(pictures[-1:], self.batch - count, 0)])
        if len(pictures) != self._now:
            self._interpreter.resize_tensor_input(self._input["index"], pictures.shape)
            self._interpreter.allocate_tensors()
            self._now = len(pictures)
        self._interpreter.set_tensor(self._input["index"], pictures)
        self._interpreter.invoke()
        return [
            Quantisation(*output["quantization"]).real(self._interpreter.get_tensor(output["index"]))
            .reshape(len(pictures), -1)[:count]
            for output in self._outputs
        ]


class OnnxNet:
    """An ONNX network under onnxruntime, the way to run one on a CPU."""

    batch: int | None = None

    def __init__(self, file: str, threads: int) -> None:
        """`file`: as benchmarks.nets names it."""
        import onnxruntime  # noqa: PLC0415 - needed for this opponent alone

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(nets.path(file)), options,
                                                     providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    def __call__(self, pictures: NDArray[Any]) -> list[Floats]:
        """(N, c, h, w) float32; gives its outputs."""
        return list(self._session.run(None, {self._name: pictures}))


@dataclass
class Job:
    """One question asked of every face: how the pictures are made ready, and the network."""

    ready: Callable[[NDArray[np.uint8]], NDArray[Any]]
    """Upright faces (N, 112, 112, 3) RGB to what the network takes."""
    net: TfliteNet | OnnxNet
    batch: int = 1

    def __call__(self, faces: NDArray[np.uint8]) -> Floats:
        """The network's first output for every face, (N, numbers)."""
        return np.concatenate([
            self.net(self.ready(faces[start:start + self.batch]))[0] for start in range(0, len(faces), self.batch)
        ])

    def tune(self) -> None:
        """Set `batch` to the size that takes the least time a face."""
        random = np.random.default_rng(2)
        faces = random.integers(0, 256, (max(BATCHES), SIDE, SIDE, 3), dtype=np.uint8)
        seconds = dict.fromkeys(BATCHES, np.inf)
        for _ in range(machine.rounds(3)):
            for self.batch in BATCHES:
                began = time.perf_counter()
                self(faces)
                seconds[self.batch] = min(seconds[self.batch], time.perf_counter() - began)
        self.batch = min(seconds, key=lambda size: seconds[size])


@dataclass
class Jobs:
    """The questions of a cascade."""

    identity: Job
    traits: Callable[[NDArray[np.uint8]], dict[str, Floats]]
    """Everything else that is asked, as fields of Faces."""
    each: list[Job] = field(default_factory=list)
    """All that have a batch size."""


class Cascade:
    """Detector, then every face through every network."""

    def __init__(self, detect: Callable[[Image], Found], jobs: Jobs, *, batches: list[int] | None, embedding_size: int,
                 size: tuple[int, int], score: float, stage: Stage = lambda name: nullcontext()) -> None:
        """batches: how many faces each job takes at once; none: what `Job.tune` finds best."""
        self._detect, self._jobs, self._stage = detect, jobs, stage
        self.size, self.score = size, score
        self.spec = spec.load(shipped())[0].model_copy(update={"embedding_size": embedding_size})
        """The one pass's, as labels and thresholds are what a pipeline needs to know."""
        self.cohort = NOBODY
        self.given: Found | None = None
        """Faces to describe in the place of those found; the detector is run all the same."""
        for job, batch in zip(jobs.each, batches or [0] * len(jobs.each), strict=True):
            job.batch = job.net.batch or batch
            if not job.batch:
                job.tune()
        self.batches = [job.batch for job in jobs.each]
        self._upright = np.empty((max(self.batches), SIDE, SIDE, 3), np.uint8)

    def __call__(self, image: Image, whom: Whom | None = None) -> Faces:
        """Find and describe the faces of one RGB image (H, W, 3) uint8; `whom` as of FaceModel."""
        with self._stage("frame"):
            found = self._detect(image)
        if self.given is not None:
            found = self.given
        with self._stage("faces"):
            if whom is None:
                return self._describe(image, found)
            chosen = np.flatnonzero(whom(found.boxes))
            faces = self._describe(image, found.take(chosen))
            return faces.among(chosen, found.boxes, found.scores, found.landmarks, align.sizes(found.landmarks))

    def _describe(self, image: Image, found: Found) -> Faces:
        count, at_once = len(found.scores), len(self._upright)
        if not count:
            return Faces.none(self.spec.embedding_size)
        # warpAffine wants the way back: from the upright picture to the frame.
        ways = align.similarity(found.landmarks)
        embeddings, traits = [], []
        for start in range(0, count, at_once):
            part = ways[start:start + at_once]
            for way, upright in zip(part, self._upright, strict=False):
                cv2.warpAffine(image, way, (SIDE, SIDE), dst=upright, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            upright = self._upright[: len(part)]
            embeddings.append(self._jobs.identity(upright))
            traits.append(self._jobs.traits(upright))
        embedding = np.concatenate(embeddings)
        embedding /= np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-6)
        unknown: dict[str, Floats] = {
            "attributes": np.zeros((count, 40), np.float32), "age": np.zeros(count, np.float32),
            "gender": np.full(count, 0.5, np.float32), "ethnicity": np.full((count, 5), 0.2, np.float32),
            "emotion": np.full((count, 7), 1 / 7, np.float32), "quality": np.ones(count, np.float32),
        }
        known = {name: np.concatenate([t[name] for t in traits]) for name in traits[0]}
        return Faces(boxes=found.boxes, scores=found.scores, landmarks=found.landmarks, embeddings=embedding,
                     sizes=align.sizes(found.landmarks),
                     **unknown | known)


# --- stand-ins: int8 against int8 ----------------------------------------------------------------


def bytes_of(faces: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Pixels as an int8 network stores them."""
    return (faces ^ np.uint8(128)).view(np.int8)


def grey_bytes(faces: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The middle of each face, grey, 64x64."""
    small = np.empty((len(faces), 64, 64, 1), np.uint8)
    for face, out in zip(faces, small, strict=True):
        out[..., 0] = cv2.resize(cv2.cvtColor(face[16:, 8:104], cv2.COLOR_RGB2GRAY), (64, 64),
                                 interpolation=cv2.INTER_AREA)
    return bytes_of(small)


class StandInDetector:
    """YuNet's work without its knowledge: the network, and the search of its scores. It finds nothing."""

    def __init__(self, size: tuple[int, int], threads: int) -> None:
        """size: width and height, multiples of 32, of the network's input; pictures fit in its corner."""
        width, height = size
        self._net = TfliteNet(standin.yunet(width, height)[0], threads)
        self._canvas = np.zeros((1, height, width, 3), np.int8)

    def __call__(self, image: Image) -> Found:
        """Look; in the cascade's favour, no box is decoded and none is compared with another."""
        height, width = image.shape[:2]
        np.bitwise_xor(image, np.uint8(128), out=self._canvas.view(np.uint8)[0, :height, :width])
        for scores in self._net(self._canvas)[::4]:
            np.flatnonzero(scores >= np.inf)
        return Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


def stand_ins(*, batches: list[int] | None, threads: int, size: tuple[int, int], emotion: str = "mobilenet",
              width: float = 1.0, identity_alone: bool = False, stage: Stage = lambda name: nullcontext()) -> Cascade:
    """The cascade of int8 stand-ins.

    A 221-million MobileFaceNet names, one MobileNetV2 at 112x112 tells attributes, age, gender
    and ethnicity, another (or mini-XCEPTION at 64x64) the emotion. width: the MobileNets' multiplier.
    """
    def net(made: tuple[bytes, int]) -> TfliteNet:
        return TfliteNet(made[0], threads)

    identity = Job(bytes_of, net(standin.mobilefacenet()))
    each = [identity]
    if not identity_alone:
        looks = Job(bytes_of, net(standin.mobilenet_v2(standin.TRAITS, width=width)))
        mood = (Job(bytes_of, net(standin.mobilenet_v2(7, width=width))) if emotion == "mobilenet"
                else Job(grey_bytes, net(standin.mini_xception())))
        each += [looks, mood]

    def traits(faces: NDArray[np.uint8]) -> dict[str, Floats]:
        if identity_alone:
            return {}
        told = looks(faces)
        return {"attributes": sigmoid(told[:, :40]), "gender": sigmoid(told[:, 40]), "age": told[:, 41] * 10 + 40,
                "ethnicity": softmax(told[:, 42:]), "emotion": softmax(mood(faces))}

    return Cascade(StandInDetector(size, threads), Jobs(identity, traits, each), batches=batches,
                   embedding_size=128, size=size, score=0.6, stage=stage)


# --- off the shelf: real weights -----------------------------------------------------------------

SHELF = ["yunet.onnx", "mobilefacenet.tflite", "age.onnx", "gender.onnx", "emotion.tflite"]
DLIB_MEANS = np.array([122.781998, 117.000999, 104.297997], np.float32)
DLIB_CHIP = np.array([[0.682, 0, -6.6], [0, 0.682, -15.9]], np.float32)
"""From the 112x112 template to dlib's 64x64 face chip with a padding of 0.2: the eyes of dlib's mean face
lie at (19.5, 19.3) and (43.6, 19.3)."""
EMOTION_CROP = (8, 112, 4, 108)
"""Top, bottom, left and right on the 112x112 template: best of seven on FER2013's PublicTest."""
EMOTIONS = [0, 1, 2, 3, 6, 4, 5]
"""fer's angry, disgust, fear, happy, sad, surprise, neutral in onelook's order."""


class Yunet:
    """YuNet with its own weights, through OpenCV, as its authors offer it."""

    def __init__(self, size: tuple[int, int], score: float) -> None:
        """size: of the frames, which it pads itself."""
        self._net = cv2.FaceDetectorYN.create(str(nets.path("yunet.onnx")), "", size, score, 0.4, 5000)
        self._size = size

    def __call__(self, image: Image) -> Found:
        """Boxes and landmarks, best first."""
        size = (image.shape[1], image.shape[0])
        if size != self._size:
            self._net.setInputSize(size)
            self._size = size
        rows = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        rows = np.zeros((0, 15), np.float32) if rows is None else rows[np.argsort(-rows[:, 14])]
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)
        return Found(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2))


def centred(faces: NDArray[np.uint8]) -> Floats:
    """Pixels from -1 to 1."""
    return (faces.astype(np.float32) - 127.5) / 128


def chips(faces: NDArray[np.uint8], side: int) -> Floats:
    """dlib's face chips, channels first."""
    out = np.empty((len(faces), 3, side, side), np.float32)
    for face, chip in zip(faces, out, strict=True):
        cut = cv2.warpAffine(face, DLIB_CHIP, (64, 64), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if side != 64:
            cut = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
        chip[:] = ((cut - DLIB_MEANS) / 256).transpose(2, 0, 1)
    return out


def grey_centred(faces: NDArray[np.uint8]) -> Floats:
    """What mini-XCEPTION takes: the face as FER2013 cuts it, grey, 64x64, -1 to 1."""
    top, bottom, left, right = EMOTION_CROP
    small = np.stack([cv2.resize(cv2.cvtColor(face[top:bottom, left:right], cv2.COLOR_RGB2GRAY), (64, 64),
                                 interpolation=cv2.INTER_AREA) for face in faces])
    return small[..., None].astype(np.float32) / 127.5 - 1


def shelf(*, threads: int, size: tuple[int, int], batches: list[int] | None = None, score: float = 0.6,
          stage: Stage = lambda name: nullcontext()) -> Cascade:
    """What a user installs today: YuNet, MobileFaceNet, age and gender, mini-XCEPTION, with their own weights.

    Raises NetError where a network is not there (see benchmarks.nets).
    """
    identity = Job(centred, TfliteNet(nets.path("mobilefacenet.tflite").read_bytes(), threads, fixed=True))
    age = Job(lambda faces: chips(faces, 64), OnnxNet("age.onnx", threads))
    gender = Job(lambda faces: chips(faces, 32), OnnxNet("gender.onnx", threads))
    mood = Job(grey_centred, TfliteNet(nets.path("emotion.tflite").read_bytes(), threads))
    years = np.concatenate([[0.25], np.arange(1, 81)]).astype(np.float32)

    def traits(faces: NDArray[np.uint8]) -> dict[str, Floats]:
        return {"age": age(faces) @ years, "gender": gender(faces)[:, 1], "emotion": mood(faces)[:, EMOTIONS]}

    return Cascade(Yunet(size, score), Jobs(identity, traits, [identity, age, gender, mood]), batches=batches,
                   embedding_size=192, size=size, score=score, stage=stage)


# --- every system by name ------------------------------------------------------------------------


class OnePass(FaceModel):
    """onelook's FaceModel; as with the cascades, it can be told which faces to describe."""

    given: Found | None = None

    def _decode(self, out: dict[str, NDArray[np.generic]]) -> Found:
        found = super()._decode(out)  # its time counts all the same
        return found if self.given is None else self.given


System: TypeAlias = OnePass | Cascade

SYSTEMS: dict[str, str] = {
    "onelook": "one pass: the shipped int8 network",
    "plain": "stand-ins, one call a face: YuNet, MobileFaceNet, two MobileNetV2",
    "batched": "the same, in the best batches",
    "recognise": "detect and recognise only, batched: YuNet, MobileFaceNet",
    "lightest": "batched, lighter: MobileNetV2 of half the width for looks, mini-XCEPTION for emotion",
    "shelf": "off the shelf, real weights, batched: YuNet, MobileFaceNet, age and gender, mini-XCEPTION",
}
"""Name -> what it is."""


def build(name: str, *, threads: int, size: tuple[int, int], batches: list[int] | None = None,
          stage: Stage = lambda name: nullcontext(), score: float | None = None) -> System:
    """A system for frames of `size`; networks see it padded to multiples of 32.

    batches: of each job of a cascade, as found before; none: the best are searched. Raises NetError.
    """
    cv2.setNumThreads(threads)
    padded = (max(64, -(-size[0] // 32) * 32), max(64, -(-size[1] // 32) * 32))
    common: dict[str, Any] = {"threads": threads, "size": padded, "stage": stage}
    match name:
        case "onelook":
            return OnePass(**common, score=score)
        case "plain":
            return stand_ins(batches=[1, 1, 1], **common)
        case "batched":
            return stand_ins(batches=batches, **common)
        case "recognise":
            return stand_ins(batches=batches, identity_alone=True, **common)
        case "lightest":
            return stand_ins(batches=batches, emotion="xception", width=0.5, **common)
        case "shelf":
            return shelf(threads=threads, size=size, batches=batches, stage=stage,
                         score=0.6 if score is None else score)
    raise nets.NetError(f"There is no system named {name}; there are {', '.join(SYSTEMS)}.")

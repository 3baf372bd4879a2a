"""FaceModel: an image in, Faces out, in one pass. The only file that knows a TFLite interpreter."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from onelook import align, spec
from onelook.cohort import Cohort
from onelook.decode import Found, Quantisation, join, level, sigmoid, softmax
from onelook.errors import OwnerError
from onelook.face import Faces
from onelook.spec import Map

Image: TypeAlias = NDArray[np.uint8]
Stage: TypeAlias = Callable[[str], AbstractContextManager[object]]
Whom: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.bool_]]
"""Boxes (N, 4) of the faces found, x1, y1, x2, y2 in the image's pixels, to whether each is to be described (N,)."""

RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
"""Tried in this order: the successor has the int8 kernels on every board."""

class ModelError(OwnerError):
    """The network cannot be run."""


def shipped() -> Path:
    """Folder of the model that comes with onelook."""
    installed = Path(__file__).parent / "model_data"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "edge_models" / "onelook"


def _interpreter() -> Any:
    for name in RUNTIMES:
        try:
            return import_module(name).Interpreter
        except ModuleNotFoundError:
            continue
    raise ModelError("No TFLite runtime is installed: pip install ai-edge-litert.")


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of a signature as the file stores it."""

    number: int
    kind: np.dtype[np.generic]
    shape: tuple[int, ...]
    quantisation: Quantisation

    @classmethod
    def all(cls, details: dict[str, Any]) -> dict[str, _Tensor]:
        return {
            name: cls(int(d["index"]), np.dtype(d["dtype"]), tuple(int(n) for n in d["shape"]),
                      Quantisation(float(d["quantization"][0]), int(d["quantization"][1])))
            for name, d in details.items()
        }


class _Signature:
    """One signature of the network, its tensors read and written where they lie.

    The runtime's own runner copies every tensor at every call and asks for each anew: 0.2 ms for a frame and 0.07 ms
    for each call of the head, of about ten in all, and 2 MB. So the one object beneath it is used, which has been the
    same in both runtimes since they know signatures.
    """

    def __init__(self, interpreter: Any, name: str) -> None:
        runner = interpreter.get_signature_runner(name)
        self.inputs, self.outputs = _Tensor.all(runner.get_input_details()), _Tensor.all(runner.get_output_details())
        self._native, self._graph = interpreter._interpreter, runner._subgraph_index

    def resize(self, shapes: dict[_Tensor, tuple[int, ...]]) -> None:
        """Give inputs other shapes; what they hold is lost."""
        for tensor, shape in shapes.items():
            self._native.ResizeInputTensor(tensor.number, np.array(shape, np.int32), False, self._graph)
        self._native.AllocateTensors(self._graph)

    def lies(self, tensor: _Tensor) -> NDArray[Any]:
        """Where a tensor lies, good until the next `resize`: an input to be written, an output to be read."""
        there: NDArray[Any] = self._native.tensor(self._native, tensor.number, self._graph)
        return there

    def __call__(self) -> dict[str, NDArray[np.generic]]:
        """Run it on its inputs, which may be lost thereby. The outputs are good until the next call."""
        self._native.Invoke(self._graph)
        return {name: self.lies(tensor) for name, tensor in self.outputs.items()}


@dataclass(slots=True)
class _Map:
    """A feature map: where it comes from and goes to, and room that is kept from frame to frame.

    Fresh pages for so much memory would take longer than what is done in it.
    """

    shape: Map
    output: _Tensor
    """Of `frame`."""
    input: _Tensor
    """Of `faces`."""
    _again: NDArray[np.uint8] | None
    """(256,) what each number of the map is to `faces`; none: the same."""
    _risen: NDArray[np.uint8]
    """Room for as many rows of the map as were read at once so far."""

    @classmethod
    def between(cls, shape: Map, output: _Tensor, input: _Tensor, width: int) -> _Map:
        """width: of the map, in cells."""
        again = None
        if output.quantisation != input.quantisation:
            numbers = output.quantisation.real(np.arange(-128, 128))
            again = input.quantisation.stored(numbers, input.kind).view(np.uint8)
        return cls(shape, output, input, again, np.empty((0, width, shape.channels), np.uint8))

    def grid(self, landmarks: NDArray[np.float32]) -> align.Grid:
        """Where faces with such `landmarks` (N, 5, 2) are read."""
        return align.grid(landmarks, self.shape.stride, self.shape.samples, self.shape.reach)

    def fill(self, there: NDArray[Any], stored: NDArray[Any], at: align.Grid) -> None:
        """Read the map (H, W, channels), as `frame` stores it, into the first rows of `there`, as `faces` wants it."""
        there = there[: len(at.x)].reshape(len(at.x), -1, stored.shape[-1])
        if stored.itemsize > 1:
            align.sample(stored, at, there)
            return
        # OpenCV interpolates bytes without a sign, so the numbers are turned into such, and back with what comes of it.
        top, bottom = at.rows()
        first, last = (int(np.clip(row, 0, len(stored) - 1)) for row in (top, bottom + 1))
        count = last + 1 - first
        if len(self._risen) < count:
            self._risen = np.empty((count, *stored.shape[1:]), np.uint8)
        risen, there = self._risen[:count], there.view(np.uint8)
        np.bitwise_xor(stored[first : last + 1].view(np.uint8), np.uint8(128), out=risen)
        align.sample(risen, at.lower(first), there)
        if self._again is None:
            np.bitwise_xor(there, np.uint8(128), out=there)
        else:
            cv2.LUT(there, self._again, dst=there)


class FaceModel:
    """The one-pass network.

    `model(image)` reads the image once and describes every face on it.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        threads: int = 2,
        size: tuple[int, int] | None = None,
        score: float | None = None,
        most: int = 200,
        describe: bool = True,
        stage: Stage = lambda name: nullcontext(),  # noqa: ARG005
        runtime: Any = None,
    ) -> None:
        """Load and check the model.

        path: folder with model.tflite and model.json; none: the shipped model. size: width and
        height of the network's input, multiples of 32; none: as exported. score: detector
        threshold; none: the model's own. most: faces described per frame, best scores first.
        describe: run the `faces` signature; if not, embeddings and all that is told of a face are zero, as is
        their quality, and no biometric template comes into being. stage: context manager entered around
        each stage, for metrics. runtime: an Interpreter class; none: the installed one.
        Raises SpecError or ModelError with one sentence.
        """
        folder = path or shipped()
        self.spec, network = spec.load(folder)
        width, height = size or self.spec.input_size
        if width % 32 or height % 32 or min(width, height) < 64:
            raise ModelError(f"The input size {width}x{height} does not fit: both must be multiples of 32.")
        self.size = (width, height)
        self.score = self.spec.detector.score if score is None else score
        self._most, self._stage = most, stage
        self._describes = describe
        try:
            interpreter = (runtime or _interpreter())(
                model_content=self._sized(network, width, height), num_threads=threads
            )
            self._frame, self._faces = (_Signature(interpreter, name) for name in ("frame", "faces"))
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"The TFLite runtime refuses the network: {error}.") from error
        self._interpreter = interpreter  # nothing else keeps alive the bytes that the network lies in
        self._outputs, self._described = self._frame.outputs, self._faces.outputs
        try:
            self._image = self._frame.inputs["image"]
            self._maps = [self._map(name, shape) for name, shape in self.spec.maps.items()]
            self._check()
        except KeyError as error:
            raise ModelError(f"The network has no tensor named {error}.") from None
        except (ValueError, IndexError, ZeroDivisionError):
            raise ModelError("The network's tensors have not the dimensions that model.json supposes.") from None
        self.cohort = Cohort.read(folder, self.spec)
        try:  # once, for what the runtime finds wrong only where it prepares a network for its input
            channels = self._image.shape[3]
            self._frame.resize({self._image: (1, height, width * 3 // channels, channels)})
            self._frame()
            self._at_once = 0
            self._room(self.spec.faces_at_once)
            self._faces()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"The TFLite runtime cannot run the network: {error}.") from error
        pixels = (np.arange(256, dtype=np.float32) - self.spec.input_mean) * self.spec.input_scale
        self._pixels = self._image.quantisation.stored(pixels, self._image.kind)
        self._turned = np.array_equal(self._pixels, np.arange(-128, 128))
        """Whether a pixel is stored as itself less 128, which is its highest bit turned."""
        self._canvas: Image | None = None  # only where pictures have another size
        self._drawn = (width, height)

    def _map(self, name: str, shape: Map) -> _Map:
        """How faces are read from the map of that name; where there is but one, `faces` may call it otherwise."""
        inputs = self._faces.inputs
        wanted = next(iter(inputs.values())) if len(inputs) == 1 else inputs[name]
        return _Map.between(shape, self._outputs[name], wanted, self.size[0] // shape.stride)

    def _check(self) -> None:
        """That model.json tells of this network what is true."""
        spec, labels = self.spec, self.spec.labels
        rows, columns, channels = self._image.shape[1:]
        told = {
            "input_size": (spec.input_size, (columns * channels // 3, rows)),
            "embedding_size": (spec.embedding_size, self._described["embedding"].shape[-1]),
            "sum of traits": (sum(spec.traits.values()), self._described["traits"].shape[-1]),
            "faces_at_once": (spec.faces_at_once, self._maps[0].input.shape[0]),
            "count of maps": (len(spec.maps), len(self._faces.inputs)),
            "count of detector.strides": (
                len(spec.detector.strides), sum(n.startswith("score") for n in self._outputs)
            ),
        }
        for name, asked in (("attributes", labels.attributes), ("ethnicity", labels.ethnicity),
                            ("emotion", labels.emotion)):
            told[f"count of labels.{name}"] = (len(asked), spec.traits.get(name, 0))
        for name in ("age", "gender", "quality"):
            told[f"traits.{name}"] = (spec.traits.get(name, 0), 1)
        for (name, shape), found in zip(spec.maps.items(), self._maps, strict=True):
            told[f"maps.{name}.stride"] = (shape.stride, spec.input_size[1] // found.output.shape[1])
            told[f"maps.{name}.channels"] = (shape.channels, found.output.shape[-1])
            told[f"maps.{name}.samples"] = (shape.samples, found.input.shape[1])
        for name, (said, true) in told.items():
            if said != true:
                raise ModelError(f"model.json does not fit the network beside it: {name} should be {true}, not {said}.")

    def _sized(self, network: bytes, width: int, height: int) -> bytes:
        """The network for another input size.

        Its upsampling layers hold their output size as a constant; export noted where.
        """
        if (width, height) == self.spec.input_size:
            return network
        changed = bytearray(network)
        was_width, was_height = self.spec.input_size
        for patch in self.spec.patches:
            was = struct.pack("<2i", was_height // patch.stride, was_width // patch.stride)
            if changed[patch.offset : patch.offset + 8] != was:
                raise ModelError(f"model.json does not fit the network beside it: there is no size at {patch.offset}.")
            struct.pack_into("<2i", changed, patch.offset, height // patch.stride, width // patch.stride)
        return bytes(changed)

    def __call__(self, image: Image, whom: Whom | None = None) -> Faces:
        """Find and describe the faces of one RGB image (H, W, 3) uint8.

        Larger images are scaled down to the network's input, keeping their shape; smaller
        ones are never enlarged. Boxes and landmarks come back in the image's own pixels.
        whom: which of the faces found to describe; none: all. Of the others the place is told: see `Faces.described`.
        """
        with self._stage("preprocess"):
            scale = self._preprocess(image)
        with self._stage("frame"):
            out = self._frame()
        with self._stage("decode"):
            found = self._decode(out)
        with self._stage("faces"):
            chosen = self._chosen(found, whom, scale)
            described = found if len(chosen) == len(found.scores) else found.take(chosen)
            embeddings, traits = self._describe(out, described.landmarks)
        faces = self._read(described, embeddings, traits, scale)
        if described is found:
            return faces
        return faces.among(chosen, found.boxes / np.float32(scale), found.scores, found.landmarks / np.float32(scale),
                           align.sizes(found.landmarks))

    def _chosen(self, found: Found, whom: Whom | None, scale: float) -> NDArray[np.intp]:
        """Rows of those who are to be described."""
        if not self._describes or whom is None:
            return np.arange(len(found.scores) if self._describes else 0)
        return np.flatnonzero(whom(found.boxes / np.float32(scale)))

    def _preprocess(self, image: Image) -> float:
        """Letterbox: the image in the top left corner of the network's input; gives the scale it was drawn at."""
        width, height = self.size
        scale: float = min(1.0, width / image.shape[1], height / image.shape[0])
        drawn = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        if image.shape == (height, width, 3):
            self._store(image)
            return scale
        if self._canvas is None or drawn != self._drawn:  # what is not drawn on must be empty
            self._canvas = np.full((height, width, 3), round(self.spec.input_mean), np.uint8)
            self._drawn = drawn
        part = self._canvas[: drawn[1], : drawn[0]]
        if scale < 1:
            cv2.resize(image, drawn, dst=part, interpolation=cv2.INTER_AREA)
        else:
            part[:] = image
        self._store(self._canvas)
        return scale

    def _store(self, picture: Image) -> None:
        """A picture (H, W, 3) of the network's own size, as it stores its input; it may take some pixels a cell."""
        there = self._frame.lies(self._image).reshape(picture.shape)
        if self._turned:
            np.bitwise_xor(picture, np.uint8(128), out=there.view(np.uint8))
        elif there.itemsize == 1:
            cv2.LUT(picture, self._pixels.view(np.uint8), dst=there.view(np.uint8))
        else:
            there[:] = self._pixels[picture]

    def _decode(self, out: dict[str, NDArray[np.generic]]) -> Found:
        levels = [
            level(out[f"score{i}"], out[f"place{i}"], self._outputs[f"score{i}"].quantisation,
                  self._outputs[f"place{i}"].quantisation, stride, self.score)
            for i, stride in enumerate(self.spec.detector.strides)
        ]
        return join(levels, self.spec.detector.nms_iou, self._most)

    def _describe(
        self, out: dict[str, NDArray[np.generic]], landmarks: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embeddings (N, D) of unit length and traits (N, T) of the faces at `landmarks` (N, 5, 2)."""
        count, stored = len(landmarks), {}
        for name, tensor in self._described.items():
            stored[name] = np.empty((count, tensor.shape[-1]), tensor.kind)
        if count:
            # From top to bottom, so that those which are read at once lie on few rows of the maps.
            order = landmarks[:, 2, 1].argsort()
            grids = [each.grid(landmarks[order]) for each in self._maps]
            # As many in every call: another number takes the runtime as long as two faces. In the last call, rows
            # that are left over are described and not looked at.
            at_once = -(-count // -(-count // self.spec.faces_at_once))
            self._room(at_once)
            for start in range(0, count, at_once):
                part = slice(start, min(start + at_once, count))
                for name, each, at in zip(self.spec.maps, self._maps, grids, strict=True):
                    each.fill(self._faces.lies(each.input), out[name][0], at[part])
                for name, told in self._faces().items():
                    stored[name][order[part]] = told.reshape(at_once, -1)[: part.stop - start]
        embeddings, traits = (self._described[name].quantisation.real(stored[name]) for name in ("embedding", "traits"))
        embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-6)
        return embeddings, traits

    def _room(self, faces: int) -> None:
        """Make `faces` describe so many at once."""
        if faces != self._at_once:
            self._faces.resize({each.input: (faces, *each.input.shape[1:]) for each in self._maps})
            self._at_once = faces

    def _read(
        self, found: Found, embeddings: NDArray[np.float32], traits: NDArray[np.float32], scale: float
    ) -> Faces:
        parts, start = {}, 0
        for name, width in self.spec.traits.items():
            parts[name] = traits[:, start : start + width] / self.spec.temperature.get(name, 1.0)
            start += width
        age = parts["age"][:, 0] * self.spec.age_step + self.spec.age_middle
        return Faces(
            boxes=found.boxes / np.float32(scale), scores=found.scores, landmarks=found.landmarks / np.float32(scale),
            embeddings=embeddings, attributes=sigmoid(parts["attributes"]), age=np.clip(age, 0, 110),
            gender=sigmoid(parts["gender"][:, 0]), ethnicity=softmax(parts["ethnicity"]),
            emotion=softmax(parts["emotion"]), quality=sigmoid(parts["quality"][:, 0]),
            sizes=align.sizes(found.landmarks),
        )

"""ModelSpec: what model.json says of the network beside it. Export writes it, the daemon reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from onelook.errors import OwnerError

Floats: TypeAlias = NDArray[np.float32]
Ratio = Annotated[float, Field(ge=0, le=1)]


class SpecError(OwnerError):
    """The model's folder cannot be used."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Part):
    """Names of the classes, in the order of the network's outputs."""

    attributes: list[str]
    gender: list[str]
    ethnicity: list[str]
    emotion: list[str]


class Detector(_Part):
    """How cells become boxes, and when a box counts."""

    strides: list[int]
    score: Ratio = Field(description="Default threshold on the score.")
    nms_iou: Ratio


class Patch(_Part):
    """A size that the file holds as a constant and that follows the input's size."""

    offset: int = Field(description="Byte where two little-endian int32, height and width, lie.")
    stride: int = Field(gt=0, description="Input pixels a cell of the layer's output.")


class Map(_Part):
    """A feature map that faces are read from, on a grid laid over each (see `onelook.align`)."""

    stride: int = Field(gt=0, description="Input pixels a cell.")
    channels: int
    samples: int = Field(gt=0, description="Sampling points a side of the grid.")
    reach: float = Field(default=0, ge=0, le=4, description="Pixels of the template: where samples lie further apart "
                         "than cells, each is the mean of four points so far off along both axes.")


class Threshold(_Part):
    """Similarity from which two faces count as one person's."""

    far: Ratio = Field(description="Share of different people that would pass, on held-out pairs.")
    similarity: float
    tar: Ratio = Field(description="Share of same people that pass.")
    size: float = Field(default=80, gt=0, description="Of the face: see `Faces.sizes`.")
    pairs: int = Field(default=0, ge=0, description="Different people's pairs that it was calibrated on; 0: not told.")


class CohortFile(_Part):
    """What lies in `cohort.npy`, see `onelook.cohort`."""

    sha256: str
    nearest: int = Field(gt=0, description="How many of them count for each face, the most like.")
    typical: float = Field(description="Mean likeness of faces to those.")
    share: float = Field(ge=0, le=1, description="How much of it is taken off a similarity.")


class Training(_Part):
    """Where the weights come from."""

    commit: str
    seed: int
    steps: int
    faces_seen: int
    data: list[str]


class ModelSpec(_Part):
    """The hinge between training and daemon."""

    name: str
    version: str
    sha256: str = Field(description="Of model.tflite.")
    embeddings: str = Field(
        default="", description="sha256 of the first network that gave these embeddings, to the bit; empty: this one."
    )
    input_size: tuple[int, int] = Field(description="Width and height that the file was exported at.")
    input_mean: float
    input_scale: float = Field(description="input = (pixel - mean) * scale, RGB 0 to 255.")
    patches: list[Patch]
    maps: dict[str, Map] = Field(min_length=1, description="Output of `frame` -> how faces are read from it.")
    faces_at_once: int = Field(description="Most faces that one call of the `faces` signature describes.")
    embedding_size: int
    traits: dict[str, int] = Field(description="Parts of the traits tensor in order, and their widths.")
    age_middle: float
    age_step: float = Field(description="years = middle + step * output.")
    temperature: dict[str, float] = Field(default={}, description="Divides a head's logits.")
    labels: Labels
    detector: Detector
    thresholds: list[Threshold]
    cohort: CohortFile | None = Field(
        default=None, description="With what a similarity is compared before it is with a threshold."
    )
    caution: float = Field(
        default=1, ge=1, description="By how much each comparison with a gallery is made stricter; see `similarities`."
    )
    averaging: float = Field(
        default=0, ge=0, le=1, description="How fast thresholds rise where embeddings are means; see `similarities`."
    )
    training: Training
    licence: str
    _found: dict[float, tuple[list[Threshold], list[float], list[float]]] = PrivateAttr(default_factory=dict)

    def threshold(self, far: float, size: float = 80) -> float:
        """Similarity from which two faces count as one person's, at a false accept rate of `far`.

        size: of the smaller face, see `Faces.sizes`. Raises SpecError if the model is not calibrated.
        """
        known, bars = self._bars(far)
        return float(np.interp(np.log(max(size, 1)), known, bars))

    def similarities(self, far: float, sizes: Floats, people: int = 1, agreement: Floats | float = 1.0) -> Floats:
        """Similarity (N,) from which a face of each of `sizes` (N,) counts as the nearest of `people` enrolled.

        A stranger is compared with everybody: with each comparison at a rate of f, about people * f of the
        strangers would pass (Grother & Ngan, NISTIR 8271, 2019). So each is made at far / people, and `far` is the
        share of strangers who pass however many are enrolled; down to the strictest rate that was calibrated. It is
        made more seldom still, `caution` times, as people and tracks are means of several faces, which are nearer to
        each other than two faces are, and to strangers too.

        agreement: (N,) product of the lengths that the two embeddings had before they were made unit length, if
        they are means of several faces. A mean has less chance in it than one face, and is nearer to everybody,
        strangers too: their similarities spread as agreement ** -averaging, which `calibrate` measures as 0.5.
        The models are shipped with 0 all the same: of strangers before a gallery no more pass than `far`, as
        people are more alike than the division by their number supposes, and a bar that rises so shuts out
        two of three friends (`openset`).

        Between calibrated rates and sizes, linear in their logarithms; beyond them, as at the last.
        Raises SpecError if the model is not calibrated.
        """
        known, bars = self._bars(far / max(people, 1) / self.caution)
        single = np.interp(np.log(np.maximum(sizes, 1)), known, bars)
        if self.averaging:
            single *= np.clip(agreement, 0.2, 1) ** -self.averaging
        bar: Floats = single.astype(np.float32)
        return bar

    def _bars(self, far: float) -> tuple[list[float], list[float]]:
        """Logarithms of the calibrated sizes, and the similarity asked at each; asked for at every frame."""
        if not self.thresholds:
            raise SpecError("The model is not calibrated: model.json has no thresholds.")
        found = self._found.get(far)
        if found is None or found[0] is not self.thresholds:  # a copy of a spec may have others
            known = sorted({row.size for row in self.thresholds})
            bars = []
            for size in known:
                rows = sorted((row for row in self.thresholds if row.size == size), key=lambda row: row.far)
                bars.append(float(np.interp(np.log(far), np.log([r.far for r in rows]), [r.similarity for r in rows])))
            found = self._found[far] = self.thresholds, np.log(known).tolist(), bars
        return found[1:]

    @property
    def stamp(self) -> str:
        """Whose the templates are that embeddings become: networks of one stamp can serve one gallery."""
        return self.embeddings or self.sha256

    @property
    def strictest(self) -> float:
        """The least false accept rate that a gallery of one person can hold."""
        return min((row.far for row in self.thresholds), default=1.0 / self.caution) * self.caution


def load(folder: Path) -> tuple[ModelSpec, bytes]:
    """Read and check `model.json` and `model.tflite`.

    Returns the spec and the network's bytes. Raises SpecError with one sentence when either
    is missing, malformed, or does not belong to the other.
    """
    try:
        text = (folder / "model.json").read_bytes()
        network = (folder / "model.tflite").read_bytes()
    except OSError as error:
        raise SpecError(f"The model cannot be read: {error.filename}: {error.strerror}.") from error
    try:
        spec = ModelSpec.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SpecError(f"{folder / 'model.json'} is not a model description: {where}: {first['msg']}.") from error
    if hashlib.sha256(network).hexdigest() != spec.sha256:
        raise SpecError(f"{folder / 'model.tflite'} is damaged or is not the network that model.json describes.")
    return spec, network

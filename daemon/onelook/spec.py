"""ModelSpec: what model.json says of the network beside it. Export writes it, the daemon reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onelook.errors import OwnerError

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
    stride: int = Field(description="Input pixels a cell of the layer's output.")


class Threshold(_Part):
    """Similarity from which two faces count as one person's."""

    far: Ratio = Field(description="Share of different people that would pass, on held-out pairs.")
    similarity: float
    tar: Ratio = Field(description="Share of same people that pass.")


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
    input_size: tuple[int, int] = Field(description="Width and height that the file was exported at.")
    input_mean: float
    input_scale: float = Field(description="input = (pixel - mean) * scale, RGB 0 to 255.")
    patches: list[Patch]
    feature_stride: int
    features: int = Field(description="Channels of the shared map.")
    faces_at_once: int = Field(description="Most faces that one call of the `faces` signature describes.")
    embedding_size: int
    traits: dict[str, int] = Field(description="Parts of the traits tensor in order, and their widths.")
    age_middle: float
    age_step: float = Field(description="years = middle + step * output.")
    temperature: dict[str, float] = Field(default={}, description="Divides a head's logits.")
    labels: Labels
    detector: Detector
    thresholds: list[Threshold]
    training: Training
    licence: str

    def threshold(self, far: float) -> float:
        """Similarity calibrated to the false-accept rate nearest to `far`. Raises SpecError if there is none."""
        if not self.thresholds:
            raise SpecError("The model is not calibrated: model.json has no thresholds.")
        return min(self.thresholds, key=lambda row: abs(row.far - far)).similarity


def load(folder: Path) -> tuple[ModelSpec, bytes]:
    """Read and check `model.json` and `model.tflite`.

    Returns the spec and the network's bytes. Raises SpecError with one sentence when either
    is missing, malformed, or does not belong to the other.
    """
    try:
        text = (folder / "model.json").read_text()
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

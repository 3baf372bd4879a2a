"""Decoding: the network's raw tensors become boxes and landmarks. numpy, and OpenCV's NMS."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Quantisation:
    """real = scale * (stored - zero_point); scale 0 means stored as float."""

    scale: float
    zero_point: int

    def real(self, stored: NDArray[Any]) -> Floats:
        """Stored values as float32."""
        values = stored.astype(np.float32)
        return values if self.scale == 0 else (values - self.zero_point) * np.float32(self.scale)

    def stored(self, real: Floats, kind: np.dtype[Any]) -> NDArray[Any]:
        """Real values as the tensor stores them, clipped to its range."""
        if self.scale == 0:
            return real.astype(kind)
        bounds = np.iinfo(kind)
        kept: NDArray[Any] = np.clip(np.rint(real / self.scale) + self.zero_point, bounds.min, bounds.max).astype(kind)
        return kept


def sigmoid(x: Floats) -> Floats:
    """Logistic function."""
    return (1 / (1 + np.exp(-x))).astype(np.float32)


def softmax(x: Floats) -> Floats:
    """Along the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    shares: Floats = (e / e.sum(-1, keepdims=True)).astype(np.float32)
    return shares


@dataclass(frozen=True, slots=True)
class Found:
    """Boxes (N, 4), scores (N,), landmarks (N, 5, 2) in the network's input pixels; best first."""

    boxes: Floats
    scores: Floats
    landmarks: Floats


def level(
    scores: NDArray[Any], places: NDArray[Any], score_is: Quantisation, place_is: Quantisation,
    stride: int, threshold: float,
) -> Found:
    """Faces of one level of the detector.

    scores: (1, h, w, 1) logits; places: (1, h, w, 14): middle of the box (2) and landmarks (10) as
    offsets from the cell's middle in cells, log of its size in cells (2). Most cells hold nothing,
    so the threshold is applied before anything is dequantised.
    """
    width = scores.shape[2]
    stored = scores.reshape(-1)
    logit = float(np.log(threshold / (1 - threshold))) if 0 < threshold < 1 else (-np.inf if threshold <= 0 else np.inf)
    least = logit if score_is.scale == 0 else logit / score_is.scale + score_is.zero_point
    cells = np.flatnonzero(stored >= least)
    place = place_is.real(places.reshape(-1, places.shape[-1])[cells])
    middle = np.stack([cells % width, cells // width], 1).astype(np.float32) + 0.5
    centre = (middle + place[:, :2]) * stride
    half = np.exp(np.clip(place[:, 2:4], -6, 6)) * (stride / 2)
    landmarks = (middle[:, None] + place[:, 4:].reshape(-1, 5, 2)) * stride
    return Found(np.concatenate([centre - half, centre + half], 1), sigmoid(score_is.real(stored[cells])), landmarks)


def join(levels: list[Found], nms_iou: float, most: int) -> Found:
    """All levels together, without doubles (non-maximum suppression), at most `most` faces."""
    boxes = np.concatenate([x.boxes for x in levels])
    scores = np.concatenate([x.scores for x in levels])
    landmarks = np.concatenate([x.landmarks for x in levels])
    sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    # Arrays are quicker than the lists that its stub asks for.
    chosen = cv2.dnn.NMSBoxes(sized, scores, 0.0, nms_iou)  # type: ignore[arg-type]
    kept = np.asarray(chosen, np.intp).reshape(-1)[:most]
    return Found(boxes[kept], scores[kept], landmarks[kept])

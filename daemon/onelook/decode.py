"""Decoding: the network's raw tensors become boxes and landmarks. numpy, and OpenCV's NMS."""

from dataclasses import dataclass
from typing import Any, Self, TypeAlias

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

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Those at `rows`."""
        return type(self)(self.boxes[rows], self.scores[rows], self.landmarks[rows])


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of the detector that hold a face; one face may have several."""

    scores: Floats
    """(N,)"""
    places: Floats
    """(N, 14) as the network gives them, see `level`."""
    middles: Floats
    """(N, 2) x, y in the network's input pixels."""
    strides: Floats
    """(N, 1) side of each cell in pixels."""


def _highest(scores: NDArray[Any]) -> NDArray[Any]:
    """Of every cell of (h, w) and the eight around it. OpenCV's dilation is slower, and takes 1.2 MB."""
    beside = scores.copy()
    np.maximum(beside[:, 1:], scores[:, :-1], out=beside[:, 1:])
    np.maximum(beside[:, :-1], scores[:, 1:], out=beside[:, :-1])
    around = beside.copy()
    np.maximum(around[1:], beside[:-1], out=around[1:])
    np.maximum(around[:-1], beside[1:], out=around[:-1])
    return around


def level(
    scores: NDArray[Any], places: NDArray[Any], score_is: Quantisation, place_is: Quantisation,
    stride: int, threshold: float,
) -> Cells:
    """Cells of one level of the detector at or above the threshold that none of their eight neighbours surpasses.

    scores: (1, h, w, 1) logits; places: (1, h, w, 14): middle of the box (2) and landmarks (10) as
    offsets from the cell's middle in cells, log of its size in cells (2). Most cells hold nothing,
    so the threshold is applied before anything is dequantised. The cells around the best of a face tell of the same
    face (Zhou, Wang and Krähenbühl 2019): without them little is left to the search for doubles. On 117 photographs
    with crowds, 12 of 149 false boxes went with them, and 1 of 564 faces.
    """
    width = scores.shape[2]
    stored = scores.reshape(-1)
    logit = float(np.log(threshold / (1 - threshold))) if 0 < threshold < 1 else (-np.inf if threshold <= 0 else np.inf)
    least = logit if score_is.scale == 0 else logit / score_is.scale + score_is.zero_point
    cells = np.flatnonzero(stored >= least)
    if len(cells):
        cells = cells[stored[cells] == _highest(scores[0, :, :, 0]).reshape(-1)[cells]]
    middles = (np.stack([cells % width, cells // width], 1).astype(np.float32) + 0.5) * stride
    return Cells(sigmoid(score_is.real(stored[cells])), place_is.real(places.reshape(-1, places.shape[-1])[cells]),
                 middles, np.full((len(cells), 1), stride, np.float32))


def join(levels: list[Cells], nms_iou: float, most: int) -> Found:
    """The faces of all levels, without doubles (non-maximum suppression), at most `most`."""
    scores = np.concatenate([x.scores for x in levels])
    places = np.concatenate([x.places for x in levels])
    middles = np.concatenate([x.middles for x in levels])
    strides = np.concatenate([x.strides for x in levels])
    sizes = np.exp(np.clip(places[:, 2:4], -6, 6)) * strides
    corners = middles + places[:, :2] * strides - sizes / 2
    # OpenCV takes doubles as they are and everything else number by number, which would take longer than the search.
    chosen = cv2.dnn.NMSBoxes(np.concatenate([corners, sizes], 1, dtype=np.float64), scores, 0.0, nms_iou)  # type: ignore[arg-type]
    kept = np.asarray(chosen, np.intp).reshape(-1)[:most]
    landmarks = middles[kept, None] + places[kept, 4:].reshape(-1, 5, 2) * strides[kept, None]
    corners = corners[kept]
    return Found(np.concatenate([corners, corners + sizes[kept]], 1), scores[kept], landmarks)

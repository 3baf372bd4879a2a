"""Alignment: where on a frame the network looks to describe a face.

Recognisers warp pixels so that five landmarks fall on a template. onelook leaves the
pixels alone and lays a grid of sampling points over the shared feature map instead,
through the same similarity transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.uint8)

TEMPLATE_SIZE = 112
TEMPLATE: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
"""(5, 2) landmarks on the 112x112 picture of an aligned face (ArcFace, Deng et al. 2019)."""
FACE_BOX = (14.0, 11.0, 98.0, 118.0)
"""x1, y1, x2, y2 of a face on that picture: medians over 578 upright faces that SCRFD-2.5g boxed."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where on a feature map K faces are read, in cells."""

    x: Floats
    y: Floats
    """(K, samples * samples)."""
    aside: Floats
    """(K, 2) x, y of a step along the template's x axis. Where it is not nothing, each sample is the mean of four
    points, a step off along both axes of the template. For where samples lie further apart than cells, what lies
    between them would be passed over, and what is read would turn with where the grid happens to fall."""

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> Grid:
        """Some of the faces."""
        return Grid(self.x[part], self.y[part], self.aside[part])

    def corners(self) -> list[tuple[Floats, Floats]]:
        """How far off in x and y, (K,) each, the four points lie."""
        x, y = self.aside.T
        return [(x - y, y + x), (x + y, y - x), (-x - y, x - y), (y - x, -y - x)]

    def rows(self) -> tuple[float, float]:
        """The first and the last that is read."""
        reach = np.abs(self.aside).sum(1, keepdims=True)
        return float((self.y - reach).min()), float((self.y + reach).max())

    def lower(self, rows: int) -> Grid:
        """The same on a map whose first `rows` are cut off."""
        return Grid(self.x, self.y - np.float32(rows), self.aside)


def similarity(landmarks: Floats) -> Floats:
    """The rotation, scale and shift that best lay the template on a face.

    Least squares over the five points, which has a closed form for similarities in the
    plane (Umeyama 1991).

    landmarks: (K, 5, 2) x, y in pixels. Returns (K, 2, 3): `[[a, -b, x], [b, a, y]]`, template to
    pixels.
    """
    return _each(landmarks, _SOLUTION).reshape(-1, 2, 3)


def sizes(landmarks: Floats) -> Floats:
    """Side (K,) of the template as it lies over each face, in the pixels of `landmarks` (K, 5, 2)."""
    a, b = similarity(landmarks)[:, :, 0].T
    side: Floats = np.hypot(a, b) * np.float32(TEMPLATE_SIZE)
    return side


def grid(landmarks: Floats, stride: int, samples: int, reach: float = 0.0) -> Grid:
    """Where on a feature map to read each face.

    landmarks: (K, 5, 2) x, y in pixels of the network's input. stride: pixels a cell of the map. samples: points
    a side. reach: see `Grid.aside`, in pixels of the template.
    """
    to_x, to_y = _to_grid(stride, samples)
    x, y = _each(landmarks, to_x), _each(landmarks, to_y)
    x += 0.5 / stride - 0.5
    y += 0.5 / stride - 0.5
    axis = similarity(landmarks)[:, :, 0] / np.float32(stride)  # a template pixel to the right, in cells
    apart = np.hypot(*axis.T) * np.float32(TEMPLATE_SIZE / samples)
    return Grid(x, y, axis * np.float32(reach) * (apart > 1)[:, None])


def sample(features: NDArray[Number], at: Grid, out: NDArray[Number] | None = None) -> NDArray[Number]:
    """The features at the points of a grid.

    Bilinear, by OpenCV's `remap`: positions are rounded to 1/32 of a cell, and points outside
    the map read its border.

    features: (H, W, C) float32, or uint8, which are rounded. at: K faces, from 1 to 32,767.
    out: (K, samples * samples, C) to write into. Returns (K, samples, samples, C).
    """
    count, points = at.x.shape
    side = math.isqrt(points)
    if out is None:
        out = np.empty((count, points, features.shape[2]), features.dtype)
    wide = np.hypot(*at.aside.T) > 0
    if not wide.any():
        _read(features, at.x, at.y, out)
    elif wide.all():
        _mean_of_four(features, at, out)
    else:
        out[wide] = _mean_of_four(features, at[wide], np.empty_like(out[wide]))
        out[~wide] = _read(features, at.x[~wide], at.y[~wide])
    return out.reshape(count, side, side, -1)


def _read(features: NDArray[Number], x: Floats, y: Floats, out: NDArray[Number] | None = None) -> NDArray[Number]:
    """Features (K, points, C) at x and y (K, points)."""
    return cv2.remap(features, x, y, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def _mean_of_four(features: NDArray[Number], at: Grid, out: NDArray[Number]) -> NDArray[Number]:
    """Features (K, points, C) in the middle of the four points around each of the grid's, into `out`."""
    first, second, third, fourth = ((at.x + dx[:, None], at.y + dy[:, None]) for dx, dy in at.corners())
    _read(features, *first, out)
    other = _read(features, *second)
    cv2.addWeighted(out, 0.5, other, 0.5, 0, dst=out)
    _read(features, *third, other)
    cv2.addWeighted(other, 0.5, _read(features, *fourth), 0.5, 0, dst=other)
    cv2.addWeighted(out, 0.5, other, 0.5, 0, dst=out)
    return out


def _each(landmarks: Floats, matrix: NDArray[np.float64]) -> Floats:
    """(K, 5, 2) landmarks times (10, N) -> (K, N); of each face the same, whoever else is there.

    In doubles: some processors round a row of a product of matrices otherwise alone than among others, and a point
    would fall to the next 32nd of a cell.
    """
    return (landmarks.reshape(-1, 10).astype(np.float64) @ matrix).astype(np.float32)


def _solution() -> NDArray[np.float64]:
    """(10, 6): the least squares are linear in the landmarks, so that one product solves them for all faces."""
    middle = TEMPLATE.mean(0, dtype=np.float64)
    offsets = TEMPLATE - middle
    a = offsets / (offsets**2).sum()  # of each landmark's x and y
    b = np.stack([-a[:, 1], a[:, 0]], 1)
    x, y = np.tile([0.2, 0.0], (5, 1)), np.tile([0.0, 0.2], (5, 1))  # the landmarks' centre
    x, y = x - a * middle[0] + b * middle[1], y - b * middle[0] - a * middle[1]
    return np.stack([part.ravel() for part in (a, -b, x, b, a, y)], 1)


_SOLUTION = _solution()


@cache
def _to_grid(stride: int, samples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(10, samples * samples) each: from landmarks straight to x and y of the points, but for a shift all share."""
    line = (np.arange(samples) + 0.5) * (TEMPLATE_SIZE / samples) - 0.5
    points = np.stack([np.tile(line, samples), np.repeat(line, samples), np.ones(samples**2)])
    return _SOLUTION[:, :3] @ points / stride, _SOLUTION[:, 3:] @ points / stride

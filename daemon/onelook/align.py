"""Alignment: where on a frame the network looks to describe a face.

Recognisers warp pixels so that five landmarks fall on a template. onelook leaves the
pixels alone and lays a grid of sampling points over the shared feature map instead,
through the same similarity transform.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

TEMPLATE_SIZE = 112
TEMPLATE: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
"""(5, 2) landmarks on the 112x112 picture of an aligned face (ArcFace, Deng et al. 2019)."""
GRID = 14
"""Sampling points a side."""
STRIDE = 4
"""Source pixels a cell of the feature map."""


def similarity(landmarks: Floats) -> Floats:
    """The rotation, scale and shift that best lay the template on a face.

    Least squares over the five points, which has a closed form for similarities in the
    plane (Umeyama 1991).

    landmarks: (K, 5, 2) x, y in pixels. Returns (K, 2, 3): `[[a, -b, x], [b, a, y]]`, template to
    pixels.
    """
    middle = TEMPLATE.mean(0)
    template = TEMPLATE - middle
    centre = landmarks.mean(1, keepdims=True)
    points = landmarks - centre
    spread = float((template**2).sum())
    a = (points * template).sum((1, 2)) / spread
    b = (points[:, :, 1] * template[:, 0] - points[:, :, 0] * template[:, 1]).sum(1) / spread
    x = centre[:, 0, 0] - a * middle[0] + b * middle[1]
    y = centre[:, 0, 1] - b * middle[0] - a * middle[1]
    return np.stack([np.stack([a, -b, x], 1), np.stack([b, a, y], 1)], 1).astype(np.float32)


def grid(landmarks: Floats, width: int, height: int) -> tuple[NDArray[np.int32], Floats]:
    """Which cells of the feature map to read for each face, and how much of each.

    landmarks: (K, 5, 2) x, y in pixels of the network's input. width, height: the feature map's.
    Returns indices into the flattened map (K * GRID * GRID, 4) and bilinear weights of the
    same shape; points outside the map read its border.
    """
    step = TEMPLATE_SIZE / GRID
    line = (np.arange(GRID, dtype=np.float32) + 0.5) * step - 0.5
    template = np.stack([np.tile(line, GRID), np.repeat(line, GRID), np.ones(GRID * GRID, np.float32)])
    pixels = similarity(landmarks) @ template.astype(np.float32)  # (K, 2, GRID * GRID)
    points = (pixels + 0.5) / STRIDE - 0.5
    x = np.clip(points[:, 0], 0, width - 1).ravel()
    y = np.clip(points[:, 1], 0, height - 1).ravel()
    left = np.minimum(x.astype(np.int32), width - 2)
    top = np.minimum(y.astype(np.int32), height - 2)
    right_share, low_share = x - left, y - top
    first = top * width + left
    index = np.stack([first, first + 1, first + width, first + width + 1], 1)
    weight = np.stack(
        [
            (1 - right_share) * (1 - low_share),
            right_share * (1 - low_share),
            (1 - right_share) * low_share,
            right_share * low_share,
        ],
        1,
    )
    return index.astype(np.int32), weight.astype(np.float32)

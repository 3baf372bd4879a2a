"""Scene: a frame that shows so many faces, and where they are.

Heads of the portraits that come with onelook, each as large as the crowd leaves room for and
a little different from its neighbour. Every system gets the same pixels and the same list of
faces, so that none is flattered by what another failed to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import onelook
from onelook import align
from onelook.decode import Found
from onelook.errors import OwnerError
from onelook.face import Faces, Floats
from onelook.picture import Image, read_picture

PORTRAITS = {
    "eileen_collins.jpg": ((203, 104), (248, 104), (225, 128), (204, 143), (243, 144)),
    "grace_hopper.jpg": ((224, 197), (307, 196), (265, 239), (230, 274), (304, 272)),
}
"""File -> eye, eye, nose, mouth corner, mouth corner, in its pixels."""


class DifferentFacesError(OwnerError):
    """Two systems did not see the same faces, so their times must not be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A frame and the faces on it."""

    image: Image
    faces: Found


def scene(size: tuple[int, int], count: int, seed: int = 3) -> Scene:
    """`count` faces on a frame of `size` (width, height), in rows."""
    width, height = size
    random = np.random.default_rng(seed)
    # A calm background with some texture: a plain one would be unlike any camera's.
    coarse = random.integers(70, 150, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    marks = np.zeros((count, 5, 2), np.float32)
    if count:
        across = max(1, round(math.sqrt(count * width / height)))
        while across * math.floor(height * across / width) < count:
            across += 1
        cell = width / across
        face = min(cell / 1.35, 0.5 * height)  # side of the aligned template
        heads = [head(name) for name in PORTRAITS]
        for place in range(count):
            picture, landmarks = heads[place % len(heads)]
            scale = face / align.TEMPLATE_SIZE * float(random.uniform(0.9, 1.0))
            turn = float(random.uniform(-0.12, 0.12))
            centre = ((place % across + 0.5) * cell, (place // across + 0.5) * height * across
                      / max(1, math.ceil(count / across)) / across)
            marks[place] = lay(image, picture, landmarks, centre, scale, turn, cell)
    boxes = np.zeros((count, 4), np.float32)
    for row, way in enumerate(align.similarity(marks)) if count else ():
        corners = np.array([[x, y, 1] for x in align.FACE_BOX[::2] for y in align.FACE_BOX[1::2]]) @ way.T
        boxes[row] = (*corners.min(0), *corners.max(0))
    return Scene(image, Found(boxes, np.ones(count, np.float32), marks))


def head(name: str) -> tuple[Image, Floats]:
    """A portrait, and its landmarks."""
    picture = read_picture(Path(onelook.__file__).parent / "portraits" / name)
    return picture, np.array(PORTRAITS[name], np.float32)


def lay(image: Image, picture: Image, landmarks: Floats, centre: tuple[float, float], scale: float, turn: float,
        cell: float) -> Floats:
    """Draw a head into `image` in place, the template's middle at `centre`; gives its landmarks there."""
    middle = align.TEMPLATE_SIZE / 2
    a, b = scale * math.cos(turn), scale * math.sin(turn)
    to_frame = np.array([[a, -b, centre[0] - a * middle + b * middle],
                         [b, a, centre[1] - b * middle - a * middle], [0, 0, 1]])
    to_template = np.vstack([align.similarity(landmarks[None])[0], [0, 0, 1]])  # template to portrait
    way = (to_frame @ np.linalg.inv(to_template))[:2]
    if np.hypot(way[0, 0], way[1, 0]) < 0.5:  # bilinear alone would alias
        shrink = float(np.hypot(way[0, 0], way[1, 0])) * 1.2
        small = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        step = np.array([[picture.shape[1] / small.shape[1], 0, 0], [0, picture.shape[0] / small.shape[0], 0],
                         [0, 0, 1]])
        picture, drawn = small, (np.vstack([way, [0, 0, 1]]) @ step)[:2]
    else:
        drawn = way
    half = cell / 2
    x1, y1 = max(0, round(centre[0] - half)), max(0, round(centre[1] - half))
    x2, y2 = min(image.shape[1], round(centre[0] + half)), min(image.shape[0], round(centre[1] + half))
    drawn = drawn - np.array([[0, 0, x1], [0, 0, y1]])
    part = np.ascontiguousarray(image[y1:y2, x1:x2])
    cv2.warpAffine(picture, drawn, (x2 - x1, y2 - y1), dst=part, flags=cv2.INTER_LINEAR,
                   borderMode=cv2.BORDER_TRANSPARENT)
    image[y1:y2, x1:x2] = part
    return (np.concatenate([landmarks, np.ones((5, 1))], 1) @ way.T).astype(np.float32)


def overlap(one: Floats, other: Floats) -> Floats:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M)."""
    inner = np.clip(np.minimum(one[:, None, 2:], other[None, :, 2:])
                    - np.maximum(one[:, None, :2], other[None, :, :2]), 0, None).prod(2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return inner / np.maximum(areas[0][:, None] + areas[1][None] - inner, 1e-6)


def require_same(named: dict[str, Faces], wanted: Found, at: float = 0.4) -> None:
    """That every system described each face of `wanted` once, and nothing else.

    named: what each system gave. Raises DifferentFacesError with one sentence.
    """
    for name, faces in named.items():
        if len(faces) != len(wanted.scores):
            raise DifferentFacesError(f"{name} described {len(faces)} faces of {len(wanted.scores)}: "
                                 "its time must not be compared with the others'.")
        share = overlap(faces.boxes, wanted.boxes)
        if len(faces) and ((share.max(1) < at).any() or len(set(share.argmax(1).tolist())) < len(faces)):
            raise DifferentFacesError(f"{name} described other faces than it was given: "
                                 "its time must not be compared with the others'.")

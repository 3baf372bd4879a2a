"""Large frames: what the card tells of other input sizes, and the tiles that they are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edge_models.training import card
from edge_models.training.sizes import Tiled

from clip import EILEEN, GRACE, head
from onelook.model import FaceModel, shipped
from onelook.spec import load

WIDTH, HEIGHT = 1920, 1080


@pytest.fixture(scope="module")
def tiled() -> Tiled:
    return Tiled(FaceModel())


def test_tiles_cover_a_frame_and_share_what_a_face_needs(tiled: Tiled) -> None:
    seen = np.zeros((HEIGHT, WIDTH), int)
    for x, y in tiled.corners(np.empty((HEIGHT, WIDTH, 3), np.uint8)):
        assert 0 <= x <= WIDTH - 640
        assert 0 <= y <= HEIGHT - 480
        seen[y:y + 480, x:x + 640] += 1
    assert seen.min() == 1
    rows, columns = (np.diff(sorted({corner[axis] for corner in tiled.corners(seen[..., None])})) for axis in (1, 0))
    assert (480 - rows).min() >= 128
    assert (640 - columns).min() >= 128


def test_a_face_where_tiles_meet_is_found_once_and_in_its_place(tiled: Tiled) -> None:
    frame = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    corners = tiled.corners(frame)
    across, down = (np.array(sorted({corner[axis] for corner in corners})) for axis in (0, 1))
    between = [(x, y) for y in (down[1:] + down[:-1]) // 2 + 240 for x in (across[1:] + across[:-1]) // 2 + 320]
    for k, (x, y) in enumerate(between):
        picture = head((EILEEN, GRACE)[k % 2], 112)
        left, top = x - picture.shape[1] // 2 + k, y - 56 - k
        frame[top:top + 112, left:left + picture.shape[1]] = picture
    faces = tiled(frame)
    middles = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    near = np.abs(middles[:, None] - np.array(between)).max(2) < 56
    assert near.sum(0).tolist() == [1] * len(between)
    assert np.abs(faces.landmarks.mean(1) - middles)[near.any(1)].max() < 30


def test_a_frame_smaller_than_a_tile_is_one_tile(tiled: Tiled) -> None:
    picture = head(EILEEN, 112)
    assert tiled.corners(picture) == [(0, 0)]
    assert len(tiled(picture)) == 1


def test_the_model_card_tells_of_other_sizes() -> None:
    folder = Path(card.__file__).parents[1] / "onelook"
    told = card.resized(folder, load(shipped())[0])
    assert "1920x1088" in told, "run edge_models.training.sizes"
    assert told in (folder / "MODEL_CARD.md").read_text(), "run edge_models.training.card"

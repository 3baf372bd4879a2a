"""Hard cases: how faces are altered before they are measured, and what the card tells of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from edge_models.training import card
from edge_models.training.evaluate import Altered, Packed, describe
from edge_models.training.hard import CASES, masked

from clip import EILEEN, head
from onelook.align import TEMPLATE
from onelook.model import FaceModel, Image, shipped
from onelook.spec import load

MARGIN = 16
LANDMARKS = TEMPLATE + MARGIN


class OneFace(Packed):
    """A packed file of two, which are one portrait."""

    def __init__(self) -> None:
        self.table = {"landmarks": np.stack([LANDMARKS, LANDMARKS])}
        self.blob, self.ends = np.empty(0), np.zeros(2)
        picture = head(EILEEN, 480)
        self.model = FaceModel()
        [found] = self.model(picture).landmarks
        onto, _ = cv2.estimateAffinePartial2D(found, LANDMARKS, method=cv2.LMEDS)
        self.whole = cv2.warpAffine(picture, onto, (112 + 2 * MARGIN,) * 2, borderMode=cv2.BORDER_REPLICATE)

    def patch(self, row: int) -> Image:
        return self.whole


@pytest.fixture(scope="module")
def one() -> OneFace:
    return OneFace()


@pytest.mark.parametrize("case", CASES)
def test_an_altered_face_is_found_where_it_was(one: OneFace, case: str) -> None:
    changed = Altered(one, CASES[case](one.table["landmarks"]))
    assert changed.patch(0).shape == one.whole.shape
    assert np.array_equal(changed.patch(0), changed.patch(0)), "a case is the same each time"
    faces, found = describe(one.model, changed, np.arange(2), 80, case)
    assert found.all()
    if "tilted" in case:  # one to each side
        eyes = faces.landmarks[:, 1] - faces.landmarks[:, 0]
        degrees = float(case.rsplit(" ", 1)[1].rstrip("°"))
        assert np.rad2deg(np.arctan2(eyes[:, 1], eyes[:, 0])) == pytest.approx([-degrees, degrees], abs=8)


def test_a_mask_leaves_the_eyes_and_hides_what_is_under_them(one: OneFace) -> None:
    there = (masked(one.table["landmarks"])(one.whole, 0) != one.whole).any(2)
    eyes, (nose, *mouth) = LANDMARKS[:2].astype(int), LANDMARKS[2:].astype(int)
    assert not any(there[y, x] for x, y in eyes)
    assert all(there[y, x] for x, y in (nose, *mouth))


def test_the_model_card_tells_of_hard_cases() -> None:
    folder = Path(card.__file__).parents[1] / "onelook"
    told = card.in_hard_cases(folder, load(shipped())[0])
    assert all(case in told for case in CASES), "run edge_models.training.hard"
    assert told in (folder / "MODEL_CARD.md").read_text(), "run edge_models.training.card"

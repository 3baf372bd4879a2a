"""Decoding: which cells of the detector become faces."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onelook.decode import Cells, Quantisation, join, level

STORED = Quantisation(0.1, 0)
"""A logit is a tenth of what is stored."""


def cells(scores: NDArray[np.int8], threshold: float = 0.5, size: float = 4.0) -> Cells:
    """Of a map of stored scores (h, w), 8 pixels a cell, each with a box `size` cells a side about its middle."""
    places = np.zeros((1, *scores.shape, 14), np.int8)
    places[..., 2:4] = round(np.log(size) / STORED.scale)
    return level(scores[None, ..., None], places, STORED, STORED, 8, threshold)


def empty() -> NDArray[np.int8]:
    return np.full((12, 16), -80, np.int8)


def test_of_cells_around_a_face_the_best_is_taken() -> None:
    scores = empty()
    scores[4:7, 4:7] = [[5, 20, 5], [22, 30, 25], [5, 20, 10]]

    found = cells(scores)

    assert found.middles.tolist() == [[44.0, 44.0]]
    assert found.scores == pytest.approx([1 / (1 + np.exp(-3.0))])


def test_two_that_are_two_cells_apart_are_two() -> None:
    scores = empty()
    scores[4, 4:7] = [30, 10, 28]

    found = join([cells(scores, size=2.0)], 0.4, 200)

    assert found.boxes.round().tolist() == [[28.0, 28.0, 44.0, 44.0], [44.0, 28.0, 60.0, 44.0]]


def test_a_face_on_two_levels_and_one_between_two_equal_cells_are_one_each() -> None:
    scores = empty()
    scores[4, 4], scores[9, 10:12] = 30, 20

    both = [cells(scores), cells(scores)]

    assert sum(len(x.scores) for x in both) == 6
    assert len(join(both, 0.4, 200).scores) == 2


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 192), (0.5, 1), (0.97, 0), (1.0, 0)])
def test_the_threshold_is_in_probability_and_its_ends_mean_all_and_nothing(threshold: float, count: int) -> None:
    scores = np.full((12, 16), -80, np.int8)
    if threshold:
        scores[3, 3] = 30
    assert len(cells(scores, threshold).scores) == count


def test_at_a_corner_there_is_less_around_a_cell() -> None:
    scores = empty()
    scores[0, 0], scores[11, 15] = 10, 10

    assert cells(scores).middles.tolist() == [[4.0, 4.0], [124.0, 92.0]]


def test_the_best_are_kept_of_too_many_best_first() -> None:
    scores = empty()
    scores[::4, ::4] = np.arange(1, 13).reshape(3, 4)

    found = join([cells(scores)], 0.4, 5)

    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert len(found.scores) == 5
    assert found.landmarks.shape == (5, 5, 2)
    assert len(join([cells(empty())], 0.4, 5).scores) == 0

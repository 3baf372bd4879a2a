"""Alignment: where a face is read on the shared map, and what is read there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelook import align


def moved(angle: float, scale: float, x: float, y: float) -> align.Floats:
    """The template's landmarks turned, scaled and shifted: (1, 5, 2)."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (align.TEMPLATE @ turn.T + (x, y))[None].astype(np.float32)


@given(st.floats(-3, 3), st.floats(0.1, 5), st.floats(-300, 900), st.floats(-300, 900))
def test_a_similarity_is_found_exactly(angle: float, scale: float, x: float, y: float) -> None:
    found = align.similarity(moved(angle, scale, x, y))[0]

    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    np.testing.assert_allclose(found, [[cosine, -sine, x], [sine, cosine, y]], rtol=1e-3, atol=2e-3)


def ramp(height: int = 30, width: int = 40) -> align.Floats:
    """A map whose two channels are the x and y of their cell, so that what is read tells where."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32)


@pytest.mark.parametrize(("stride", "samples"), [(4, 14), (8, 7)])
def test_what_is_read_lies_where_the_grid_says(stride: int, samples: int) -> None:
    landmarks = np.concatenate([moved(0.3, 0.5, 20, 10), moved(-1.2, 0.3, 100, 80)])
    at = align.grid(landmarks, stride, samples)

    read = align.sample(ramp(), at)

    assert read.shape == (2, samples, samples, 2)
    np.testing.assert_allclose(read[..., 0].reshape(2, -1), at.x.clip(0, 39), atol=1 / 32)
    np.testing.assert_allclose(read[..., 1].reshape(2, -1), at.y.clip(0, 29), atol=1 / 32)


def test_where_samples_lie_apart_each_is_the_mean_around_it() -> None:
    wide, narrow = moved(0.4, 1.2, 160, 150), moved(-0.9, 0.4, 60, 40)
    landmarks = np.concatenate([narrow, wide, wide + 7, narrow + 9])
    random = np.random.default_rng(1)
    stored = random.uniform(0, 255, (90, 90, 3)).astype(np.float32)
    at, alone = align.grid(landmarks, 4, 14, 1.5), align.grid(landmarks, 4, 14)

    read = align.sample(stored, at)

    np.testing.assert_array_equal(read[[0, 3]], align.sample(stored, alone)[[0, 3]])
    turned = align.similarity(wide)[0, :, :2]  # what a step on the template is on the frame
    steps = [turned @ (dx, dy) / 4 for dx in (-1.5, 1.5) for dy in (-1.5, 1.5)]
    shifted = [align.Grid(alone.x + np.float32(dx), alone.y + np.float32(dy), alone.aside) for dx, dy in steps]
    four = [align.sample(stored, each) for each in shifted]
    wanted = np.mean(four, 0)
    np.testing.assert_allclose(read[[1, 2]], wanted[[1, 2]], atol=255 / 32)  # a step may end in the next 32nd of a cell
    assert np.abs(read[[1, 2]] - wanted[[1, 2]]).mean() < 0.5
    assert np.abs(read[[1, 2]] - align.sample(stored, alone)[[1, 2]]).mean() > 5
    np.testing.assert_allclose(align.sample(stored.round().astype(np.uint8), at), read, atol=3)


def test_a_grid_tells_which_rows_it_reads() -> None:
    at = align.grid(np.concatenate([moved(0.4, 1.2, 160, 150), moved(-0.9, 0.4, 60, 40)]), 4, 14, 1.5)
    stored = np.random.default_rng(1).uniform(0, 255, (100, 90, 3)).astype(np.float32)
    first, last = int(at.rows()[0]), int(at.rows()[1]) + 2

    cut = align.sample(stored[first:last], at.lower(first))

    np.testing.assert_allclose(cut, align.sample(stored, at), atol=1e-3)
    assert first > 0
    assert last < 100


@pytest.mark.parametrize(("stride", "samples"), [(4, 14), (8, 7)])
def test_the_grid_lies_evenly_over_the_template(stride: int, samples: int) -> None:
    at = align.grid(align.TEMPLATE[None], stride, samples)
    x, y = at.x, at.y

    side = align.TEMPLATE_SIZE / stride / samples  # cells between neighbours
    np.testing.assert_allclose(np.diff(x.reshape(samples, samples), axis=1), side, atol=1e-3)
    np.testing.assert_allclose(np.diff(y.reshape(samples, samples), axis=0), side, atol=1e-3)
    assert x.mean() == pytest.approx(align.TEMPLATE_SIZE / stride / 2 - 0.5, abs=1e-3)


def test_outside_the_map_its_border_is_read() -> None:
    at = align.grid(moved(0, 0.5, -500, -500), 4, 14)

    assert (align.sample(ramp(), at) == 0).all()


def test_it_writes_where_it_is_told() -> None:
    at = align.grid(moved(0, 0.5, 20, 10), 4, 14)
    out = np.empty((1, 14 * 14, 2), np.float32)

    assert np.shares_memory(align.sample(ramp(), at, out), out)

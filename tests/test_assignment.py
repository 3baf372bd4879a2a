"""Assignment, beside SciPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from onelook.assignment import assign

WORTHS = st.one_of(st.just(0.0), st.floats(0.0, 3.0), st.sampled_from([0.5, 1.0, -1.0]))


@given(arrays(np.float64, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=WORTHS))
def test_no_other_pairs_are_worth_more(worth: np.ndarray) -> None:
    pairs = assign(worth)

    rows, columns = [row for row, _ in pairs], [column for _, column in pairs]
    assert len(set(rows)) == len(set(columns)) == len(pairs)
    assert all(worth[pair] > 0 for pair in pairs)
    best = np.maximum(worth, 0)
    assert sum(worth[pair] for pair in pairs) == pytest.approx(best[linear_sum_assignment(best, maximize=True)].sum())


def test_a_crowd_is_no_trouble() -> None:
    random = np.random.default_rng(1)
    for count in (40, 100):
        worth = random.random((count, count + 3)) * (random.random((count, count + 3)) < 0.2)
        pairs = assign(worth)
        best = worth[linear_sum_assignment(worth, maximize=True)].sum()
        assert sum(worth[pair] for pair in pairs) == pytest.approx(best)

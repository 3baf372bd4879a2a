"""Who is nearest: the same as by comparing all, of few and of many, while people come and go."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from onelook.face import Floats
from onelook.nearest import Nearest

SIZE = 64


def people(count: int, seed: int = 0) -> dict[str, Floats]:
    """As a recogniser's embeddings: some directions tell people apart much, and most little."""
    vectors = np.random.default_rng(seed).standard_normal((count, SIZE)) * np.exp(-np.arange(SIZE) / 20)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {f"p{seed}-{number}": vector for number, vector in enumerate(vectors.astype(np.float32))}


def seen(vectors: list[Floats], noise: float = 0.3) -> Floats:
    """Faces that show them: cosines of about 0.95."""
    faces = np.stack(vectors) + noise / SIZE**0.5 * np.random.default_rng(1).standard_normal((len(vectors), SIZE))
    return (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)


def check(nearest: Nearest, truth: dict[str, Floats], faces: Floats) -> None:
    """What it says is as true as if all had been compared."""
    names, vectors = list(truth), np.stack(list(truth.values()))
    cosines = faces @ vectors.T
    best = cosines.argmax(1)
    rows, cosine, margin = nearest.find(faces)
    right = np.array([nearest.names[row] for row in rows]) == np.array(names)[best]
    near = cosines.max(1) > 0.92
    assert near.sum() > 30
    assert right[near].mean() >= 0.99
    np.testing.assert_allclose(cosine[right], cosines.max(1)[right], atol=1e-5)
    lead = cosines.max(1) - np.sort(cosines, 1)[:, -2]
    assert (margin[right] >= lead[right] - 1e-5).all()
    assert (margin - lead < 1e-5)[right & near].mean() > 0.75  # the second is far, and so more often missed
    assert sorted(nearest.names) == sorted(names)
    assert len(nearest) == len(names)


def test_of_few_the_nearest_two_are_found_exactly() -> None:
    nearest = Nearest()
    nearest.put({"Ada": np.eye(4, dtype=np.float32)[0]})
    rows, cosines, margins = nearest.find(np.array([[0.6, 0.8, 0, 0]], np.float32))
    assert (nearest.names[rows[0]], cosines[0], margins[0]) == ("Ada", pytest.approx(0.6), np.inf)
    nearest.put({"Bob": np.eye(4, dtype=np.float32)[1]})
    rows, cosines, margins = nearest.find(np.array([[0.6, 0.8, 0, 0]], np.float32))
    assert (nearest.names[rows[0]], cosines[0], margins[0]) == ("Bob", pytest.approx(0.8), pytest.approx(0.2))


def test_nothing_is_nearest_of_none() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        Nearest().find(np.ones((1, SIZE), np.float32))


@pytest.mark.parametrize("many", [10**9, 1000], ids=["all are compared", "candidates are"])
def test_people_come_change_and_go_and_the_answer_is_the_same(many: int) -> None:
    if many == 1000:
        pytest.importorskip("faiss", reason="pip install faiss-cpu")
    truth = people(3000)
    nearest = Nearest(many=many)
    nearest.put(truth)
    faces = seen(list(truth.values())[::20] + list(people(50, seed=7).values()))
    check(nearest, truth, faces)

    for step in range(1, 6):
        come = people(200, seed=step)
        go = list(truth)[:: 17 + step]
        change = {name: -truth[name] for name in list(truth)[:: 23 + step] if name not in go}
        nearest.put(come)
        nearest.drop(go)
        nearest.put(change)
        truth = {name: vector for name, vector in truth.items() if name not in go} | come | change
        check(nearest, truth, seen(list(truth.values())[::20]))


def test_of_whom_is_dropped_nothing_is_found_or_kept() -> None:
    pytest.importorskip("faiss", reason="pip install faiss-cpu")
    truth = people(2000)
    nearest = Nearest(many=1000)
    nearest.put(truth)
    gone = ["p0-3", "p0-1999", "p0-1500"]
    faces = seen([truth[name] for name in gone], noise=0)
    rows, cosines, _ = nearest.find(faces)
    assert [nearest.names[row] for row in rows] == gone
    assert cosines == pytest.approx(1)
    nearest.drop(gone)
    rows, cosines, _ = nearest.find(faces)
    assert cosines.max() < 0.999
    assert not {nearest.names[row] for row in rows} & set(gone)
    vectors = nearest._vectors
    assert (vectors @ faces.T).max() < 0.999  # nor beyond the rows in use
    nearest.drop(list(nearest.names))
    assert len(nearest) == 0
    assert not nearest._vectors.any()


def test_where_there_is_no_faiss_all_are_compared_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    true_import = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return true_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    truth = people(1200)
    nearest = Nearest(many=1000)
    nearest.put(truth)
    check(nearest, truth, seen(list(truth.values())[:40]))
    check(nearest, truth, seen(list(truth.values())[40:80]))
    assert [record.getMessage().split(" as ")[-1] for record in caplog.records] == [
        "there is no faiss here: pip install onelook[large]"
    ]

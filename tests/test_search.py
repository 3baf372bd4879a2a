"""Identification among many: the benchmark measures what it says, and the manual tells what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import search
from edge_models.training import card

from onelook.face import Floats
from onelook.model import shipped
from onelook.spec import load


@pytest.fixture
def looks() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def unit(vectors: np.ndarray) -> Floats:
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    templates = unit(random.normal(size=(60, 256)))
    return {
        "templates": templates, "probes": unit(np.concatenate([templates[:10], random.normal(size=(10, 256))])),
        "whose": np.arange(20), "model": np.array(load(shipped())[0].stamp),
    }  # fmt: skip


def test_it_measures_both_searches_and_whether_they_decide_alike(looks: dict[str, np.ndarray]) -> None:
    result = search.measure(looks, people=80, faces=5, rounds=2)
    assert (result["people"], result["real"], result["made"]) == (80, 60, 20)
    assert result["times"].keys() == {"exact", "daemon", "gallery"}
    assert all(row["cpu_ms_median"] >= 0 for row in result["times"].values())
    [strict, *_] = result["decisions"]
    assert (strict["probes"], strict["matter"], strict["same_of_matter"]) == (20, 10, 1)
    assert "| 10 of 20 | 100.00 % |" in search.table(result)


def test_a_decision_is_that_of_the_reporter() -> None:
    found = np.array([7, 7, 7, 7]), np.array([0.69, 0.71, 0.8, 0.8]), np.array([1.0, 1.0, 0.01, 0.5])
    assert search.decided(found, 0.7).tolist() == [-1, -2, -2, 7]


def test_the_manual_tells_what_was_measured() -> None:
    result = json.loads(search.RESULT.read_text())
    assert search.fill(result) == search.DOCS.read_text()
    assert result["people"] == 100_000
    assert result["faces"] == 100


def test_the_manual_tells_how_many_are_identified_rightly() -> None:
    spec, _ = load(shipped())
    told = card.identification(Path(search.__file__).parent.parent / "edge_models" / "onelook", spec)
    assert f"{card.BEGIN}\n{told}\n{card.END}" in card.DOCS.read_text(), "run edge_models.training.card"


def test_the_model_card_tells_what_more_would_give() -> None:
    told = card.more()
    assert told in (shipped() / "MODEL_CARD.md").read_text(), "run edge_models.training.card"
    assert card.heads() in (shipped() / "MODEL_CARD.md").read_text(), "run edge_models.training.card"
    assert f"onelook-{load(shipped())[0].version.rpartition('.')[0]}.0 |" in told, "run edge_models.training.curve"


def test_the_model_card_tells_with_whom_it_fails_more() -> None:
    folder = Path(search.__file__).parent.parent / "edge_models" / "onelook"
    told = card.grouped(folder, load(folder)[0])
    assert "false match rate" in told, "run edge_models.training.groups"
    assert told in (folder / "MODEL_CARD.md").read_text(), "run edge_models.training.card"

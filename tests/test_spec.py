"""What the model's description promises: thresholds for a rate, a size of face, a crowd of people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from edge_models.training.calibrate import Held, averaging, different, groups, thresholds
from pydantic import ValidationError

from onelook.face import Floats
from onelook.model import shipped
from onelook.spec import ModelSpec, SpecError, Threshold, load


@pytest.fixture
def spec() -> ModelSpec:
    plain, _ = load(shipped())
    plain = plain.model_copy(update={"caution": 1.0})
    rows = [
        Threshold(far=far, similarity=bar + more, tar=0.5, size=size)
        for size, more in ((100, 0.0), (25, 0.1))
        for far, bar in ((1e-2, 0.3), (1e-3, 0.4), (1e-4, 0.5))
    ]
    return plain.model_copy(update={"thresholds": rows, "averaging": 0.5})


def bar(spec: ModelSpec, far: float, size: float = 100, people: int = 1, agreement: float = 1) -> float:
    return float(spec.similarities(far, np.array([size], np.float32), people, agreement)[0])


def test_a_description_by_which_no_input_has_a_size_is_refused(spec: ModelSpec) -> None:
    told = spec.model_dump(mode="json")
    assert ModelSpec.model_validate(told) == spec
    told["patches"][0]["stride"] = 0
    with pytest.raises(ValidationError, match="greater than 0"):
        ModelSpec.model_validate(told)


def test_a_rate_and_a_size_that_were_calibrated_give_their_threshold(spec: ModelSpec) -> None:
    assert bar(spec, 1e-3) == pytest.approx(0.4)
    assert bar(spec, 1e-4, size=25) == pytest.approx(0.6)
    assert spec.threshold(1e-2, 100) == pytest.approx(0.3)


def test_between_them_it_is_between(spec: ModelSpec) -> None:
    assert bar(spec, 10**-2.5) == pytest.approx(0.35)
    assert bar(spec, 1e-3, size=50) == pytest.approx(0.45)


def test_beyond_them_it_is_that_of_the_last_and_never_laxer(spec: ModelSpec) -> None:
    assert bar(spec, 1e-9) == pytest.approx(0.5)
    assert bar(spec, 0.5) == pytest.approx(0.3)
    assert bar(spec, 1e-3, size=4) == pytest.approx(0.5)
    assert bar(spec, 1e-3, size=4000) == pytest.approx(0.4)
    assert spec.strictest == 1e-4


def test_the_more_people_are_enrolled_the_nearer_a_face_must_be(spec: ModelSpec) -> None:
    assert bar(spec, 1e-2, people=10) == pytest.approx(bar(spec, 1e-3))
    assert bar(spec, 1e-2, people=100) == pytest.approx(bar(spec, 1e-4))
    assert bar(spec, 1e-2, people=0) == pytest.approx(0.3)


def test_a_cautious_model_asks_more_before_a_gallery_than_of_a_pair(spec: ModelSpec) -> None:
    cautious = spec.model_copy(update={"caution": 10.0})
    assert bar(cautious, 1e-2, people=10) == pytest.approx(bar(spec, 1e-4))
    assert cautious.threshold(1e-2, 100) == pytest.approx(spec.threshold(1e-2, 100))
    assert cautious.strictest == pytest.approx(1e-3)


def test_a_mean_must_be_nearer_than_a_face(spec: ModelSpec) -> None:
    assert bar(spec, 1e-3, agreement=0.64) == pytest.approx(0.5)
    assert np.isfinite(bar(spec, 1e-3, agreement=0))


def test_an_older_description_without_sizes_is_read(spec: ModelSpec) -> None:
    told = json.loads(spec.model_dump_json(exclude={"averaging"}))
    told["thresholds"] = [{"far": 0.001, "similarity": 0.42, "tar": 0.1}]
    old = ModelSpec.model_validate_json(json.dumps(told))
    for size in (20, 80, 200):
        assert bar(old, 1e-3, size=size) == pytest.approx(0.42)


def test_a_model_without_thresholds_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(SpecError, match="not calibrated"):
        spec.model_copy(update={"thresholds": []}).threshold(1e-3)


# --- how they are calibrated --------------------------------------------------------------------


def people(count: int, photos: int, noise: float, seed: int) -> tuple[Floats, Floats]:
    """(count * photos, 64) faces of made-up people, twice: near and, with more chance in them, far."""
    random = np.random.default_rng(seed)
    looks = np.repeat(random.standard_normal((count, 64)), photos, axis=0)

    def seen(more: float) -> Floats:
        faces = looks + more * random.standard_normal(looks.shape)
        return np.asarray(faces / np.linalg.norm(faces, axis=1, keepdims=True), np.float32)

    return seen(noise), seen(2 * noise)


def test_thresholds_hold_their_rates_on_other_people() -> None:
    near, far = people(500, 3, 0.8, seed=1)
    identity = np.repeat(np.arange(500).astype(str), 3)
    everybody = np.ones(len(near), bool)
    held = {112: Held(near, everybody), 32: Held(far, everybody)}
    rows = thresholds(held, held[112], identity, different(identity))
    assert [(row.size, row.far) for row in rows] == [(s, f) for s in (112, 32) for f in (5e-2, 1e-2, 1e-3, 1e-4, 1e-5)]
    assert rows[0].pairs == 1500 * 1497
    assert rows[0].tar > rows[1].tar > rows[2].tar
    assert rows[0].tar > rows[5].tar  # small faces are told apart less well

    photos, faces = people(500, 3, 0.8, seed=2)
    similarity = faces @ photos.T
    strangers = similarity[different(identity)]
    for row in rows[5:9]:
        assert (strangers > row.similarity).mean() == pytest.approx(row.far, rel=0.5)


def test_a_rate_that_too_few_pairs_tell_of_is_left_out() -> None:
    near, _ = people(60, 1, 0.8, seed=1)
    identity = np.full(60, "")
    photos = Held(near, np.ones(60, bool))
    rows = thresholds({112: photos}, photos, identity, different(identity))
    assert [row.far for row in rows] == [5e-2, 1e-2]


def test_only_people_of_one_sex_and_origin_are_each_others_strangers() -> None:
    fairface = {"offset": np.arange(4), "race7": np.array([3, 3, 3, -1]), "male": np.array([0, 1, 0, 1])}
    celebrities = {"offset": np.arange(2), "male": np.array([1, 0]), "ethnicity": np.array([-1, -1])}
    first, second, third, unknown = groups(fairface).tolist()
    assert first == third != second
    assert unknown == -1
    assert groups(celebrities).tolist() == groups({"offset": np.arange(2)}).tolist() == [-1, -1]


def test_one_person_under_two_labels_is_no_impostor() -> None:
    near, _ = people(2, 1, 0.1, seed=1)
    twice = near[[0, 0, 1]]
    labels = np.array(["a", "b", "c"])
    assert different(labels)[0, 1]
    assert not different(labels, twice)[0, 1]
    assert different(labels, twice)[0, 2]


def test_what_averaging_does_is_measured() -> None:
    near, far = people(300, 9, 1.2, seed=3)
    identity = np.repeat(np.arange(300).astype(str), 9)
    everybody = np.ones(len(near), bool)
    # In made-up embeddings chance is as wide as looks are: means are no nearer to strangers than faces.
    assert averaging(Held(far, everybody), Held(near, everybody), identity) < 0.1


def test_the_shipped_model_is_calibrated() -> None:
    plain, _ = load(Path(shipped()))
    assert {row.far for row in plain.thresholds} >= {1e-2, 1e-3, 1e-4}
    for one, other in ((1e-2, 1e-3), (1e-3, 1e-4)):
        assert plain.threshold(one) < plain.threshold(other)

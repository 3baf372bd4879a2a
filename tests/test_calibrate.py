"""Probabilities that mean what they say: temperatures and calibration errors against known samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from edge_models.training import card
from edge_models.training.calibrate import enrollable, false_boxes, logits, temperature
from edge_models.training.evaluate import Packed, at_bars, calibration_error, covered, passed_by
from PIL import Image

from clip import EILEEN
from onelook.face import Faces
from onelook.model import FaceModel, shipped
from onelook.spec import Threshold, load


def test_bars_are_set_by_photos_that_somebody_could_be_enrolled_from() -> None:
    frontal = np.array([[-30, 0], [30, 0], [0, 35], [-20, 70], [20, 70]], np.float32)
    profile = frontal + np.array([[0, 0], [-50, 0], [30, 0], [10, 0], [-20, 0]], np.float32)
    landmarks = np.stack([frontal, profile, frontal, frontal])
    four = {name: np.zeros((4, *getattr(Faces.none(), name).shape[1:]), np.float32) for name in Faces.__slots__}
    faces = Faces(**four | {"landmarks": landmarks, "quality": np.array([0.5, 0.5, 0.1, 0.5], np.float32)})

    assert enrollable(faces, np.array([True, True, True, False])).tolist() == [True, False, False, False]


@pytest.mark.parametrize("divisor", [0.6, 1.0, 2.5])
def test_the_temperature_is_found_that_answers_were_drawn_with(divisor: float) -> None:
    random = np.random.default_rng(1)
    yes = random.normal(0, 2, 20_000)
    truth = random.random(len(yes)) < 1 / (1 + np.exp(-yes))
    assert temperature(yes * divisor, truth) == pytest.approx(divisor, rel=0.06)

    classes = random.normal(0, 2, (20_000, 5))
    chances = np.exp(classes) / np.exp(classes).sum(1, keepdims=True)
    which = (random.random((len(classes), 1)) > chances.cumsum(1)).sum(1).clip(max=4)
    assert temperature(classes * divisor, which) == pytest.approx(divisor, rel=0.06)


def test_logits_are_what_chances_were_made_from() -> None:
    yes = np.array([-3.0, 0.0, 5.0])
    np.testing.assert_allclose(logits(1 / (1 + np.exp(-yes))), yes, atol=1e-6)
    classes = np.array([[1.0, 2.0, -4.0]])
    found = logits(np.exp(classes) / np.exp(classes).sum(1, keepdims=True))
    np.testing.assert_allclose(found - found[0, 0], classes - classes[0, 0], atol=1e-6)


def test_the_calibration_error_is_how_far_confidence_is_from_accuracy() -> None:
    right = np.array([1, 1, 1, 0] * 100, float)
    assert calibration_error(np.full(400, 0.75), right) == pytest.approx(0)
    assert calibration_error(np.full(400, 0.95), right) == pytest.approx(0.2)
    # Errors of two bins do not undo each other.
    both = np.concatenate([np.full(200, 0.65), np.full(200, 0.85)])
    assert calibration_error(both, right) == pytest.approx(0.1)
    assert calibration_error(np.ones(4), np.ones(4)) == 0


def test_a_bar_is_set_by_all_pairs_of_two_people_and_by_no_pair_of_one() -> None:
    packed = Packed.__new__(Packed)
    packed.table = {"name": np.array(["Ann_Lee_0001.jpg", "Bo_0001.jpg", "Ann_Lee_0002.jpg", "Cy_0001.jpg"])}
    who = packed.people()
    assert len(set(who)) == 3
    assert who[0] == who[2]

    similarity = np.array([[1.0, 0.1, 0.9, 0.2], [0.1, 1, 0.3, 0.4], [0.9, 0.3, 1, 0.5], [0.2, 0.4, 0.5, 1]])
    assert passed_by(0.2, similarity, who) == pytest.approx(0.42)  # of five pairs, one is above
    assert passed_by(1.0, similarity, who) == pytest.approx(0.1)


def test_what_passes_a_bar_is_counted_of_strangers_and_of_the_same_at_each_rate() -> None:
    bars = [Threshold(far=far, similarity=bar, tar=0, size=size) for size in (112, 80)
            for far, bar in ((0.1, 0.5 + (size == 112)), (0.01, 0.9))]
    spec = load(shipped())[0].model_copy(update={"thresholds": bars})
    rows = at_bars(spec, np.linspace(0, 1, 1001), np.array([0.4, 0.5, 0.95, -1]))
    assert [(row["far"], row["strangers"], row["same"]) for row in rows] == [(0.1, 0.5, 0.5), (0.01, 0.101, 0.25)]
    assert (rows[0]["pairs"], rows[0]["same_pairs"]) == (1001, 4)

    record = {"bars": rows}
    assert "| 0.1 | 0.5 | 5 | 50.0 % |" in card.at_bars(record, spec)
    other = spec.model_copy(update={"thresholds": [bars[3]]})
    assert "evaluate.py" in card.at_bars(record, other), "of other bars nothing is known"


def test_the_model_card_tells_what_of_one_population_passes_the_shipped_bars() -> None:
    record = json.loads((shipped() / "metrics.json").read_text())
    told = card.at_bars(record, load(shipped())[0])
    assert "of LFW's 3,000 pairs" in told, "run edge_models.training.evaluate"
    assert told in (shipped() / "MODEL_CARD.md").read_text(), "run edge_models.training.card"


def test_boxes_are_false_where_the_labels_tell_of_no_face_nor_of_a_doubt(tmp_path: Path) -> None:
    portrait = Image.open(EILEEN).convert("RGB")
    size = (-(-portrait.width // 32) * 32, -(-portrait.height // 32) * 32)
    faces = FaceModel(threads=1, size=size)(np.asarray(portrait))
    [box] = faces.boxes.tolist()
    told = ({"faces": [{"box": box}]}, {"faces": [], "ignore": [box]}, {"faces": []})
    rows = []
    for i, labels in enumerate(told):
        portrait.save(tmp_path / f"{i}.png")
        rows.append({"file": f"{i}.png", **labels})
    for wanted, some in ((0, rows[:2]), (1, rows)):
        (tmp_path / "labels.json").write_text(json.dumps(some))
        scores, pictures = false_boxes(shipped(), [tmp_path])
        assert pictures == len(some)
        assert sum(scores >= FaceModel(threads=1).score) == wanted


def test_a_box_is_covered_as_far_as_another_lies_over_it() -> None:
    a, b = np.array([[0, 0, 10, 10.0]]), np.array([[0, 0, 5, 10.0], [0, 0, 100, 100], [10, 0, 20, 10]])
    assert covered(a, b)[0].tolist() == pytest.approx([0.5, 1, 0])

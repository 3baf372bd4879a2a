"""Who looks like many is not mistaken for one of them: what faces have in common with a cohort is taken off."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from edge_models.training.calibrate import Held, different, thresholds
from edge_models.training.cohort import drawn, in_cohort, middles
from edge_models.training.evaluate import Packed, alike, all_alike

from onelook.cohort import FILE, NOBODY, Cohort
from onelook.errors import OwnerError
from onelook.face import Floats
from onelook.gallery import Gallery, Stranger
from onelook.model import FaceModel, shipped
from onelook.spec import CohortFile, ModelSpec, load
from onelook.strangers import clusters
from onelook.visitor import Visitors

SIZE = 64


def unit(looks: np.ndarray) -> Floats:
    return np.asarray(looks / np.linalg.norm(looks, axis=-1, keepdims=True), np.float32)


class Town:
    """Made-up people: grown-ups, who differ, and children, who are much alike to the network."""

    def __init__(self, seed: int = 1) -> None:
        self.random = np.random.default_rng(seed)
        self.childhood = unit(self.random.standard_normal(SIZE)) * 8

    def people(self, count: int, *, children: bool) -> np.ndarray:
        looks = self.random.standard_normal((count, SIZE))
        return looks + self.childhood if children else looks

    def photos(self, people: np.ndarray) -> Floats:
        return unit(people + 0.7 * self.random.standard_normal(people.shape))

    def cohort(self) -> Cohort:
        everybody = np.concatenate([self.people(300, children=False), self.people(300, children=True)])
        centres = unit(middles(self.photos(everybody), 24, seed=1))
        plain = Cohort(centres, nearest=3)
        return Cohort(centres, 3, float(plain.commonness(self.photos(everybody)).mean()))


@pytest.fixture
def town() -> Town:
    return Town()


def test_children_have_more_in_common_than_others_and_a_usual_face_nothing(town: Town) -> None:
    cohort = town.cohort()
    grown, small = (cohort.commonness(town.photos(town.people(400, children=c))) for c in (False, True))
    assert small.mean() > grown.mean() + 0.1
    assert abs(np.concatenate([grown, small]).mean()) < 0.02
    assert cohort.commonness(np.zeros((0, SIZE), np.float32)).shape == (0,)


def test_at_one_threshold_children_are_not_mistaken_far_more_often(town: Town) -> None:
    grown, small = town.people(450, children=False), town.people(50, children=True)
    people = np.repeat(np.concatenate([grown, small]), 2, axis=0)
    faces, photos = town.photos(people), town.photos(people)
    identity = np.repeat(np.arange(500), 2).astype(str)
    apart, everybody = different(identity), np.ones(1000, bool)
    rates = []
    for cohort in (NOBODY, town.cohort()):
        at_80, enrolled = {80: Held(faces, everybody)}, Held(photos, everybody)
        row = next(r for r in thresholds(at_80, enrolled, identity, apart, cohort=cohort) if r.far == 1e-3)
        passed = (all_alike(cohort, faces, photos) >= row.similarity) & apart
        rates.append((passed[:900, :900].mean(), passed[900:, 900:].mean()))
    (grown_before, small_before), (grown_now, small_now) = rates
    assert small_before > 20 * max(grown_before, 1e-5)
    assert small_now < 4 * max(grown_now, 1e-5)


def test_nobody_has_nothing_in_common() -> None:
    looks = unit(np.random.default_rng(2).standard_normal((5, SIZE)))
    assert not NOBODY.commonness(looks).any()
    np.testing.assert_allclose(all_alike(NOBODY, looks, looks), looks @ looks.T, atol=1e-6)


def test_pairs_one_by_one_and_all_at_once_are_the_same(town: Town) -> None:
    cohort, looks = town.cohort(), town.photos(town.people(6, children=True))
    np.testing.assert_allclose(alike(cohort, looks[:3], looks[3:]), all_alike(cohort, looks[:3], looks[3:]).diagonal(),
                               atol=1e-6)


def test_the_gallery_says_how_much_nearer_somebody_is_than_to_others(town: Town, tmp_path: Path) -> None:
    cohort, [ada, ben] = town.cohort(), town.people(2, children=True)
    with Gallery.open(tmp_path / "people.db", tmp_path / "key", "m" * 64, cohort) as gallery:
        for name, who in (("Ada", ada), ("Ben", ben)):
            for photo in town.photos(np.repeat(who[None], 3, 0)):
                gallery.add(name, photo, 0.9, f"{name}.jpg")
        face = town.photos(ada[None])
        [match] = gallery.match(face)
        template = unit(np.sum([0.9 * each.embedding for each in gallery.templates("Ada")], 0))
        assert match.name == "Ada"
        assert match.similarity == pytest.approx(float(alike(cohort, face, template[None])[0]), abs=1e-5)
        assert match.similarity < float(face[0] @ template) - 0.05
        gallery.forget("Ada")
        assert gallery.match(face)[0].name == "Ben"


def test_two_children_are_two_visitors_and_one_comes_back(town: Town) -> None:
    cohort, [ada, ben] = town.cohort(), town.people(2, children=True)
    first, second, again = (town.photos(who[None])[0] for who in (ada, ben, ada))
    bar = 0.5 * float(first @ second) + 0.5 * float(first @ again) - float(cohort.commonness(first[None])[0])
    for sight, names in ((cohort, ["v1", "v2", "v1"]), (NOBODY, ["v1", "v1", "v1"])):
        visitors = Visitors(lambda sizes, *_: np.full(len(sizes), bar, np.float32), sight)
        assert [visitors.who(look, 1.0, 80.0, time) for time, look in enumerate((first, second, again))] == names


def test_strangers_are_gathered_by_the_same_measure(town: Town) -> None:
    cohort, [ada, ben] = town.cohort(), town.people(2, children=True)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    kept = [
        Stranger("door", when, when, town.photos(who[None])[0], 0.9, number=number)
        for number, who in enumerate((ada, ben, ada), 1)
    ]
    first, second, again = (each.embedding for each in kept)
    bar = 0.5 * float(first @ second) + 0.5 * float(first @ again) - float(cohort.commonness(first[None])[0])
    assert [len(each.strangers) for each in clusters(kept, bar, cohort)] == [2, 1]
    assert [len(each.strangers) for each in clusters(kept, bar)] == [3]


# --- the file -----------------------------------------------------------------------------------


def test_the_shipped_model_has_its_cohort() -> None:
    spec, _ = load(shipped())
    cohort = Cohort.read(shipped(), spec)
    assert cohort.centres.shape == (512, spec.embedding_size)
    np.testing.assert_allclose(np.linalg.norm(cohort.centres, axis=1), 1, atol=1e-5)
    assert spec.caution >= 1
    assert FaceModel().cohort.typical == cohort.typical


def copied(folder: Path) -> Path:
    for name in ("model.json", "model.tflite", FILE):
        shutil.copy(shipped() / name, folder)
    return folder


def told(folder: Path, **changed: object) -> None:
    spec, _ = load(folder)
    assert spec.cohort is not None
    part = CohortFile.model_validate(spec.cohort.model_dump() | changed)
    text = ModelSpec.model_validate(spec.model_copy(update={"cohort": part}).model_dump()).model_dump_json()
    (folder / "model.json").write_text(text)


def test_a_model_without_one_is_as_before(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    spec, _ = load(folder)
    (folder / FILE).unlink()
    (folder / "model.json").write_text(spec.model_copy(update={"cohort": None}).model_dump_json())
    model = FaceModel(folder)
    assert not model.cohort.commonness(np.ones((2, spec.embedding_size), np.float32)).any()


@pytest.mark.parametrize(("spoil", "sentence"), [
    (lambda folder: (folder / FILE).unlink(),
     "The model cannot be read: {folder}/cohort.npy: No such file or directory."),
    (lambda folder: (folder / FILE).write_bytes(b"\x93NUMPY"),
     "{folder}/cohort.npy is damaged or is not the cohort that model.json describes."),
    (lambda folder: told(folder, nearest=513), "{folder}/cohort.npy does not fit the network beside it."),
])  # fmt: skip
def test_a_cohort_that_is_not_the_models_is_refused_in_a_sentence(tmp_path: Path, spoil: object, sentence: str) -> None:
    folder = copied(tmp_path)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(OwnerError) as refusal:
        FaceModel(folder)
    assert str(refusal.value) == sentence.format(folder=folder)


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    np.save(folder / FILE, np.ones((512, 8), np.int8))
    told(folder, sha256=hashlib.sha256((folder / FILE).read_bytes()).hexdigest())
    with pytest.raises(OwnerError, match="does not fit the network"):
        FaceModel(folder)


# --- how it is made -----------------------------------------------------------------------------


def pack(folder: Path, name: str, *, identity: list[str], source: str, split: str = "train") -> Packed:
    count = len(identity)
    np.savez(folder / f"{name}.npz", identity=np.array(identity), source=np.full(count, source),
             name=np.array([f"{name}-{i}" for i in range(count)]), split=np.full(count, split),
             offset=np.zeros(count, np.int64), length=np.zeros(count, np.int64))
    (folder / f"{name}.bin").write_bytes(b"-")
    return Packed(folder / f"{name}.npz")


def test_as_many_faces_of_each_kind_are_drawn_and_whole_people_are_left_out(tmp_path: Path) -> None:
    stars = pack(tmp_path, "stars", identity=[f"star {i // 4}" for i in range(400)], source="celeba")
    crowd = pack(tmp_path, "crowd", identity=[""] * 100, source="fairface")
    hidden = pack(tmp_path, "hidden", identity=[""] * 50, source="fairface", split="test")
    first, second, third = drawn([stars, crowd, hidden], seed=1)
    assert len(first) == len(second) > 30
    assert not len(third)
    chosen = set(stars.table["identity"][first])
    outside = set(stars.table["identity"][~in_cohort(stars, np.arange(400))])
    assert chosen.isdisjoint(outside)
    again = drawn([stars, crowd, hidden], seed=1)
    assert all((a == b).all() for a, b in zip((first, second, third), again, strict=True))


def test_middles_lie_in_their_clusters() -> None:
    random = np.random.default_rng(3)
    corners = unit(random.standard_normal((6, SIZE)))
    looks = unit(np.repeat(corners, 40, 0) + 0.05 * random.standard_normal((240, SIZE)))
    found = middles(looks, 24, seed=2)
    assert found.dtype == np.int8
    assert (unit(found) @ corners.T).max(1).min() > 0.85

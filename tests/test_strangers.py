"""People whom nobody knows are noticed, kept for a while, gathered, named, and let go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from onelook.errors import GalleryError
from onelook.face import Floats
from onelook.frame import Frame
from onelook.gallery import Gallery, Stranger
from onelook.strangers import WRITE, Guestbook, Lookout, _crop, clusters, name_cluster
from onelook.track import Tracker
from story import Person, between, film, look_of, unit

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "a1" * 32
ZOE = Person("Zoe", visible=between((1, 6)))
PICTURE = np.full((480, 640, 3), 90, np.uint8)


def stranger(name: str, seed: int, noise: float = 0.6, hour: float = 0) -> Stranger:
    chance = unit(np.random.default_rng(seed).normal(size=64))
    look = unit(look_of(name) + noise * chance).astype(np.float32)
    first = BEGIN + timedelta(hours=hour)
    return Stranger("door", first, first + timedelta(seconds=20), look, 0.5 + 0.01 * seed, number=seed, model=MODEL)


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return Gallery.open(tmp_path / "gallery.db", tmp_path / "gallery.key", MODEL)


def noticed(*people: Person, seconds: float, known: bool = False, crops: bool = False) -> list[Stranger]:
    tracker, lookout, found = Tracker(), Lookout("door", crops=crops), []
    for index, (faces, time) in enumerate(film(people, seconds)):
        frame = Frame("door", index, PICTURE, time, BEGIN + timedelta(seconds=time))
        tracks = tracker.update(faces, time)
        unknown = set() if known else {track.id for track in tracks}
        found += lookout.look(tracks, faces, frame, unknown)
    return found


def test_who_leaves_without_a_name_is_noticed_once() -> None:
    [zoe] = noticed(ZOE, seconds=10)
    assert zoe.stream == "door"
    assert zoe.first == BEGIN + timedelta(seconds=1)
    assert zoe.last == BEGIN + timedelta(seconds=5.9)
    assert zoe.quality == pytest.approx(0.8, abs=0.01)
    assert float(zoe.embedding @ look_of("Zoe")) > 0.95
    assert zoe.crop is None


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_clock_that_is_set_makes_no_visit_longer_or_shorter(step: int) -> None:
    def seen(until: float) -> list[Stranger]:
        tracker, lookout, found = Tracker(), Lookout("door"), []
        for index, (faces, time) in enumerate(film([ZOE.but(visible=between((1, until)))], until + 4)):
            utc = BEGIN + timedelta(seconds=time + (step if time > 2 else 0))
            tracks = tracker.update(faces, time)
            found += lookout.look(tracks, faces, Frame("door", index, PICTURE, time, utc), {t.id for t in tracks})
        return found

    assert seen(2.5) == []
    [zoe] = seen(6)
    assert (zoe.last - zoe.first).total_seconds() == pytest.approx(4.9)


def test_who_is_in_view_to_the_end_is_noticed_then() -> None:
    tracker, lookout = Tracker(), Lookout("door")
    for index, (faces, time) in enumerate(film([ZOE], 5)):
        tracks = tracker.update(faces, time)
        frame = Frame("door", index, PICTURE, time, BEGIN + timedelta(seconds=time))
        assert not list(lookout.look(tracks, faces, frame, {track.id for track in tracks}))
    [zoe] = lookout.end()
    assert zoe.last == frame.utc
    assert not list(lookout.end())


def test_who_is_known_or_hardly_seen_is_not() -> None:
    assert noticed(ZOE, seconds=10, known=True) == []
    assert noticed(ZOE.but(visible=between((1, 2))), seconds=10) == []
    assert noticed(ZOE.but(quality=0.1), seconds=10) == []


def test_a_picture_is_kept_only_where_asked_for() -> None:
    [zoe] = noticed(ZOE, seconds=10, crops=True)
    assert zoe.crop is not None
    crop = cv2.imdecode(np.frombuffer(zoe.crop, np.uint8), cv2.IMREAD_COLOR)
    assert crop is not None
    assert crop.shape[0] == pytest.approx(120, abs=3)


@pytest.mark.parametrize("where", [(760, 100), (-120, 100), (300, 600), (300, -120)])
def test_of_a_face_wholly_outside_the_frame_no_picture_is_kept(where: tuple[int, int]) -> None:
    [zoe] = noticed(ZOE.but(place=where), seconds=10, crops=True)
    assert zoe.crop is None


def test_of_a_large_face_that_leaves_the_frame_a_picture_is_kept_to_the_last_pixel() -> None:
    frame = Frame("door", 0, PICTURE, 0.0, BEGIN)
    kept = [_crop(frame, np.array([x - 200, 40, x + 200, 440], np.float32)) is not None for x in range(930, 950)]
    assert kept == [x < 940 for x in range(930, 950)]


def test_tracks_of_one_person_make_one_cluster() -> None:
    kept = [stranger(name, seed, hour=seed) for seed, name in enumerate(["Zoe", "Yan", "Zoe", "Xia", "Yan", "Zoe"], 1)]
    found = clusters(kept, similarity=0.5)
    assert [(cluster.id, len(cluster.strangers)) for cluster in found] == [("u1", 3), ("u2", 2), ("u4", 1)]
    assert (found[0].first, found[0].last) == (kept[0].first, kept[5].last)
    assert found[0].streams == ("door",)
    assert clusters([], similarity=0.5) == []
    assert [cluster.id for cluster in clusters(kept[:1], similarity=0.5)] == ["u1"]


def test_a_cluster_gets_a_name_and_is_recognised_from_then_on(gallery: Gallery) -> None:
    for seed, name in enumerate(["Zoe", "Yan", "Zoe", "Zoe"], 1):
        gallery.keep_stranger(stranger(name, seed))
    found = clusters(gallery.strangers(), 0.5)
    assert name_cluster(gallery, found[0].id, " Zoe ", similarity=0.5) == 3
    assert [(person.name, len(person.templates)) for person in gallery.people()] == [("Zoe", 3)]
    assert gallery.people()[0].templates[0].source == "seen on door, 2026-01-01 00:00 UTC"
    assert gallery.match(look_of("Zoe")[None].astype(np.float32))[0].similarity > 0.8
    assert len(gallery.strangers()) == 1
    with pytest.raises(GalleryError, match="no cluster u99 of unknown people; there are: u2"):
        name_cluster(gallery, "u99", "Yan", similarity=0.5)


def test_a_cluster_that_is_somebody_enrolled_gets_no_second_name(gallery: Gallery) -> None:
    gallery.add("Zoe", look_of("Zoe"), 0.9, "zoe.jpg")
    gallery.keep_stranger(stranger("Zoe", 1))
    with pytest.raises(GalleryError, match="u1 looks like Zoe"):
        name_cluster(gallery, "u1", "Yan", similarity=0.5)
    assert len(gallery.strangers()) == 1
    assert name_cluster(gallery, "u1", "Zoe", similarity=0.5) == 1


def test_strangers_are_written_seldom_bounded_and_only_if_asked_for(gallery: Gallery) -> None:
    now = datetime.now(UTC)

    def seen(day: int) -> Stranger:
        look: Floats = look_of("Zoe").astype(np.float32)
        return Stranger("door", now - timedelta(days=day), now - timedelta(days=day), look, 0.5)

    Guestbook(gallery).write([seen(0)], 0.0)
    assert not gallery.path.exists()
    book = Guestbook(gallery, days=3, most=4, streams=["door"])
    book.write([seen(0)], 0.0)
    assert len(gallery.strangers()) == 1
    book.write([seen(0)], 1.0)
    assert len(gallery.strangers()) == 1
    book.write([], WRITE)
    assert len(gallery.strangers()) == 2
    book.write([seen(2)] * 9, 2 * WRITE)
    assert len(gallery.strangers()) == 4
    book.write([seen(9)], 4000.0)  # written, found too old at the hour's end, and gone
    assert len(gallery.strangers()) == 3
    Guestbook(gallery, streams=["yard"]).write([], 0.0)  # another daemon's, which keeps none
    assert len(gallery.strangers()) == 3
    Guestbook(gallery, streams=["door"]).write([], 0.0)  # switched off: nothing is left
    assert gallery.strangers() == []


def test_of_who_is_forgotten_nothing_that_waits_is_stored(gallery: Gallery) -> None:
    book = Guestbook(gallery, days=100_000)
    book.write([stranger("Ben", 1)], 0.0)
    book.write([stranger("Zoe", 2), stranger("Ada", 3)], 1.0)
    book.forget(look_of("Zoe")[None].astype(np.float32), 0.5)
    book.write([], WRITE)
    looks = [float(each.embedding @ look_of("Zoe")) > 0.5 for each in gallery.strangers()]
    assert looks == [False, False]


def test_who_is_forgotten_while_in_view_is_not_noticed_afterwards() -> None:
    tracker, lookout, found = Tracker(), Lookout("door"), []
    people = [ZOE, Person("Ben", place=(500, 240), visible=between((1, 6)))]
    for index, (faces, time) in enumerate(film(people, 10)):
        frame = Frame("door", index, PICTURE, time, BEGIN + timedelta(seconds=time))
        tracks = tracker.update(faces, time)
        if index == 40:  # until then she was known
            lookout.forget(look_of("Zoe")[None].astype(np.float32), 0.5)
        found += lookout.look(tracks, faces, frame, {track.id for track in tracks})
    [ben] = found
    assert float(ben.embedding @ look_of("Ben")) > 0.95


def test_templates_do_not_outlive_their_time(gallery: Gallery) -> None:
    gallery.add("Zoe", look_of("Zoe"), 0.9, "zoe.jpg")
    Guestbook(gallery, lifetime=timedelta(days=1)).write([], 0.0)
    assert len(gallery.people()) == 1
    Guestbook(gallery, lifetime=timedelta(days=-1)).write([], 0.0)
    assert gallery.people() == []


def test_a_gallery_that_cannot_be_written_stops_nobody(gallery: Gallery, caplog: pytest.LogCaptureFixture) -> None:
    gallery.path.mkdir()
    book = Guestbook(gallery, days=1)
    for time in (0.0, 1.0, 20.0, 21.0, 40.0):  # at every other there is nothing to try
        book.write([stranger("Zoe", 1)], time)
    assert len([record for record in caplog.records if "Strangers are not kept" in record.message]) == 1


@given(st.integers(1, 24), st.floats(0.05, 0.95), st.integers(0, 2**16))
def test_tracks_are_gathered_as_by_average_linkage(count: int, similarity: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    people = random.normal(size=(1 + count // 3, 8))
    looks = people[random.integers(len(people), size=count)] + random.normal(size=(count, 8)) * 0.4
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    strangers = [
        Stranger("door", BEGIN, BEGIN, look.astype(np.float32), 0.9, number=row) for row, look in enumerate(looks)
    ]

    found = {frozenset(each.number for each in cluster.strangers) for cluster in clusters(strangers, similarity)}

    if count > 1:
        looks = np.stack([each.embedding for each in strangers]).astype(np.float64)
        far = np.maximum(1 - looks @ looks.T, 0)[np.triu_indices(count, 1)]
        labels = fcluster(linkage(far, "average"), 1 - similarity, "distance")
        assert found == {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}
    else:
        assert found == {frozenset({0})}

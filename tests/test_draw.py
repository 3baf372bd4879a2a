"""Drawing: what stands on the picture, where, and in which colour."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from onelook import draw
from onelook.draw import KNOWN, UNKNOWN, UNSURE, Captions, Label, drawn, labelled
from onelook.event import Attributes, Emotion, Event, Identity
from onelook.track import Track, Tracker
from story import Person, film

Image = NDArray[np.uint8]
BOX, FRAME = (0.0, 0.0, 9.0, 9.0), 3


@pytest.fixture
def track() -> Track:
    """Somebody who has been in view for a second."""
    tracker = Tracker()
    for faces, time in film([Person("Ann")], 1):
        [ann] = tracker.update(faces, time)
    assert ann.state == "confirmed"
    return ann


@pytest.fixture
def wall(track: Track) -> Image:
    """A grey picture with some room around the face."""
    x, y = track.box[2:] + 80
    return np.full((round(y), round(x), 3), 90, np.uint8)


def known(track: Track, name: str = "Ann Lee") -> Event:
    identity = Identity(track=track.id, box=BOX, frame=FRAME, state="known", name=name, similarity=0.8, confidence=1)
    return Event(stream="door", time=datetime.now(UTC), data=identity)


def stranger(track: Track) -> Event:
    identity = Identity(track=track.id, box=BOX, frame=FRAME, state="unknown", similarity=0.1, confidence=1)
    return Event(stream="door", time=datetime.now(UTC), data=identity)


def hearing(*events: Event) -> Captions:
    captions = Captions()
    captions.hear(events)
    return captions


def pixels(picture: Image, colour: tuple[int, int, int]) -> NDArray[np.intp]:
    """Rows and columns of the pixels that have just this colour."""
    return np.argwhere((picture == colour).all(2))


def drawn_at(picture: Image, before: Image) -> list[int]:
    """x1, y1, x2, y2 of what has changed."""
    places = np.argwhere((picture != before).any(2))
    return [*places.min(0)[::-1].tolist(), *places.max(0)[::-1].tolist()]


def test_the_box_stands_where_the_face_is_and_the_picture_handed_in_is_left_alone(track: Track, wall: Image) -> None:
    before = wall.copy()

    picture = drawn(wall, [track], Captions())

    assert np.array_equal(wall, before)
    assert drawn_at(picture, wall) == pytest.approx(track.box.tolist(), abs=3)


def test_the_known_are_green_strangers_amber_and_who_is_not_settled_grey(track: Track, wall: Image) -> None:
    for captions, colour in (
        (hearing(known(track)), KNOWN), (hearing(stranger(track)), UNKNOWN), (Captions(), UNSURE),
    ):  # fmt: skip
        picture = drawn(wall, [track], captions)

        assert [bool(len(pixels(picture, each))) for each in (KNOWN, UNKNOWN, UNSURE)] == [
            colour == each for each in (KNOWN, UNKNOWN, UNSURE)
        ]


def test_enlarged_everything_is_in_its_place(track: Track, wall: Image) -> None:
    picture = drawn(wall, [track], Captions(), zoom=3)

    assert picture.shape == (3 * wall.shape[0], 3 * wall.shape[1], 3)
    assert drawn_at(picture, np.full_like(picture, 90)) == pytest.approx((3 * track.box).tolist(), abs=6)


def test_who_is_out_of_sight_is_not_drawn(track: Track, wall: Image) -> None:
    tracker = Tracker()
    story = list(film([Person("Ann")], 1))
    [tentative] = tracker.update(*story[0])

    assert np.array_equal(drawn(wall, [tentative], Captions()), wall)


def test_a_caption_says_who_it_is_and_what_they_look_like(track: Track) -> None:
    looks = Attributes(track=track.id, box=BOX, frame=FRAME, attributes={}, age=33.4, gender="female",
                       gender_confidence=0.8)
    mood = Emotion(track=track.id, box=BOX, frame=FRAME, emotion="happy", confidence=0.9, distribution={"happy": 0.9})
    now = datetime.now(UTC)
    both = [Event(stream="door", time=now, data=looks), Event(stream="door", time=now, data=mood)]

    assert hearing().lines(track.id) == []
    assert hearing(stranger(track)).lines(track.id) == ["unknown"]
    assert hearing(*both).lines(track.id) == ["female 33, happy"]
    assert hearing(known(track), *both).lines(track.id) == ["Ann Lee", "female 33, happy"]
    doubtful = Event(stream="door", time=now, data=looks.model_copy(update={"gender_confidence": 0.6}))
    assert hearing(*both, doubtful).lines(track.id) == ["female? 33, happy"]
    ageless = Event(stream="door", time=now, data=looks.model_copy(update={"age": None}))
    assert hearing(*both, ageless).lines(track.id) == ["female, happy"]
    assert hearing(stranger(track), known(track)).lines(track.id) == ["Ann Lee"]  # the last word counts


def test_words_grow_with_a_picture_that_is_seen_made_smaller() -> None:
    def ink(side: int) -> int:
        face = Label(np.array([0.3, 0.1, 0.7, 0.6]) * side, np.zeros((0, 2)), ["unknown"], UNKNOWN)
        page = labelled(np.full((side, side, 3), 128, np.uint8), [face])
        return int(np.any(page[round(0.6 * side) + 10 :] != 128, axis=(1, 2)).sum())  # rows under the box

    assert ink(3000) > 2 * ink(1000)


@pytest.mark.parametrize("name", ["Ann Lee", "José Ángel", "李安", "x" * 64])
def test_any_name_can_be_written_wherever_the_face_is(track: Track, wall: Image, name: str) -> None:
    x1, y1, x2, y2 = (round(float(v)) for v in track.box)
    near = track._replace(box=track.box - np.array([x1, y1, x1, y1]), landmarks=track.landmarks - [[x1, y1]])
    for picture, who in ((wall, track), (wall[: y2 + 2], track), (wall[y1:y2, x1:x2], near)):
        written = drawn(picture, [who], hearing(known(track, name)))

        assert written.shape == picture.shape
        assert len(pixels(written, KNOWN)) > 200  # the ground of the words
        assert (written < 50).all(2).sum() > 10  # and the words' beginning; they end where the picture does


def test_without_a_font_of_the_system_accents_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    known_to_pillow = draw.ImageFont.truetype

    def missing(font: object, *more: object, **options: object) -> object:
        if isinstance(font, str):
            raise OSError("no such font")
        return known_to_pillow(font, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(draw.ImageFont, "truetype", missing)
    draw._font.cache_clear()
    try:
        assert draw._writable("José") == "Jose"
        assert draw._writable("李安") == "?"
    finally:
        draw._font.cache_clear()

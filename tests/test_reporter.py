"""Tracks become events: what somebody who listens to a stream hears, told as little stories."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onelook.config import Policy, Purposes, Report
from onelook.errors import OwnerError
from onelook.event import Attributes, Crowd, Data, Emotion, Event, Identity, Mood, Presence
from onelook.face import Faces, Floats
from onelook.frame import Frame
from onelook.match import Match
from onelook.reporter import Bar, Reporter
from onelook.track import Tracker
from onelook.visitor import Visitors
from story import (
    ATTRIBUTES,
    EMOTIONS,
    ETHNICITIES,
    Person,
    Vector,
    between,
    described,
    faces_at,
    film,
    look_of,
    resembling,
    unit,
    walk,
)

THRESHOLD = 0.4
LABELS = SimpleNamespace(attributes=ATTRIBUTES, ethnicity=ETHNICITIES, emotion=EMOTIONS)
EVERYTHING = Report(attributes=["Smiling", "Eyeglasses"], ethnicity=True)
WHO = Report(presence=False, age=False, gender=False, emotion=False, crowd=False)
EVERYTHING_ALLOWED = Policy()
NOTHING = Report(presence=False, identity=False, age=False, gender=False, emotion=False, crowd=False)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PICTURE = np.broadcast_to(np.uint8(0), (480, 640, 3))

ANN = Person("Ann", place=(320, 240), male=0.1, age=34)
BOB = Person("Bob", place=(100, 200), male=0.9, age=60)
ZOE = Person("Zoe", place=(520, 300))
"""A stranger; nobody has enrolled her."""

Kind = TypeVar("Kind", bound=Data)
Said = TypeVar("Said")


def gallery(*names: str, **looks: Vector) -> Callable[[Floats], list[Match]]:
    """What the real one does: the nearest of the people enrolled, and how much nearer than the next."""
    everybody = {name: look_of(name) for name in names} | looks

    def match(embeddings: Floats) -> list[Match]:
        if not everybody:
            return [Match(None, -1.0, inf, enrolled=0)] * len(embeddings)
        matches = []
        for cosines in embeddings @ np.array(list(everybody.values())).T:
            best, *others = sorted(zip(cosines.tolist(), everybody, strict=True), reverse=True)
            matches.append(Match(best[1], best[0], best[0] - others[0][0] if others else inf, enrolled=len(everybody)))
        return matches

    return match


def frame_at(time: float, index: int = 0) -> Frame:
    return Frame("door", index, PICTURE, time, BEGIN + timedelta(seconds=time))


class Listener:
    """Whoever subscribes to one stream; keeps what was said, with the story's second of it."""

    def __init__(
        self,
        *enrolled: str,
        report: Report = EVERYTHING,
        match: Callable[[Floats], Sequence[Match]] | None = None,
        taken_for: Callable[[float], str] | None = None,
        lost: float = 2.0,
        policy: Policy = EVERYTHING_ALLOWED,
        bar: Bar = lambda sizes, *_: np.full(len(sizes), THRESHOLD, np.float32),
        **more: Any,
    ) -> None:
        """taken_for: whom the gallery takes every face for at a second, be it who it may."""

        def mistake(embeddings: Floats) -> list[Match]:
            assert taken_for
            look = look_of(taken_for(self.time)).astype(np.float32)
            return gallery(*enrolled)(np.tile(look, (len(embeddings), 1)))

        match = mistake if taken_for else match or gallery(*enrolled)
        self.time = 0.0
        self.reporter = Reporter("door", report, LABELS, match, bar, policy, **more)
        self.tracker = Tracker(confirm=0.3, lost=lost, smooth=self.reporter.needs)
        self.events: list[tuple[float, Event]] = []
        self.index = 0

    def see(self, faces: Faces, time: float) -> list[Event]:
        self.time = time
        events = self.reporter.report(self.tracker.update(faces, time), faces, frame_at(time, self.index))
        self.index += 1
        self.events += [(time, event) for event in events]
        return events

    def watch(
        self, *people: Person, seconds: float, fps: float = 10, start: float = 0, seed: int = 0
    ) -> "Listener":
        for faces, time in film(people, seconds, fps=fps, start=start, seed=seed):
            self.see(faces, time)
        return self

    def heard(self, kind: type[Kind], track: int | None = None) -> list[tuple[float, Kind]]:
        """Second and data of each event of a kind, of one track if given."""
        return [
            (time, event.data)
            for time, event in self.events
            if isinstance(event.data, kind) and track in (None, getattr(event.data, "track", None))
        ]

    def names(self, track: int | None = None) -> list[str | None]:
        """Who people were said to be: a name, or else `unknown` or `uncertain`."""
        return [data.name or data.state for _, data in self.heard(Identity, track)]

    def counts(self) -> list[int]:
        return [data.count for _, data in self.heard(Crowd)]


# --- presence ---------------------------------------------------------------------------------


def test_a_passer_by_is_announced_once_and_leaves_once_with_the_seconds_he_stayed() -> None:
    passer_by = BOB.but(place=walk((0, 100), (150, 10)), visible=between((1, 3)))
    listener = Listener().watch(passer_by, seconds=8)
    [(came, appeared), (went, left)] = listener.heard(Presence)
    assert (appeared.state, appeared.seconds, left.state) == ("appeared", 0.3, "left")
    assert came == pytest.approx(1.3)
    assert went == pytest.approx(5.0, abs=0.11)
    assert left.seconds == pytest.approx(1.9)
    assert left.box == pytest.approx((435 - 40, 129 - 40, 435 + 40, 129 + 40), abs=8)


def test_an_event_says_where_when_and_which_frame() -> None:
    listener = Listener("Ann").watch(ANN, seconds=2)
    time, event = next((time, event) for time, event in listener.events if event.kind == "presence")
    assert (event.stream, event.time, event.captured) == ("door", BEGIN + timedelta(seconds=time), time)
    assert isinstance(event.data, Presence)
    assert event.data.frame == round(time * 10)
    assert event.data.box == pytest.approx((280, 200, 360, 280), abs=4)
    assert len({event.id for _, event in listener.events}) == len(listener.events)


def test_who_is_hidden_for_a_second_neither_leaves_nor_comes_nor_is_named_again() -> None:
    ann = ANN.but(visible=lambda time: not 3 <= time < 4)
    passing = BOB.but(place=walk((-250, 245), (160, 0)))
    listener = Listener("Ann", "Bob").watch(ann, passing, seconds=6)
    track = next(data.track for _, data in listener.heard(Identity) if data.name == "Ann")
    assert [data.state for _, data in listener.heard(Presence, track)] == ["appeared"]
    assert listener.names(track) == ["Ann"]
    assert listener.counts()[:2] == [0, 2]
    assert set(listener.counts()[2:]) <= {2}  # both got their names


def test_a_stream_that_was_away_for_ten_seconds_begins_anew() -> None:
    listener = Listener("Ann").watch(ANN, seconds=3).watch(ANN, seconds=3, start=12.9)
    assert [(round(time, 1), data.state, data.track) for time, data in listener.heard(Presence)] == [
        (0.3, "appeared", 1),
        (12.9, "left", 1),
        (13.2, "appeared", 2),
    ]
    [left] = [data for _, data in listener.heard(Presence) if data.state == "left"]
    assert left.seconds == pytest.approx(2.9)
    assert listener.names() == ["Ann", "Ann"]


def test_a_false_face_of_a_moment_is_not_worth_a_word() -> None:
    listener = Listener().watch(ZOE.but(visible=between((1, 1.2))), seconds=5)
    assert [event.kind for _, event in listener.events] == ["crowd"]


# --- identity ---------------------------------------------------------------------------------


def test_an_enrolled_person_is_named_within_a_second_and_only_once() -> None:
    listener = Listener("Ann", "Bob").watch(ANN, seconds=30)
    [(time, said)] = listener.heard(Identity)
    assert time <= 1
    assert (said.state, said.name, said.previous) == ("known", "Ann", None)
    assert said.similarity == pytest.approx(0.95, abs=0.04)  # a face alone has 0.86; together they tell more
    assert said.confidence == 1


def test_nobody_is_named_by_a_single_frame() -> None:
    for quality in (0.3, 1.0):
        listener = Listener("Ann").watch(ANN.but(quality=quality), seconds=0.1)
        assert listener.names() == []


def test_a_stranger_is_unknown_and_never_the_nearest_name() -> None:
    listener = Listener("Ann", "Bob").watch(ZOE, seconds=20)
    [(time, said)] = listener.heard(Identity)
    assert time <= 1
    assert (said.state, said.name, said.confidence) == ("unknown", None, 1)
    assert said.similarity is not None
    assert said.similarity < THRESHOLD


def test_with_nobody_enrolled_everybody_is_unknown() -> None:
    listener = Listener().watch(ANN, seconds=5)
    [(_, said)] = listener.heard(Identity)
    assert (said.state, said.name, said.similarity) == ("unknown", None, None)


def test_a_stranger_just_under_the_threshold_is_unknown() -> None:
    stranger = ZOE.but(look=resembling("Ann", THRESHOLD - 0.02), noise=0.0)
    assert Listener("Ann").watch(stranger, seconds=20).names() == ["unknown"]


@pytest.mark.parametrize("fps", [3, 10, 30])
def test_a_stranger_who_flickers_about_the_threshold_is_never_given_the_name(fps: float) -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        flicker = ZOE.but(
            look=lambda _, random=random: resembling("Ann", random.normal(THRESHOLD, 0.05)), noise=0.0
        )
        listener = Listener("Ann", report=WHO).watch(flicker, seconds=20, fps=fps)
        assert listener.names() in (["uncertain"], ["unknown"], ["uncertain", "unknown"])
        assert listener.heard(Identity)[0][0] <= 3.5  # it is said that she is not known


def test_a_face_too_poor_to_know_is_said_to_be_unknown_after_a_while() -> None:
    listener = Listener("Ann").watch(ANN.but(quality=0.0), seconds=10)
    [(time, said)] = listener.heard(Identity)
    assert time == pytest.approx(3, abs=0.2)
    assert (said.state, said.confidence, said.similarity) == ("unknown", 0, None)


def test_who_was_too_far_away_to_know_is_named_when_she_comes_near() -> None:
    ann = ANN.but(quality=lambda time: 0.1 if time < 5 else 0.9, noise=lambda time: 4.0 if time < 5 else 0.6)
    listener = Listener("Ann").watch(ann, seconds=10)
    assert listener.names() in (["unknown", "Ann"], ["uncertain", "Ann"])
    time, said = listener.heard(Identity)[-1]
    assert 5 < time < 8.5
    assert said.previous is None


@pytest.mark.parametrize("between_them", [0.5, 0.0], ids=["between the two", "a hair nearer to one"])
def test_two_enrolled_people_who_look_alike_are_left_open_and_not_guessed(between_them: float) -> None:
    ann, amy = look_of("Ann"), resembling("Ann", 0.99)
    listener = Listener(match=gallery(Ann=ann, Amy=amy))
    listener.watch(ANN.but(look=unit(ann + between_them * amy), noise=0.0), seconds=20)
    assert listener.names() == ["uncertain"]


def test_a_name_survives_a_while_of_poor_faces() -> None:
    profile = between((4, 14))
    ann = ANN.but(
        quality=lambda time: 0.1 if profile(time) else 0.8, noise=lambda time: 4.0 if profile(time) else 0.6
    )
    assert Listener("Ann").watch(ann, seconds=20).names() == ["Ann"]


def test_a_wrong_name_is_taken_back_by_an_event_that_says_so() -> None:
    taken_for = Listener("Ann", "Bob", taken_for=lambda time: "Ann" if time < 3 else "Bob")
    [(_, first), (time, second)] = taken_for.watch(BOB, seconds=12).heard(Identity)
    assert (first.state, first.name, first.previous) == ("known", "Ann", None)
    assert (second.state, second.name, second.previous) == ("known", "Bob", "Ann")
    assert 5 < time < 8  # strong evidence, not a slip; but not for ever
    assert second.confidence > 0.7


def test_a_name_given_to_a_stranger_is_taken_back() -> None:
    listener = Listener("Ann", taken_for=lambda time: "Ann" if time < 2 else "Zoe").watch(ZOE, seconds=10)
    assert [(data.state, data.name, data.previous) for _, data in listener.heard(Identity)] == [
        ("known", "Ann", None),
        ("unknown", None, "Ann"),
    ]


def test_a_name_that_most_of_the_faces_deny_is_called_into_doubt() -> None:
    listener = Listener(
        "Ann",
        "Bob",
        taken_for=lambda time: "Ann" if time < 2 else ["Ann", "Bob", "Zoe"][round(time * 10) % 3],
    )
    assert [(data.state, data.previous) for _, data in listener.watch(ANN, seconds=20).heard(Identity)] == [
        ("known", None),
        ("uncertain", "Ann"),
    ]


def test_a_doubt_that_passes_leads_back_to_the_same_name_which_corrects_nothing() -> None:
    doubtful = between((2, 12))
    listener = Listener(
        "Ann",
        "Bob",
        taken_for=lambda time: ["Ann", "Bob", "Zoe"][round(time * 10) % 3 if doubtful(time) else 0],
    )
    assert [(data.state, data.previous) for _, data in listener.watch(ANN, seconds=25).heard(Identity)] == [
        ("known", None),
        ("uncertain", "Ann"),
        ("known", None),
    ]


def test_a_name_that_is_forgotten_is_never_told_again() -> None:
    enrolled = {"Ann": look_of("Ann")}

    def match(embeddings: Floats) -> list[Match]:
        return gallery(**enrolled)(embeddings)

    listener = Listener(report=WHO, match=match).watch(ANN, seconds=4)
    [(_, named)] = listener.heard(Identity)
    assert named.name == "Ann"

    del enrolled["Ann"]
    listener.reporter.forget("Ann")
    listener.watch(ANN, seconds=8, start=4)

    [after] = [data for time, data in listener.heard(Identity) if time >= 4]
    assert (after.state, after.name, after.previous) == ("unknown", None, None)


def test_a_slip_of_some_frames_changes_no_name() -> None:
    slips = between((3, 3.4), (6, 6.5), (9, 9.3))
    listener = Listener("Ann", "Bob", taken_for=lambda time: "Bob" if slips(time) else "Ann")
    assert listener.watch(ANN, seconds=12).names() == ["Ann"]


def test_two_known_people_who_cross_keep_their_names() -> None:
    ann = ANN.but(place=walk((100, 240), (100, 0)))
    bob = BOB.but(place=walk((600, 245), (-100, 0)), visible=lambda time: abs(500 - 200 * time) > 48)
    listener = Listener("Ann", "Bob").watch(ann, bob, seconds=5)
    assert sorted(map(str, listener.names())) == ["Ann", "Bob"]


def test_a_correct_name_comes_at_any_frame_rate() -> None:
    for fps in (1, 3, 10, 60):
        assert Listener("Ann").watch(ANN, seconds=8, fps=fps).names() == ["Ann"]


def test_the_gallery_is_asked_ten_times_a_second_at_most() -> None:
    asked = 0

    def match(embeddings: Floats) -> list[Match]:
        nonlocal asked
        asked += len(embeddings)
        return gallery("Ann")(embeddings)

    Listener(match=match).watch(ANN, seconds=5, fps=60)
    assert 40 <= asked <= 5 * 12.5


def test_the_bar_is_asked_for_with_what_it_depends_on() -> None:
    asked: list[tuple[float, int, float]] = []

    def bar(sizes: Floats, people: int, agreement: Floats) -> Floats:
        asked.append((float(sizes[0]), people, float(agreement[0])))
        return np.full(len(sizes), THRESHOLD, np.float32)

    Listener("Ann", "Bob", bar=bar).watch(ANN.but(size=33, noise=1.0), seconds=5)
    assert {size for size, _, _ in asked} == {33}
    assert {people for _, people, _ in asked} == {2}
    assert asked[0][2] == pytest.approx(1)
    assert asked[-1][2] == pytest.approx(1 / np.sqrt(2), abs=0.1)  # as little as two such faces agree


def test_many_poor_looks_make_one_good_one() -> None:
    """A face alone is below the bar; all of them together are not."""
    ann = ANN.but(noise=2.5)
    alone = [float(faces.embeddings[0] @ look_of("Ann")) for faces, _ in film([ann], 10)]
    assert np.mean(np.array(alone) > 0.6) < 0.05
    listener = Listener("Ann", "Bob", bar=lambda sizes, *_: np.full(len(sizes), 0.6)).watch(ann, seconds=10)
    assert listener.names()[-1] == "Ann"


# --- attributes -------------------------------------------------------------------------------


def test_looks_are_told_once_when_they_have_settled() -> None:
    ann = ANN.but(ethnicity="indian", attributes={"Eyeglasses": 0.95})
    listener = Listener(report=EVERYTHING).watch(ann, seconds=30)
    [(time, looks)] = listener.heard(Attributes)
    assert time == pytest.approx(1)
    assert looks.attributes == {
        "Smiling": pytest.approx(0.1, abs=1e-3),
        "Eyeglasses": pytest.approx(0.95, abs=1e-3),
    }
    assert (looks.age, looks.age_range) == (34, (29, 39))
    assert (looks.gender, looks.ethnicity) == ("female", "indian")
    assert [looks.gender_confidence, looks.ethnicity_confidence] == pytest.approx([0.9, 0.7], abs=1e-3)


def test_a_change_of_looks_is_told_when_it_lasts() -> None:
    puts_on = ANN.but(attributes=lambda time: {"Eyeglasses": 0.9 if time >= 5 or 3 <= time < 3.5 else 0.1})
    listener = Listener(report=EVERYTHING).watch(puts_on, seconds=15)
    [_, (time, looks)] = listener.heard(Attributes)
    assert 6 < time < 9
    assert looks.attributes["Eyeglasses"] > 0.6


def test_looks_that_waver_about_the_middle_are_told_once() -> None:
    random = np.random.default_rng(2)
    wavering = ANN.but(
        attributes=lambda time: {"Smiling": 0.5 + 0.08 * np.sin(time)},
        male=lambda time: 0.5 + 0.08 * np.cos(time),
        age=lambda _: random.normal(40, 6),
        ethnicity=lambda _: str(random.choice(["white", "asian"])),
    )
    assert len(Listener(report=EVERYTHING).watch(wavering, seconds=60).heard(Attributes)) == 1


def test_an_age_is_corrected_only_if_it_is_five_years_off() -> None:
    def told(later: float) -> list[float | None]:
        ann = ANN.but(age=lambda time: 30 if time < 5 else later)
        return [data.age for _, data in Listener().watch(ann, seconds=30).heard(Attributes)]

    assert told(34.5) == [30]
    first, *others, last = told(42)
    assert first == 30
    assert last == pytest.approx(42, abs=5)
    assert len(others) <= 1


def test_an_age_that_wavers_has_a_wider_range() -> None:
    random = np.random.default_rng(0)
    ann = ANN.but(age=lambda _: random.normal(40, 12))
    [(_, looks), *_] = Listener(report=Report(settle=5)).watch(ann, seconds=10).heard(Attributes)
    assert looks.age is not None
    assert looks.age_range is not None
    low, high = looks.age_range
    assert low < looks.age < high
    assert 18 <= high - low <= 32


def test_a_child_is_not_younger_than_nought() -> None:
    [(_, looks)] = Listener().watch(ANN.but(age=-1.5), seconds=2).heard(Attributes)
    assert (looks.age, looks.age_range) == (0, (0, 5))


def test_only_the_looks_asked_for_are_told() -> None:
    report = Report(attributes=["Smiling"], age=False, gender=False)
    [(_, looks)] = Listener(report=report).watch(ANN, seconds=3).heard(Attributes)
    assert looks.model_dump(exclude_none=True).keys() == {"track", "box", "frame", "attributes"}
    assert looks.attributes.keys() == {"Smiling"}
    report = Report(age=False, gender=True)
    [(_, looks)] = Listener(report=report).watch(BOB, seconds=3).heard(Attributes)
    assert (looks.gender, looks.age, looks.ethnicity, looks.attributes) == ("male", None, None, {})


def test_an_attribute_that_the_network_does_not_know_is_the_owners_to_mend() -> None:
    with pytest.raises(OwnerError, match=r"'Smilling' \(did you mean 'Smiling'\?\), 'xyzzy'$"):
        Listener(report=Report(attributes=["Smilling", "Bald", "xyzzy"]))


# --- emotion ----------------------------------------------------------------------------------


def test_an_emotion_is_told_when_it_has_lasted_and_so_is_the_next() -> None:
    ann = ANN.but(emotion=lambda time: "neutral" if time < 4 else "happy")
    listener = Listener().watch(ann, seconds=10)
    [(first_time, first), (second_time, second)] = listener.heard(Emotion)
    assert (first.emotion, first.previous) == ("neutral", None)
    assert 1 <= first_time < 2
    assert (second.emotion, second.previous) == ("happy", "neutral")
    assert 5 <= second_time < 6.5
    assert second.distribution.keys() == set(EMOTIONS)
    assert sum(second.distribution.values()) == pytest.approx(1, abs=0.01)
    assert second.confidence == second.distribution["happy"] == max(second.distribution.values())


def test_a_short_smile_is_not_told() -> None:
    ann = ANN.but(emotion=lambda time: "happy" if 3 <= time < 3.7 else "neutral")
    assert [data.emotion for _, data in Listener().watch(ann, seconds=10).heard(Emotion)] == ["neutral"]


def test_in_a_crowd_what_was_seen_at_one_look_alone_has_not_lasted() -> None:
    listener = Listener()
    smiles = between((3, 3.1), (6, 10))
    ann = ANN.but(emotion=lambda time: "happy" if smiles(time) else "neutral")
    for faces, time in film([ann], 10):
        looked_at = time < 2.5 or round(10 * time) % 12 == 6  # at 3.0, 4.2, 5.4, …
        listener.see(described(faces, np.array([looked_at])), time)
    assert [(round(time, 1), data.emotion) for time, data in listener.heard(Emotion)][1:] == [(7.8, "happy")]


@pytest.mark.parametrize("fps", [3, 10, 30])
def test_an_emotion_that_flickers_is_told_once_at_most(fps: float) -> None:
    ann = ANN.but(emotion=lambda time: ["happy", "surprise"][round(time * fps) % 2])
    told = Listener().watch(ann, seconds=20, fps=fps).heard(Emotion)
    assert len(told) == (1 if fps >= 10 else 0)  # one of the two, or none of them ever lasts


def test_an_expression_that_nobody_could_name_is_not_told_over_and_over() -> None:
    random = np.random.default_rng(0)
    ann = ANN.but(emotion=lambda _: str(random.choice(["happy", "surprise", "fear"])))
    assert len(Listener().watch(ann, seconds=60, fps=10).heard(Emotion)) <= 4


@pytest.mark.parametrize("fps", [10, 30])
def test_who_is_missed_in_a_frame_now_and_then_is_described_all_the_same(fps: float) -> None:
    random = np.random.default_rng(0)
    ann = ANN.but(
        visible=lambda _: random.uniform() > 0.3,
        emotion=lambda time: "happy" if time >= 3 else "neutral",
        attributes=lambda time: {"Eyeglasses": 0.9 if time >= 3 else 0.1},
    )
    listener = Listener().watch(ann, seconds=9, fps=fps)
    assert [data.emotion for _, data in listener.heard(Emotion)] == ["neutral", "happy"]
    assert [round(data.attributes["Eyeglasses"]) for _, data in listener.heard(Attributes)] == [0, 1]


def test_nothing_lasts_while_it_is_out_of_sight() -> None:
    """She puts on glasses and laughs, and is hidden before either can be believed."""
    hidden = between((5.4, 7))
    ann = ANN.but(
        visible=lambda time: not hidden(time),
        emotion=lambda time: "happy" if time >= 4.7 else "neutral",
        attributes=lambda time: {"Eyeglasses": 0.9 if time >= 3 else 0.1},
    )
    listener = Listener().watch(ann, seconds=10)
    [_, (laughed, emotion)] = listener.heard(Emotion)
    assert emotion.emotion == "happy"
    assert laughed >= 8
    [_, (saw, looks)] = listener.heard(Attributes)
    assert looks.attributes["Eyeglasses"] > 0.6
    assert saw >= 8


# --- crowd ------------------------------------------------------------------------------------


def test_the_first_frame_tells_the_count_so_that_no_old_one_stays_retained() -> None:
    listener = Listener()
    events = listener.see(Faces.none(), 0)
    assert [event.data for event in events] == [Crowd(count=0, known=0, unknown=0)]
    assert listener.see(Faces.none(), 1) == []


def test_the_crowd_is_counted_with_who_is_known() -> None:
    listener = Listener("Ann", "Bob").watch(ANN, BOB, ZOE.but(visible=lambda time: time > 5), seconds=10)
    counts = [(data.count, data.known, data.unknown) for _, data in listener.heard(Crowd)]
    assert counts[0] == (0, 0, 0)
    assert (2, 2, 0) in counts
    assert counts[-1] == (3, 2, 1)
    assert all(before != after for before, after in pairwise(counts))


def test_a_count_that_flickers_is_not_told() -> None:
    poster = ZOE.but(visible=lambda time: time % 5 < 0.5)  # a track of 0.4 seconds, now and then
    listener = Listener(lost=0.15).watch(BOB, poster, seconds=20)
    assert [data.track for _, data in listener.heard(Presence) if data.state == "left"] == [2, 3, 4, 5]
    assert set(listener.counts()) == {0, 1}
    assert len(listener.counts()) <= 3  # one more when Bob is known to be unknown


def test_without_identity_a_crowd_is_a_count_alone() -> None:
    listener = Listener(report=Report(identity=False)).watch(ANN, BOB, seconds=5)
    assert [(data.count, data.known, data.unknown) for _, data in listener.heard(Crowd)] == [
        (0, 0, 0),
        (2, 0, 0),
    ]


def test_a_crowd_that_never_rests_is_counted_all_the_same() -> None:
    random = np.random.default_rng(0)
    spans = [(start, start + random.uniform(0.5, 4)) for start in random.uniform(0, 20, 120)]
    people = [
        Person(f"p{i}", place=(60 + 100 * (i % 12), 60 + 100 * (i // 12)), size=50, visible=between(span))
        for i, span in enumerate(spans)
    ]
    listener, told, there, right = Listener(lost=0.3), 0, 0, 0.0
    for faces, time in film(people, 20):
        for event in listener.see(faces, time):
            if isinstance(event.data, Presence):
                there += 1 if event.data.state == "appeared" else -1
            if isinstance(event.data, Crowd):
                told = event.data.count
        right = time if told == there else right
        assert time - right < 2.5
    assert 5 < len(listener.heard(Crowd)) <= 20 / 0.5


# --- switches ---------------------------------------------------------------------------------


def nobody_passes(*_: object) -> Floats:
    raise AssertionError("nobody was to be recognised")


def forbidden(_: Floats) -> list[Match]:
    raise AssertionError("nobody was to be recognised")


@pytest.mark.parametrize("topic", ["presence", "identity", "emotion", "crowd"])
def test_what_is_switched_off_is_never_said(topic: str) -> None:
    def kinds(report: Report) -> set[str]:
        listener = Listener(report=report, match=None if report.identity else forbidden)
        return {event.kind for _, event in listener.watch(ANN, seconds=5).events}

    assert kinds(Report()) - kinds(Report().model_copy(update={topic: False})) == {topic}


def test_a_reporter_that_says_nothing_needs_nothing() -> None:
    listener = Listener(report=NOTHING, match=forbidden).watch(ANN, BOB, seconds=3)
    assert listener.events == []
    assert listener.reporter.needs == frozenset()


def test_a_reporter_names_what_has_to_be_averaged_for_it() -> None:
    def needs(report: Report) -> frozenset[str]:
        return Reporter("door", report, LABELS, forbidden, nobody_passes).needs

    assert needs(EVERYTHING) == {"attributes", "age", "gender", "ethnicity", "emotion"}
    assert needs(Report(emotion=False, age=False)) == {"gender"}


# --- who is who of the unknown ----------------------------------------------------------------


def test_an_unknown_person_who_comes_back_is_the_same_visitor_on_any_stream() -> None:
    visitors = Visitors(lambda sizes, *_: np.full(len(sizes), THRESHOLD, np.float32))
    door, yard = (Listener("Ann", visitors=visitors) for _ in range(2))
    door.watch(ZOE.but(visible=between((0, 3))), BOB, ANN.but(visible=between((3, 6))), seconds=9)
    yard.watch(ZOE, seconds=3, start=20)
    door.watch(ZOE, seconds=3, start=40)
    said = [(data.name or data.state, data.visitor) for _, data in door.heard(Identity)]
    assert sorted(said, key=str) == sorted(
        [("unknown", "v1"), ("unknown", "v2"), ("Ann", None), ("unknown", said[-1][1])], key=str
    )
    [(_, seen_in_the_yard)] = yard.heard(Identity)
    assert seen_in_the_yard.visitor == said[-1][1]
    assert door.heard(Identity)[0][1].box[0] > 400 or said[0][1] != seen_in_the_yard.visitor


def test_two_people_side_by_side_are_two_visitors_however_alike_they_are() -> None:
    visitors = Visitors(lambda sizes, *_: np.full(len(sizes), THRESHOLD, np.float32))
    listener = Listener(visitors=visitors)
    twin = ZOE.but(place=(500.0, 200.0))  # the same looks
    listener.watch(ZOE.but(place=(100.0, 200.0)), twin, seconds=4)
    assert sorted(str(data.visitor) for _, data in listener.heard(Identity)) == ["v1", "v2"]
    listener.watch(ZOE, seconds=4, start=30)
    assert listener.heard(Identity)[-1][1].visitor in ("v1", "v2"), "who comes back alone is one of them"


def test_whoever_is_to_be_forgotten_is_no_visitor_any_more() -> None:
    visitors = Visitors(lambda sizes, *_: np.full(len(sizes), THRESHOLD, np.float32))
    zoe, ann = np.eye(2, 4, dtype=np.float32)
    visitors.forget(zoe[None], THRESHOLD)  # nobody is there yet
    assert [visitors.who(look, 1.0, 80, 0) for look in (zoe, ann)] == ["v1", "v2"]
    visitors.forget(np.stack([0.8 * zoe + 0.6 * np.eye(4, dtype=np.float32)[3]]), 0.7)
    assert visitors._looks is not None
    assert visitors._looks.tolist() == [ann.tolist()]
    assert [visitors.who(look, 1.0, 80, 1) for look in (ann, zoe)] == ["v2", "v3"]


def test_a_visitor_is_forgotten_after_an_hour() -> None:
    visitors = Visitors(lambda sizes, *_: np.full(len(sizes), THRESHOLD, np.float32))
    zoe, ann = (look_of(name).astype(np.float32) for name in ("Zoe", "Ann"))
    assert [visitors.who(look, 1.0, 80, time) for look, time in ((zoe, 0), (ann, 1), (zoe, 3000), (zoe, 6000))] == [
        "v1", "v2", "v1", "v1",
    ]  # fmt: skip
    assert visitors.who(ann, 1.0, 80, 6001) == "v3"
    random = np.random.default_rng(0)
    for _ in range(600):
        look = random.normal(size=64).astype(np.float32)
        visitors.who(look / np.linalg.norm(look), 1.0, 80, 6002)
    assert visitors._looks is not None
    assert len(visitors._looks) <= 500


# --- policy -----------------------------------------------------------------------------------

THREE = (ANN, BOB, ZOE.but(age=12))


@pytest.mark.parametrize("preset", ["forbid_emotion_at_work", "forbid_emotion_in_education"])
def test_where_emotion_is_forbidden_no_setting_brings_it_back(preset: str) -> None:
    policy = Policy(presets=[preset])  # type: ignore[list-item]
    listener = Listener("Ann", report=Report(emotion=True, mood=True), policy=policy).watch(*THREE, seconds=15)
    assert {event.kind for _, event in listener.events} == {"presence", "identity", "attributes", "crowd"}
    assert "emotion" not in listener.reporter.needs  # nor is it averaged, or looked at


def test_a_mood_is_not_told_ever_anew_because_one_of_three_is_missed_now_and_then() -> None:
    blinking = [each.but(visible=lambda time, n=n: round(time * 10) % 10 != 3 * n) for n, each in enumerate(THREE)]
    listener = Listener(report=Report(mood=True)).watch(*blinking, seconds=40)

    told = [mood.distribution is None for time, mood in listener.heard(Mood) if time > 5]
    assert len(told) <= 1
    assert not any(told[1:])


def test_when_all_have_gone_the_last_mood_says_so() -> None:
    leaving = [each.but(visible=between((0, end))) for each, end in zip(THREE, (8, 20, 20), strict=True)]
    listener = Listener(report=Report(mood=True)).watch(*leaving, seconds=35)

    assert listener.heard(Mood)[-1][1].people == 0


def test_in_a_public_place_nobody_is_told_apart_and_the_crowd_has_its_mood() -> None:
    smiling = [person.but(emotion=lambda time: "happy" if time > 10 else "sad") for person in THREE]
    policy = Policy(presets=["public_place"])
    listener = Listener(match=forbidden, policy=policy).watch(*smiling, seconds=25)
    assert {event.kind for _, event in listener.events} == {"presence", "crowd", "mood"}
    crowd = listener.heard(Crowd)[-1][1]
    assert (crowd.count, crowd.known, crowd.unknown) == (3, 0, 0)
    assert crowd.ages == {"under 18": 1, "18 to 64": 2, "65 and over": 0}
    assert crowd.genders == {"female": 2, "male": 1}
    (_, first), *_, (_, last) = listener.heard(Mood)
    assert (first.people, first.distribution, first.valence) == (0, None, None)
    assert last.people == 3
    assert last.valence is not None
    assert last.valence > 0.3
    assert min(mood.valence for _, mood in listener.heard(Mood) if mood.valence is not None) < -0.5
    times = [time for time, _ in listener.heard(Mood)]
    assert all(after - before >= 5 for before, after in pairwise(times))
    assert len(times) <= 5


def test_a_crowd_in_which_one_wavers_is_told_once() -> None:
    """Between two ages and two genders, by a little."""
    ann, *others = THREE
    wavering = ann.but(age=lambda time: 18 + 1.5 * np.sin(time / 9), male=lambda time: 0.5 + 0.08 * np.cos(time / 7))
    listener = Listener(match=forbidden, policy=Policy(presets=["public_place"])).watch(wavering, *others, seconds=120)
    assert [crowd.count for time, crowd in listener.heard(Crowd) if time > 5] == []

    grows = ann.but(age=lambda time: 14 if time < 20 else 30)
    listener = Listener(match=forbidden, policy=Policy(presets=["public_place"])).watch(grows, *others, seconds=90)
    first, *_, last = (crowd.ages for _, crowd in listener.heard(Crowd) if crowd.ages)
    assert first is not None
    assert last is not None
    assert last["under 18"] == first["under 18"] - 1


def test_a_mood_says_of_how_many_it_is() -> None:
    alike = [each.but(emotion="happy") for each in THREE]
    late = [each.but(visible=between((15, 60))) for each in alike[1:]]
    more = [Person(name, place=(320.0, y), emotion="happy") for name, y in (("Cy", 80.0), ("Di", 400.0))]
    listener = Listener(report=Report(mood=True)).watch(alike[0], *more, *late, seconds=40)
    assert listener.heard(Mood)[-1][1].people == 5


def test_two_people_are_no_crowd_to_hide_in() -> None:
    policy = Policy(attributes="aggregate", emotion="aggregate")
    listener = Listener("Ann", policy=policy).watch(ANN, BOB, seconds=15)
    assert all(crowd.ages is None and crowd.genders is None for _, crowd in listener.heard(Crowd))
    assert all(mood.distribution is None for _, mood in listener.heard(Mood))
    assert listener.heard(Attributes) == listener.heard(Emotion) == []


def test_identity_in_aggregates_counts_who_is_known_and_names_nobody() -> None:
    listener = Listener("Ann", policy=Policy(identity="aggregate")).watch(ANN, ZOE, seconds=10)
    assert listener.heard(Identity) == []
    assert "Ann" not in "".join(event.model_dump_json() for _, event in listener.events)
    crowd = listener.heard(Crowd)[-1][1]
    assert (crowd.count, crowd.known, crowd.unknown) == (2, 1, 1)


def test_every_event_says_what_it_is_for() -> None:
    purpose = Purposes(presence="counting", identity="the door", attributes="a study", emotion="another study")
    listener = Listener("Ann", report=Report(mood=True), policy=Policy(purpose=purpose)).watch(*THREE, seconds=10)
    said = {(event.kind, getattr(event.data, "purpose", None)) for _, event in listener.events}
    assert said == {
        ("presence", "counting"), ("crowd", "counting"), ("identity", "the door"), ("attributes", "a study"),
        ("emotion", "another study"), ("mood", "another study"),
    }  # fmt: skip


def test_an_emotion_comes_with_its_valence() -> None:
    for emotion, least, most in (("happy", 0.4, 1), ("neutral", -0.3, 0), ("angry", -1, -0.6)):
        [(_, told)] = Listener().watch(ANN.but(emotion=emotion), seconds=5).heard(Emotion)
        assert told.valence is not None
        assert least <= told.valence <= most


# --- many -------------------------------------------------------------------------------------


def test_a_hundred_people_each_come_and_are_named_once() -> None:
    people = [
        Person(f"p{i}", place=(60 + 110 * (i % 12), 60 + 110 * (i // 12)), size=50, visible=between((0, 4)))
        for i in range(100)
    ]
    listener = Listener(
        *(f"p{i}" for i in range(50)), report=Report(settle=0.5), bar=lambda sizes, *_: np.full(len(sizes), 0.6)
    ).watch(*people, seconds=7)
    assert sorted(listener.names(), key=str) == sorted([f"p{i}" for i in range(50)] + ["unknown"] * 50)
    states = [data.state for _, data in listener.heard(Presence)]
    assert (states.count("appeared"), states.count("left")) == (100, 100)
    assert len(listener.heard(Attributes)) == len(listener.heard(Emotion)) == 100
    assert (100, 50, 50) in [(data.count, data.known, data.unknown) for _, data in listener.heard(Crowd)]
    assert listener.counts()[-1] == 0


def test_a_quarter_of_an_hour_of_somebody_at_a_desk_is_told_in_a_few_words() -> None:
    random = np.random.default_rng(0)
    ann = ANN.but(
        noise=lambda _: random.uniform(0.3, 1.5),
        quality=lambda _: random.uniform(0.1, 1),
        age=lambda _: random.normal(34, 4),
        male=lambda _: random.uniform(0, 0.5),
        visible=lambda _: bool(random.random() > 0.05),
    )
    listener = Listener("Ann", "Bob").watch(ann, seconds=900, fps=2)
    assert [event.kind for _, event in listener.events].count("identity") == 1
    assert len(listener.events) <= 7


def test_the_same_frames_make_the_same_events() -> None:
    def told() -> list[str]:
        people = [Person(f"p{i}", place=(60 + 100 * i, 60), visible=between((i / 5, 3))) for i in range(8)]
        listener = Listener("p1", "p2").watch(*people, seconds=6)
        return [event.model_dump_json(exclude={"id"}) for _, event in listener.events]

    assert told() == told()


people_seen = st.lists(
    st.builds(
        Person,
        st.sampled_from(["Ann", "Bob", "Zoe"]),
        place=st.sampled_from([(0, 0), (30, 20), (300, 0), (320, 30)]),
        score=st.sampled_from([0.3, 0.9]),
        quality=st.sampled_from([0.0, 0.3, 1.0]),
        noise=st.sampled_from([0.1, 0.8, 2.0]),
        age=st.sampled_from([-3.0, 20.0, 60.0]),
        male=st.sampled_from([0.0, 0.45, 1.0]),
        emotion=st.sampled_from(["happy", "neutral", "sad"]),
        attributes=st.sampled_from([{"Smiling": 0.0}, {"Smiling": 1.0}]),
    ),
    max_size=4,
    unique_by=lambda person: person.place,
)
scenes = st.lists(
    st.tuples(people_seen, st.integers(1, 20), st.sampled_from([0.0, 0.04, 0.1, 0.4, 3.0])),
    min_size=1,
    max_size=5,
)


@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(scenes)
def test_whatever_happens_nothing_is_said_twice(scenes: list[tuple[list[Person], int, float]]) -> None:
    random, listener, time = np.random.default_rng(0), Listener("Ann", "Bob", report=EVERYTHING), 0.0
    for people, frames, step in scenes:
        for _ in range(frames):
            listener.see(faces_at(people, time, random), time)
            time += step
    tracks = {data.track for _, data in listener.heard(Presence)}
    for track in tracks:
        mine = [event.data for _, event in listener.events if getattr(event.data, "track", None) == track]
        states = [data.state for data in mine if isinstance(data, Presence)]
        assert states in (["appeared"], ["appeared", "left"])
        assert isinstance(mine[0], Presence)  # nothing is said of anybody before they appear
        assert states == ["appeared"] or isinstance(mine[-1], Presence)  # nor after they left

        identities = [data for data in mine if isinstance(data, Identity)]
        said = [(data.state, data.name) for data in identities]
        assert all(before != after for before, after in pairwise(said))
        assert all((data.state == "known") == (data.name is not None) for data in identities)
        given_names: list[str | None] = [None]
        for data in identities:
            assert data.previous in (None, given_names[-1])
            assert data.previous is None or data.previous != data.name
            given_names.append(data.name or given_names[-1])

        emotions = [data for data in mine if isinstance(data, Emotion)]
        assert all(before.emotion == after.previous != after.emotion for before, after in pairwise(emotions))

        looks = [data for data in mine if isinstance(data, Attributes)]
        for before, after in pairwise(looks):
            assert before.age is not None
            assert after.age is not None
            assert (
                abs(before.age - after.age) > 4.8
                or before.gender != after.gender
                or before.ethnicity != after.ethnicity
                or before.attributes != after.attributes
            )
    crowds = [data for _, data in listener.heard(Crowd)]
    assert all(before != after for before, after in pairwise(crowds))
    assert all(data.known + data.unknown <= data.count for data in crowds)
    times = [time for time, _ in listener.events]
    assert times == sorted(times)

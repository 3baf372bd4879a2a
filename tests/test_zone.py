"""Who is in which part of the picture, and who crossed which line: told as little stories."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from onelook.track import Tracker
from onelook.zone import Crossing, Places
from story import Person, between, film, walk

LEFT_HALF = SimpleNamespace(name="left", polygon=[[0, 0], [0.5, 0], [0.5, 1], [0, 1]])
DOORSTEP = SimpleNamespace(name="doorstep", start=[0.5, 1], end=[0.5, 0])
"""Seen from its start at the bottom, left is left."""
ANN = Person("Ann", place=walk((100, 240), (100, 0)))


def watch(*people: Person, seconds: float, places: Places, fps: float = 10) -> list[tuple[float, Crossing]]:
    tracker, told = Tracker(lost=1.0), []
    for faces, time in film(people, seconds, fps=fps):
        told += [(time, found) for found in places.update(tracker.update(faces, time), time, 640, 480)]
    return told


@pytest.mark.parametrize("fps", [5, 10, 30])
def test_who_walks_through_enters_and_leaves_once(fps: float) -> None:
    told = watch(ANN, seconds=5, places=Places([LEFT_HALF]), fps=fps)
    assert [(found.state, found.count) for _, found in told] == [("entered", 1), ("left", 0)]
    assert {found.place for _, found in told} == {"left"}
    (came, entered), (went, left) = told
    assert came < 1.5
    assert went == pytest.approx(2.5, abs=0.45)
    assert entered.seconds == 0
    assert left.seconds == pytest.approx(2.2 - came, abs=0.7)


def test_who_stands_on_the_border_does_not_come_and_go() -> None:
    places = Places([LEFT_HALF], [DOORSTEP])
    random = np.random.default_rng(1)
    told = watch(ANN.but(place=lambda _: (320 + random.normal(0, 6), 240)), seconds=60, places=places)
    assert [found for _, found in told if found.is_line] == []
    assert len(told) <= 1


WHOLE = [[0, 0], [1, 0], [1, 1], [0, 1]]
LOWER_HALF = [[0, 0.5], [0.4, 0.5], [1, 0.5], [1, 1], [0.5, 1], [0, 1]]


@pytest.mark.parametrize("polygon", [WHOLE, LOWER_HALF, LOWER_HALF[::-1]])
@pytest.mark.parametrize("place", [(320, 478), (320, 490), (2, 400), (-10, 400), (638, 478), (650, 490), (-10, 490)])
def test_whom_the_pictures_border_cuts_is_in_a_zone_that_reaches_it(
    polygon: list[list[float]], place: tuple[float, float]
) -> None:
    zone = SimpleNamespace(name="zone", polygon=polygon)
    there = ANN.but(place=place, visible=between((0, 3)))
    told = watch(there, Person("Bob", place=(320, 350)), seconds=6, places=Places([zone]))
    assert [(found.state, found.count) for _, found in told] == [("entered", 1), ("entered", 2), ("left", 1)]


@pytest.mark.parametrize("x", [300, 0, 640])
def test_a_zone_that_reaches_the_pictures_border_ends_where_its_other_edges_do(x: float) -> None:
    up = ANN.but(place=walk((x, 400), (0, -100)))
    told = watch(up, seconds=3, places=Places([SimpleNamespace(name="lower", polygon=LOWER_HALF)]))
    assert [found.state for _, found in told] == ["entered", "left"]
    assert told[-1][0] == pytest.approx(2.2, abs=0.45)


def test_who_vanishes_within_a_zone_has_left_it() -> None:
    ann = ANN.but(place=(100, 240), visible=between((0, 4)))
    bob = Person("Bob", place=(200, 100))
    told = watch(ann, bob, seconds=8, places=Places([LEFT_HALF]))
    assert [(found.state, found.count) for _, found in told] == [("entered", 1), ("entered", 2), ("left", 1)]
    assert told[-1][1].seconds == pytest.approx(3.6, abs=0.3)


def test_a_blink_behind_a_pillar_is_no_leaving() -> None:
    ann = ANN.but(place=(100, 240), visible=lambda time: not 3 <= time < 3.8)
    assert [found.state for _, found in watch(ann, seconds=8, places=Places([LEFT_HALF]))] == ["entered"]


def test_a_line_counts_those_who_cross_it_by_their_direction() -> None:
    places = Places(lines=[DOORSTEP])
    back = Person("Bob", place=walk((600, 100), (-100, 0)))
    told = watch(ANN, back, Person("Cem", place=walk((40, 400), (120, 0))), seconds=5, places=places)
    assert sorted(found.state for _, found in told) == ["entered", "entered", "left"]
    assert told[-1][1].count == 1
    assert all(found.is_line and found.place == "doorstep" for _, found in told)


@pytest.mark.parametrize(("fps", "speed"), [(1, 100), (2, 150), (5, 180)])
def test_who_is_first_seen_just_before_a_line_crosses_it_however_few_the_frames(fps: float, speed: float) -> None:
    for stride in np.linspace(0, speed / fps, 10):
        comes = ANN.but(place=walk((290 - stride, 240), (speed, 0)))
        told = watch(comes, seconds=3, places=Places(lines=[DOORSTEP]), fps=fps)
        assert [found.state for _, found in told] == ["entered"]


def test_a_false_face_of_a_moment_crosses_nothing() -> None:
    flits = ANN.but(place=walk((300, 240), (400, 0)), visible=between((0, 0.25)))
    assert watch(flits, seconds=2, places=Places([LEFT_HALF], [DOORSTEP])) == []


def test_who_turns_back_at_the_line_has_not_crossed_it() -> None:
    there_and_back = ANN.but(place=lambda time: (300 - abs(2 - time) * 100, 240))
    assert watch(there_and_back, seconds=4, places=Places(lines=[DOORSTEP])) == []
    beyond = ANN.but(place=lambda time: (400 - abs(2 - time) * 100, 240))
    told = watch(beyond, seconds=4, places=Places(lines=[DOORSTEP]))
    assert [found.state for _, found in told] == ["entered", "left"]


def test_who_walks_around_the_end_of_a_line_has_not_crossed_it() -> None:
    short = SimpleNamespace(name="gate", start=[0.5, 0.4], end=[0.5, 0.1])
    assert watch(ANN.but(place=walk((100, 400), (100, 0))), seconds=5, places=Places(lines=[short])) == []


def test_whom_the_pictures_border_cuts_crosses_a_line_that_reaches_it() -> None:
    told = watch(ANN.but(place=walk((100, 490), (100, 0))), seconds=5, places=Places(lines=[DOORSTEP]))
    assert [found.state for _, found in told] == ["entered"]

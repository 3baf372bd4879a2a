"""Faces become tracks: what a user of the tracker can rely on, told as little stories."""

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onelook.face import Faces
from onelook.track import Track, Tracker
from story import Person, between, described, faces_at, film, look_of, resembling, unit, walk

ANN = Person("Ann")
BOB = Person("Bob", male=0.9)


def watch(
    tracker: Tracker, people: Sequence[Person], seconds: float, fps: float = 10, start: float = 0
) -> list[Sequence[Track]]:
    """The tracks after each frame of the story, in which those are described whom the tracker asks for."""
    return [follow(tracker, faces, time) for faces, time in film(people, seconds, fps=fps, start=start)]


def follow(tracker: Tracker, faces: Faces, time: float) -> Sequence[Track]:
    return tracker.update(described(faces, tracker.asks_for(faces.boxes, time)), time)


def whose(tracks: Sequence[Track], name: str) -> Track:
    """The visible track that looks like this person."""
    return max(
        (track for track in tracks if track.row is not None),
        key=lambda track: float(track.embedding @ look_of(name)),
    )


def test_a_passer_by_is_one_track_that_ends_when_he_was_last_seen() -> None:
    tracker = Tracker(confirm=0.3, lost=2.0)
    passer_by = ANN.but(place=walk((0, 100), (150, 10)), visible=between((0, 2)))
    states, ended = [], []
    for faces, time in film([passer_by], 5):
        tracks = tracker.update(faces, time)
        states += [(track.id, track.state) for track in tracks]
        ended += [(round(time, 1), track) for track in tracker.ended]

    assert {number for number, _ in states} == {1}
    assert [state for _, state in states] == ["tentative"] * 3 + ["confirmed"] * 17 + ["lost"] * 20
    [(when, track)] = ended
    assert when == 4.0
    assert (track.state, track.row, track.first_seen, track.last_seen) == ("lost", None, 0.0, 1.9)


def test_a_track_knows_where_its_person_is_and_where_she_goes() -> None:
    *_, tracks = watch(Tracker(), [ANN.but(place=walk((100, 200), (120, -40)), size=60)], 3)
    [track] = tracks
    assert track.velocity == pytest.approx([120, -40], abs=15)
    assert track.box == pytest.approx([448 - 30, 84 - 30, 448 + 30, 84 + 30], abs=4)


def test_the_smoothed_box_shakes_less_than_the_detector() -> None:
    random = np.random.default_rng(0)
    tracker, smooth, raw = Tracker(), [], []
    for index in range(200):
        faces = faces_at([ANN], index / 30, random, jitter=0.05)
        [track] = tracker.update(faces, index / 30)
        smooth.append(track.box)
        raw.append(faces.boxes[0])
    assert np.std(smooth[50:], axis=0).max() < 0.75 * np.std(raw[50:], axis=0).min()


def test_somebody_hidden_for_a_second_behind_another_is_the_same_afterwards() -> None:
    ann = ANN.but(visible=lambda time: not 1.5 <= time < 2.5)
    bob = BOB.but(place=walk((0, 245), (160, 0)))
    frames = watch(Tracker(), [ann, bob], 4)
    before, during, after = frames[14], frames[20], frames[-1]

    assert whose(after, "Ann").id == whose(before, "Ann").id
    assert whose(after, "Bob").id == whose(before, "Bob").id
    assert sorted(track.state for track in during) == ["confirmed", "lost"]
    assert len(after) == 2


def test_a_hidden_walker_is_found_where_she_walked_to() -> None:
    ann = ANN.but(place=walk((50, 240), (200, 0)), visible=lambda time: not 1 <= time < 2)
    frames = watch(Tracker(), [ann], 3)
    assert {track.id for tracks in frames for track in tracks} == {1}
    assert frames[-1][0].state == "confirmed"


@pytest.mark.parametrize("turn_back", [False, True], ids=["they pass", "they turn back"])
@pytest.mark.parametrize("fps", [5, 10, 25])
def test_two_people_who_meet_keep_their_tracks(fps: float, turn_back: bool) -> None:
    def x(time: float) -> float:
        far = 100 + 100 * time
        return min(far, 600 - far) if turn_back else far

    ann = ANN.but(place=lambda time: (x(time), 240))
    # Bob goes behind Ann: within 0.6 of a face's width of each other only Ann is found.
    bob = BOB.but(
        place=lambda time: (600 - x(time), 245), visible=lambda time: abs(2 * x(time) - 600) > 0.6 * 80
    )
    frames = watch(Tracker(), [ann, bob], 4, fps=fps)
    for name in ("Ann", "Bob"):
        assert whose(frames[-1], name).id == whose(frames[round(fps)], name).id
    assert {track.id for tracks in frames for track in tracks} == {1, 2}


def test_kin_who_run_up_to_each_other_and_turn_back_are_hardly_ever_mixed_up() -> None:
    """Motion says that they pass, and they are alike, as people are to a small network: who looks more like whom?"""
    def far(time: float) -> float:
        return min(240 * time, 600 - 240 * time)

    kept = []
    for seed in range(48):
        random, tracker, fps = np.random.default_rng(seed), Tracker(alike=0.5), (5, 10, 15)[seed % 3]
        ann = ANN.but(name=f"Ann {seed}", place=lambda time: (100 + far(time), 240), noise=1.0, quality=0.5)
        bob = ann.but(place=lambda time: (700 - far(time), 240), look=resembling(ann.name, 0.45), score=0.8)
        owners: list[dict[float, int]] = []  # in each frame: whose score (as only Bob has 0.8), which track
        for index in range(round(2.4 * fps)):
            time = index / fps
            hidden = 600 - 2 * far(time) < 34  # a detector finds one of two that overlap by 0.4: her, before him
            faces = faces_at([ann] if hidden else [ann, bob], time, random)
            tracks = follow(tracker, faces, time)
            owners.append({round(track.score, 1): track.id for track in tracks if track.row is not None})
        kept.append(owners[-1] == owners[0])
    assert len(kept) - sum(kept) <= 2


def test_kin_who_sit_close_and_look_down_now_and_then_stay_as_many_as_they_are() -> None:
    def fidgets(seat: int) -> Person:
        phase, x, y = 0.7 * seat, 60 + 66 * (seat % 4), 60 + 66 * (seat // 4)

        def down(time: float) -> bool:
            return bool(np.sin(0.8 * time + phase) > 0.6)

        return Person(
            f"p{seat}", place=lambda time: (x + 10 * np.sin(time / 2 + phase), y + 6 * np.sin(time + phase)), size=60,
            look=unit(look_of("kin") * 0.4**0.5 + look_of(f"p{seat}") * 0.6**0.5),
            noise=lambda time: 3.0 if down(time) else 1.0, quality=lambda time: 0.42 if down(time) else 0.52,
            visible=lambda time: np.sin(1.1 * time + phase) < 0.93,
        )  # fmt: skip

    frames = watch(Tracker(alike=0.5), [fidgets(seat) for seat in range(12)], 12, fps=8)
    assert len({track.id for tracks in frames for track in tracks if track.state != "tentative"}) <= 13


def test_motion_parts_twins_whose_ways_cross() -> None:
    left = ANN.but(place=walk((100, 200), (150, 20)))
    right = ANN.but(place=walk((600, 260), (-150, -20)))
    frames = watch(Tracker(), [left, right], 3.3, fps=15)
    assert {track.id for tracks in frames for track in tracks} == {1, 2}
    before, after = ({track.id: track.velocity[0] > 0 for track in frames[index]} for index in (5, -1))
    assert before == after


def test_whoever_takes_the_place_of_a_person_who_left_is_somebody_new() -> None:
    ann, bob = ANN.but(visible=between((0, 2))), BOB.but(visible=between((3, 5)))
    frames = watch(Tracker(), [ann, bob], 5)
    assert [track.id for track in frames[19]] == [1]
    assert [(track.id, track.state) for track in frames[-1]] == [(2, "confirmed")]


def test_whoever_looks_like_a_lost_person_but_is_across_the_room_is_somebody_new() -> None:
    ann, double = ANN.but(visible=between((0, 2))), ANN.but(place=(800, 240), visible=between((2.5, 4)))
    assert [track.id for track in watch(Tracker(), [ann, double], 3)[-1]] == [1, 2]


def test_whoever_looks_like_a_person_but_is_five_times_as_large_is_somebody_new() -> None:
    """As what is taken for a face in a blurred background is, which looks like anybody."""
    double = ANN.but(size=400, visible=between((1, 2)))
    assert [track.id for track in watch(Tracker(), [ANN.but(visible=between((0, 1))), double], 2)[-1]] == [1, 2]


@pytest.mark.parametrize("fps", [1, 2, 25])
def test_who_comes_near_fast_stays_the_same(fps: float) -> None:
    ann = ANN.but(size=lambda time: 25 * 2.5**time, place=lambda time: (320, 240 + 30 * time))
    assert {track.id for tracks in watch(Tracker(), [ann], 4, fps=fps) for track in tracks} == {1}


def test_whoever_steps_before_a_person_does_not_take_over_her_track() -> None:
    ann, bob = ANN.but(visible=between((0, 2))), BOB.but(visible=lambda time: time >= 2)
    frames = watch(Tracker(), [ann, bob], 3)
    assert {track.id: track.state for track in frames[-1]} == {1: "lost", 2: "confirmed"}


def test_a_face_too_poor_to_tell_apart_is_followed_by_its_place() -> None:
    blurred = ANN.but(quality=0.05, noise=6.0, visible=lambda time: not 1 <= time < 1.3)
    assert {track.id for tracks in watch(Tracker(), [blurred], 3) for track in tracks} == {1}


def test_a_person_may_turn_away_without_becoming_another() -> None:
    turning = ANN.but(
        noise=lambda time: 4.0 if 1 <= time < 2 else 0.6, quality=lambda time: 0.3 if 1 <= time < 2 else 0.8
    )
    assert {track.id for tracks in watch(Tracker(), [turning], 3) for track in tracks} == {1}


def test_a_weak_detection_continues_a_track_but_begins_none() -> None:
    ann = ANN.but(score=lambda time: 0.3 if 1 <= time < 3 else 0.9)
    ghost = BOB.but(place=(100, 100), score=0.3)
    frames = watch(Tracker(strong=0.5), [ann, ghost], 4)
    assert {track.id for tracks in frames for track in tracks} == {1}
    assert all(track.row is not None for tracks in frames for track in tracks)


def test_a_weak_detection_does_not_bring_back_who_was_lost() -> None:
    ann = ANN.but(visible=lambda time: not 1 <= time < 2, score=lambda time: 0.9 if time < 1 else 0.3)
    frames = watch(Tracker(strong=0.5), [ann], 2.9)
    assert frames[-1][0].state == "lost"


def test_what_is_found_in_one_frame_of_three_is_never_believed() -> None:
    ghost = ANN.but(visible=lambda time: round(time * 10) % 3 == 0)
    frames = watch(Tracker(), [ghost], 5)
    assert {track.state for tracks in frames for track in tracks} == {"tentative"}


@pytest.mark.parametrize("fps", [1, 0.2])
def test_a_stream_of_few_frames_has_tracks_too(fps: float) -> None:
    bob = BOB.but(place=(100, 100), visible=lambda time: time < 3 / fps)
    frames = watch(Tracker(lost=2.0), [ANN, bob], 6 / fps, fps=fps)
    assert [[track.state for track in tracks] for tracks in frames[:3]] == [
        ["tentative", "tentative"],
        ["confirmed", "confirmed"],
        ["confirmed", "confirmed"],
    ]
    assert {track.id for tracks in frames for track in tracks} == {1, 2}
    assert [track.state for track in frames[-1]] == ["confirmed"]  # Bob is not remembered for ever


def test_nothing_outlives_a_camera_that_was_away_for_ten_seconds() -> None:
    tracker = Tracker(lost=2.0)
    watch(tracker, [ANN], 3)
    [again] = tracker.update(*next(film([ANN], 1, start=12.9)))
    assert (again.id, again.state, again.first_seen) == (2, "tentative", 12.9)
    assert [(track.id, track.state, track.row, track.last_seen) for track in tracker.ended] == [
        (1, "lost", None, 2.9)
    ]


def test_nobody_leaves_while_nobody_was_looked_for() -> None:
    tracker = Tracker(lost=2.0)
    watch(tracker, [ANN, BOB.but(place=(100, 100))], 3)
    tracker.excuse(6.0)
    [ann, bob] = tracker.update(*next(film([ANN], 1, start=9)))  # Bob turns away just then
    assert [(track.id, track.state) for track in (ann, bob)] == [(1, "confirmed"), (2, "lost")]
    for faces, time in film([ANN], 1.9, start=9.1):
        assert len(tracker.update(faces, time)) == 2
    assert [track.id for track in tracker.update(*next(film([ANN], 1, start=11.2)))] == [1]  # he did leave


def test_an_empty_room_has_nobody_to_excuse() -> None:
    tracker = Tracker(lost=2.0)
    tracker.excuse(6.0)  # before the first frame
    watch(tracker, [ANN], 3, start=10)
    for faces, time in film([], 2.3, start=13):
        left = not tracker.update(faces, time)
    assert left


def test_a_camera_that_was_away_for_a_second_finds_its_people_again() -> None:
    tracker = Tracker(lost=2.0)
    watch(tracker, [ANN, BOB.but(place=(100, 100))], 3)
    tracks = tracker.update(*next(film([ANN, BOB.but(place=(100, 100))], 1, start=4)))
    assert sorted((track.id, track.state) for track in tracks) == [(1, "confirmed"), (2, "confirmed")]


def test_frames_at_uneven_times_are_followed_all_the_same() -> None:
    random = np.random.default_rng(3)
    ann = ANN.but(place=walk((50, 100), (80, 30)))
    time, tracker, ids = 0.0, Tracker(), set()
    for _ in range(60):
        ids |= {track.id for track in tracker.update(faces_at([ann], time, random), time)}
        time += random.choice([0.0, 0.005, 0.03, 0.1, 0.4])
    assert ids == {1}


@pytest.mark.parametrize("step", [0.0, -0.5], ids=["stands still", "goes back"])
def test_a_clock_that_does_not_go_on_changes_nothing_for_the_worse(step: float) -> None:
    random, tracker = np.random.default_rng(0), Tracker()
    watch(tracker, [ANN], 2)
    for index in range(20):
        [track] = tracker.update(faces_at([ANN], 2, random), 1.9 + step * index)
        assert (track.id, track.state, track.last_seen) == (1, "confirmed", 1.9)
        assert np.isfinite(track.box).all()
        assert np.isfinite(track.velocity).all()
    assert np.hypot(*track.velocity) < 80


def test_no_face_at_all_is_no_trouble() -> None:
    tracker = Tracker()
    assert not tracker.update(Faces.none(), 0.0)
    assert not tracker.update(Faces.none(), 0.1)
    watch(tracker, [ANN], 1, start=0.2)
    assert [track.state for track in tracker.update(Faces.none(), 1.3)] == ["lost"]
    assert not tracker.update(Faces.none(), 9.0)
    assert [track.id for track in tracker.ended] == [1]
    tracker.update(Faces.none(), 9.1)
    assert tracker.ended == []


def test_a_box_without_area_is_no_trouble() -> None:
    tracker = Tracker()
    frames = watch(tracker, [ANN.but(size=0.0), BOB.but(place=(10, 10))], 1)
    assert len(frames[-1]) == 2


def test_each_row_is_the_tracks_own_face() -> None:
    people = [Person(f"p{i}", place=walk((60 + 90 * i, 100), (10, 15 * i))) for i in range(6)]
    tracker = Tracker()
    for faces, time in film(people, 2):
        for track in tracker.update(faces, time):
            assert track.row is not None
            assert faces.boxes[track.row] == pytest.approx(track.box, abs=10)
            assert faces.embeddings[track.row] @ track.embedding > 0.6
            assert faces.scores[track.row] == track.score


def test_a_track_once_handed_out_never_changes() -> None:
    tracker = Tracker()
    frames = watch(tracker, [ANN.but(age=lambda time: 20 + time)], 1)

    def arrays(track: Track) -> list[NDArray[Any]]:
        return [value for value in track if isinstance(value, np.ndarray)]

    kept = frames[-1][0]
    before = [array.copy() for array in arrays(kept)]
    assert len(before) == 7
    watch(tracker, [ANN.but(place=(350, 260), emotion="happy")], 1, start=1)
    for array, was in zip(arrays(kept), before, strict=True):
        assert np.array_equal(array, was)


def test_poor_faces_hardly_count_in_the_averages() -> None:
    blurred = between((1, 2))
    ann = ANN.but(
        age=lambda time: 80 if blurred(time) else 30, quality=lambda time: 0.02 if blurred(time) else 0.8
    )
    *_, [track] = watch(Tracker(), [ann], 2)
    assert track.age == pytest.approx(30, abs=3)


def test_averages_do_not_depend_on_the_frame_rate() -> None:
    ann = ANN.but(
        age=lambda time: 30 if time < 3 else 50, emotion=lambda time: "sad" if time < 3 else "happy"
    )
    slow, quick = (watch(Tracker(), [ann], 4, fps=fps)[-1][0] for fps in (5, 30))
    assert slow.age == pytest.approx(quick.age, abs=1.5)
    assert slow.emotion == pytest.approx(quick.emotion, abs=0.07)


def test_an_expression_fades_sooner_than_a_gender() -> None:
    ann = ANN.but(
        male=lambda time: 0.1 if time < 3 else 0.7, emotion=lambda time: "sad" if time < 3 else "happy"
    )
    *_, [track] = watch(Tracker(), [ann], 4)
    assert track.gender is not None
    assert track.emotion is not None
    assert track.gender < 0.4  # a second of five that still count
    assert track.emotion[3] > 0.55  # happy was at 0.05 and is on its way to 0.7


def test_the_age_comes_with_how_much_it_wavers() -> None:
    random = np.random.default_rng(5)
    *_, [track] = watch(Tracker(), [ANN.but(age=lambda _: random.normal(40, 8))], 20)
    assert track.age == pytest.approx(40, abs=4)
    assert track.age_deviation == pytest.approx(8, abs=3)


def test_the_embedding_is_the_mean_of_many() -> None:
    *_, [track] = watch(Tracker(), [ANN.but(noise=1.0)], 5)
    assert float(track.embedding @ look_of("Ann")) > 0.95 > 1 / sqrt(2) + 0.1
    assert np.linalg.norm(track.embedding) == pytest.approx(1)


def test_what_is_not_asked_for_is_not_averaged() -> None:
    *_, [track] = watch(Tracker(smooth=["gender"]), [ANN], 1)
    assert track.gender == pytest.approx(0.1)
    assert (track.age, track.age_deviation, track.ethnicity, track.emotion, track.attributes) == (None,) * 5


def test_a_hundred_people_who_mill_about_keep_their_tracks() -> None:
    def mill(index: int) -> Person:
        def place(time: float) -> tuple[float, float]:
            return (
                60 + 110 * (index % 12) + 25 * np.sin(time + index),
                60 + 110 * (index // 12) + 25 * np.cos(0.7 * time + 3 * index),
            )

        return Person(f"p{index}", place=place, size=50, noise=0.9)

    people = [mill(index) for index in range(100)]
    frames = watch(Tracker(), people, 4)
    assert {track.id for tracks in frames for track in tracks} == set(range(1, 101))
    assert [track.state for track in frames[-1]] == ["confirmed"] * 100


def test_a_crowd_that_jostles_is_hardly_mixed_up() -> None:
    random = np.random.default_rng(1)
    starts, velocities = random.uniform(0, 900, (60, 2)), random.normal(0, 60, (60, 2))
    people = [
        Person(f"p{i}", place=walk(tuple(starts[i]), tuple(velocities[i])), size=45, noise=0.9)
        for i in range(60)
    ]
    looks = np.array([look_of(person.name) for person in people])
    tracker = Tracker()
    owners: dict[int, list[int]] = {}
    for faces, time in film(people, 4):
        for track in follow(tracker, faces, time):
            if track.row is not None:
                owners.setdefault(track.id, []).append(int(np.argmax(looks @ faces.embeddings[track.row])))
    assert len(owners) <= 63
    assert sum(len(set(whose)) > 1 for whose in owners.values()) == 0


# --- whose looks are wanted ----------------------------------------------------------------------

CROWD = [Person(f"p{i}", place=(100 + 150 * (i % 8), 100 + 150 * (i // 8))) for i in range(40)]


def turns(people: Sequence[Person], tracker: Tracker, seconds: float, fps: float = 25) -> dict[float, set[str]]:
    """Whom the tracker asked for, by the time of each frame."""
    looks, asked = np.array([look_of(person.name) for person in people]), {}
    for faces, time in film(people, seconds, fps=fps):
        wanted = tracker.asks_for(faces.boxes, time)
        asked[time] = {people[who].name for who in (faces.embeddings[wanted] @ looks.T).argmax(1).tolist()}
        tracker.update(described(faces, wanted), time)
    return asked


def test_a_crowd_that_stays_takes_turns_to_be_described() -> None:
    asked = turns(CROWD, Tracker(describe=16), 6)
    assert all(len(names) == 40 for time, names in asked.items() if time <= 3)  # nobody is known yet
    assert all(len(names) == 16 for time, names in asked.items() if time > 3)
    for person in CROWD:
        times = [time for time, names in asked.items() if person.name in names]
        assert max(np.diff(times)) <= 0.13  # 16 of 40 in each twenty-fifth of a second: every tenth


def test_of_a_crowd_whoever_comes_or_is_near_another_is_described_at_every_frame() -> None:
    comes = Person("Dan", place=(1400, 240), visible=lambda time: time >= 4)
    near = [Person("Eve", place=(1400, 500)), Person("Fay", place=(1440, 500))]
    asked = turns([*CROWD, comes, *near], Tracker(describe=16), 9)
    assert all({"Eve", "Fay"} <= names for names in asked.values())
    assert all("Dan" in names for time, names in asked.items() if 4 <= time < 7)
    assert sum("Dan" in names for time, names in asked.items() if time >= 8) <= 9
    assert {len(names) for time, names in asked.items() if time > 3} == {16}


def test_few_people_are_described_at_every_frame_and_in_a_slow_crowd_everybody_within_a_second() -> None:
    assert all(len(names) == 16 for names in turns(CROWD[:16], Tracker(describe=16), 2).values())
    assert all(len(names) == 40 for names in turns(CROWD, Tracker(describe=None), 2).values())
    slow = turns(CROWD, Tracker(describe=16), 8, fps=2)
    assert all(len(names) == 20 for time, names in slow.items() if time > 3)


def test_whoever_stays_has_a_turn_within_a_second_while_others_keep_coming() -> None:
    def comes(start: float, seat: int) -> Person:
        return Person(f"q{start}", place=(100 + 150 * seat, 1000), visible=between((start, start + 5)))

    asked = turns([*CROWD, *(comes(0.2 * i, i % 30) for i in range(50))], Tracker(describe=16), 10, fps=5)
    for person in CROWD:
        assert max(np.diff([time for time, names in asked.items() if person.name in names])) <= 1.0 + 1e-6


def test_a_crowd_that_is_another_at_a_stroke_is_found_out_though_everybody_is_where_somebody_was() -> None:
    before = [person.but(visible=lambda time: time < 4) for person in CROWD]
    after = [Person(f"r{i}", place=person.place, visible=lambda time: time >= 4) for i, person in enumerate(CROWD)]
    asked = turns([*before, *after], Tracker(describe=4), 10, fps=10)
    assert {len(names) for time, names in asked.items() if 3.1 < time < 4} <= {4, 5}
    assert set().union(*(names for time, names in asked.items() if 4 <= time < 5.05)) == {p.name for p in after}
    assert all(len(names) >= 38 for time, names in asked.items() if 5.05 <= time < 7)
    assert {len(names) for time, names in asked.items() if time >= 9.5} <= {4, 5}


def test_of_whom_is_not_described_nothing_is_learnt_but_the_place() -> None:
    tracker, nobody = Tracker(), np.zeros(1, np.bool_)
    watch(tracker, [ANN], 4)
    [before] = tracker.update(*next(film([ANN], 1, start=4)))
    moved = next(film([ANN.but(place=(330, 240), look=look_of("Bob"), age=60, emotion="happy")], 1, start=4.1))[0]
    [after] = tracker.update(described(moved, nobody), 4.1)

    assert (after.id, after.row) == (before.id, 0)
    assert after.box[0] > before.box[0]
    for name in ("embedding", "quality", "attributes", "age", "gender", "ethnicity", "emotion"):
        assert np.array_equal(getattr(after, name), getattr(before, name))


names = st.sampled_from(["Ann", "Bob", "Cem", "Dan"])
seen_faces = st.lists(
    st.builds(
        Person,
        names,
        place=st.tuples(st.integers(0, 200), st.integers(0, 200)),
        size=st.sampled_from([0.0, 20.0, 80.0]),
        score=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
        quality=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        noise=st.sampled_from([0.1, 0.6, 3.0]),
    ),
    max_size=6,
)
steps = st.sampled_from([0.0, 0.001, 0.05, 0.2, 0.5, 1.9, 2.1, 30.0, -1.0])


@settings(
    deadline=None,
    max_examples=80,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(st.tuples(steps, seen_faces), max_size=20))
def test_whatever_is_seen_the_books_are_in_order(frames: list[tuple[float, list[Person]]]) -> None:
    """Ids are used once, a face goes to one track, and a track lives through its states in order."""
    random, tracker = np.random.default_rng(0), Tracker(confirm=0.3, lost=2.0, describe=2)
    clock, time = 0.0, -np.inf
    alive: dict[int, Track] = {}
    gone: set[int] = set()
    steps_before: list[float] = []
    for step, people in frames:
        clock += step
        memory = max(2.0, 1.5 * min(steps_before[-2:], default=max(clock - time, 0.0)))
        steps_before += [max(clock - time, 0.0)] if time > -np.inf else []
        time_passed, time = clock > time, max(time, clock)
        faces = faces_at(people, clock, random)
        tracks = follow(tracker, faces, clock)
        ids = [track.id for track in tracks]
        assert ids == sorted(set(ids))
        assert not gone & set(ids)
        assert {track.id for track in tracker.ended} == alive.keys() - set(ids)
        assert all(track.row is None for track in tracker.ended)
        rows = [track.row for track in tracks if track.row is not None]
        assert len(rows) == len(set(rows))
        assert set(np.flatnonzero(faces.scores >= 0.5).tolist()) <= set(rows)  # nobody strong is ignored
        for track in tracks:
            before = alive.get(track.id)
            if before is None:
                assert track.state == "tentative"
                assert (track.first_seen, track.last_seen) == (time, time)
                assert track.id > max(alive.keys() | gone, default=0)
            else:
                assert track.first_seen == before.first_seen
                assert (track.state == "tentative") <= (before.state == "tentative")
            assert (track.state == "lost") <= (track.row is None)
            assert (track.state == "confirmed") <= (track.row is not None)
            assert track.row is None or track.last_seen == time
            assert track.row is not None or track.last_seen < time or not time_passed
            assert time - track.last_seen <= memory  # longer where the frames before this one came more seldom
            assert track.age is not None
            assert track.age_deviation is not None
            for value in (*track.box, *track.velocity, *track.embedding, track.age, track.age_deviation):
                assert isfinite(value)
            assert (track.box[2:] > track.box[:2]).all()
        gone |= alive.keys() - set(ids)
        alive = {track.id: track for track in tracks}

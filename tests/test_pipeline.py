"""The pipeline: frames in, events out, and nothing else has a say in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
import pytest

from clip import FPS, SECONDS, pictures
from onelook import service
from onelook.config import Config, Policy, Report
from onelook.event import Crowd, Event, Presence
from onelook.face import Floats
from onelook.frame import Frame
from onelook.gallery import Gallery
from onelook.match import Match
from onelook.model import FaceModel
from onelook.pipeline import Pipeline
from onelook.reporter import Reporter
from onelook.track import Tracker

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel()


@pytest.fixture(scope="module")
def film() -> list[Frame]:
    return [
        Frame("door", index, picture, 100 + index / FPS, BEGAN + timedelta(seconds=index / FPS))
        for index, picture in enumerate(pictures())
    ]


def nobody(embeddings: Floats) -> Sequence[Match]:
    return [Match(None, -1.0, inf)] * len(embeddings)


def pipeline(model: FaceModel, stream: str = "door", **hooks: object) -> Pipeline:
    reporter = Reporter(stream, Report(), model.spec.labels, nobody, partial(model.spec.similarities, 1e-3))
    tracker = Tracker(strong=model.score, smooth=reporter.needs)
    return Pipeline(model, tracker, reporter, **hooks)  # type: ignore[arg-type]


def said(events: Sequence[Event]) -> list[dict[str, object]]:
    """Events without what is new each time."""
    return [event.model_dump(mode="json", exclude={"id"}) for event in events]


@pytest.fixture(scope="module")
def told(model: FaceModel, film: list[Frame]) -> list[Event]:
    """What is told of the whole film."""
    door = pipeline(model)
    told: list[Event] = []
    for frame in film:
        told += door.step(frame)
        assert all(track.row is None or track.row < len(door.faces) for track in door.tracks)
    return told


def test_a_film_becomes_a_story(told: list[Event], film: list[Frame]) -> None:
    arrivals = [event for event in told if isinstance(event.data, Presence)]
    counts = [event.data.count for event in told if isinstance(event.data, Crowd)]
    assert arrivals[0].data.state == "appeared"  # type: ignore[union-attr]
    assert max(counts) >= 1
    assert {event.stream for event in told} == {"door"}
    for event in told:  # dated by the frame that decided it
        index = round((event.time - BEGAN).total_seconds() * FPS)
        assert event.time == film[index].utc
        assert event.captured == film[index].time
        if not isinstance(event.data, Crowd):
            assert event.data.frame == index  # type: ignore[union-attr]


def test_the_same_frames_give_the_same_events(model: FaceModel, film: list[Frame]) -> None:
    first, second = pipeline(model), pipeline(model)

    for frame in film[:40]:
        assert said(first.step(frame)) == said(second.step(frame))


def test_streams_that_share_a_model_do_not_meddle(model: FaceModel, film: list[Frame]) -> None:
    door, one, other = pipeline(model), pipeline(model), pipeline(model, "yard")
    alone = [event for frame in film[:30] for event in door.step(frame)]
    together: list[Event] = []
    for frame in film[:30]:
        together += one.step(frame)
        # Another size, too: the shared canvas is cleared between them.
        other.step(Frame("yard", frame.index, np.ascontiguousarray(frame.image[::2, ::2]), frame.time, frame.utc))

    assert said(together) == said(alone)


def test_where_there_is_nobody_only_the_count_is_said(model: FaceModel, film: list[Frame]) -> None:
    wall = np.full((480, 640, 3), 120, np.uint8)
    door = pipeline(model)

    events = [event for f in film[::4] for event in door.step(Frame("door", f.index, wall, f.time, f.utc))]

    assert [event.data for event in events] == [Crowd(count=0, known=0, unknown=0)]
    assert len(door.faces) == 0
    assert not door.tracks
    assert film[-1].time - film[0].time > SECONDS - 1


def test_while_the_camera_is_away_people_leave_in_good_time(model: FaceModel, film: list[Frame]) -> None:
    door = pipeline(model)
    assert door.wait(1.0, BEGAN) == []  # nobody knows yet what there is to be seen
    told = [event for frame in film[:15] for event in door.step(frame)]
    assert [event.data.count for event in told if isinstance(event.data, Crowd)][-1] == 1
    last = film[14]

    def after(seconds: float) -> list[Event]:
        return door.wait(last.time + seconds, last.utc + timedelta(seconds=seconds))

    soon = [event.data for tenths in range(1, 20) for event in after(tenths / 10)]  # it may be back at once
    assert not [said for said in soon if isinstance(said, Presence)]
    assert {said.count for said in soon if isinstance(said, Crowd)} <= {1}
    gone = [event for tenths in range(20, 60) for event in after(tenths / 10)]

    assert [(said.state, said.frame) for said in (event.data for event in gone) if isinstance(said, Presence)] == [
        ("left", 14)
    ]
    assert [event.data.count for event in gone if isinstance(event.data, Crowd)] == [0]
    assert all(timedelta(seconds=2) <= event.time - last.utc < timedelta(seconds=4) for event in gone)
    assert len(door.faces) == 0
    [back] = [event for frame in film[60:66] for event in door.step(replace(frame, time=frame.time + 9))
              if isinstance(event.data, Presence)]  # fmt: skip
    assert back.data.state == "appeared"  # type: ignore[union-attr]


def test_a_camera_that_is_set_to_another_resolution_keeps_its_people(model: FaceModel, film: list[Frame]) -> None:
    door, events = pipeline(model), []
    for frame in film[20:40]:  # both are there
        half = frame.index >= 30
        events += door.step(replace(frame, image=frame.image[::2, ::2].copy()) if half else frame)
    assert len(door.tracks) == 2
    assert [event.data.state for event in events if isinstance(event.data, Presence)] == ["appeared"] * 2


def test_after_a_file_that_was_faster_than_the_clock_people_leave_in_good_time(
    model: FaceModel, film: list[Frame]
) -> None:
    door = pipeline(model)
    for frame in film[:40]:
        door.step(replace(frame, time=frame.time + 3600))
    assert len(door.tracks) == 2
    heard = [event for seconds in range(5) for event in door.wait(100 + seconds, BEGAN + timedelta(seconds=seconds))]
    assert [event.data.state for event in heard if isinstance(event.data, Presence)] == ["left"] * 2
    assert all(event.captured in range(100, 105) for event in heard), "told of now"


def test_it_tells_its_stages(model: FaceModel, film: list[Frame]) -> None:
    stages: list[str] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        stages.append(f"{name} begins")
        yield
        stages.append(f"{name} ends")

    door = pipeline(model, stage=stage)
    for frame in film[:2]:
        door.step(frame)

    assert stages == ["track begins", "track ends", "report begins", "report ends"] * 2


def test_no_event_holds_a_template(model: FaceModel, told: list[Event]) -> None:
    assert told

    for event in told:
        numbers = [json.loads(event.model_dump_json())]
        while numbers:
            value = numbers.pop()
            inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
            assert len(inner) < model.spec.embedding_size / 4
            numbers += inner


def test_it_needs_neither_broker_nor_page() -> None:
    script = "import sys, onelook.pipeline; print([n for n in ('paho', 'prometheus_client', 'av') if n in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=True)

    assert done.stdout.strip() == "[]"


def test_where_nothing_may_be_found_out_no_face_is_described(
    film: list[Frame], told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faces are found and followed by their place; the network's second part never runs."""
    policy = Policy(identity="off", attributes="off", emotion="off")
    model = FaceModel(describe=False)
    monkeypatch.setattr(model, "_faces", None)  # to call it would fail
    reporter = Reporter("door", Report(), model.spec.labels, nobody, partial(model.spec.similarities, 1e-3), policy)
    watched = Pipeline(model, Tracker(strong=model.score, smooth=reporter.needs), reporter)
    events = [event for frame in film for event in watched.step(frame)]
    assert {event.kind for event in events} == {"presence", "crowd"}
    assert reporter.needs == frozenset()
    seen, whole = ([event.data.state for event in each if isinstance(event.data, Presence)] for each in (events, told))
    assert seen == whole
    assert not watched.faces.embeddings.any()
    assert not watched.faces.quality.any()


def test_more_people_than_the_model_can_tell_apart_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    section = {"path": str(tmp_path / "g.db"), "key_file": str(tmp_path / "g.key")}
    config = Config.model_validate(
        {"streams": [{"name": "door", "url": "0"}], "gallery": section, "publish": "stdout", "report": {"far": 1e-4}}
    )
    with Gallery.open(config.gallery.path, config.gallery.key_file, FaceModel().spec.stamp) as gallery:
        looks = np.eye(256, dtype=np.float32)
        for number in range(3):  # it is calibrated to one in 100,000, and three times as cautious
            gallery.add(f"friend {number}", looks[number], 0.9, "friend.jpg")
        service.check(config)
        assert "cannot hold report.far" not in caplog.text
        gallery.add("Ben", looks[3], 0.9, "ben.jpg")
        service.check(config)
    assert "With 4 people enrolled, the model cannot hold report.far" in caplog.text

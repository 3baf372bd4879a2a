"""Replay: the same recording tells the same story every time, and the right one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from clip import COMES, EILEEN, FPS, GOES, GRACE, SECONDS, head, write_mp4
from daemon_process import onelook, write_config
from onelook.event import KINDS
from onelook.model import shipped
from onelook.video import VideoWriter

Told = list[dict[str, Any]]
GOLDEN = Path(__file__).parent / "golden" / "clip.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip, and a config whose gallery knows one of the two."""
    folder = tmp_path_factory.mktemp("replay")
    write_mp4(folder / "clip.mp4")
    config = write_config(folder, {"name": "door", "url": str(folder / "clip.mp4")})
    onelook("enroll", "Eileen Collins", EILEEN, "--config", config)
    return folder


@pytest.fixture(scope="module")
def replayed(folder: Path) -> subprocess.CompletedProcess[str]:
    """The first of two replays, which draws as well."""
    return replay(folder, "--draw", folder / "drawn.mp4")


@pytest.fixture(scope="module")
def told(replayed: subprocess.CompletedProcess[str]) -> Told:
    return events(replayed)


def replay(folder: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    return onelook("replay", folder / "clip.mp4", "--config", folder / "config.yaml", *more)


def events(done: subprocess.CompletedProcess[str]) -> Told:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(told: Told, kind: str) -> Told:
    """The data of the events of that kind, in order."""
    return [event["data"] for event in told if event["type"] == f"onelook.{kind}"]


def seconds(event: dict[str, Any]) -> float:
    """Where in the recording it happened."""
    return datetime.fromisoformat(event["time"]).timestamp()


def video(path: Path) -> list[tuple[float, np.ndarray[Any, Any]]]:
    with av.open(str(path)) as file:
        return [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]


# --- exact ---------------------------------------------------------------------------------------


def test_two_replays_tell_the_same_but_for_the_ids(folder: Path, told: Told) -> None:
    again = events(replay(folder))

    assert told
    assert [event | {"id": ""} for event in again] == [event | {"id": ""} for event in told]
    assert not {event["id"] for event in again} & {event["id"] for event in told}


def test_events_are_dated_by_their_place_in_the_recording(told: Told) -> None:
    times = [seconds(event) for event in told]

    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < SECONDS
    for event in told:
        if "frame" in event["data"]:
            assert seconds(event) == pytest.approx(event["data"]["frame"] / FPS, abs=0.002)


def test_what_is_printed_are_events_and_nothing_else(told: Told, replayed: subprocess.CompletedProcess[str]) -> None:
    kinds = {event["type"].removeprefix("onelook.") for event in told}

    assert kinds <= set(KINDS) - {"status"}
    assert "Traceback" not in replayed.stderr
    assert "frame/s" not in replayed.stderr  # no progress bar into a pipe


def plain(event: dict[str, Any]) -> dict[str, Any]:
    """An event as the golden file holds it: when, what, and each of its data by its path; no id."""

    def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from leaves(inner, f"{path}.{key}")
        else:
            yield path, round(value, 3) if isinstance(value, float) else value

    return {"seconds": round(seconds(event), 3), "type": event["type"], **dict(leaves(event["data"], "data"))}


def near(one: object, other: object) -> bool:
    """The same, or numbers that differ as machines do that round their last bits differently."""
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=0.005, abs_tol=0.02)
    return one == other


def test_it_is_event_by_event_the_golden_replay(told: Told, pytestconfig: pytest.Config) -> None:
    """Where a new network or another policy is meant to tell another story: `make golden`, and read its diff."""
    now = [{"model": hashlib.sha256((shipped() / "model.tflite").read_bytes()).hexdigest()}, *map(plain, told)]
    if pytestconfig.getoption("--golden"):
        GOLDEN.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in now))

    then = [json.loads(line) for line in GOLDEN.read_text().splitlines()]

    assert now[0] == then[0], "the network has changed: run `make golden`, and look at its diff before you commit it"
    assert [each.get("type") for each in now] == [each.get("type") for each in then]
    apart = [
        f"{mine['type']} at {mine['seconds']} s: {key} is {mine.get(key)}, not {golden.get(key)}"
        for mine, golden in zip(now[1:], then[1:], strict=True)
        for key in mine | golden
        if not near(mine.get(key), golden.get(key))
    ]
    assert not apart


# --- the story -----------------------------------------------------------------------------------


def test_two_people_come_and_one_leaves(told: Told) -> None:
    presence = [(event["data"]["state"], event["data"]["track"], seconds(event)) for event in told
                if event["type"] == "onelook.presence"]

    assert [state for state, _, _ in presence] == ["appeared", "appeared", "left"]
    (_, eileen, first), (_, grace, second), (_, gone, last) = presence
    assert eileen != grace == gone
    assert first < COMES <= second < COMES + 1.5
    assert GOES <= last < GOES + 2


def test_the_crowd_is_counted(told: Told) -> None:
    counts = [count for count, _ in groupby(data["count"] for data in of(told, "crowd"))]

    assert counts == [0, 1, 2, 1]
    last = of(told, "crowd")[-1]
    assert (last["count"], last["known"], last["unknown"]) == (1, 1, 0)


def test_who_is_enrolled_is_known_and_the_other_is_not(told: Told) -> None:
    [eileen, grace] = [data["track"] for data in of(told, "presence") if data["state"] == "appeared"]
    last = {data["track"]: (data["state"], data["name"]) for data in of(told, "identity")}

    assert last == {eileen: ("known", "Eileen Collins"), grace: ("unknown", None)}


def test_both_are_described(told: Told) -> None:
    tracks = {data["track"] for data in of(told, "presence")}

    assert {data["track"] for data in of(told, "attributes")} == tracks
    assert {data["track"] for data in of(told, "emotion")} == tracks


def test_without_a_config_nobody_is_known(folder: Path) -> None:
    done = onelook("replay", folder / "clip.mp4")

    assert of(events(done), "presence")
    assert {data["state"] for data in of(events(done), "identity")} <= {"unknown", "uncertain"}


def test_a_folder_of_pictures_is_a_recording_too(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    for hour in range(6):  # each stands for a second; of sizes that no video has
        picture = head(GRACE, 301 + 2 * hour)
        cv2.imwrite(str(tmp_path / "day" / f"{hour}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    done = onelook("replay", f"{tmp_path / 'day'}/", "--draw", tmp_path / "day.mp4")

    assert "appeared" in {data["state"] for data in of(events(done), "presence")}
    assert len(video(tmp_path / "day.mp4")) == 6


def test_in_a_terminal_a_bar_says_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    for hour in range(3):
        cv2.imwrite(str(tmp_path / "day" / f"{hour}.png"), np.full((64, 64, 3), 100, np.uint8))
    try:
        ours, theirs = pty.openpty()
    except OSError:
        pytest.skip("no terminal is to be had: /dev/pts is not mounted")
    termios.tcsetwinsize(ours, (24, 80))
    command = [sys.executable, "-m", "onelook", "replay", f"{tmp_path / 'day'}/"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=180, check=False)
    os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, suppress(OSError):  # how a terminal ends
        while piece := terminal.read(4096):
            shown += piece

    assert done.returncode == 0
    assert b"3/3" in shown
    assert b"3/3" not in done.stdout


# --- drawn ---------------------------------------------------------------------------------------


def test_what_is_drawn_can_be_played_and_shows_the_faces(
    folder: Path, replayed: subprocess.CompletedProcess[str]
) -> None:
    assert replayed.returncode == 0
    plain, drawn = video(folder / "clip.mp4"), video(folder / "drawn.mp4")

    assert len(drawn) == len(plain) == round(SECONDS * FPS)
    assert [time for time, _ in drawn] == pytest.approx([time for time, _ in plain], abs=0.002)
    assert drawn[0][1].shape == plain[0][1].shape
    pairs = [(a.astype(int), b) for (_, a), (_, b) in zip(plain, drawn, strict=True)]
    changed = [float((np.abs(a - b).max(2) > 60).mean()) for a, b in pairs]
    assert changed[0] == 0  # nobody is a track in the first frame
    assert min(changed[10:15]) > 0.001


def test_into_a_closed_pipe_it_ends_quietly(folder: Path) -> None:
    command = [sys.executable, "-m", "onelook", "replay", str(folder / "clip.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(180) == 0


# --- what cannot be replayed ---------------------------------------------------------------------


@pytest.mark.parametrize(("source", "sentence"), [
    ("nothing.mp4", "is not there: no such file"),
    ("text.mp4", "is not a video that can be read"),
    ("rstp://cam/1", "did you mean rtsp://?"),
])  # fmt: skip
def test_a_source_that_cannot_be_read_is_told_with_a_sentence(tmp_path: Path, source: str, sentence: str) -> None:
    (tmp_path / "text.mp4").write_text("no video at all" * 100)
    till = {"name": "till", "polygon": [[0, 0], [1, 0], [1, 1]]}
    config = write_config(tmp_path, {"name": "door", "url": "a.mp4", "zones": [till]}, {"name": "yard", "url": "b.mp4"})

    done = onelook("replay", source, "--draw", "out.mp4", "--config", config, cwd=tmp_path)

    assert done.returncode == 78
    assert ("No zones and lines are told of: the config has 2 streams" in done.stderr) is (source != "rstp://cam/1")
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_is_drawn_of_a_camera_begins_with_its_first_picture(tmp_path: Path) -> None:
    """Whose time is the machine's: it was put behind days of nothing."""
    with VideoWriter(tmp_path / "out.mp4") as writer:
        for index in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8), 500_000 + index / 10)

    assert [time for time, _ in video(tmp_path / "out.mp4")] == pytest.approx([0, 0.1, 0.2], abs=0.002)


def test_a_drawing_that_cannot_be_written_is_told_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    done = onelook("replay", folder / "clip.mp4", "--draw", tmp_path / "no" / "such" / "out.mp4")

    assert done.returncode == 78
    assert "out.mp4 cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_times_start_with_the_epoch_and_not_with_today(told: Told) -> None:
    # A recording does not say when it was made; 1970 is nobody's guess, and the same on every machine.
    assert datetime.fromisoformat(told[0]["time"]) < datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=SECONDS)

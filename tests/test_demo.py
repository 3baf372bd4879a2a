"""The demo as a newcomer runs it: the real process in an empty folder."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from broker import PATIENCE, Broker, free_port, wait_until
from clip import write_mp4
from daemon_process import onelook
from onelook.demo import FPS, PORTRAITS, _held, in_words, walkers

pytestmark = pytest.mark.timeout(600)  # the crowd's film takes its time


class Demo:
    """`onelook demo` in `folder`, as the leader of a session of its own: who is left of it can be told."""

    def __init__(self, folder: Path, *arguments: str | Path, first: str = "") -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        script = f"{first}\nimport sys\nfrom onelook.__main__ import main\nsys.exit(main())"
        door = ["-c", script] if first else ["-m", "onelook"]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *door, "demo", *map(str, arguments)], cwd=folder, stdout=out, stderr=err,
                env=os.environ | {"TMPDIR": str(folder / "tmp")}, start_new_session=True,
            )  # fmt: skip

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait_for(self, pattern: str) -> None:
        """Until a line of its output is like that."""

        def said() -> object:
            assert self.process.poll() is None or re.search(pattern, self.out), f"{self.out}\n{self.err}"
            return re.search(pattern, self.out)

        wait_until(said, f"{pattern!r} in what it says", PATIENCE)

    def leftovers(self) -> list[str]:
        """Processes of its session, and what it left in the folder for temporary files."""
        left = [str(path) for path in (self.folder / "tmp").iterdir()]
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                rest = stat.read_text().rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            if int(rest[3]) == self.process.pid and rest[0] != "Z":
                left.append(f"process {stat.parent.name}")
        return left

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.end()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4")


@dataclass
class Visit:
    """A demo from its first word to its end, and what somebody has heard of its broker."""

    demo: Demo
    identities: list[dict[str, Any]]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """What a newcomer sees: the whole film of the crowd."""
    pytest.importorskip("amqtt", reason="the demo's own broker needs onelook[demo]")
    seen = Visit(Demo(tmp_path_factory.mktemp("visit"), "--seconds", "240"), [])
    reader = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
    reader.on_message = lambda _client, _data, message: seen.identities.append(json.loads(message.payload))
    try:
        seen.demo.wait_for(r"Events: mqtt://127\.0\.0\.1:\d+, topics onelook/demo/#")
        port = re.search(r"mqtt://127\.0\.0\.1:(\d+)", seen.demo.out)
        assert port
        reader.connect("127.0.0.1", int(port[1]))
        reader.subscribe("onelook/demo/crowd/identity", qos=1)
        reader.loop_start()
        assert seen.demo.process.wait(400) == 0, seen.demo.err
    finally:
        reader.loop_stop()
        seen.demo.end()
    return seen


def test_a_newcomer_sees_a_crowd_becoming_events(visit: Visit) -> None:
    demo = visit.demo
    assert re.search(r"Events: mqtt://127\.0\.0\.1:\d+, topics onelook/demo/#", demo.out)
    assert re.search(r"Metrics: http://127\.0\.0\.1:\d+/metrics", demo.out)
    assert "crowd is offline: it has come to its end" in demo.out
    for line in (
        r"person \d+ appeared", r"person \d+ looks (fe)?male", r"[1-9]\d* people in view", "the daemon is online",
        "the daemon is offline",
    ):
        assert re.search(line, demo.out), line
    counted = re.search(r"(\d+) frames; events: (.*)", demo.out)
    assert counted
    assert int(counted[1]) > 20
    assert int(re.search(r"(\d+) presence", counted[2])[1]) >= 5  # type: ignore[index]
    assert re.search(r"Frame age .* \d+ ms on average.*CPU seconds a second, \d+ MiB", demo.out)
    picture = cv2.imread(str(demo.folder / "demo" / "annotated.jpg"))
    assert picture is not None
    assert picture.shape == (960, 1280, 3)  # twice the size of the film: words need room
    assert "Traceback" not in demo.err
    assert "WARNING" not in demo.err
    assert demo.leftovers() == []


def test_the_enrolled_one_of_the_crowd_is_named_and_the_other_is_not(visit: Visit) -> None:
    crowd = walkers()

    def stands_at(event: dict[str, Any]) -> str:
        """Whose face is nearest to the box, at the time of that frame of the film."""
        x1, y1, x2, y2 = event["data"]["box"]
        there = [(walker, walker.middle(event["data"]["frame"] / FPS)) for walker in crowd]
        apart = [
            (math.dist(middle, ((x1 + x2) / 2, (y1 + y2) / 2)), walker.name) for walker, middle in there if middle
        ]
        return min(apart)[1]

    demo, said = visit.demo, visit.identities
    assert "Eileen Collins's portrait is enrolled" in demo.out
    assert re.search(r"person \d+ is Eileen Collins \(similarity 0\.\d+\)", demo.out)
    named = [stands_at(event) for event in said if event["data"]["state"] == "known"]
    strangers = [stands_at(event) for event in said if event["data"]["state"] == "unknown"]
    assert len(named) >= 3
    assert set(named) == {"Eileen Collins"}
    assert strangers.count("Grace Hopper") >= 3


def test_ctrl_c_ends_it_soon_and_cleanly(tmp_path: Path, clip: Path, demos: list[Demo]) -> None:
    pytest.importorskip("amqtt", reason="the demo's own broker needs onelook[demo]")
    demos.append(demo := Demo(tmp_path, clip))
    demo.wait_for("appeared")

    demo.process.send_signal(signal.SIGINT)

    assert demo.process.wait(PATIENCE) == 0
    assert "has come to its end" not in demo.out  # the film would have gone on
    assert "frames; events:" in demo.out  # what was seen is summed up all the same
    assert (tmp_path / "demo" / "annotated.jpg").exists()
    assert "Traceback" not in demo.err
    assert demo.leftovers() == []


def test_ctrl_c_while_the_crowd_is_composed_leaves_nothing(tmp_path: Path, demos: list[Demo]) -> None:
    pytest.importorskip("amqtt", reason="the demo's own broker needs onelook[demo]")
    demos.append(demo := Demo(tmp_path))
    wait_until(lambda: list((tmp_path / "tmp").glob("*/crowd.mp4")), "the crowd to be begun", PATIENCE)

    demo.process.send_signal(signal.SIGINT)

    assert demo.process.wait(PATIENCE) == 0
    assert "Traceback" not in demo.err
    assert demo.leftovers() == []


def test_a_video_of_ones_own_through_a_broker_of_ones_own_ends_with_the_video(
    tmp_path: Path, clip: Path, demos: list[Demo]
) -> None:
    reads = ("reader", "secret")
    with (
        Broker(tmp_path / "broker", users={"me": "se:cret", reads[0]: reads[1]}) as broker,
        broker.subscribe("onelook/demo/#", user=reads) as reader,
    ):
        demos.append(demo := Demo(tmp_path, clip, "--broker", f"me:se%3Acret@127.0.0.1:{broker.port}"))

        assert demo.process.wait(PATIENCE) == 0, demo.err

        reader.wait("stream/presence")
        assert reader.on("demo/status")[-2].event["data"]["state"] == "offline"
        assert "stream is offline: it has come to its end" in demo.out
        assert re.search(r"events: .*\d+ presence", demo.out)
        assert demo.err.count("WARNING") == 0
        last = {r.topic: r.payload for r in reader.received if r.retain}
        assert len(last) >= 3
        assert set(last.values()) == {b""}, "or a crowd is told of that is not there"
        assert demo.leftovers() == []


def test_a_broker_that_knows_another_password_is_told_as_such(tmp_path: Path, clip: Path, demos: list[Demo]) -> None:
    with Broker(tmp_path / "broker", users={"me": "se:cret"}) as broker:
        demos.append(wrong := Demo(tmp_path, clip, "--broker", f"me@127.0.0.1:{broker.port}",
                                   first="import os; os.environ['ONELOOK_MQTT_PASSWORD'] = 'guess'"))
        assert wrong.process.wait(PATIENCE) == 78
    last = wrong.err.splitlines()[-1]
    assert re.fullmatch(rf"The broker at 127\.0\.0\.1:{broker.port} refuses us \(.+\): give USER:PASSWORD@HOST:PORT, "
                        r"or the password in ONELOOK_MQTT_PASSWORD and USER@HOST:PORT\.", last)
    assert "frames; events" not in wrong.out


def test_a_telephones_photo_is_no_larger_a_film_than_it_must(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((3840, 96, 3), np.uint8))
    with av.open(_held(str(tmp_path / "photo.png"), tmp_path / "film.mp4")) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (48, 1920)


def test_a_single_picture_is_held_until_all_is_told_of_it(tmp_path: Path, demos: list[Demo]) -> None:
    pytest.importorskip("amqtt", reason="the demo's own broker needs onelook[demo]")
    demos.append(demo := Demo(tmp_path, PORTRAITS / "grace_hopper.jpg"))

    assert demo.process.wait(PATIENCE) == 0, demo.err

    assert re.search(r"person 1 looks (female|male)", demo.out), demo.out
    assert "60 frames; " in demo.out


def test_it_ends_by_itself_when_its_seconds_are_over(tmp_path: Path, clip: Path, demos: list[Demo]) -> None:
    pytest.importorskip("amqtt", reason="the demo's own broker needs onelook[demo]")
    demos.append(demo := Demo(tmp_path, clip, "--seconds", "3"))

    code = demo.process.wait(PATIENCE)

    assert code == 0 or "No frame came" in demo.err  # where three seconds are not enough to start
    assert "has come to its end" not in demo.out  # the film would have gone on
    assert demo.leftovers() == []


def test_without_the_extra_it_says_which(tmp_path: Path, clip: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path, clip, first="import sys; sys.modules['amqtt'] = None"))

    assert demo.process.wait(PATIENCE) == 78
    assert demo.err.splitlines()[-1].endswith(
        "The demo's own broker needs the extra: pip install 'onelook[demo]'; or give --broker."
    )
    assert "Traceback" not in demo.err
    assert demo.leftovers() == []


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["unreadable.mp4"], "unreadable.mp4 is not a video that can be read"),  # for which a whole minute is not waited
    (["nothing.mp4"], "nothing.mp4 is not there: no such file"),
    (["empty"], "empty has no picture in it that can be read"),
    (["http://127.0.0.1:{port}/film.mp4"], "No frame came from "),
    (["rstp://cam/1"], "did you mean rtsp://?"),
    (["--broker", "127.0.0.1:{port}"], "There is no broker at 127.0.0.1:{port}"),
    (["--broker", "127.0.0.1:mqtt"], "127.0.0.1:mqtt is no broker: give HOST, HOST:PORT or USER:PASSWORD@HOST:PORT"),
    (["--broker", ":1883"], ":1883 is no broker: give HOST, HOST:PORT or USER:PASSWORD@HOST:PORT"),
    (["--broker", "me:se/cret@127.0.0.1"], "me:***@127.0.0.1 is no broker: "),
    (["/dev/video77"], "No frame came from /dev/video77."),  # whatever the seconds: it is not waited for either
])  # fmt: skip
def test_what_it_cannot_use_is_told_with_a_sentence(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    port = free_port()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "unreadable.mp4").write_bytes(b"no film")
    (tmp_path / "empty").mkdir()
    given = [word.format(port=port) for word in arguments]
    if given[0] == "--broker":
        given.append(str(clip))
    else:
        pytest.importorskip("amqtt", reason="the demo's own broker needs onelook[demo]")
        given += ["--seconds", "4" if "://" in given[0] else "60"]
    done = onelook("demo", *given, cwd=tmp_path)

    assert done.returncode == 78, done.stdout + done.stderr
    assert sentence.format(port=port) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("kind", "data", "words"), [
    ("crowd", {"count": 3, "known": 1, "unknown": 1}, "3 people in view, 1 known, 1 unknown"),
    ("presence", {"track": 2, "state": "appeared", "seconds": 0.3}, "person 2 appeared"),
    ("presence", {"track": 2, "state": "left", "seconds": 61.7}, "person 2 left after 62 s"),
    ("identity", {"track": 2, "state": "known", "name": "Ada", "similarity": 0.713, "previous": None},
     "person 2 is Ada (similarity 0.71)"),
    ("identity", {"track": 2, "state": "known", "name": "Ada", "similarity": 0.713, "previous": "Grace"},
     "person 2 is Ada (similarity 0.71), not Grace"),
    ("identity", {"track": 2, "state": "unknown", "name": None, "similarity": None}, "person 2 is nobody enrolled"),
    ("identity", {"track": 2, "state": "uncertain", "name": None, "similarity": None},
     "person 2 may be somebody enrolled"),
    ("attributes", {"track": 2, "gender": "female", "gender_confidence": 0.915, "age_range": [30, 40],
                    "attributes": {"Wearing_Hat": 0.9, "Smiling": 0.2}},
     "person 2 looks female (92%), aged 30 to 40, wearing hat"),
    ("emotion", {"track": 2, "emotion": "happy", "confidence": 0.92}, "person 2 looks happy (92%)"),
])  # fmt: skip
def test_events_are_told_in_words(kind: str, data: dict[str, object], words: str) -> None:
    assert in_words(kind, data) == words

"""The daemon from outside: the real process between a real camera and a real broker."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from broker import PATIENCE, Broker, Received, Subscriber, free_port, wait_until
from clip import EILEEN, write_h264, write_mp4
from daemon_process import DEVICE, READER, Daemon, Manager, locked_broker, onelook, write_config
from onelook.gallery import Gallery
from onelook.model import shipped
from rtsp_camera import Camera, camera

RETRY = {"open_timeout": 20, "read_timeout": PATIENCE, "retry_min": 0.2, "retry_max": 0.5}
EVENTS = {"presence", "identity", "attributes", "emotion"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_mp4(folder / "clip.mp4")
    write_h264(folder / "clip.h264")
    return folder


@pytest.fixture(scope="module")
def lens(clips: Path) -> Iterator[Camera]:
    """A camera that no test may hurt."""
    with camera(clips / "clip.h264") as one:
        yield one


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with locked_broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def door(clips: Path) -> dict[str, Any]:
    """A stream that needs no camera: the clip, round and round."""
    return {"name": "door", "url": str(clips / "clip.mp4"), "loop": True}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """What `onelook schema` prints, ready to judge."""
    schema = json.loads(onelook("schema").stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


# --- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop_it_ends_in_order_within_two_seconds(
    tmp_path: Path, broker: Broker, lens: Camera, how: signal.Signals
) -> None:
    with (
        broker.subscribe("onelook/#", user=READER) as reader,
        Manager(tmp_path) as manager,
        Daemon(
            write_config(tmp_path, {"name": "door", "url": lens.url, **RETRY}, broker=broker), **manager.environment
        ) as daemon,
    ):
        reader.wait("door/crowd")

        seconds = daemon.stop(how)

        assert daemon.process.returncode == 0, daemon.log
        assert seconds < 2.0
        reader.wait_for("onelook/hall/status", "online")
        farewell = reader.wait_for("onelook/hall/status", "offline")
        last = [r for r in reader.received if r.topic.endswith("/status")][-2:]
        assert [r.topic for r in last] == ["onelook/hall/door/status", "onelook/hall/status"]
        assert [r.event["data"] for r in last] == [{"state": "offline", "reason": "stopped"}] * 2
        assert farewell is reader.received[-1]
        assert all(r.retain for r in last)
        assert manager.listen()[-1] == "STOPPING=1"
        assert "Traceback" not in daemon.log
        assert daemon.page("/healthz")[0] == 0


def test_killed_it_leaves_a_last_will(tmp_path: Path, broker: Broker, door: dict[str, Any]) -> None:
    with (
        broker.subscribe("onelook/#", user=READER) as reader,
        Daemon(write_config(tmp_path, door, broker=broker)) as daemon,
    ):
        reader.wait_for("onelook/hall/status", "online")
        before = len(reader.on("onelook/hall/status"))

        daemon.stop(signal.SIGKILL)

        will = reader.wait("onelook/hall/status", before + 1)[-1]
        assert will.event["data"] == {"state": "offline", "reason": "connection lost"}
        assert will.retain


def test_when_every_file_has_been_seen_it_ends_by_itself_and_is_not_alarmed(
    tmp_path: Path, clips: Path, validator: Draft202012Validator
) -> None:
    once = {"name": "door", "url": str(clips / "clip.mp4"), "paced": False}

    with Daemon(write_config(tmp_path, once)) as daemon:
        daemon.process.wait(PATIENCE)

        assert daemon.process.returncode == 0, daemon.log
        assert "has come to its end" in daemon.log
        assert "WARNING" not in daemon.log
        said = [json.loads(line) for line in daemon.out.splitlines()]
        for event in said:
            validator.validate(event)
        states = [event["data"]["state"] for event in said if event["type"] == "onelook.status"]
        assert states == ["online", "offline"]
        assert "onelook.presence" in {event["type"] for event in said}


def test_on_stdout_events_are_lines_and_are_counted(
    tmp_path: Path, door: dict[str, Any], validator: Draft202012Validator
) -> None:
    with Daemon(write_config(tmp_path, door)) as daemon:
        daemon.wait(lambda: daemon.value("onelook_events_total", type="presence") >= 1, "somebody to be counted")
        counted = {dict(labels)["type"]: n for (name, labels), n in daemon.samples().items()
                   if name == "onelook_events_total"}

        assert daemon.stop() < 2.0

        assert daemon.process.returncode == 0, daemon.log
        said = [json.loads(line) for line in daemon.out.splitlines()]
        for event in said:
            validator.validate(event)
        for kind, number in counted.items():
            assert sum(event["type"] == f"onelook.{kind}" for event in said) >= number


# --- the world fails, and recovers ---------------------------------------------------------------


def test_what_happens_while_the_broker_is_away_is_told_when_it_returns(
    tmp_path: Path, broker: Broker, door: dict[str, Any]
) -> None:
    with (
        broker.subscribe("onelook/#", user=READER) as reader,
        Daemon(write_config(tmp_path, door, broker=broker)) as daemon,
    ):
        reader.wait("/presence")

        broker.stop()
        daemon.wait(lambda: daemon.value("onelook_mqtt_connected") == 0, "the broker to be missed")
        left = time.time()
        daemon.wait(lambda: daemon.value("onelook_outbox_messages") >= 2, "events to wait in the outbox")
        assert daemon.page("/readyz")[0] == 200  # it goes on looking
        broker.start()

        def replayed() -> list[Received]:
            return [r for r in list(reader.received) if r.event.get("replayed")]

        daemon.wait(lambda: len(replayed()) >= 2, "what had waited")
        daemon.wait(lambda: daemon.value("onelook_mqtt_connected") == 1, "the connection")
        daemon.wait(
            lambda: any(
                r.at > left and r.topic.rpartition("/")[2] in EVENTS and "replayed" not in r.event
                for r in list(reader.received)
            ),
            "news after the replay",
        )
        for late in (True, False):  # what waited comes beside what is new; neither lost its place or was dated anew
            happened = [r.event["time"] for r in reader.on("/presence") if bool(r.event.get("replayed")) is late]
            assert happened == sorted(happened)
        assert {r.topic.rpartition("/")[2] for r in replayed()} <= EVENTS
        daemon.wait(lambda: daemon.value("onelook_outbox_messages") == 0, "the outbox to be empty")
        assert daemon.log.count("Lost the broker") == 1
        assert daemon.stop() < 2.0
        assert daemon.process.returncode == 0


def test_without_a_broker_at_the_start_it_looks_all_the_same_and_finds_it_later(
    tmp_path: Path, door: dict[str, Any]
) -> None:
    late = locked_broker(tmp_path / "broker")
    with Daemon(write_config(tmp_path, door, broker=late)) as daemon:
        daemon.wait(lambda: daemon.value("onelook_outbox_messages") >= 1, "an event to wait")
        assert daemon.page("/readyz")[0] == 200
        assert daemon.value("onelook_mqtt_connected") == 0

        with late, late.subscribe("onelook/#", user=READER) as reader:
            reader.wait_for("onelook/hall/status", "online")
            reader.wait_for("onelook/hall/door/status", "online")
            daemon.wait(lambda: daemon.value("onelook_outbox_messages") == 0, "the outbox to be empty")

            daemon.wait(lambda: daemon.value("onelook_events_total", type="presence") >= 1, "it to be counted")
            assert daemon.stop() < 2.0
    assert daemon.process.returncode == 0
    assert daemon.log.count("Cannot reach the broker") == 1


def test_a_camera_that_dies_and_returns_is_told_once_each_way(
    tmp_path: Path, broker: Broker, clips: Path
) -> None:
    with (
        camera(clips / "clip.h264") as lens,
        broker.subscribe("onelook/#", user=READER) as reader,
        Daemon(write_config(tmp_path, {"name": "door", "url": lens.url, **RETRY}, broker=broker)) as daemon,
    ):
        reader.wait_for("door/status", "online")
        daemon.wait_until_ready()
        reader.wait_for("door/presence", "appeared")
        daemon.wait(lambda: crowds(reader)[-1:] >= [1], "the crowd to be counted")
        before = len(reader.on("door/status"))
        seen = daemon.value("onelook_frames_total", stream="door")

        lens.kill()
        gone = reader.wait("door/status", before + 1)[-1]
        daemon.wait(lambda: daemon.page("/readyz")[0] == 503, "/readyz to say 503")
        assert daemon.page("/healthz")[0] == 200
        assert daemon.value("onelook_stream_up", stream="door") == 0
        daemon.wait(lambda: crowds(reader)[-1] == 0, "the people before a dead camera to be gone")
        _some_tries(daemon)
        lens.start()
        back = reader.wait("door/status", before + 2)[-1]
        daemon.wait(lambda: daemon.value("onelook_frames_total", stream="door") > seen + 5, "new frames")

        assert gone.event["data"]["state"] == "offline"
        assert gone.event["data"]["reason"].startswith(lens.url)
        assert back.event["data"] == {"state": "online", "reason": None}
        assert gone.retain
        assert back.retain
        assert len(reader.on("door/status")) == before + 2
        assert daemon.log.count("stream door is down") == 1
        assert daemon.log.count("stream door is up") == 2
        assert daemon.page("/readyz")[0] == 200
        assert daemon.value("onelook_stream_up", stream="door") == 1


def crowds(reader: Subscriber) -> list[int]:
    """How many people the door has shown."""
    return [received.event["data"]["count"] for received in reader.on("door/crowd")]


def _some_tries(daemon: Daemon) -> None:
    """Long enough for the camera to have been asked again in vain, and more than once."""
    until = time.monotonic() + 2.5 * RETRY["retry_max"]
    daemon.wait(lambda: time.monotonic() > until, "some tries")


def test_a_camera_that_is_not_there_is_told_without_its_password(tmp_path: Path, broker: Broker) -> None:
    url = f"rtsp://joe:s3cr3t@127.0.0.1:{free_port()}/live"
    with (
        broker.subscribe("onelook/#", user=READER) as reader,
        Daemon(write_config(tmp_path, {"name": "door", "url": url, **RETRY}, broker=broker)) as daemon,
    ):
        daemon.wait(lambda: "stream door is down" in daemon.log, "the log to say so")
        wait_until(lambda: any("joe:***@" in r.payload.decode() for r in reader.on("door/status")), "the status")
        daemon.wait(lambda: daemon.page("/readyz")[0] == 503, "/readyz to say 503")

        assert daemon.page("/healthz")[0] == 200
        assert daemon.value("onelook_stream_up", stream="door") == 0
        assert daemon.stop() < 2.0
        assert daemon.process.returncode == 0
        assert "s3cr3t" not in daemon.log
        assert not any("s3cr3t" in r.payload.decode() for r in reader.received)


# --- the owner's mistakes ------------------------------------------------------------------------


def truncated(folder: Path) -> str:
    network = folder / "model.tflite"
    network.write_bytes(network.read_bytes()[:-1000])
    return "is damaged or is not the network that model.json describes"


def flipped(folder: Path) -> str:
    network = folder / "model.tflite"
    stored = bytearray(network.read_bytes())
    stored[len(stored) // 2] ^= 1
    network.write_bytes(stored)
    return "is damaged or is not the network that model.json describes"


def no_network(folder: Path) -> str:
    (folder / "model.tflite").write_bytes(b"not a network at all" * 99)
    change(folder, sha256=hashlib.sha256(b"not a network at all" * 99).hexdigest())
    return "The TFLite runtime refuses the network"


def absent(folder: Path) -> str:
    (folder / "model.tflite").unlink()
    return "The model cannot be read"


def no_description(folder: Path) -> str:
    (folder / "model.json").write_text("{")
    return "is not a model description"


def a_key_too_many(folder: Path) -> str:
    change(folder, colour="blue")
    return "is not a model description: colour"


def other_embeddings(folder: Path) -> str:
    change(folder, embedding_size=512)
    return "model.json does not fit the network beside it: embedding_size should be 256, not 512"


def a_mood_too_few(folder: Path) -> str:
    labels = json.loads((folder / "model.json").read_text())["labels"]
    change(folder, labels=labels | {"emotion": labels["emotion"][:-1]})
    return "model.json does not fit the network beside it: count of labels.emotion should be 7, not 6"


def not_calibrated(folder: Path) -> str:
    change(folder, thresholds=[])
    return "The model is not calibrated"


def change(folder: Path, **keys: object) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def assert_refused(config: Path, sentence: str) -> None:
    """The daemon ends with 78 and this one sentence."""
    done = onelook("run", "--config", config)

    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert done.stderr.count(sentence) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    "spoil",
    [
        truncated, flipped, no_network, absent, no_description, a_key_too_many, other_embeddings, a_mood_too_few,
        not_calibrated,
    ],
)
def test_a_spoilt_model_is_refused_with_a_sentence(
    tmp_path: Path, door: dict[str, Any], spoil: Callable[[Path], str]
) -> None:
    shutil.copytree(shipped(), tmp_path / "model")
    sentence = spoil(tmp_path / "model")

    assert_refused(write_config(tmp_path, door, model={"path": "model"}), sentence)


def test_a_gallery_from_another_model_is_refused_with_a_sentence(tmp_path: Path, door: dict[str, Any]) -> None:
    embedding = np.eye(256, dtype=np.float32)[0]
    with Gallery.open(tmp_path / "gallery.db", tmp_path / "gallery.key", "ab" * 32) as gallery:
        gallery.add("Ada", embedding, 0.9, "ada.jpg")

    assert_refused(write_config(tmp_path, door), "holds templates of another model")


def test_a_port_in_use_is_told_with_a_sentence(tmp_path: Path, door: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert_refused(write_config(tmp_path, door, metrics={"port": port}), f"port {port} of 127.0.0.1 is in use")


# --- a house that is watched, after all else: it works on until the last of these ------------------


@dataclass
class House:
    """A daemon with two streams, started once for the tests that only look at it."""

    daemon: Daemon
    broker: Broker
    reader: Subscriber
    manager: Manager
    enrolled: str


@pytest.fixture(scope="module")
def house(clips: Path, lens: Camera, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with (
        locked_broker(folder / "broker") as broker,
        broker.subscribe("onelook/#", user=READER) as reader,
        Manager(folder) as manager,
    ):
        yard = {"name": "yard", "url": str(clips / "clip.mp4"), "loop": True, "fps": 5}
        config = write_config(folder, {"name": "door", "url": lens.url, **RETRY}, yard, broker=broker)
        enrolled = onelook("enroll", "Eileen Collins", EILEEN, "--config", config)
        with Daemon(config, **manager.environment) as daemon:
            daemon.wait_until_ready()
            yield House(daemon, broker, reader, manager, enrolled.stdout + enrolled.stderr)


def test_the_device_and_its_streams_say_that_they_are_online(house: House) -> None:
    for topic in ("hall/status", "hall/door/status", "hall/yard/status"):
        said = house.reader.wait_for(f"onelook/{topic}", "online")
        assert said.retain
        assert said.qos == 1


@pytest.mark.parametrize("stream", ["door", "yard"])
def test_on_each_stream_people_come_and_go_and_are_described(house: House, stream: str) -> None:
    place = f"onelook/{DEVICE}/{stream}"

    house.reader.wait_for(f"{place}/presence", "appeared")
    house.reader.wait_for(f"{place}/presence", "left")
    [looks, *_] = house.reader.wait(f"{place}/attributes")
    [mood, *_] = house.reader.wait(f"{place}/emotion")

    assert looks.event["data"]["gender"] in {"female", "male"}
    assert sum(mood.event["data"]["distribution"].values()) == pytest.approx(1, abs=0.01)
    assert mood.event["source"] == f"onelook/{DEVICE}/{stream}"


def test_who_is_enrolled_is_named_and_nobody_else_is(house: House) -> None:
    assert "is enrolled" in house.enrolled

    def names(state: str) -> set[str | None]:
        said = [r.event["data"] for r in house.reader.on("/identity")]
        return {data["name"] for data in said if data["state"] == state}

    house.daemon.wait(lambda: names("known"), "somebody to be known")
    house.daemon.wait(lambda: names("unknown"), "somebody to be a stranger")

    assert names("known") == {"Eileen Collins"}


def test_who_asks_later_hears_how_many_people_there_are(house: House) -> None:
    house.reader.wait("door/crowd", 2)

    with house.broker.subscribe("onelook/+/+/crowd", user=READER, name="latecomer") as latecomer:
        [now] = latecomer.wait("door/crowd")[:1]

    assert now.retain
    assert now.event["data"]["count"] >= 0
    assert max(r.event["data"]["count"] for r in house.reader.on("door/crowd")) >= 1


def test_every_message_is_what_the_schema_promises(house: House, validator: Draft202012Validator) -> None:
    house.reader.wait("/emotion")

    received = list(house.reader.received)
    ids = [r.event["id"] for r in received]

    for each in received:
        validator.validate(each.event)
        kind = each.topic.rpartition("/")[2]
        assert each.event["type"] == f"onelook.{kind}"
        assert each.event["source"] == each.topic.rpartition("/")[0]
        assert each.content_type == "application/cloudevents+json; charset=utf-8"
        assert each.retain == (kind not in EVENTS)
        assert (each.expiry is None) == (kind not in EVENTS)
        assert "embedding" not in each.payload.decode()
    assert len(ids) == len(set(ids))


METRICS: dict[str, tuple[str, Callable[[float], bool]]] = {
    # name -> its labels, and what must be true of each of its samples once the house is watched
    "onelook_frames_total": ("stream=door stream=yard", lambda x: x > 0),
    "onelook_frames_dropped_total": ("stream=door stream=yard", lambda x: x >= 0),
    "onelook_frame_age_seconds_count": ("", lambda x: x > 0),
    "onelook_frame_age_seconds_sum": ("", lambda x: x > 0),
    "onelook_stage_seconds_count": (
        "stage=preprocess stage=frame stage=decode stage=faces stage=track stage=report stage=publish stage=total",
        lambda x: x > 0,
    ),
    "onelook_stage_cpu_seconds_total": ("stage=frame stage=faces stage=total", lambda x: x >= 0),
    "onelook_faces": ("stream=door stream=yard", lambda x: x >= 0),
    "onelook_tracks": ("stream=door stream=yard", lambda x: x >= 0),
    "onelook_events_total": (
        "type=presence type=identity type=attributes type=emotion type=crowd type=status", lambda x: x >= 0,
    ),
    "onelook_stream_up": ("stream=door stream=yard", lambda x: x == 1),
    "onelook_mqtt_connected": ("", lambda x: x == 1),
    "onelook_outbox_messages": ("", lambda x: x >= 0),
    "onelook_outbox_disk_failing": ("", lambda x: x == 0),
    "onelook_outbox_disk_failures_total": ("", lambda x: x == 0),
    "onelook_outbox_dropped_total": ("reason=expired reason=full reason=refused", lambda x: x == 0),
    "onelook_memory_bytes": ("kind=rss kind=pss kind=peak", lambda x: 2**24 < x < 2**30),
    "process_cpu_seconds_total": ("", lambda x: x > 0),
    "process_resident_memory_bytes": ("", lambda x: x > 2**24),
}


def test_the_page_has_every_metric(house: House) -> None:
    house.reader.wait("door/presence")
    house.daemon.wait(lambda: house.daemon.value("onelook_frames_total", stream="yard") > 0, "frames of the yard")

    samples = house.daemon.samples()

    for name, (labels, right) in METRICS.items():
        for label in labels.split() or [""]:
            key, _, value = label.partition("=")
            at = (name, frozenset({(key, value)} if label else ()))
            assert at in samples, at
            assert right(samples[at]), f"{at}: {samples[at]}"
    info = [dict(labels) for name, labels in samples if name == "onelook_model_info"]
    assert len(info) == 1
    assert hashlib.sha256((shipped() / "model.tflite").read_bytes()).hexdigest().startswith(info[0]["sha256"])
    assert not any("Eileen" in str(labels) for _, labels in samples)
    assert all(math.isfinite(value) for value in samples.values())


def test_events_are_counted_as_the_broker_took_them(house: House) -> None:
    house.reader.wait("/presence", 2)

    def counted(kind: str) -> bool:
        return house.daemon.value("onelook_events_total", type=kind) >= len(house.reader.on(f"/{kind}")) > 0

    for kind in ("presence", "crowd", "status"):
        house.daemon.wait(lambda kind=kind: counted(kind), f"{kind} to be counted")  # type: ignore[misc]


def test_the_probes_say_alive_and_ready(house: House) -> None:
    assert house.daemon.page("/healthz")[0] == 200
    assert house.daemon.page("/readyz")[0] == 200


def test_the_manager_hears_ready_and_then_a_beating_heart(house: House) -> None:
    house.daemon.wait(lambda: house.manager.listen().count("WATCHDOG=1") >= 3, "the watchdog to be fed")

    lines = house.manager.listen()

    assert lines.count("READY=1") == 1
    assert lines.index("READY=1") < lines.index("WATCHDOG=1")
    assert "STATUS=Looking at door, yard" in lines
    assert "STOPPING=1" not in lines

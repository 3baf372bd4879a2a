"""What an earlier config left with the broker is cleared, and nothing else: on a real mosquitto."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from broker import Broker, wait_until
from onelook import service
from onelook.commands import Commands
from onelook.config import Config, Mqtt, Policy, Report, stream_of
from onelook.event import Crowd, Event, Mood, Status
from onelook.leftovers import Leftovers
from onelook.metrics import Metrics
from onelook.outbox import Outbox
from onelook.publish import Heard, Message, MqttPublisher, Publisher, message

STATES: tuple[Status | Crowd | Mood, ...] = (
    Status(state="online"), Crowd(count=2, known=0, unknown=2), Mood(people=2),
)  # fmt: skip


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


def tell(publisher: Publisher, *streams: str) -> None:
    now = datetime.now(UTC)
    publisher.publish(*(Event(stream=stream, time=now, data=data) for stream in streams for data in STATES))


def configured(broker: Broker, *streams: str, **more: Any) -> Config:
    mqtt = Mqtt(port=broker.port, outbox=None, protocol=more.pop("protocol", "5"))
    named = [stream_of(f"{name}.mp4").model_copy(update={"name": name}) for name in streams]
    return Config(device="hall", streams=named, mqtt=mqtt, **more)


def as_the_daemon_does(config: Config) -> Any:
    """The publisher, wired as in a run."""
    metrics = Metrics(CollectorRegistry(), [stream.name for stream in config.streams])
    return service._publisher(config, metrics, Flag(), Commands(config.device, []), None)


def kept(broker: Broker, name: str) -> dict[str, bytes]:
    """All that the broker has retained of the device."""
    with broker.subscribe(name=name) as late:
        with MqttPublisher(Mqtt(port=broker.port), name, Outbox()):
            late.wait_for(f"/{name}/status", "online")  # comes after what was retained
        return {r.topic: r.payload for r in late.received if r.retain and r.topic.startswith("onelook/hall/")}


KILLED = """
import sys
from datetime import UTC, datetime
from onelook.config import Mqtt
from onelook.event import Crowd, Event, Mood, Status
from onelook.outbox import Outbox
from onelook.publish import MqttPublisher
with MqttPublisher(Mqtt(port=int(sys.argv[1])), "hall", Outbox(), streams=["door", "gate"]) as publisher:
    for data in (Status(state="online"), Crowd(count=2, known=0, unknown=2), Mood(people=2)):
        for stream in ("door", "gate"):
            publisher.publish(Event(stream=stream, time=datetime.now(UTC), data=data))
    sys.stdin.read()
"""


def leave_all(broker: Broker) -> None:
    """An earlier run, with the streams door and gate, that was killed."""
    with broker.subscribe(name="witness") as reader:
        command = [sys.executable, "-c", KILLED, str(broker.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                for stream in ("door", "gate"):
                    reader.wait_for(f"/{stream}/status", "online")
                    reader.wait(f"/{stream}/crowd")
                    reader.wait(f"/{stream}/mood")
                reader.wait_for("/hall/status", "online")
            finally:
                process.kill()
        reader.wait_for("/hall/status", "offline")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_stream_that_is_gone_leaves_nothing_behind(broker: Broker, protocol: str) -> None:
    leave_all(broker)
    before = kept(broker, "before")
    assert b'"online"' in before["onelook/hall/gate/status"]
    everything = {f"onelook/hall/door/{kind}" for kind in ("status", "crowd", "mood")} | {"onelook/hall/status"}
    with broker.subscribe("onelook/hall/gate/+") as reader:
        reader.wait("", 3)
        config = configured(broker, "door", report=Report(mood=True), protocol=protocol)
        with as_the_daemon_does(config) as publisher:
            tell(publisher, "door")
            for kind in ("status", "crowd", "mood"):
                wait_until(lambda: reader.on(kind)[-1].payload == b"", f"{kind} to be cleared", 20)  # noqa: B023
            assert set(kept(broker, "during")) == everything
        assert [r.payload for r in reader.received].count(b"") == 3
    assert set(kept(broker, "after")) == everything


@pytest.mark.parametrize(
    ("more", "stays"),
    [
        ({"report": Report(crowd=False, mood=True)}, {"status", "mood"}),
        ({"report": Report(mood=False)}, {"status", "crowd"}),
        ({"report": Report(mood=True), "policy": Policy(emotion="off")}, {"status", "crowd"}),
    ],
    ids=["no crowd", "no mood", "forbidden"],
)
def test_what_is_not_reported_any_more_does_not_stay(broker: Broker, more: dict[str, Any], stays: set[str]) -> None:
    leave_all(broker)
    with broker.subscribe("onelook/hall/door/+") as reader:
        reader.wait("", 3)
        [gone] = {"crowd", "mood"} - stays
        with as_the_daemon_does(configured(broker, "door", "gate", **more)):
            wait_until(lambda: reader.on(gone)[-1].payload == b"", f"{gone} to be cleared", 20)
    states = {f"onelook/hall/{stream}/{kind}" for stream in ("door", "gate") for kind in stays}
    assert set(kept(broker, "after")) == states | {"onelook/hall/status"}


def test_where_the_broker_lets_nobody_read_all_else_is_as_ever(tmp_path: Path) -> None:
    with Broker(tmp_path / "closed", acl="topic write onelook/hall/#\nuser reader\ntopic read #\n") as broker:
        told: list[str] = []
        with MqttPublisher(
            Mqtt(port=broker.port), "hall", Outbox(), streams=["door"],
            on_published=lambda event, _age: told.append(event.kind), correspondents=[Leftovers("hall", [], [])],
        ) as publisher:  # fmt: skip
            tell(publisher, "door")
            wait_until(lambda: {"status", "crowd", "mood"} <= set(told), "the broker to take it all", 20)


# --- without a broker -------------------------------------------------------------------------


def retained(topic: str, source: str = "gate") -> Heard:
    kind = {"status": 0, "crowd": 1, "mood": 2}.get(topic.rpartition("/")[2], 0)
    said = message(Event(stream=source, time=datetime.now(UTC), data=STATES[kind]), "hall")
    return Heard(topic, said.payload, retained=True)


def test_only_what_the_broker_kept_is_cleared_and_only_once() -> None:
    leftovers, gate = Leftovers("hall", ["door"], ["status"]), retained("onelook/hall/gate/status")
    assert leftovers.hear(gate) == [Message(gate.topic, b"", retain=True, content_type=None)]
    assert leftovers.hear(Heard(gate.topic, gate.payload, retained=False)) == []
    assert leftovers.hear(Heard(gate.topic, b"", retained=True)) == []


@pytest.mark.parametrize(
    ("topic", "source"),
    [
        ("onelook/hall/status", "gate"),
        ("onelook/hall/door/status", "door"),
        ("onelook/other/gate/status", "gate"),
        ("onelook/hall/gate/identity", "gate"),
        ("onelook/hall/gate/more/status", "gate"),
        ("homeassistant/hall/gate/status", "gate"),
        ("gate/status", "gate"),
        ("onelook/hall/reply/status", "gate"),
    ],
)
def test_what_is_published_or_not_ours_stays(topic: str, source: str) -> None:
    assert Leftovers("hall", ["door"], ["status"]).hear(retained(topic, source)) == []


@pytest.mark.parametrize("payload", [b"on", b"[]", b"{}", b"\xff", b"1", b"[" * 100_000], ids=range(6))
def test_what_others_keep_there_stays(payload: bytes) -> None:
    assert Leftovers("hall", [], []).hear(Heard("onelook/hall/lamp/status", payload, retained=True)) == []

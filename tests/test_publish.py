"""What a subscriber gets: from a real mosquitto, through its outages, refusals and restarts."""

import io
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from errno import EROFS
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives import serialization
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import SecretStr

from broker import PATIENCE, Broker, Certificates, Received, free_port, wait_until
from onelook import config
from onelook.errors import OwnerError
from onelook.event import Attributes, Crowd, Emotion, Event, Identity, Presence, Status
from onelook.outbox import Outbox
from onelook.publish import (
    CLOUDEVENT,
    DENIED,
    LinesPublisher,
    Message,
    MqttPublisher,
    Publisher,
    _Wired,
    message,
    tls_context,
)
from onelook.schema import events as schema
from stopwatch import Stopwatch

Data = Presence | Identity | Attributes | Emotion | Crowd | Status

BOX = (10.04, 20.06, 110.26, 220.0)
EVERY_KIND: list[Data] = [
    Presence(track=4, box=BOX, frame=9, state="appeared", seconds=0.3333),
    Identity(track=4, box=BOX, frame=9, state="known", name="Zoë", similarity=0.61249, confidence=0.98765),
    Attributes(
        track=4, box=BOX, frame=9, attributes={"Eyeglasses": 0.98766, "Smiling": 0.0}, age=33.333,
        age_range=(30, 37), gender="female", gender_confidence=0.9,
    ),
    Emotion(
        track=4, box=BOX, frame=9, emotion="happy", confidence=0.7,
        distribution={"happy": 0.70001, "neutral": 0.3},
    ),
    Crowd(count=3, known=1, unknown=2),
    Status(state="online"),
]  # fmt: skip


def event(data: Data, stream: str | None = "door", **more: Any) -> Event:
    return Event(stream=stream, time=datetime.now(UTC), data=data, **more)


def seen(track: int, stream: str = "door", age: float = 0.0) -> Event:
    """Somebody known, `age` seconds ago."""
    data = Identity(track=track, box=BOX, frame=track, state="unknown", confidence=1.0)
    return Event(stream=stream, time=datetime.now(UTC) - timedelta(seconds=age), data=data)


def crowd(count: int) -> Event:
    return event(Crowd(count=count, known=0, unknown=count))


def tracks(received: list[Received]) -> list[int]:
    return [r.event["data"]["track"] for r in received]


# --- payloads -------------------------------------------------------------------------------


def test_a_message_is_a_cloudevent_on_its_topic() -> None:
    happened = Event(
        id="0b4c", stream="door", time=datetime(2026, 11, 23, 9, 5, 1, 250_900, UTC), data=EVERY_KIND[1]
    )
    said = message(happened, "pi", "home", expiry=12.5)
    assert said.topic == "home/pi/door/identity"
    assert (said.qos, said.retain, said.expiry) == (1, False, 12.5)
    assert json.loads(said.payload) == {
        "specversion": "1.0",
        "id": "0b4c",
        "source": "onelook/pi/door",
        "type": "onelook.identity",
        "time": "2026-11-23T09:05:01.250Z",
        "datacontenttype": "application/json",
        "data": {
            "purpose": None,
            "track": 4, "box": [10.0, 20.1, 110.3, 220.0], "frame": 9, "state": "known", "name": "Zoë",
            "previous": None, "similarity": 0.612, "confidence": 0.988, "visitor": None,
        },
    }  # fmt: skip
    assert "Zoë".encode() in said.payload


def test_times_of_other_zones_are_told_in_utc() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    happened = Event(stream="door", time=datetime(2026, 1, 1, 2, 0, tzinfo=there), data=EVERY_KIND[0])
    assert json.loads(message(happened, "pi").payload)["time"] == "2025-12-31T20:30:00.000Z"


@pytest.mark.parametrize("data", EVERY_KIND, ids=lambda data: type(data).__name__)
def test_states_are_retained_and_events_never(data: Data) -> None:
    said = message(event(data), "pi", expiry=60.0, replayed=True)
    state = isinstance(data, Crowd | Status)
    assert said.qos == 1
    assert said.retain is state
    assert said.expiry == (None if state else 60.0)
    assert json.loads(said.payload).get("replayed") is (None if state else True)


def test_the_device_has_a_status_of_its_own() -> None:
    said = message(event(Status(state="offline"), stream=None), "pi")
    assert said.topic == "onelook/pi/status"
    assert json.loads(said.payload)["source"] == "onelook/pi"


# --- schema ---------------------------------------------------------------------------------


@pytest.mark.parametrize("data", EVERY_KIND, ids=lambda data: type(data).__name__)
def test_every_kind_of_message_is_of_the_schema(data: Data) -> None:
    Draft202012Validator.check_schema(schema())
    validator = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
    for replayed in (False, True):
        validator.validate(json.loads(message(event(data), "pi", replayed=replayed).payload))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e.pop("time"),
        lambda e: e.pop("id"),
        lambda e: e.update(time="2026-11-23T09:05:01+01:00"),
        lambda e: e.update(source="onelook/pi"),
        lambda e: e.update(type="onelook.presence"),
        lambda e: e.update(type="onelook.gossip"),
        lambda e: e.update(replayed=False),
        lambda e: e.update(embedding=[0.1]),
        lambda e: e["data"].update(embedding=[0.1]),
        lambda e: e["data"].update(confidence=1.1),
        lambda e: e["data"].update(state="perhaps"),
        lambda e: e["data"].update(box=[1, 2, 3]),
        lambda e: e["data"].pop("name"),
    ],
)
def test_the_schema_refuses_what_we_would_never_say(spoil: Callable[[dict[str, Any]], object]) -> None:
    validator = Draft202012Validator(schema())
    said = json.loads(message(event(EVERY_KIND[1]), "pi").payload)
    validator.validate(said)
    spoil(said)
    with pytest.raises(ValidationError):
        validator.validate(said)


def test_the_schema_stands_alone() -> None:
    """Whoever reads it has nothing else of ours: every reference is to itself, and it is plain JSON."""
    text = json.dumps(schema())
    references = set(re.findall(r'"\$ref": "([^"]*)"', text))
    assert references
    assert {reference.removeprefix("#/$defs/") for reference in references} <= schema()["$defs"].keys()


# --- JSON lines -----------------------------------------------------------------------------


def test_lines_are_the_same_events() -> None:
    file = io.StringIO()
    happened = [event(data) for data in EVERY_KIND]
    publisher: Publisher = LinesPublisher(file, "pi")
    with publisher:
        for one in happened:
            publisher.publish(one)
    lines = file.getvalue().splitlines()
    assert lines == [message(one, "pi").payload.decode() for one in happened]


LINES = """
import sys, time
from datetime import UTC, datetime
from onelook.event import Event, Identity
from onelook.publish import LinesPublisher
closed = []
data = Identity(track=1, box=(0, 0, 1, 1), frame=0, state="known", name="Zoë", confidence=1)
with LinesPublisher(sys.stdout, on_closed=lambda: closed.append(1)) as publisher:
    for _ in range(5 if sys.argv[1] == "few" else 1000):
        publisher.publish(Event(stream="door", time=datetime.now(UTC), data=data))
print("closed", len(closed), "times", file=sys.stderr)
if closed:
    print("a last word that nobody hears")
"""


def test_lines_end_quietly_when_nobody_reads_them() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LINES, "many"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["type"] == "onelook.identity"
        process.stdout.close()
        complaints = process.stderr.read().decode()
    assert (process.returncode, complaints) == (0, "closed 1 times\n")


def test_lines_are_utf8_whatever_the_locale() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(
        [sys.executable, "-c", LINES, "few"], env=environment, capture_output=True, check=True
    )
    lines = ended.stdout.decode("utf-8").splitlines()
    assert [json.loads(line)["data"]["name"] for line in lines] == ["Zoë"] * 5


# --- a broker -------------------------------------------------------------------------------


class Home:
    """What a publisher needs, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connected: list[bool] = []
        self.published: list[tuple[Event, float | None]] = []
        self.dropped: Counter[str] = Counter()
        self.house = ExitStack()
        self.outbox: Outbox

    def is_up(self) -> bool:
        return bool(self.connected) and self.connected[-1]

    def publisher(
        self, broker: Broker | int, *, streams: tuple[str, ...] = (), path: Path | None = None, expiry: float = 60,
        **mqtt: Any,
    ) -> MqttPublisher:
        port = broker if isinstance(broker, int) else broker.port
        bounds = config.Bounds(expiry=expiry)
        waiting = config.Waiting(**dict.fromkeys(config.Waiting.model_fields, bounds))
        self.outbox = self.house.enter_context(Outbox(path, on_dropped=self._drop))
        return self.house.enter_context(
            MqttPublisher(
                config.Mqtt(port=port, waiting=waiting, **mqtt),
                "pi",
                self.outbox,
                streams=streams,
                on_connected=self.connected.append,
                on_published=lambda event, age: self.published.append((event, age)),
            )
        )

    def _drop(self, reason: str, count: int) -> None:
        self.dropped[reason] += count

    def leave(self) -> float:
        """End the publisher as the daemon does; the seconds that it took."""
        watch = Stopwatch()
        self.house.close()
        return watch.seconds


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Try to connect, and look after what waits, more often than the daemon does. And no word for each event."""
    caplog.set_level(logging.INFO, "onelook.publish")
    caplog.set_level(logging.WARNING, "onelook")
    monkeypatch.setattr("onelook.publish.BACKOFF", (0.1, 0.2))
    monkeypatch.setattr("onelook.publish.SWEEP", 0.2)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    try:
        yield home
    finally:
        home.leave()


class Quota:
    """As much of an MQTT 5 broker as it takes to refuse the first messages on topics that end so for want of room.

    `code`: or why else. `properties`: of the answer to who connects. `mute`: it acknowledges nothing.
    """

    def __init__(
        self, refusals: int, ending: str = "", *, code: int = 0x97, properties: bytes = b"", mute: bool = False
    ) -> None:
        self.taken: list[str] = []
        self.tracks: list[int] = []
        """Of the events among them."""
        self.goodbyes: list[bool] = []
        """Whether who was here took leave, in the end, and so has no last will."""
        self._refusals, self._ending, self._code = refusals, ending, code
        self._properties, self._mute = properties, mute
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        peer, _ = self._socket.accept()
        with peer, peer.makefile("rwb") as stream:
            while head := stream.read(1):
                size, shift = 0, 0
                while True:
                    [byte] = stream.read(1)
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = stream.read(size)
                if head[0] >> 4 == 1:  # CONNECT
                    size = len(self._properties)
                    stream.write(bytes([0x20, 3 + size, 0, 0, size]) + self._properties)
                elif head[0] >> 4 == 14:  # DISCONNECT
                    self.goodbyes.append(True)
                    return
                elif head[0] >> 4 == 3:  # PUBLISH
                    length = int.from_bytes(body[:2], "big")
                    number = body[2 + length : 4 + length]
                    topic = body[2 : 2 + length].decode()
                    full = self._refusals > 0 and topic.endswith(self._ending)
                    self._refusals -= full
                    if not full:
                        self.taken.append(topic)
                        data = json.loads(body[body.index(b"{") :])["data"]
                        self.tracks += [data["track"]] if "track" in data else []
                    if not self._mute:
                        stream.write(bytes([0x40, 4, *number, self._code if full else 0, 0]))
                stream.flush()
        self.goodbyes.append(False)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as broker:
        yield broker


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_subscriber_gets_every_event_as_promised(broker: Broker, home: Home, protocol: str) -> None:
    with broker.subscribe() as reader:
        publisher = home.publisher(broker, protocol=protocol, expiry=60)
        wait_until(home.is_up, "the connection")
        happened = [event(data, captured=time.monotonic() - 0.25) for data in EVERY_KIND]
        for one in happened:
            publisher.publish(one)
        for one in happened:
            (got,) = reader.wait(f"/door/{one.kind}")
            said = message(one, "pi")
            assert got.topic == said.topic
            assert got.payload == said.payload
            assert (got.qos, got.retain) == (1, said.retain)
            if protocol == "5":
                assert got.content_type == "application/cloudevents+json; charset=utf-8"
                assert got.expiry is None if said.retain else 0 < got.expiry <= 60
        wait_until(lambda: len(home.published) == 7, "all to be acknowledged")
    ages = {e.kind: age for e, age in home.published if e.stream}
    assert set(ages) == {one.kind for one in happened}
    assert all(age is not None and 0.25 <= age < PATIENCE for age in ages.values()), ages
    assert len(home.outbox) == 0
    with broker.subscribe(name="latecomer") as late:  # finds how things are, not what happened
        late.wait("/status", 2)
        late.wait("/crowd")
        assert {r.topic.removeprefix("onelook/pi/") for r in late.received} == {
            "status", "door/status", "door/crowd",
        }  # fmt: skip


def test_it_says_online_after_all_else_and_offline_on_leaving(broker: Broker, home: Home) -> None:
    with broker.subscribe() as reader:
        broker.stop()
        publisher = home.publisher(broker, streams=("door", "yard"))
        publisher.publish(event(Status(state="online")))
        publisher.publish(crowd(1))
        publisher.publish(crowd(2))
        broker.start()
        reader.wait_for("/pi/status", "online")
        assert reader.received[-1].topic == "onelook/pi/status"
        assert {r.topic.removeprefix("onelook/pi/"): r.event["data"] for r in reader.received} == {
            "yard/status": {"state": "offline", "reason": "starting"},
            "door/status": {"state": "online", "reason": None},
            "door/crowd": {"purpose": None, "count": 2, "known": 0, "unknown": 2, "ages": None, "genders": None},
            "status": {"state": "online", "reason": None},
        }
        assert len(reader.received) == 4  # of each state the newest only
        reader.received.clear()
        assert home.leave() < 1.0
        reader.wait_for("/pi/status", "offline")
        assert {(r.topic, r.event["data"]["state"], r.retain) for r in reader.received} == {
            ("onelook/pi/yard/status", "offline", True),
            ("onelook/pi/door/status", "offline", True),
            ("onelook/pi/status", "offline", True),
        }
        assert reader.received[-1].topic == "onelook/pi/status"
        assert {r.event["data"]["reason"] for r in reader.received} == {"stopped"}  # not the last will


def test_a_missing_broker_neither_blocks_nor_kills(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    publisher = home.publisher(port, keepalive=5)
    watch = Stopwatch()
    for track in range(200):
        publisher.publish(seen(track))
    assert watch.seconds < 2.0
    wait_until(lambda: caplog.records, "a complaint")
    time.sleep(0.6)  # and at least one more try
    sentence = f"Cannot reach the broker at 127.0.0.1:{port} ([Errno 111] Connection refused)"
    assert caplog.messages == [f"{sentence}: events wait, trying again."]
    assert home.leave() < 1.5
    assert home.connected == []


def test_events_made_while_the_broker_is_away_arrive_once_in_order_and_marked(
    broker: Broker, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "onelook")
    with broker.subscribe() as reader:
        publisher = home.publisher(broker, path=home.folder / "outbox.db", expiry=60, replay_rate=150)
        wait_until(home.is_up, "the connection")
        publisher.publish(crowd(1))
        publisher.publish(seen(0))
        reader.wait("/identity", 1)
        wait_until(lambda: len(home.outbox) == 0, "it to be acknowledged")
        broker.stop()
        wait_until(lambda: not home.is_up(), "the loss to be noticed")
        missed = [seen(track, stream=("door", "yard")[track % 2]) for track in range(1, 121)]
        for one in missed:
            publisher.publish(one)
        publisher.publish(crowd(5))
        publisher.publish(crowd(6))
        assert len(home.outbox) == 120
        time.sleep(0.3)
        broker.start()
        wait_until(home.is_up, "the new connection")
        publisher.publish(seen(121), seen(122, stream="yard"))
        received = reader.wait("/identity", 123)
        wait_until(lambda: len(home.outbox) == 0, "all to be acknowledged")
        time.sleep(0.2)  # room for anything that came twice
        received = reader.on("/identity")
        crowds = [r.event["data"]["count"] for r in reader.on("/crowd")]
    assert Counter(tracks(received)) == Counter(range(123))
    for stream in ("door", "yard"):
        order = tracks([r for r in received if r.topic == f"onelook/pi/{stream}/identity"])
        assert order == sorted(order)
    late = sorted((r for r in received if 1 <= r.event["data"]["track"] <= 120), key=lambda r: r.event["data"]["track"])
    for one, got in zip(missed, late, strict=True):
        assert (got.event["id"], got.topic) == (one.id, f"onelook/pi/{one.stream}/identity")
        assert got.payload == message(one, "pi", replayed=True).payload  # not re-dated
        assert got.expiry is not None
        assert got.expiry <= 60
    assert crowds == [1, 6]  # how it is, not how it was
    assert home.connected == [True, False, True]
    assert not home.dropped
    for e, age in home.published:
        assert age is None or e.kind != "identity"
    lost = f"Lost the broker at 127.0.0.1:{broker.port}"
    back = f"Connected to the broker at 127.0.0.1:{broker.port}."
    told = [m for m in caplog.messages if m.startswith(("Lost", "Connected", "Cannot"))]
    assert [m.startswith(lost) for m in told] == [False, True, False]
    assert told[0] == told[2] == back


def test_a_stream_catches_up_in_order_while_others_are_told_of_at_once(broker: Broker, home: Home) -> None:
    """An outage with events on the door alone; then events on the door and the yard while the backlog drains."""
    with broker.subscribe() as reader:
        publisher = home.publisher(broker, path=home.folder / "outbox.db", replay_rate=20)
        wait_until(home.is_up, "the connection")
        broker.stop()
        wait_until(lambda: not home.is_up(), "the loss to be noticed")
        publisher.publish(*(seen(track) for track in range(60)))
        broker.start()
        back = time.time()
        reader.wait("/door/identity")
        before = []
        for track in range(60, 80):
            there = len(reader.on("/identity"))
            publisher.publish(seen(track, stream=("door", "yard")[track % 2]))
            if track % 2:
                wait_until(lambda: track in tracks(reader.on("/yard/identity")), "it to arrive")  # noqa: B023
                before.append(tracks(reader.on("/identity")).index(track) - there)
            time.sleep(0.02)
        reader.wait("/identity", 80)
        wait_until(lambda: len(home.outbox) == 0, "all to be acknowledged")
        received = reader.on("/identity")
    door = [r for r in received if "/door/" in r.topic]
    yard = [r for r in received if "/yard/" in r.topic]
    assert tracks(door) == [*range(60), *range(60, 80, 2)]  # nothing overtakes what waited on its stream
    assert tracks(yard) == list(range(61, 80, 2))
    backlog = door[:60]
    assert all("replayed" in r.event for r in backlog)
    assert backlog[-1].at - back > 0.9 * (60 - 11) / 20  # at first as many as may be on the wire
    assert sum("replayed" in r.event for r in yard) <= 2  # none, but for a machine that stood still for a second
    assert sorted(before)[5] <= 12  # few of those that wait on the door go before one that is new in the yard
    assert yard[0].at < backlog[-1].at


def test_an_event_that_stood_in_the_outbox_is_no_news_though_the_connection_held(broker: Broker, home: Home) -> None:
    """A broker that stands still for a while, and takes what was kept back only then."""
    with broker.subscribe() as reader:
        publisher = home.publisher(broker)
        wait_until(home.is_up, "the connection")
        assert broker.process is not None
        broker.process.send_signal(signal.SIGSTOP)
        publisher.publish(*(seen(track) for track in range(25)))
        time.sleep(1.2)
        broker.process.send_signal(signal.SIGCONT)
        received = reader.wait("/identity", 25)
    assert tracks(received) == list(range(25))
    assert not any("replayed" in r.event for r in received[:15])  # the broker had these in hand
    assert all("replayed" in r.event for r in received[20:])
    assert home.connected == [True]


def test_a_broker_that_has_no_room_just_now_is_asked_again(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """mosquitto never says so; a broker that hosts many does."""
    with Quota(refusals=3) as broker:
        publisher = home.publisher(broker.port)
        wait_until(home.is_up, "the connection")
        for track in range(5):
            publisher.publish(seen(track))
        wait_until(lambda: len(home.published) == 6 and len(home.outbox) == 0, "all to be acknowledged")
    assert not home.dropped
    assert Counter(broker.taken) == Counter({"onelook/pi/status": 1, "onelook/pi/door/identity": 5})
    assert sum("(Quota exceeded): trying again" in message for message in caplog.messages) <= 2


def test_what_follows_an_event_that_was_refused_waits_behind_it(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    with Quota(refusals=3, ending="/door/identity") as broker:
        publisher = home.publisher(broker.port)
        wait_until(home.is_up, "the connection")
        publisher.publish(seen(0))
        wait_until(lambda: "/door/identity (Quota exceeded)" in caplog.text, "it to be refused")
        publisher.publish(*(seen(track) for track in range(1, 30)), seen(99, stream="yard"))
        wait_until(lambda: len(home.outbox) == 0, "all to be acknowledged")
    assert broker.tracks == [99, *range(30)]  # another stream waits for nothing
    assert not home.dropped


def test_what_is_refused_until_it_expires_holds_up_its_stream_no_longer(home: Home) -> None:
    with Quota(refusals=1000, ending="/door/identity") as broker:
        publisher = home.publisher(broker.port, expiry=2)
        wait_until(home.is_up, "the connection")
        publisher.publish(seen(0), seen(1))
        time.sleep(0.7)
        publisher.publish(event(EVERY_KIND[0]))
        wait_until(lambda: len(home.outbox) == 0, "nothing to wait any more")
    assert home.dropped == {"expired": 2}
    assert broker.tracks == [4]


def test_what_an_earlier_run_left_is_told_although_the_disk_could_not_be_read_at_first(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        outbox.put((seen(1), 60), (seen(2), 60), (seen(3, stream="yard"), 60))

    def fail(*_: object, **__: object) -> None:
        raise OSError(EROFS, "Read-only file system")

    with Quota(refusals=0) as broker, monkeypatch.context() as patch:
        patch.setattr(Path, "touch", fail)
        publisher = home.publisher(broker.port, path=path)
        wait_until(home.is_up, "the connection")
        publisher.publish(seen(4))
        wait_until(lambda: broker.tracks == [4], "what happens now")
        patch.undo()
        wait_until(lambda: len(broker.tracks) == 4, "what waited", 5)
        wait_until(lambda: len(home.outbox) == 0, "all to be acknowledged")
    assert [track for track in broker.tracks if track != 3] == [4, 1, 2]


def test_a_state_that_was_refused_does_not_come_after_a_newer_one(home: Home) -> None:
    with Quota(refusals=3) as broker:  # of the device's status, what is said besides, and the first crowd
        publisher = home.publisher(broker.port)
        wait_until(home.is_up, "the connection")
        publisher.send(Message("announcement", b'{"data": {}}'))
        publisher.publish(event(Crowd(count=1, known=0, unknown=1)))
        wait_until(lambda: publisher._later, "it to be refused")
        publisher.publish(event(Crowd(count=2, known=0, unknown=2)))
        wait_until(lambda: {"onelook/pi/status", "announcement"} <= set(broker.taken), "what was refused to come again")
        wait_until(lambda: not publisher._later and not publisher._on_wire, "all to be said")
    assert Counter(broker.taken) == Counter({"onelook/pi/status": 1, "announcement": 1, "onelook/pi/door/crowd": 1})


@pytest.mark.parametrize("announced", [True, False])
def test_a_message_too_large_for_the_broker_costs_only_itself(
    home: Home, caplog: pytest.LogCaptureFixture, announced: bool
) -> None:
    """mosquitto's max_packet_size, which it tells and hangs up for, and its message_size_limit, which it does not."""
    fits = message(seen(2), "pi")
    size = 3 + 2 + len(fits.topic) + 2 + 1 + 3 + len(CLOUDEVENT) + 5 + len(fits.payload)
    limits = {"properties": bytes([0x27, *size.to_bytes(4, "big")])} if announced else {"code": 0x95}
    with Quota(refusals=0 if announced else 1, ending="/identity", **limits) as broker:
        publisher = home.publisher(broker.port)
        wait_until(home.is_up, "the connection")
        publisher.publish(seen(10), seen(2))
        wait_until(lambda: len(home.outbox) == 0, "all to be done with")
    assert (home.dropped, home.connected, broker.tracks) == ({"refused": 1}, [True], [2])
    [told] = [m for m in caplog.messages if "refuses messages" in m]
    assert told.endswith("onelook/pi/door/identity (Packet too large): let it take larger ones.")


def test_events_on_the_wire_when_the_broker_dies_arrive_once(broker: Broker, home: Home) -> None:
    with broker.subscribe() as reader:
        publisher = home.publisher(broker)
        wait_until(home.is_up, "the connection")
        assert broker.process is not None
        broker.process.send_signal(signal.SIGUSR1)  # write the subscriber's session to disk
        wait_until((broker.folder / "mosquitto.db").exists, "mosquitto to save")
        time.sleep(0.2)
        broker.process.send_signal(signal.SIGSTOP)
        for track in range(50):
            publisher.publish(seen(track))
        time.sleep(0.3)  # as many are on the wire as may be
        broker.stop(signal.SIGKILL)
        broker.start()
        reader.wait("/identity", 50)
        wait_until(lambda: len(home.outbox) == 0, "all to be acknowledged")
        time.sleep(0.2)  # room for anything that came twice
        received = reader.on("/identity")
    assert tracks(received) == list(range(50))
    assert all(r.event["replayed"] for r in received)


def test_events_too_old_when_the_broker_is_back_are_dropped_and_counted(broker: Broker, home: Home) -> None:
    with broker.subscribe() as reader:
        publisher = home.publisher(broker, expiry=2.0)
        wait_until(home.is_up, "the connection")
        for _ in range(4):
            publisher.publish(seen(0, age=1.1))  # late already: never sent
            time.sleep(0.05)
        broker.stop()
        for track in (1, 2, 3):
            publisher.publish(seen(track))
        publisher.publish(seen(4, age=-60))  # young enough for any outage of this test
        wait_until(lambda: home.dropped["expired"] == 7, "them to expire")
        broker.start()
        (got,) = reader.wait("/identity")
        assert tracks([got]) == [4]
        time.sleep(0.2)
        assert len(reader.on("/identity")) == 1
    assert home.dropped == {"expired": 7}


def test_a_broker_passes_no_event_to_a_subscriber_that_comes_too_late(broker: Broker, home: Home) -> None:
    """Message expiry: a subscriber's own outage does not bring it stale events either."""
    with broker.subscribe():
        pass  # the subscriber is gone; its session stays, so that the broker queues for it
    publisher = home.publisher(broker, expiry=2.0)
    wait_until(home.is_up, "the connection")
    publisher.publish(seen(1))
    wait_until(lambda: len(home.outbox) == 0, "it to be at the broker")
    time.sleep(3.2)
    publisher.publish(seen(2, age=-60))  # in time, however slow the subscriber is
    with broker.subscribe() as reader:
        received = reader.wait("/identity")
        assert tracks(received) == [2]


def test_a_broker_that_freezes_holds_up_nobody(broker: Broker, home: Home) -> None:
    publisher = home.publisher(broker)
    wait_until(home.is_up, "the connection")
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    try:
        watch = Stopwatch()
        for track in range(500):
            publisher.publish(seen(track))
        assert watch.seconds < 2.0
        assert len(home.outbox) == 500
        assert home.leave() < 2.0
    finally:
        broker.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("mute", [True, False])
def test_where_offline_could_not_be_said_the_last_will_says_it(
    home: Home, monkeypatch: pytest.MonkeyPatch, mute: bool
) -> None:
    """A link so slow, or a broker so busy, that all that may be on the wire is still unanswered."""
    monkeypatch.setattr("onelook.publish.GOODBYE", 0.05 if mute else 5)
    with Quota(refusals=0, properties=bytes([0x21, 0, 1]), mute=mute) as broker:  # one message at a time
        home.publisher(broker.port)
        wait_until(home.is_up, "the connection")
        home.leave()
        wait_until(lambda: broker.goodbyes, "the end")
    assert broker.goodbyes == [not mute]


def test_a_host_that_never_answers_holds_up_nobody(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, ExitStack() as queue:
        port = deaf.getsockname()[1]
        for _ in range(2):  # a full queue: the next try to connect hears nothing at all
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        publisher = home.publisher(port)
        publisher.publish(seen(1))
        time.sleep(0.3)
        assert home.leave() < 2.0


# --- another process ------------------------------------------------------------------------

PUBLISHER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from onelook import config
from onelook.event import Event, Identity, Status
from onelook.outbox import Outbox
from onelook.publish import MqttPublisher
port, path, first, count = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
mqtt = config.Mqtt(port=port)
with Outbox(path) as outbox, MqttPublisher(mqtt, "pi", outbox, streams=["door"]) as publisher:
    publisher.publish(Event(stream="door", time=datetime.now(UTC), data=Status(state="online")))
    for track in range(first, first + count):
        data = Identity(track=track, box=(0, 0, 1, 1), frame=track, state="unknown", confidence=1)
        publisher.publish(Event(stream="door", time=datetime.now(UTC), data=data))
        print(track, flush=True)
    time.sleep(60)
"""


def spawn(port: int, path: Path, first: int, count: int) -> "subprocess.Popen[str]":
    arguments = [str(port), str(path), str(first), str(count)]
    return subprocess.Popen([sys.executable, "-c", PUBLISHER, *arguments], stdout=subprocess.PIPE, text=True)


def test_the_last_will_says_offline_soon_after_a_kill(broker: Broker, home: Home) -> None:
    with broker.subscribe() as reader:
        with spawn(broker.port, home.folder / "outbox.db", 0, 1) as process:
            try:
                reader.wait_for("/pi/status", "online")
                reader.wait("/identity")
            finally:
                process.kill()
                killed = time.time()
        will = reader.wait_for("/pi/status", "offline")
        assert will.at - killed < 10  # by what TCP tells; a keepalive takes longer
        assert will.retain
        assert will.event["data"] == {"state": "offline", "reason": "connection lost"}
        Draft202012Validator(schema()).validate(will.event)


def test_what_waited_in_a_killed_process_is_sent_by_the_next(broker: Broker, home: Home) -> None:
    path = home.folder / "outbox.db"
    with broker.subscribe() as reader:
        with spawn(free_port(), path, 0, 30) as process:  # its broker is away
            try:
                assert process.stdout is not None
                assert [int(process.stdout.readline()) for _ in range(30)] == list(range(30))
            finally:
                process.kill()
        publisher = home.publisher(broker, path=path)
        wait_until(home.is_up, "the connection")
        publisher.publish(seen(30))
        received = reader.wait("/identity", 31)
        assert tracks([r for r in received if "replayed" in r.event]) == list(range(30))
        assert tracks([r for r in received if "replayed" not in r.event]) == [30]
        wait_until(lambda: len(home.outbox) == 0, "all to be acknowledged")


# --- who may come in ------------------------------------------------------------------------


ACL = """
user pi
topic write onelook/pi/#
user watcher
topic read onelook/#
"""


def test_tls_with_a_client_certificate_a_password_and_an_acl(home: Home, tmp_path: Path) -> None:
    papers = Certificates(tmp_path / "papers")
    users = {"pi": "s3cret", "watcher": "other"}
    with Broker(tmp_path / "broker", users, ACL, papers, client_certificates=True) as broker:
        tls = config.Tls(ca_file=papers.ca, cert_file=papers.client, key_file=papers.client_key)
        with broker.subscribe("onelook/#", user=("watcher", "other")) as reader:
            publisher = home.publisher(broker, tls=tls, username="pi", password=SecretStr("s3cret"))
            publisher.publish(seen(1))
            assert tracks(reader.wait("/identity")) == [1]
            reader.wait_for("/pi/status", "online")
            assert home.leave() < 1.5
            reader.wait_for("/pi/status", "offline")


@pytest.mark.filterwarnings(  # paho leaves the socket of a failed handshake to the garbage collector
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_an_untrusted_broker_gets_nothing_and_the_owner_a_sentence(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Certificates(tmp_path / "other")
    users = {"pi": "s3cret"}
    with Broker(tmp_path / "broker", users, tls=Certificates(tmp_path / "papers")) as broker:
        tls = config.Tls(ca_file=other.ca)
        home.publisher(broker, tls=tls, username="pi", password=SecretStr("s3cret"))
        wait_until(lambda: caplog.records, "a complaint")
        time.sleep(0.6)
        assert len(caplog.messages) == 1  # however often it tries
        place = f"127.0.0.1:{broker.port}"
        assert caplog.messages[0].startswith(f"The certificate of the broker at {place} is not trusted: ")
        assert "mqtt.tls.ca_file" in caplog.messages[0]
        assert not home.is_up()


def test_speaking_plainly_to_a_tls_port_is_explained(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Broker(tmp_path / "broker", tls=Certificates(tmp_path / "papers")) as broker:
        home.publisher(broker)
        wait_until(lambda: caplog.records, "a complaint")
        place = f"127.0.0.1:{broker.port}"
        assert caplog.messages == [
            f"The broker at {place} hangs up without an answer: does it expect TLS (mqtt.tls)?"
        ]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_refused_then_let_in(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    with Broker(tmp_path / "broker", {"pi": "old", "watcher": "w"}) as broker:
        with broker.subscribe(user=("watcher", "w")) as reader:
            password = SecretStr("s3cret")
            publisher = home.publisher(broker, protocol=protocol, username="pi", password=password)
            publisher.publish(seen(1))
            wait_until(lambda: caplog.records, "a complaint")
            time.sleep(0.6)
            assert len(caplog.messages) == 1  # however often it tries
            assert "check mqtt.username and its password" in caplog.messages[0]
            assert home.connected == []  # a refusal is not a connection
            broker.set_passwords({"pi": "s3cret", "watcher": "w"})
            broker.reload()
            (got,) = reader.wait("/identity")
            assert got.event["replayed"] is True
            assert home.connected == [True]
        assert "s3cret" not in caplog.text
        assert "s3cret" not in repr(vars(publisher))


@pytest.mark.filterwarnings(  # paho leaves the socket of a failed handshake to the garbage collector
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_a_password_and_a_certificate_that_are_renewed_need_no_new_start(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onelook.publish.BACKOFF", (0.05, 0.05))
    papers, old = Certificates(tmp_path / "papers"), Certificates(tmp_path / "old")
    word = tmp_path / "word"
    word.write_text("forgotten")
    with Broker(tmp_path / "broker", {"pi": "s3cret"}, tls=papers, client_certificates=True) as broker:
        tls = config.Tls(ca_file=old.ca, cert_file=old.client, key_file=old.client_key)
        home.publisher(broker, tls=tls, username="pi", password_file=word)
        for told, files in (
            ("is not trusted", {old.ca: papers.ca}),
            ("without an answer: does it trust mqtt.tls.cert_file, and has that not expired?",
             {old.client: papers.client, old.client_key: papers.client_key}),
            ("check mqtt.username and its password", {}),
        ):
            wait_until(lambda: told in caplog.text, told)  # noqa: B023
            for file, newer in files.items():
                file.write_bytes(newer.read_bytes())
        assert not home.is_up()
        word.write_text("s3cret\n")
        wait_until(home.is_up, "the connection")


def test_a_topic_denied_is_said_once_and_costs_only_itself(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acl = ACL.replace("write onelook/pi/#", "write onelook/pi/+/emotion")
    with Broker(tmp_path / "broker", {"pi": "p", "watcher": "w"}, acl) as broker:
        with broker.subscribe("onelook/#", user=("watcher", "w")) as reader:
            publisher = home.publisher(broker, username="pi", password=SecretStr("p"))
            for track in range(3):
                publisher.publish(seen(track))
            publisher.publish(event(EVERY_KIND[3]))
            reader.wait("/emotion")
            assert {r.topic for r in reader.received} == {"onelook/pi/door/emotion"}
        wait_until(lambda: len(home.outbox) == 0, "the outbox to be empty")
    assert home.dropped == {"refused": 3}
    denied = [m for m in caplog.messages if m.startswith("The broker refuses messages on ")]
    assert denied == [
        f"The broker refuses messages on onelook/pi/{topic} (Not authorized): let user 'pi' write there."
        for topic in ("status", "door/identity")
    ]


def test_topics_that_askers_choose_and_the_broker_denies_are_not_remembered_for_ever() -> None:
    publisher, denied = MqttPublisher(config.Mqtt(), "pi", Outbox()), ReasonCode(PacketTypes.PUBACK, identifier=0x87)
    for number in range(DENIED + 5):
        publisher._denial(_Wired(Message(f"onelook/pi/reply/{number}", b""), None, None, replayed=False), denied)
    assert len(publisher._denied) == 5


def test_two_devices_of_one_name_fight_without_flooding_the_log(
    broker: Broker, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "onelook")
    other = Home(home.folder)
    home.publisher(broker)
    wait_until(home.is_up, "the connection")
    try:
        other.publisher(broker)
        wait_until(lambda: home.connected.count(True) >= 5, "them to push each other out")
    finally:
        other.leave()
    assert len(caplog.messages) <= 6, caplog.messages  # of each: connected, lost, connected; no more


# --- the owner's mistakes -------------------------------------------------------------------


def test_bad_certificates_are_told_in_a_sentence(tmp_path: Path) -> None:
    papers = Certificates(tmp_path)
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    with pytest.raises(OwnerError, match=r"mqtt\.tls\.ca_file: .*junk\.pem is not a certificate"):
        tls_context(config.Tls(ca_file=junk))
    with pytest.raises(OwnerError, match=r"mqtt\.tls: .*junk\.pem must hold a certificate and its key"):
        tls_context(config.Tls(cert_file=junk))
    with pytest.raises(OwnerError, match=r"must hold a certificate and its key"):
        tls_context(config.Tls(cert_file=papers.client, key_file=papers.server_key))
    gone = config.Tls(ca_file=papers.ca, cert_file=papers.client, key_file=papers.client_key)
    papers.client_key.unlink()
    with pytest.raises(OwnerError, match=r"cannot read .*client\.key: No such file"):
        tls_context(gone)
    papers.ca.unlink()
    with pytest.raises(OwnerError, match=r"mqtt\.tls\.ca_file: cannot read .*ca\.pem: No such file"):
        tls_context(gone)


def test_an_authority_of_the_owners_may_be_as_plain_as_any_version_of_python_takes_it(tmp_path: Path) -> None:
    context = tls_context(config.Tls(ca_file=Certificates(tmp_path).ca))
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT  # set by Python 3.13 and newer
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_locked_key_is_told_instead_of_asked_for(tmp_path: Path) -> None:
    papers = Certificates(tmp_path)
    key = serialization.load_pem_private_key(papers.client_key.read_bytes(), None)
    papers.client_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"phrase"),
        )
    )
    with pytest.raises(OwnerError, match="passphrase"):
        tls_context(config.Tls(cert_file=papers.client, key_file=papers.client_key))


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_a_host_that_cannot_be_one_is_told(host: str) -> None:
    with pytest.raises(OwnerError, match=r"mqtt\.host: .* is not the name of a host"):
        MqttPublisher(config.Mqtt(host=host), "pi", Outbox())


def test_with_a_password_alone_the_device_is_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        Broker(tmp_path / "broker", {"pi": "opensesame"}, acl="user other") as broker,
        MqttPublisher(config.Mqtt(port=broker.port, password=SecretStr("opensesame")), "pi", Outbox()),
    ):
        wait_until(lambda: "u'pi'" in broker.log, "the device to be let in by its name")
        wait_until(lambda: "let user 'pi' write there" in caplog.text, "it to be told who may not write")


def test_a_bug_in_delivering_reaches_the_frame_loop(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(_connected: bool) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # noqa: PT012, SIM117
        with MqttPublisher(config.Mqtt(port=broker.port), "pi", Outbox(), on_connected=bug) as publisher:
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                publisher.publish(crowd(1))
                time.sleep(0.01)
            pytest.fail("nobody heard of it")

"""Commands over MQTT: asked by a real client of a real broker, answered by the real daemon."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from threading import Condition
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker import PATIENCE, Broker, Certificates, Subscriber, wait_until
from clip import EILEEN, GRACE, write_mp4
from daemon_process import DEVICE, PASSWORD, READER, Daemon, onelook, write_config
from onelook import control
from onelook.capture import LatestFrames
from onelook.commands import COMMANDS, MOST_WAITING, Commands, Enroll, Pause, Pong, Resume
from onelook.config import Stream, load
from onelook.enroll import Verdict
from onelook.errors import OwnerError
from onelook.gallery import Gallery, Stranger
from onelook.model import shipped
from onelook.outbox import Outbox
from onelook.publish import Heard, Message, MqttPublisher
from onelook.schema import commands as schema
from onelook.spec import load as load_spec

ASKER = ("asker", "mayi")
ACL = f"""
user {DEVICE}
topic write onelook/{DEVICE}/#
topic read onelook/{DEVICE}/command/+
topic write replies/#

user {ASKER[0]}
topic write onelook/{DEVICE}/command/+
topic read onelook/{DEVICE}/reply/#
topic read replies/#

user {READER[0]}
topic read onelook/#
"""


class Asker:
    """A client that asks, and waits for the answer that is its own."""

    def __init__(self, broker: Broker, replies: str = f"onelook/{DEVICE}/reply/asker") -> None:
        self.replies = replies
        self.answers: dict[bytes, Any] = {}
        self._count = 0
        self._arrived = Condition()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="asker", protocol=MQTTv5)
        if broker.users is not None:
            self._client.username_pw_set(*ASKER)
        self._subscribed = False
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe(replies, 1)
        wait_until(lambda: self._subscribed, "the asker to be subscribed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        assert message.properties is not None
        assert message.properties.ContentType == "application/json"
        with self._arrived:
            self.answers[message.properties.CorrelationData] = json.loads(message.payload)
            self._arrived.notify_all()

    def send(self, name: str, payload: bytes = b"", *, to: str | None = None, retain: bool = False) -> bytes:
        self._count += 1
        mine = f"request {self._count}".encode()
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = self.replies if to is None else to
        properties.CorrelationData = mine
        self._client.publish(f"onelook/{DEVICE}/command/{name}", payload, 1, retain, properties)
        return mine

    def ask(self, name: str, /, **asked: Any) -> Any:
        mine = self.send(name, json.dumps(asked).encode())
        with self._arrived:
            assert self._arrived.wait_for(lambda: mine in self.answers, PATIENCE), f"no answer to {name}"
        return self.answers[mine]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_who_is_paused_stays_so_over_a_kill_and_a_restart(clip: Path, tmp_path: Path) -> None:
    users = {DEVICE: PASSWORD, READER[0]: READER[1], ASKER[0]: ASKER[1]}
    streams = [{"name": name, "url": str(clip), "loop": True, "fps": 5} for name in ("door", "yard")]
    with (
        Broker(tmp_path / "broker", users, ACL) as broker,
        broker.subscribe("onelook/#", user=READER) as reader,
        Asker(broker) as asker,
    ):
        config = write_config(tmp_path, *streams, broker=broker)
        on = config.read_text().replace("mqtt:\n", "mqtt:\n  commands: [pause, resume]\n")
        config.write_text(on)
        with Daemon(config):
            reader.wait_for(f"onelook/{DEVICE}/status", "online")
            assert asker.ask("pause", stream="yard")["data"] == {"paused": ["yard"]}
        reader.received.clear()
        with Daemon(config) as daemon:  # the one before was killed
            daemon.wait(lambda: daemon.value("onelook_frames_total", stream="door") > 3, "the door to be looked at")
            assert daemon.value("onelook_frames_total", stream="yard") == 0
            wait_until(lambda: any(r.event["data"]["reason"] == "paused" for r in reader.on("yard/status")), "it told")
            assert asker.ask("resume")["data"] == {"paused": []}
        # What nobody can take back any more does not hold for ever.
        (tmp_path / "paused.json").write_text('["yard", "an old stream"]')
        config.write_text(on.replace("[pause, resume]", "[]"))
        with Daemon(config) as daemon:
            daemon.wait(lambda: daemon.value("onelook_frames_total", stream="yard") > 0, "the yard to be looked at")
        (tmp_path / "paused.json").write_text("neither JSON nor anything")
        config.write_text(on)
        reader.received.clear()
        with Daemon(config) as daemon:
            wait_until(lambda: "Which streams were paused cannot be read from" in daemon.log, "it to be told")
            reader.wait_for(f"onelook/{DEVICE}/status", "online")  # who is not yet there answers nobody
            # What nobody knows looks at nobody.
            assert asker.ask("resume", stream="yard")["data"] == {"paused": ["door"]}
            daemon.wait(lambda: daemon.value("onelook_frames_total", stream="yard") > 0, "the yard to be looked at")
            assert daemon.value("onelook_frames_total", stream="door") == 0


# --- off unless it is safe ---------------------------------------------------------------------


def test_without_a_word_in_the_config_nothing_is_answered(clip: Path, tmp_path: Path) -> None:
    users = {DEVICE: PASSWORD, READER[0]: READER[1], ASKER[0]: ASKER[1]}
    with Broker(tmp_path / "broker", users, ACL) as broker, broker.subscribe("onelook/#", user=READER) as reader:
        config = write_config(tmp_path, {"name": "door", "url": str(clip), "loop": True, "fps": 2}, broker=broker)
        with Daemon(config), Asker(broker) as asker:
            reader.wait_for(f"onelook/{DEVICE}/status", "online")
            asker.send("ping")
            time.sleep(1.5)
            assert asker.answers == {}
            assert f"Sending PUBLISH to onelook-{DEVICE}" not in broker.log


def check(folder: Path, mqtt: str) -> str:
    """What `onelook check` would say of the broker's section."""
    file = folder / "config.yaml"
    file.write_text(f"streams: [{{name: door, url: /dev/video0}}]\nmqtt: {mqtt}\n")
    try:
        MqttPublisher(load(file).mqtt, "pi", Outbox())
    except OwnerError as error:
        return str(error)
    return "ok"


@pytest.mark.parametrize(
    ("mqtt", "told"),
    [
        ("{commands: [ping]}", "mqtt.commands: a broker that does not ask who we are"),
        ("{commands: [ping], tls: {}}", "mqtt.commands: a broker that does not ask who we are"),
        ("{commands: [ping], username: hall}", "mqtt.commands: a broker that does not ask"),
        ("{commands: [ping], password: ''}", "mqtt.password: is empty"),
        ('{commands: [ping], protocol: "3.1.1"}', "needs protocol 5"),
        ("{commands: [dance]}", "must be ping, snapshot"),
        ("{commands: [ping], username: hall, password: secret}", "ok"),
    ],
)
def test_commands_without_a_password_or_certificate_are_refused(tmp_path: Path, mqtt: str, told: str) -> None:
    assert told in check(tmp_path, mqtt)


def test_a_client_certificate_is_as_good_as_a_password(tmp_path: Path) -> None:
    papers = Certificates(tmp_path / "papers")
    tls = f"{{ca_file: {papers.ca}, cert_file: {papers.client}, key_file: {papers.client_key}}}"
    assert check(tmp_path, f"{{commands: [ping], tls: {tls}}}") == "ok"


def test_the_command_line_says_so_too(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "streams: [{name: door, url: /dev/video0}]\ngallery: {path: g.db, key_file: g.key}\n"
        "mqtt: {commands: [ping], outbox: null}\n"
    )
    for command in ("check", "run"):
        done = onelook(command, "--config", config)
        assert done.returncode == 78, done.stderr
        assert "mqtt.commands: a broker that does not ask who we are" in done.stderr
        assert "Traceback" not in done.stderr


# --- without a broker -------------------------------------------------------------------------


def heard(name: str, payload: bytes = b"{}", *, retained: bool = False, to: str | None = "r") -> Heard:
    return Heard(f"onelook/pi/command/{name}", payload, retained, to, b"x")


def test_a_command_that_is_off_is_told_which_key_turns_it_on() -> None:
    commands = Commands("pi", ["ping"])
    [answer] = commands.hear(heard("forget", b'{"name": "Ada"}'))
    assert json.loads(answer.payload)["error"] == "The command forget is off; mqtt.commands says which are on."


def test_with_all_off_it_says_nothing_even_where_others_asked_to_hear() -> None:
    assert Commands("pi", []).hear(heard("status")) == []


def test_what_is_retained_is_never_obeyed() -> None:
    commands, sent = Commands("pi", list(COMMANDS)), list[Message]()
    assert commands.hear(heard("pause", retained=True)) == []
    commands.work({}, sent.append)  # would miss its handler
    assert not sent


def test_who_asks_for_too_much_at_once_is_told_to_come_back() -> None:
    commands = Commands("pi", ["ping"])
    for _ in range(MOST_WAITING):
        assert commands.hear(heard("ping")) == []
    [answer] = commands.hear(heard("ping"))
    assert "ask again later" in json.loads(answer.payload)["error"]


def test_one_request_is_obeyed_at_a_time_for_frames_wait_meanwhile() -> None:
    commands, sent = Commands("pi", ["ping"]), list[Message]()
    for _ in range(3):
        commands.hear(heard("ping"))
    handlers = {"ping": lambda _asked: Pong(version="1", seconds=1)}

    commands.work(handlers, sent.append)
    assert len(sent) == 1
    for _ in range(5):
        commands.work(handlers, sent.append)
    assert len(sent) == 3


def test_a_bug_of_ours_in_a_command_is_answered_and_logged_and_the_frame_loop_goes_on(
    caplog: pytest.LogCaptureFixture
) -> None:
    commands, sent = Commands("pi", ["pause", "ping"]), list[Message]()
    handlers = {"pause": lambda _asked: 1 // 0, "ping": lambda _asked: Pong(version="1", seconds=1)}
    commands.hear(heard("pause"))
    commands.hear(heard("ping"))

    for _ in range(2):
        commands.work(handlers, sent.append)

    bug, pong = (json.loads(said.payload) for said in sent)
    assert bug == {"ok": False, "command": "pause", "error": "A bug of onelook's kept it from being done: see its log."}
    assert pong["ok"] is True
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.message == "a bug of onelook's, in the command pause"
    assert "ZeroDivisionError" in caplog.text


def test_who_wants_no_answer_gets_none() -> None:
    commands, sent = Commands("pi", ["pause"]), list[Message]()

    def fails(_asked: object) -> Any:
        raise OwnerError("There is no such stream.")

    assert commands.hear(heard("pause", to=None)) == []
    commands.work({"pause": fails}, sent.append)
    assert sent == []


def test_every_command_has_its_schemas() -> None:
    Draft202012Validator.check_schema(schema())
    for name in COMMANDS:
        for what in ("Request", "Answer"):
            assert f"{name.capitalize()}{what}" in schema()["$defs"]
    photo = base64.b64encode(GRACE.read_bytes()).decode()
    request = {"$ref": "#/$defs/EnrollRequest", "$defs": schema()["$defs"]}
    Draft202012Validator(request).validate({"name": "Grace", "photos": [photo]})
    assert not Draft202012Validator(request).is_valid({"name": "Grace"})


def test_every_command_is_in_the_manual() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "events.md").read_text()
    assert [name for name in COMMANDS if f"`{name}`" not in manual] == []


# --- a house that is watched, after all else: it works on until the last of these ------------------


class House:
    def __init__(self, daemon: Daemon, asker: Asker, reader: Subscriber) -> None:
        self.daemon, self.asker, self.reader = daemon, asker, reader

    def ask(self, name: str, /, **asked: Any) -> Any:
        """The answer, which must be of the schema."""
        answer = self.asker.ask(name, **asked)
        definitions = schema()["$defs"]
        Draft202012Validator({"$ref": f"#/$defs/{name.capitalize()}Answer", "$defs": definitions}).validate(answer)
        return answer

    def data(self, name: str, /, **asked: Any) -> Any:
        answer = self.ask(name, **asked)
        assert answer["ok"], answer
        return answer["data"]

    def looked(self, stream: str) -> float:
        return self.daemon.value("onelook_frames_total", stream=stream)

    def error(self, name: str, /, **asked: Any) -> str:
        answer = self.ask(name, **asked)
        assert not answer["ok"], answer
        return str(answer["error"])


@pytest.fixture(scope="module")
def house(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    users = {DEVICE: PASSWORD, READER[0]: READER[1], ASKER[0]: ASKER[1]}
    streams = [{"name": name, "url": str(clip), "loop": True, "fps": 5} for name in ("door", "yard")]
    with Broker(folder / "broker", users, ACL) as broker, broker.subscribe("onelook/#", user=READER) as reader:
        config = write_config(folder, *streams, broker=broker)
        every = f"mqtt:\n  commands: [{', '.join(COMMANDS)}]\n"
        config.write_text(config.read_text().replace("mqtt:\n", every))
        with Daemon(config) as daemon, Asker(broker) as asker:
            daemon.wait_until_ready()
            reader.wait_for(f"onelook/{DEVICE}/status", "online")
            yield House(daemon, asker, reader)


def test_a_ping_is_answered_by_the_loop(house: House) -> None:
    began = house.data("ping")["seconds"]

    wait_until(lambda: house.data("ping")["seconds"] > began, "its time to go on")


def test_a_snapshot_shows_whom_the_newest_frame_shows(house: House) -> None:
    house.reader.wait("door/emotion")

    def told() -> bool:
        [door] = house.data("snapshot", stream="door")["streams"]
        return door["state"] == "online" and any(
            track["emotion"] and track["attributes"] and track["box"] for track in door["tracks"]
        )

    wait_until(told, "somebody described to be in the picture")
    assert [stream["stream"] for stream in house.data("snapshot")["streams"]] == ["door", "yard"]


def test_a_paused_stream_is_not_looked_at_until_it_is_resumed(house: House) -> None:
    assert house.data("pause", stream="yard") == {"paused": ["yard"]}
    assert house.data("pause", stream="yard") == {"paused": ["yard"]}

    def reasons() -> list[str]:
        return [r.event["data"]["reason"] for r in house.reader.on("yard/status")]

    wait_until(lambda: "paused" in reasons(), "it to be told")
    looked = house.looked("yard")
    other = house.looked("door")
    assert house.daemon.value("onelook_stream_up", stream="yard") == 0
    assert house.daemon.value("onelook_stream_paused", stream="yard") == 1
    house.daemon.wait(lambda: house.looked("door") > other + 5, "the other to go on")
    assert house.looked("yard") == looked
    assert house.data("snapshot", stream="yard")["streams"] == [{"stream": "yard", "state": "paused", "tracks": []}]

    assert house.data("resume") == {"paused": []}
    house.daemon.wait(lambda: house.looked("yard") > looked + 3, "it to be seen")
    assert house.daemon.value("onelook_stream_up", stream="yard") == 1
    assert house.daemon.value("onelook_stream_paused", stream="yard") == 0
    assert reasons().count("paused") == 1, reasons()


def test_with_every_stream_paused_the_daemon_waits_and_answers(house: House) -> None:
    assert house.data("pause") == {"paused": ["door", "yard"]}
    time.sleep(1.5)
    assert house.data("ping")
    assert house.data("resume", stream="door") == {"paused": ["yard"]}
    assert house.data("resume") == {"paused": []}


def test_a_person_is_enrolled_and_forgotten(house: House) -> None:
    photo = base64.b64encode(EILEEN.read_bytes()).decode()
    [verdict] = house.data("enroll", name="Eileen Collins", photos=[photo])["photos"]
    assert (verdict["photo"], verdict["accepted"]) == (1, True)
    assert "is enrolled" in verdict["reason"]
    listed = onelook("gallery", "list", "--json", "--config", house.daemon.config)
    assert [person["name"] for person in json.loads(listed.stdout)] == ["Eileen Collins"]

    # Told as it is kept, and as it stands in events.
    assert house.data("forget", name=" Eileen Collins ") == {"name": "Eileen Collins", "templates": 1}
    assert house.error("forget", name="Eileen Collins") == "Nobody named Eileen Collins is enrolled."


def test_two_peoples_photos_under_one_name_are_taken_with_a_word(house: House) -> None:
    photos = [base64.b64encode(photo.read_bytes()).decode() for photo in (EILEEN, GRACE)]
    told = house.data("enroll", name="Ann", photos=photos)["photos"]
    assert [verdict["accepted"] for verdict in told] == [True, True]
    assert ["is unlike what else there is of Ann" in verdict["reason"] for verdict in told] == [False, True]
    assert house.data("forget", name="Ann")["templates"] == 2


def test_a_resumed_streams_frames_are_numbered_on(clip: Path) -> None:
    inbox, nothing = LatestFrames(), lambda *_: []
    door = Stream(name="door", url=str(clip), loop=True, paced=False)
    hands = control.Control(
        [door], inbox, lambda *_: None, {}, enroll=nothing, forget=len, unknown=list, name=lambda *_: 0,
    )

    def numbers() -> list[int]:
        frames = [inbox.take(PATIENCE) for _ in range(5)]
        return [frame.index for frame in frames if frame is not None]

    with hands:
        before = numbers()
        hands.pause(Pause())
        hands.resume(Resume())
        after = numbers()
    assert before == [0, 1, 2, 3, 4]
    assert len(after) == 5
    assert min(after) > 4, "a frame's number was given again"


def test_cameras_that_are_paused_together_are_waited_for_together() -> None:
    told: list[str] = []
    hands = control.Control(
        [Stream(name=name, url="0") for name in ("door", "yard")], LatestFrames(), lambda *_: None, {},
        enroll=lambda *_: [], forget=len, unknown=list, name=lambda *_: 0,
    )
    hung: Any = SimpleNamespace(stop=lambda: told.append("stop"), __exit__=lambda *_: told.append("wait"),
                                delivered=1, newest=1.0)
    hands._captures = {"door": hung, "yard": hung}
    assert hands.pause(Pause()).paused == ["door", "yard"]
    assert told == ["stop", "stop", "wait", "wait"]


def test_people_whom_nobody_knows_are_listed_and_named(house: House) -> None:
    assert house.data("unknown") == {"clusters": []}
    assert house.error("name", cluster="u1", name="Ada") == (
        "There is no cluster u1 of unknown people; there are: none."
    )
    config = load(house.daemon.config)
    seen = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    model = load_spec(shipped())[0].stamp
    with Gallery.open(config.gallery.path, config.gallery.key_file, model) as gallery:
        gallery.keep_stranger(Stranger("door", seen, seen, np.eye(256, dtype=np.float32)[7], 0.8))
    [cluster] = house.data("unknown")["clusters"]
    assert (cluster["times"], cluster["streams"]) == (1, ["door"])
    agreed = {"purpose": "the door", "consent": "signed on paper"}
    assert house.data("name", cluster=cluster["cluster"], name="Ada", **agreed) == {"name": "Ada", "templates": 1}
    with Gallery.open(config.gallery.path, config.gallery.key_file) as gallery:
        kept = gallery.export("Ada")
    assert {key: kept[key] for key in agreed} == agreed
    assert house.data("unknown") == {"clusters": []}
    assert house.data("forget", name="Ada")["templates"] == 1


def test_where_there_is_no_room_for_photos_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(ENOSPC, "No space left on device")

    def nobody(*_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(control, "TemporaryDirectory", full)
    hands = control.Control(
        [], LatestFrames(), lambda *_: None, {}, enroll=nobody, forget=nobody, unknown=nobody, name=nobody
    )

    def looked_at(_name: str, photos: list[Path], _note: object) -> Any:
        monkeypatch.undo()
        [photo] = photos
        assert photo.read_bytes() == b"photo"
        # Whoever kills the daemon now leaves no photo behind: no file of that name holds one.
        assert [file for file in photo.parent.iterdir() if not file.is_symlink()] == []
        assert "(deleted)" in str(photo.readlink().readlink())
        return [Verdict(photo, True, "is enrolled")]

    with pytest.raises(OwnerError, match="There is no room to lay the photos down: No space left on device"):
        hands.enroll(Enroll(name="Ada", photos=[base64.b64encode(b"photo")]))
    monkeypatch.undo()
    hands = control.Control(
        [], LatestFrames(), lambda *_: None, {}, enroll=looked_at, forget=nobody, unknown=nobody, name=nobody
    )
    assert hands.enroll(Enroll(name="Ada", photos=[base64.b64encode(b"photo")])).name == "Ada"


def test_photos_that_cannot_be_used_are_told_one_by_one(house: House) -> None:
    junk = base64.b64encode(b"no picture").decode()
    error = house.error("enroll", name="Grace", photos=[junk])
    assert error.startswith("Grace is not enrolled: photo 1 ")
    assert "onelook-" not in error  # the folder is nobody's business


@pytest.mark.parametrize(
    ("name", "payload", "sentence"),
    [
        ("snapshot", b'{"stream": "attic"}', "There is no stream attic; there are door, yard."),
        ("snapshot", b'{"strem": "door"}', "The request is not understood: strem: extra inputs are not permitted."),
        ("snapshot", b"{", "The request is not understood: invalid JSON"),
        ("forget", b"", "The request is not understood: name: field required."),
        ("enroll", b'{"name": "Ada", "photos": []}', "The request is not understood: photos: list should have"),
        ("enroll", b'{"name": "Ada", "photos": ["a"]}', "The request is not understood: photos.0: "),
        ("enroll", b'{"name": "Ada", "photos": ["data:image/jpeg;base64,AAAA"]}',
         "The request is not understood: photos.0: should be base64 and nothing else, without data:"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(house: House, name: str, payload: bytes, sentence: str) -> None:
    mine = house.asker.send(name, payload)
    wait_until(lambda: mine in house.asker.answers, "the answer")
    answer = house.asker.answers[mine]
    assert not answer["ok"]
    assert answer["error"].startswith(sentence)


def test_a_command_that_is_none_is_told_so(house: House) -> None:
    answer = house.asker.ask("dance")
    assert answer["error"] == (
        "There is no command dance; there are ping, snapshot, pause, resume, enroll, forget, unknown, name."
    )
    Draft202012Validator(schema()).validate(answer)


def test_an_answer_may_go_elsewhere_but_never_where_events_are(house: House) -> None:
    for topic in (f"onelook/{DEVICE}/door/identity", "onelook/other/status", "homeassistant/device/x/config"):
        mine = house.asker.send("ping", to=topic)
        house.daemon.wait(lambda: f"its answer is not to go to {topic}" in house.daemon.log, "a word about it")  # noqa: B023
        assert mine not in house.asker.answers
    said = [r for r in house.reader.received if b'"ok"' in r.payload]
    assert all("/reply/" in r.topic for r in said)


def test_a_retained_command_is_not_obeyed(house: House) -> None:
    house.asker.send("pause", retain=True)
    time.sleep(0.5)  # obeyed now: it was said just now
    house.data("resume")

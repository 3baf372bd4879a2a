"""The example broker in deploy/mosquitto: it starts as it stands, and each may do its own and no more."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr

from broker import MOSQUITTO, Broker, Certificates, free_port, wait_until
from onelook import config
from onelook.commands import Commands
from onelook.event import Crowd, Event, Identity, Status
from onelook.home_assistant import HomeAssistant
from onelook.leftovers import Leftovers
from onelook.outbox import Outbox
from onelook.publish import MqttPublisher

EXAMPLE = Path(__file__).resolve().parent.parent / "deploy" / "mosquitto"
WHO = ("hall", "screen", "homeassistant", "warden", "stranger")
PASSWORDS = {name: f"{name}'s own" for name in WHO}


def hall(broker: Broker, house: ExitStack, **mqtt: object) -> tuple[MqttPublisher, Commands]:
    """The device, doing all that it can do."""
    commands = Commands("hall", ["ping"])
    announcer = HomeAssistant("hall", ["door"], ["crowd", "identity"], version="1")
    told = config.Mqtt(port=broker.port, commands=["ping"], **mqtt)
    return house.enter_context(MqttPublisher(told, "hall", Outbox(), correspondents=[announcer, commands])), commands


def speak(publisher: MqttPublisher) -> None:
    now = datetime.now(UTC)
    who = Identity(track=1, box=(0, 0, 1, 1), frame=1, state="known", name="Ada", confidence=1)
    for data in (Status(state="online"), Crowd(count=1, known=1, unknown=0), who):
        publisher.publish(Event(stream="door", time=now, data=data))


def may_write(broker: Broker, name: str, topic: str, tls: Certificates | None = None) -> bool:
    """Whether the broker takes a message of theirs on that topic."""
    codes: list[bool] = []
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"{name} writes", protocol=MQTTv5)
    client.username_pw_set(name, PASSWORDS[name])
    client.on_publish = lambda _client, _data, _mid, code, _properties: codes.append(not code.is_failure)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        wait_until(client.is_connected, "the writer to be connected")
        client.publish(topic, b"x", 1)
        wait_until(lambda: codes, "an acknowledgement")
    finally:
        client.disconnect()
        client.loop_stop()
    return codes[0]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker", dict(PASSWORDS), (EXAMPLE / "acl").read_text()) as running:
        yield running


def test_everybody_hears_what_is_theirs_and_no_more(broker: Broker) -> None:
    states = {"onelook/hall/status", "onelook/hall/door/status", "onelook/hall/door/crowd"}
    events = {"onelook/hall/door/identity"}
    theirs = {
        "screen": states,
        "homeassistant": states | events | {"homeassistant/device/onelook-hall/config"},
        "warden": states | events | {"onelook/hall/command/ping"},
        "stranger": set(),
    }
    with ExitStack() as house:
        readers = {
            name: house.enter_context(broker.subscribe("#", user=(name, PASSWORDS[name]), name=name))
            for name in WHO[1:]
        }
        publisher, _ = hall(broker, house, username="hall", password=SecretStr(PASSWORDS["hall"]))
        assert may_write(broker, "warden", "onelook/hall/command/ping")
        speak(publisher)
        for name, topics in theirs.items():
            wait_until(lambda: topics <= {r.topic for r in list(readers[name].received)}, f"{topics} for {name}")  # noqa: B023
        heard = {name: {r.topic for r in reader.received} for name, reader in readers.items()}
    assert heard == theirs


@pytest.mark.parametrize(
    ("name", "topics"),
    [
        ("hall", {"onelook/hall/door/identity", "homeassistant/device/onelook-hall/config", "onelook/hall/reply/x"}),
        ("screen", set()),
        ("homeassistant", {"homeassistant/status", "homeassistant/device/onelook-hall/config"}),
        ("warden", {"onelook/hall/command/ping"}),
        ("stranger", set()),
    ],
)
def test_everybody_says_what_is_theirs_and_no_more(broker: Broker, name: str, topics: set[str]) -> None:
    every = {
        "onelook/hall/door/identity", "onelook/hall/status", "onelook/hall/reply/x", "onelook/other/door/identity",
        "onelook/hall/command/ping", "homeassistant/status", "homeassistant/device/onelook-hall/config",
        "homeassistant/device/other/config",
    }  # fmt: skip
    allowed = topics | {"onelook/hall/status", "onelook/hall/command/ping"} if name == "hall" else topics
    allowed |= {"homeassistant/device/other/config"} if name == "homeassistant" else set()
    assert {topic for topic in every if may_write(broker, name, topic)} == allowed


def test_a_command_of_the_warden_reaches_the_device(broker: Broker) -> None:
    with ExitStack() as house:
        _, commands = hall(broker, house, username="hall", password=SecretStr(PASSWORDS["hall"]))
        wait_until(lambda: "SUBACK to onelook-hall" in broker.log, "the device to listen")
        assert may_write(broker, "warden", "onelook/hall/command/ping")
        wait_until(lambda: commands._waiting.qsize() or "Sending PUBLISH to onelook-hall" in broker.log, "it to arrive")


def test_the_device_clears_what_an_earlier_config_has_left(broker: Broker) -> None:
    told = config.Mqtt(port=broker.port, username="hall", password=SecretStr(PASSWORDS["hall"]))
    crowd = Crowd(count=1, known=1, unknown=0)
    with broker.subscribe("#", user=("screen", PASSWORDS["screen"])) as reader:
        with MqttPublisher(told, "hall", Outbox(), streams=["gate"]) as publisher:
            publisher.publish(Event(stream="gate", time=datetime.now(UTC), data=crowd))
            reader.wait("gate/crowd")
        left = len(reader.wait("gate/status"))
        with MqttPublisher(told, "hall", Outbox(), correspondents=[Leftovers("hall", ["door"], ["status"])]):
            wait_until(lambda: reader.on("gate/crowd")[-1].payload == b"", "the crowd to be cleared")
            wait_until(lambda: reader.on("gate/status")[-1].payload == b"", f"the status, of {left}, to be cleared")


# --- as it stands --------------------------------------------------------------------------------


DEBIAN = """\
pid_file {folder}/mosquitto.pid

persistence true
persistence_location {folder}/

log_dest file {folder}/log

include_dir {folder}/conf.d
"""
"""What its package has in /etc/mosquitto/mosquitto.conf."""


def example(
    folder: Path, port: int, papers: Certificates, *, certificates: bool, packaged: bool
) -> subprocess.Popen[bytes]:
    """mosquitto with the example's own file, moved to a free port; packaged: beside Debian's, as its comment says."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    text = (EXAMPLE / "mosquitto.conf").read_text().replace("listener 8883", f"listener {port} 127.0.0.1")
    acl = (EXAMPLE / "acl").read_text()
    if certificates:
        text = re.sub(r"(?m)^# (require_certificate|use_identity_as_username)", r"\1", text)
        text = text.replace("password_file passwords\n", "")
        acl = acl.replace("user hall\n", "user client\n")  # the common name of the test's certificate
    if packaged:
        text = re.sub(r"(?m)^persistence_location .*\n", "", text)
        text = re.sub(r"(?m)^(\w+file|\w+_file) (\S+)$", rf"\1 {folder}/\2", text)
        (folder / "conf.d").mkdir()
        (folder / "conf.d/onelook.conf").write_text(text)
        text = DEBIAN.format(folder=folder)
    (folder / "mosquitto.conf").write_text(text + ("user root\n" if os.getuid() == 0 else ""))
    (folder / "acl").write_text(acl)
    for name in ("ca.pem", "server.pem", "server.key"):
        (folder / name).write_bytes((papers.ca.parent / name).read_bytes())
    (folder / "passwords").touch(mode=0o600)
    for name, word in PASSWORDS.items():
        subprocess.run(["mosquitto_passwd", "-b", folder / "passwords", name, word], check=True, capture_output=True)
    at = Path("/") if packaged else folder
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([MOSQUITTO, "-v", "-c", os.path.relpath(folder / "mosquitto.conf", at)], cwd=at,
                                stdout=log, stderr=log)


@pytest.mark.parametrize("packaged", [False, True], ids=["alone", "packaged"])
@pytest.mark.parametrize("certificates", [False, True], ids=["passwords", "certificates"])
def test_the_example_starts_and_takes_a_device_that_it_knows(
    tmp_path: Path, certificates: bool, packaged: bool
) -> None:
    papers, port = Certificates(tmp_path / "papers"), free_port()
    (tmp_path / "broker").mkdir()
    broker = Broker(tmp_path / "broker", port=port)
    process = example(broker.folder, port, papers, certificates=certificates, packaged=packaged)
    try:
        wait_until(lambda: b"running" in (broker.folder / "log").read_bytes(), "mosquitto to run")
        own = {"cert_file": papers.client, "key_file": papers.client_key} if certificates else {}
        named = {} if certificates else {"username": "hall", "password": SecretStr(PASSWORDS["hall"])}
        connected: list[bool] = []
        published: list[str] = []
        with MqttPublisher(
            config.Mqtt(port=port, tls=config.Tls(ca_file=papers.ca, **own), commands=["ping"], **named), "hall",
            Outbox(), on_connected=connected.append, on_published=lambda event, _age: published.append(event.kind),
        ) as publisher:  # fmt: skip
            wait_until(lambda: connected, f"the connection\n{(broker.folder / 'log').read_text()}")
            speak(publisher)
            wait_until(lambda: {"identity", "crowd", "status"} <= set(published), "the broker to take it all")
    finally:
        process.terminate()
        process.wait(10)

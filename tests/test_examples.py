"""The examples in deploy/examples do what they say; tests/proofs/examples.py runs those that need more than Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from broker import Broker, wait_until
from onelook import config
from onelook.event import Crowd, Event, Identity, Status
from onelook.outbox import Outbox
from onelook.publish import Message, MqttPublisher, message

EXAMPLES = Path(__file__).resolve().parent.parent / "deploy" / "examples"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker", {"hall": "h", "screen": "s"}) as running:
        yield running


def test_the_subscriber_tells_each_event_once_and_what_is_late(broker: Broker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"MQTT_PASSWORD": "s"}
    command = [sys.executable, EXAMPLES / "subscriber.py", "--port", str(broker.port), "--user", "screen"]
    stranger = subprocess.run(command, env=environment | {"MQTT_PASSWORD": "guess"}, capture_output=True, check=False)
    assert stranger.stderr == b"The broker refuses us: Not authorized.\n"
    with out.open("wb") as file, subprocess.Popen(command, stdout=file, env=environment) as process:
        try:
            wait_until(lambda: "SUBACK" in broker.log, "the subscriber")
            who = Identity(track=4, box=(0, 0, 1, 1), frame=1, state="known", name="Ada", confidence=1)
            seen = Event(stream="door", time=datetime.now(UTC), data=who)
            mqtt = config.Mqtt.model_validate({"port": broker.port, "username": "hall", "password": "h"})
            with MqttPublisher(mqtt, "hall", Outbox()) as publisher:
                wait_until(lambda: "hall status: online" in out.read_text(), "the device")
                publisher.publish(Event(stream="door", time=datetime.now(UTC), data=Status(state="online")))
                publisher.publish(Event(stream="door", time=datetime.now(UTC), data=Crowd(count=2, known=1, unknown=1)))
                publisher.publish(seen)
                for asked in (b'{"id": 1}', b"", b"1", b"\xff"):
                    publisher.send(Message("onelook/hall/command/ping", asked, content_type=None))
                publisher.send(Message("onelook/hall/yard/status", b"", retain=True, content_type=None))  # taken back
                wait_until(lambda: "is Ada" in out.read_text(), "her to be told")
                publisher.send(message(seen, "hall", replayed=True))
                late = seen.model_copy(update={"id": "another"})
                publisher.send(message(late, "hall", replayed=True))
                wait_until(lambda: "(late" in out.read_text(), "all to be told")
        finally:
            process.terminate()
    told = [line.partition(" ")[2] for line in out.read_text().splitlines()]
    for line in ("hall/door status: online", "hall/door crowd: 2 people, 1 known", "hall/door identity: track 4 is Ada",
                 "hall/door identity: track 4 is Ada (late: it waited for the broker)"):
        assert told.count(line) == 1, told


def test_the_flow_and_the_automations_are_of_the_topics_and_entities_that_there_are() -> None:
    flow = json.loads((EXAMPLES / "node-red.json").read_text())
    ids = {node["id"] for node in flow}
    wired = {target for node in flow for wires in node.get("wires", []) for target in wires}
    assert wired <= ids
    for node in flow:  # Node-RED takes any value that is an id for a reference
        assert node["id"] not in [value for key, value in node.items() if key != "id"], node["id"]
        assert node.get("broker") in {None, "onelook-broker", "127.0.0.1"}
    assert {node["topic"] for node in flow if node["type"] == "mqtt in"} == {
        "onelook/+/+/identity", "onelook/+/+/crowd",
    }  # fmt: skip
    automations = yaml.safe_load((EXAMPLES / "home-assistant.yaml").read_text())
    triggers = [trigger for each in automations for trigger in each["triggers"]]
    assert {trigger["entity_id"] for trigger in triggers if trigger["trigger"] != "mqtt"} == {"sensor.hall_door_people"}
    assert {trigger["topic"] for trigger in triggers if trigger["trigger"] == "mqtt"} == {"onelook/hall/door/identity"}

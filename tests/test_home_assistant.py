"""Home Assistant's discovery: announced, announced again, mended and taken back, on a real broker.

What Home Assistant itself makes of it is shown by tests/proofs/home_assistant.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from broker import Broker, wait_until
from onelook import config
from onelook.home_assistant import HomeAssistant
from onelook.outbox import Outbox
from onelook.publish import Heard, Message, MqttPublisher

CONFIG = "homeassistant/device/onelook-hall/config"
KINDS = ("presence", "identity", "emotion", "crowd", "status")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


def announcer(*streams: str, **more: Any) -> HomeAssistant:
    return HomeAssistant("hall", streams, more.pop("kinds", KINDS), version="1.2.3", **more)


def on(house: ExitStack, broker: Broker, announcer: HomeAssistant, **mqtt: Any) -> MqttPublisher:
    return house.enter_context(
        MqttPublisher(config.Mqtt(port=broker.port, **mqtt), "hall", Outbox(), correspondents=[announcer])
    )


def components(payload: bytes) -> dict[str, Any]:
    described = json.loads(payload)["components"]
    assert isinstance(described, dict)
    return described


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_every_stream_is_announced_with_its_entities(broker: Broker, protocol: str) -> None:
    with ExitStack() as house, broker.subscribe() as reader:
        on(house, broker, announcer("door", "yard"), protocol=protocol)
        [said] = reader.wait(CONFIG)
    assert said.retain
    description = json.loads(said.payload)
    assert description["device"]["identifiers"] == ["onelook-hall"]
    assert description["origin"] == {"name": "onelook", "sw_version": "1.2.3"}
    assert [each["topic"] for each in description["availability"]] == ["onelook/hall/status"]
    assert {name: each["platform"] for name, each in components(said.payload).items()} == {
        f"{stream}-{entity}": "binary_sensor" if entity == "status" else "sensor"
        for stream in ("door", "yard") for entity in ("status", "crowd", "identity", "emotion")
    }  # fmt: skip
    ids = [each["unique_id"] for each in components(said.payload).values()]
    assert len(set(ids)) == len(ids)
    topics = {each["state_topic"] for each in components(said.payload).values()}
    assert topics == {
        f"onelook/hall/{stream}/{kind}" for stream in ("door", "yard")
        for kind in ("status", "crowd", "identity", "emotion")
    }  # fmt: skip


def test_what_is_not_published_is_not_announced() -> None:
    [said] = announcer("door", kinds={"crowd"}).greet()
    assert set(components(said.payload)) == {"door-status", "door-crowd"}


def test_the_mood_stays_one_entity_whose_ever_it_is() -> None:
    """It would be sensor.hall_door_mood_2 after `report.mood` was changed, and no automation would hear of it."""
    [one], [crowd] = (announcer("door", kinds=kinds).greet() for kinds in ({"emotion"}, {"emotion", "mood"}))
    assert set(components(one.payload)) == set(components(crowd.payload)) == {"door-status", "door-emotion"}
    before, after = (components(said.payload)["door-emotion"] for said in (one, crowd))
    assert before["unique_id"] == after["unique_id"]
    assert (before["state_topic"], after["state_topic"]) == ("onelook/hall/door/emotion", "onelook/hall/door/mood")


def test_it_is_announced_again_when_home_assistant_is_born(broker: Broker) -> None:
    with ExitStack() as house, broker.subscribe() as reader:
        publisher = on(house, broker, announcer("door"))
        reader.wait(CONFIG)
        with ExitStack() as other:
            born = other.enter_context(MqttPublisher(config.Mqtt(port=broker.port), "ha", Outbox()))
            reader.wait_for("ha/status", "online")
            born.send(Message("homeassistant/status", b"offline"))
            born.send(Message("homeassistant/status", b"online"))
            again = reader.wait(CONFIG, 2)
        assert len(again) == 2
        assert again[0].payload == again[1].payload
        del publisher


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_stream_that_is_gone_is_taken_back_once(broker: Broker, protocol: str) -> None:
    with broker.subscribe() as reader:
        with ExitStack() as house:
            on(house, broker, announcer("door", "yard"), protocol=protocol)
            reader.wait(CONFIG)
        with ExitStack() as house:
            publisher = on(house, broker, announcer("door"), protocol=protocol)
            reader.wait(CONFIG, 4)
            for lap in range(1, 4):  # time enough to hear our own words and answer them, if we did
                publisher.send(Message("lap", b"", content_type=None))
                reader.wait("lap", lap)
        _, greeting, taking, staying = reader.on(CONFIG)
    assert components(taking.payload)["yard-crowd"] == {"platform": "sensor"}
    assert components(taking.payload)["yard-status"] == {"platform": "binary_sensor"}
    assert set(components(staying.payload)) == set(components(greeting.payload))
    assert not any(name.startswith("yard") for name in components(staying.payload))


def test_turned_off_it_leaves_nothing_behind(broker: Broker) -> None:
    with broker.subscribe() as reader:
        with ExitStack() as house:
            on(house, broker, announcer("door"))
            reader.wait(CONFIG)
        with ExitStack() as house:
            on(house, broker, announcer("door", enabled=False))
            assert reader.wait(CONFIG, 2)[1].payload == b""
    with broker.subscribe(name="latecomer") as late:
        late.wait("hall/status")
        assert late.on(CONFIG) == []


def test_off_from_the_start_it_says_nothing(broker: Broker) -> None:
    with ExitStack() as house, broker.subscribe() as reader:
        on(house, broker, announcer("door", enabled=False))
        reader.wait_for("hall/status", "online")
        wait_until(lambda: "SUBSCRIBE from onelook-hall" in broker.log, "it to have asked")
        assert {r.topic for r in reader.received} == {"onelook/hall/status"}


NONSENSE = (b"", b"no json", b"[]", b"{}", b'{"components": [1]}', b'{"components": {"a": 1}}')


@pytest.mark.parametrize("payload", NONSENSE, ids=str)
def test_what_others_have_left_there_harms_nobody(payload: bytes) -> None:
    for enabled in (True, False):
        assert announcer("door", enabled=enabled).hear(Heard(CONFIG, payload, retained=True)) == []


def test_a_command_is_not_taken_for_an_old_description() -> None:
    payload = json.dumps({"components": {"old": {"platform": "sensor"}}}).encode()
    told = announcer("door")

    assert told.hear(Heard(CONFIG, payload, retained=True)) != []
    assert told.hear(Heard("onelook/hall/command/ping", payload, retained=False)) == []


def test_what_is_said_just_now_is_not_answered() -> None:
    """It is our own word, or that of a device of the same name, which would answer ours."""
    payload = json.dumps({"components": {"old": {"platform": "sensor"}}}).encode()
    for enabled in (True, False):
        assert announcer("door", enabled=enabled).hear(Heard(CONFIG, payload, retained=False)) == []


def test_a_description_nested_beyond_measure_is_none() -> None:
    assert announcer("door").hear(Heard(CONFIG, b"[" * 100_000, retained=True)) == []

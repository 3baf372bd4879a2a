"""Home Assistant: what its MQTT discovery is told of this device, so that its streams appear by themselves.

One retained message describes the device and all its entities:

    <prefix>/device/onelook-<device>/config     said at each connection, and when Home Assistant
                                                 says that it was born (<prefix>/status: online)

What is retained there is read back at each connection: entities of streams that are gone are taken
back one by one, and with discovery off the message itself is, so that nothing of ours is left behind.

Source of the format: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from typing import Any

from onelook.publish import Heard, Message

log = logging.getLogger(__name__)

BORN = b"online"

_STATE = "{{ value_json.data.state }}"
_NOW = "{{ this.state if value_json.replayed is defined else (%s) }}"
"""What waited for the broker is told with its time, but is not how things are: a door must not open by it."""


class HomeAssistant:
    """What is to be said to Home Assistant, and when: a correspondent of the publisher.

    `kinds` are the kinds of event that are published: the mood is the crowd's where that is one
    of them, else the last emotion. With `enabled` false all that it does is
    to take back what an earlier run has said.
    """

    def __init__(
        self,
        device: str,
        streams: Iterable[str],
        kinds: Collection[str],
        *,
        version: str,
        enabled: bool = True,
        prefix: str = "onelook",
        discovery: str = "homeassistant",
    ) -> None:
        self._id = f"onelook-{device}"
        self._place = f"{prefix}/{device}"
        self._enabled = enabled
        self._birth = f"{discovery}/status"
        self._config = f"{discovery}/device/{self._id}/config"
        self._components = {
            _key(stream, entity): self._component(stream, entity, component)
            for stream in streams
            for entity, component in _ENTITIES.items()
            if entity in {"status", *kinds} and not (entity == "emotion" and "mood" in kinds)
        }
        self._description = {
            "device": {
                "identifiers": [self._id],
                "name": device,
                "manufacturer": "onelook",
                "model": "one look, every face",
                "sw_version": version,
            },
            "origin": {"name": "onelook", "sw_version": version},
            "availability": [self._available(f"{self._place}/status")],
            "qos": 1,
        }

    @property
    def topics(self) -> list[str]:
        """What it wants to hear."""
        return [self._config, *([self._birth] if self._enabled else [])]

    def greet(self) -> list[Message]:
        """What to say at each connection."""
        return [self._announcement(self._components)] if self._enabled else []

    def hear(self, heard: Heard) -> list[Message]:
        """What to say to a message on one of its topics."""
        if heard.topic == self._birth:
            return self.greet() if heard.payload == BORN else []
        # Commands come by the same way, from whoever may give them. And what is said just now is our own word come
        # back, or that of another device of this name: to answer it would have no end.
        before = _components(heard.payload) if heard.topic == self._config and heard.retained else None
        if before is None:
            return []
        if not self._enabled:
            log.info("Home Assistant is told to forget this device (mqtt.home_assistant is off).")
            return [Message(self._config, b"", retain=True, content_type=None)]
        gone = {name: {"platform": platform} for name, platform in before.items() if name not in self._components}
        # A component with nothing but its platform is one to be removed; then the description as it is.
        return [self._announcement(self._components | gone), *self.greet()] if gone else []

    def _announcement(self, components: dict[str, Any]) -> Message:
        payload = json.dumps(self._description | {"components": components}, ensure_ascii=False)
        return Message(self._config, payload.encode(), retain=True, content_type="application/json")

    def _component(self, stream: str, entity: str, component: dict[str, Any]) -> dict[str, Any]:
        topic = f"{self._place}/{stream}/{entity}"
        about = {
            **component,
            "name": f"{stream} {component['name']}",
            "unique_id": f"{self._id}-{_key(stream, entity)}",
            "state_topic": topic,
        }
        if "json_attributes_template" in component:
            about["json_attributes_topic"] = topic
        if entity != "status":  # it knows nothing while its camera is away
            both = (f"{self._place}/status", f"{self._place}/{stream}/status")
            about |= {"availability": [self._available(topic) for topic in both], "availability_mode": "all"}
        return about

    def _available(self, topic: str) -> dict[str, str]:
        return {"topic": topic, "value_template": _STATE}


_ENTITIES: dict[str, dict[str, Any]] = {
    "status": {
        "platform": "binary_sensor",
        "name": "camera",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "value_template": _STATE,
        "payload_on": "online",
        "payload_off": "offline",
    },
    "crowd": {
        "platform": "sensor",
        "name": "people",
        "icon": "mdi:account-group",
        "state_class": "measurement",
        "unit_of_measurement": "people",
        "value_template": "{{ value_json.data.count }}",
        "json_attributes_template": "{{ value_json.data | tojson }}",
    },
    "identity": {
        "platform": "sensor",
        "name": "last identity",
        "icon": "mdi:account-question",
        "value_template": _NOW % "value_json.data.name or value_json.data.state",
    },
    "emotion": {
        "platform": "sensor",
        "name": "mood",
        "icon": "mdi:emoticon-outline",
        "value_template": _NOW % "value_json.data.emotion",
    },
    "mood": {
        "platform": "sensor",
        "name": "mood",
        "icon": "mdi:emoticon-outline",
        "value_template": (
            "{% set all = value_json.data.distribution or {} %}"
            "{{ (all.items() | sort(attribute='1') | last)[0] if all else 'unknown' }}"
        ),
        "json_attributes_template": "{{ value_json.data | tojson }}",
    },
}
"""Kind of event, or the stream's status -> what Home Assistant makes of it."""


def _key(stream: str, entity: str) -> str:
    """What an entity is known by: the mood by one name whoever's it is, or it is called mood_2 once that changes."""
    return f"{stream}-{'emotion' if entity == 'mood' else entity}"


def _components(payload: bytes) -> dict[str, str] | None:
    """The components of a description, each with its platform; none where it says nothing (any more)."""
    try:
        components = json.loads(payload)["components"]
        return {str(name): str(each["platform"]) for name, each in components.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None

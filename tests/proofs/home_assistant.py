"""What Home Assistant itself makes of our announcement: its entities, their states, and that they go again.

    PYTHONPATH=daemon:tests python tests/proofs/home_assistant.py PYTHON...

PYTHON runs a Python in which `pip install homeassistant paho-mqtt pyotp PyQRCode home-assistant-frontend` was
done, in the versions that its manifests name; it may be several words (chroot FOLDER python).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from broker import Broker, wait_until
from onelook import __version__, config
from onelook.event import Crowd, Emotion, Event, Identity, Status
from onelook.home_assistant import HomeAssistant
from onelook.outbox import Outbox
from onelook.publish import MqttPublisher, message

CORE = Path(__file__).with_name("home_assistant_core.py")
KINDS = ("crowd", "identity", "emotion")
WHERE = {"track": 1, "box": (0.0, 0.0, 9.0, 9.0), "frame": 1}


def said(data: Any, stream: str = "door") -> Event:
    """An event of just now."""
    return Event(stream=stream, time=datetime.now(UTC), data=data)


class Core:
    """Home Assistant in its own process."""

    def __init__(self, command: list[str], port: int) -> None:
        self.newest: dict[str, Any] = {}
        with CORE.open("rb") as script:
            self._process = subprocess.Popen([*command, "-", str(port), "900"], stdin=script, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE)
        self.complaints: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_complaints, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.newest = json.loads(line)

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        self.complaints.extend(line.decode() for line in self._process.stderr)

    def state(self, entity: str) -> str | None:
        """Of an entity, none where there is no such."""
        found = self.newest.get("states", {}).get(entity)
        return None if found is None else str(found["state"])

    def wait(self, entity: str, state: str | None) -> None:
        """Until the entity has that state."""
        wait_until(lambda: self.newest and self.state(entity) == state, f"{entity}: {state}", 300)
        print(f"{entity}: {state}", flush=True)

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def publisher(port: int, streams: list[str], *, enabled: bool = True) -> MqttPublisher:
    """One of device `hall`."""
    home_assistant = HomeAssistant("hall", streams, KINDS, version=__version__, enabled=enabled)
    return MqttPublisher(config.Mqtt(port=port), "hall", Outbox(), streams=streams, correspondents=[home_assistant])


def main() -> None:
    """Tell the story of a device from its first word to its last."""
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder, "broker")) as broker:
        core = Core(sys.argv[1:], broker.port)
        try:
            with publisher(broker.port, ["door", "yard"]) as one:
                one.publish(said(Status(state="online")))
                one.publish(said(Crowd(count=3, known=1, unknown=2)))
                core.wait("binary_sensor.hall_door_camera", "on")
                core.wait("binary_sensor.hall_yard_camera", "off")
                core.wait("sensor.hall_door_people", "3")
                core.wait("sensor.hall_yard_people", "unavailable")
                core.wait("sensor.hall_door_last_identity", "unknown")
                one.publish(said(Identity(**WHERE, state="known", name="Ada", confidence=1)))
                core.wait("sensor.hall_door_last_identity", "Ada")
                one.publish(said(Emotion(**WHERE, emotion="happy", confidence=0.9, distribution={"happy": 0.9})))
                core.wait("sensor.hall_door_mood", "happy")
                late = said(Identity(**WHERE, state="known", name="Mallory", confidence=1))
                one.send(message(late, "hall", replayed=True))
                time.sleep(2)
                core.wait("sensor.hall_door_last_identity", "Ada")
                print("what was replayed opens no door", flush=True)
            core.wait("sensor.hall_door_people", "unavailable")
            with publisher(broker.port, ["door"]) as one:
                one.publish(said(Status(state="online")))
                core.wait("sensor.hall_yard_people", None)
                core.wait("binary_sensor.hall_yard_camera", None)
                core.wait("sensor.hall_door_people", "3")
            with publisher(broker.port, ["door"], enabled=False):
                core.wait("sensor.hall_door_people", None)
                core.wait("binary_sensor.hall_door_camera", None)
            bad = [line for line in core.complaints if "mqtt" in line.lower()]
            print(json.dumps({"home_assistant": core.newest["version"], "complaints_about_mqtt": bad}))
            assert not bad
        except AssertionError:
            print(json.dumps(core.newest, indent=1), *core.complaints[-20:])
            raise
        finally:
            core.end()


if __name__ == "__main__":
    main()

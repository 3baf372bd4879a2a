"""The examples that need more than Python, really run: Node-RED and the Python subscriber beside the daemon.

    PYTHONPATH=daemon:tests python tests/proofs/examples.py NODE_RED [HOME_ASSISTANT_PYTHON...]

NODE_RED is the `node-red` of `npm install node-red`; the second is a Python as home_assistant.py wants
it. What each of them received is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from broker import Broker, wait_until
from clip import write_mp4
from daemon_process import DEVICE, Daemon, write_config
from onelook import config
from onelook.event import Event, Identity, Status
from onelook.home_assistant import HomeAssistant
from onelook.outbox import Outbox
from onelook.publish import MqttPublisher

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
CORE = Path(__file__).with_name("home_assistant_core.py")


def known(name: str) -> Event:
    """Somebody of that name, just now."""
    where = {"track": 1, "box": (0.0, 0.0, 9.0, 9.0), "frame": 1}
    return Event(stream="door", time=datetime.now(UTC), data=Identity(**where, state="known", name=name, confidence=1))


def main() -> None:
    """Start everything, let the daemon look at its clip, and see what came where."""
    with tempfile.TemporaryDirectory() as name, Broker(Path(name, "broker")) as broker, broker.subscribe() as reader:
        folder = Path(name)
        settings = folder / "node-red"
        settings.mkdir()
        (settings / "settings.js").write_text("module.exports = {uiHost: '127.0.0.1', httpAdminRoot: false};")
        flow = (EXAMPLES / "node-red.json").read_text().replace('"1883"', f'"{broker.port}"')
        (settings / "flows.json").write_text(flow)
        started: list[subprocess.Popen[bytes]] = []
        try:
            with (folder / "node.log").open("wb") as log:
                command = [sys.argv[1], "--userDir", settings, "--port", "0", "flows.json"]
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
            with (folder / "subscriber.log").open("wb") as log:
                command = [sys.executable, EXAMPLES / "subscriber.py", "--port", str(broker.port)]
                started.append(subprocess.Popen(command, stdout=log))
            if sys.argv[2:]:
                automations = (EXAMPLES / "home-assistant.yaml").read_text()
                with CORE.open("rb") as script, (folder / "core.log").open("wb") as log:
                    command = [*sys.argv[2:], "-", str(broker.port), "600", automations]
                    started.append(subprocess.Popen(command, stdin=script, stdout=log, stderr=log))
            wait_until(lambda: "Connected to broker" in (folder / "node.log").read_text(), "Node-RED", 120)
            clip = {"name": "door", "url": str(write_mp4(folder / "clip.mp4")), "loop": True, "fps": 5}
            file = write_config(folder, clip, broker=broker)
            file.write_text(file.read_text().replace("mqtt:\n", "mqtt:\n  home_assistant: true\n"))
            with Daemon(file) as daemon:
                daemon.wait_until_ready()
                reader.wait("examples/node-red/count", 2, 120)
            announcer = HomeAssistant(DEVICE, ["door"], ["crowd", "identity"], version="0")
            mqtt = config.Mqtt(port=broker.port)
            with MqttPublisher(mqtt, DEVICE, Outbox(), correspondents=[announcer]) as publisher:
                publisher.publish(Event(stream="door", time=datetime.now(UTC), data=Status(state="online")))
                if sys.argv[2:]:
                    core = folder / "core.log"
                    wait_until(lambda: f"sensor.{DEVICE}_door_last_identity" in core.read_text(), "Home Assistant", 300)
                    reader.wait("homeassistant/status", 1, 120)
                time.sleep(3)
                for visit in (1, 2):  # who comes again is greeted again
                    publisher.publish(known("Ada"))
                    reader.wait("examples/node-red/known", visit, 60)
                    if sys.argv[2:]:
                        reader.wait("examples/home-assistant/greeting", visit, 60)
        finally:
            for process in started:
                process.terminate()
                process.wait()
        for received in reader.received:
            if received.topic.startswith("examples/"):
                print(received.topic, received.payload.decode())
        print(*(folder / "subscriber.log").read_text().splitlines()[:12], sep=os.linesep)
        print(json.dumps({"messages": len(reader.received)}))


if __name__ == "__main__":
    main()

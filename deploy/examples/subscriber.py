"""Who was seen, as it happens: a subscriber to onelook's events in Python.

    pip install paho-mqtt
    MQTT_PASSWORD=… python subscriber.py --host 192.168.1.10 --port 8883 --ca ca.pem --user screen

What it shows that others should do too: an event that comes twice has the same id, and is heeded once; an event
that waited for the broker says so, and no door is to be opened by it; states are retained, and so are there at once.
"""

import argparse
import json
import os
import sys
from collections import deque

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

seen: deque[str] = deque(maxlen=1000)
"""Ids of the events of late."""


def hear(_client: Client, _data: object, message: MQTTMessage) -> None:
    """Print one event as a line."""
    if not message.payload:  # what was retained here is taken back
        return
    try:
        event = json.loads(message.payload)
    except ValueError:
        event = None
    # Commands, of whatever form, and their answers lie beside the events.
    if not isinstance(event, dict) or "specversion" not in event or event["id"] in seen:
        return
    seen.append(event["id"])
    kind, data, place = event["type"].removeprefix("onelook."), event["data"], event["source"].removeprefix("onelook/")
    what = {
        "status": lambda: data["state"] + (f" ({data['reason']})" if data["reason"] else ""),
        "crowd": lambda: f"{data['count']} people, {data['known']} known",
        "presence": lambda: f"track {data['track']} {data['state']}",
        "identity": lambda: f"track {data['track']} is {data['name'] or data['state']}",
        "emotion": lambda: f"track {data['track']} looks {data['emotion']}",
    }.get(kind, lambda: json.dumps(data))()
    late = " (late: it waited for the broker)" if event.get("replayed") else ""
    print(f"{event['time']} {place} {kind}: {what}{late}", flush=True)


def main() -> None:
    """Listen until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--ca", help="the broker's authority; with it the connection is encrypted")
    parser.add_argument("--user")
    parser.add_argument("--topic", default="onelook/#")
    arguments = parser.parse_args()

    def welcomed(client: Client, _data: object, _flags: object, code: ReasonCode, _properties: object) -> None:
        if code.is_failure:
            sys.exit(f"The broker refuses us: {code}.")
        client.subscribe(arguments.topic, qos=1)  # again after each outage

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    if arguments.user:
        client.username_pw_set(arguments.user, os.environ.get("MQTT_PASSWORD"))
    if arguments.ca:
        client.tls_set(arguments.ca)
    client.on_connect = welcomed
    client.on_message = hear
    client.connect(arguments.host, arguments.port)
    client.loop_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)

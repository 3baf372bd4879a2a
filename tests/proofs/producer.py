"""Numbered events through onelook's own outbox and publisher, in a process that may be killed.

    python producer.py PORT OUTBOX LEDGER --first N --count N --rate R [--waiting JSON] [--hold S] …

After each event is handed over, a line about it goes to LEDGER, one write each: what stands there was
promised. Kinds and streams take turns, so that every order that is promised can be checked.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from onelook import config
from onelook.event import Crowd, Event, Identity, Presence
from onelook.outbox import Outbox, seconds_since_boot
from onelook.publish import MqttPublisher

STREAMS = ("door", "yard")


def event(number: int) -> Event:
    """The event of this number: about the track of that number."""
    stream = STREAMS[number // 2 % 2]
    where = {"track": number, "box": (10.0, 20.0, 110.0, 220.0), "frame": number}
    data = (
        Identity(**where, state="known", name=f"Person {number}", similarity=0.6, confidence=0.9)
        if number % 2
        else Presence(**where, state="appeared", seconds=0.3)
    )
    return Event(stream=stream, time=datetime.now(UTC), captured=time.monotonic(), data=data)


def rest(seconds: float) -> None:
    """Sleep, by a call that libfaketime 0.9.10 leaves alone: clock_nanosleep fails under it."""
    select.select([], [], [], max(0.0, seconds))


time.sleep = rest  # for paho, too


def main() -> None:
    """Produce, hold on for a while, end in order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("outbox", type=Path)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--stop", type=Path, help="a file; produce no more once it is there")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--waiting", type=json.loads, default={})
    parser.add_argument("--password")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds to go on after the last event")
    parser.add_argument("--until-empty", action="store_true", help="but no longer than until nothing waits")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ledger = os.open(arguments.ledger, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def tell(**line: object) -> None:
        os.write(ledger, json.dumps(line).encode() + b"\n")

    dropped: Counter[str] = Counter()

    def on_dropped(reason: str, count: int) -> None:
        dropped[reason] += count
        tell(dropped=reason, count=count)

    waiting = config.Waiting.model_validate(arguments.waiting)
    password = arguments.password and SecretStr(arguments.password)
    mqtt = config.Mqtt(
        port=arguments.port, waiting=waiting, username="pi" if password else None, password=password or None
    )
    most = {kind: bounds["bytes"] for kind, bounds in waiting.model_dump().items()}
    with (
        Outbox(arguments.outbox, most=most, on_dropped=on_dropped) as outbox,
        MqttPublisher(
            mqtt, "pi", outbox, streams=STREAMS,
            on_connected=lambda connected: tell(connected=connected, at=seconds_since_boot()),
            on_published=lambda event, _age: tell(acknowledged=event.id),
        ) as publisher,
    ):  # fmt: skip
        began = time.monotonic()
        for number in range(arguments.first, arguments.first + arguments.count):
            if arguments.stop and arguments.stop.exists():
                break
            one = event(number)
            publisher.publish(one)
            tell(number=number, id=one.id, kind=one.kind, stream=one.stream,
                 time=one.time.isoformat(timespec="milliseconds"), at=seconds_since_boot())
            if number % 10 == 0:
                state = Crowd(count=number, known=0, unknown=number)
                publisher.publish(Event(stream=one.stream, time=datetime.now(UTC), data=state))
            rest(began + (number + 1 - arguments.first) / arguments.rate - time.monotonic())
        tell(done=True)
        end = time.monotonic() + arguments.hold
        while time.monotonic() < end and not (arguments.until_empty and len(outbox) == 0):
            rest(0.05)
    tell(ended=True, left=len(outbox))


if __name__ == "__main__":
    main()

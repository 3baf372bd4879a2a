"""What is promised of delivery, put to the proof against a real broker, and counted.

    PYTHONPATH=daemon:tests python tests/proofs/delivery.py [--long] [PROOF...]

Each proof prints one line of JSON with its figures, and fails where a promise is broken: an event lost
within its bounds, doubled without its id saying so, delivered after its expiry, out of order, or re-dated.
The short form of all takes about a minute and is part of the tests; the long form takes about half an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker import PATIENCE, Broker, Received, Subscriber, wait_until
from clip import write_mp4
from daemon_process import Daemon, write_config
from onelook.config import Mqtt

PRODUCER = Path(__file__).with_name("producer.py")
FAKETIME = "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1"
MINUTE, HOUR = 60.0, 3600.0
KEPT = {"presence": MINUTE, "identity": MINUTE}
"""The default expiry of the kinds that are produced."""

CHANCE = random.Random()  # noqa: S311 - no secret
MARGIN = 3.0
"""Seconds before its expiry at which an event counts as still in time: MQTT counts in whole ones."""
UNDER_WAY = 2.0
"""Seconds that a message may take through the broker to a reader on a busy machine: no delay of ours."""

Figures = dict[str, Any]


# --- who produces ----------------------------------------------------------------------------


@dataclass
class Producer:
    """producer.py, again and again on one outbox and one ledger; `start` goes on where the last one stopped."""

    folder: Path
    port: int
    expiry: dict[str, float] = field(default_factory=lambda: dict(KEPT))
    environment: dict[str, str] = field(default_factory=dict)
    outbox: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    _lines: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    def start(self, *arguments: object) -> None:
        """Start it; events are numbered on from those in the ledger."""
        first = max((line["number"] for line in self.ledger() if "number" in line), default=-1) + 1
        if self.process is not None:
            first += 1  # one may have been put by a process that was killed before it could say so
        waiting = json.dumps({kind: {"expiry": expiry} for kind, expiry in self.expiry.items()})
        files = (self.outbox or self.folder / "outbox.db", self.folder / "ledger")
        command = [sys.executable, PRODUCER, self.port, *files, "--first", first, "--waiting", waiting, *arguments]
        with (self.folder / "stderr").open("ab") as err:
            environment = os.environ | self.environment
            self.process = subprocess.Popen([*map(str, command)], stderr=err, env=environment)

    def kill(self) -> None:
        """As a power button would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self, seconds: float = 60) -> None:
        """Wait for its end."""
        assert self.process is not None
        assert self.process.wait(seconds) == 0, (self.folder / "stderr").read_text()

    def ledger(self) -> list[dict[str, Any]]:
        """Every line that was written whole."""
        file = self.folder / "ledger"
        if file.exists():
            with file.open("rb") as text:
                text.seek(self._read)
                for line in text.read().splitlines(keepends=True):
                    if line.endswith(b"\n"):
                        self._lines.append(json.loads(line))
                        self._read += len(line)
        return self._lines

    def produced(self) -> list[dict[str, Any]]:
        """A line of the ledger for each event that was promised."""
        return [line for line in self.ledger() if "number" in line]

    def connections(self) -> int:
        """How often the broker took it."""
        return sum(line.get("connected", False) for line in self.ledger())

    def has(self, key: str, value: object = True) -> bool:
        """Whether the ledger says so."""
        return any(line.get(key) == value for line in self.ledger())


@contextlib.contextmanager
def producer(folder: Path, port: int, **more: Any) -> Iterator[Producer]:
    """A producer that does not outlive the block."""
    one = Producer(folder, port, **more)
    try:
        yield one
    finally:
        one.kill()


# --- what is promised --------------------------------------------------------------------------


def judged(produced: list[dict[str, Any]], received: list[Received], ledger: list[dict[str, Any]],
           expiry: dict[str, float]) -> Figures:
    """The figures of a run; AssertionError where a promise is broken."""
    events = [r for r in received if r.topic.rsplit("/", 1)[1] in expiry]
    copies: dict[str, list[Received]] = {}
    for one in events:
        copies.setdefault(one.event["id"], []).append(one)
    firsts = [each[0] for each in copies.values()]
    by_id = {line["id"]: line for line in produced}
    boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.time()

    # Not re-dated, and each number under one id only.
    numbers = Counter(one.event["data"]["track"] for one in firsts)
    assert max(numbers.values(), default=1) == 1, "an event came under two ids"
    for one in firsts:
        if line := by_id.get(one.event["id"]):
            assert one.event["time"] == line["time"].replace("+00:00", "Z"), "an event was re-dated"
    # None doubled without saying so.
    for each in copies.values():
        assert all("replayed" in one.event for one in each[1:]), "a second copy does not say that it is one"
    # None older than its expiry: by a clock that nobody sets.
    ages = dict.fromkeys(expiry, 0.0)
    for one in events:
        if line := by_id.get(one.event["id"]):
            age = one.at + boot - line["at"]
            ages[line["kind"]] = max(ages[line["kind"]], age)
            assert age <= expiry[line["kind"]] + UNDER_WAY, f"{line['kind']} was {age:.2f} s old"
    # In order: all of a stream, what is new and what was replayed.
    streams: dict[str, list[int]] = {}
    for one in firsts:
        streams.setdefault(one.event["source"], []).append(one.event["data"]["track"])
    for stream, order in streams.items():
        assert order == sorted(order), f"out of order: {stream}"
    # States: never a replay, and the newest is the last.
    states = [r for r in received if r.topic.endswith("/crowd")]
    assert not any("replayed" in r.event for r in states), "a state was replayed"

    lost = [line for line in produced if line["id"] not in copies]
    back = [line["at"] for line in ledger if line.get("connected")]
    in_time = [
        line for line in lost
        if any(line["at"] <= at < line["at"] + expiry[line["kind"]] - MARGIN for at in back)
    ]  # fmt: skip
    dropped = Counter[str]()
    for line in ledger:
        if "dropped" in line:
            dropped[line["dropped"]] += line["count"]
    acknowledged = {line["acknowledged"] for line in ledger if "acknowledged" in line}
    return {
        "produced": len(produced),
        "delivered": len(copies),
        "replayed": sum("replayed" in one.event for one in firsts),
        "copies": len(events) - len(copies),
        "undelivered": len(lost),
        "undelivered_though_the_broker_was_back_in_time": len(in_time),
        "undelivered_by_kind": dict(Counter(line["kind"] for line in lost)),
        "acknowledged_by_the_broker_yet_undelivered": sum(line["id"] in acknowledged for line in lost),
        "dropped": dict(dropped),
        "oldest_delivered_s": {kind: round(age, 2) for kind, age in ages.items()},
    }  # fmt: skip


def rate(received: list[Received], began: float) -> float:
    """Replayed events a second, from the time that they could begin to the last."""
    times = [r.at for r in received if b'"replayed":true' in r.payload]
    return len(times) / max(times[-1] - began, 1e-3) if times else 0.0


def settled(reader: Subscriber, one: Producer, seconds: float) -> None:
    """Until the producer has ended and its last word has arrived, or nothing has for a while."""
    one.end(seconds)
    count, since = -1, time.monotonic()
    while time.monotonic() - since < 5:
        if count != len(reader.received):
            count, since = len(reader.received), time.monotonic()
        if reader.received and b'"reason":"stopped"' in reader.received[-1].payload:
            return
        time.sleep(0.05)


# --- the proofs --------------------------------------------------------------------------------


def outage(folder: Path, *, long: bool) -> Figures:
    """Ten minutes of events while there is no broker, some kept for an hour, some for a minute; then it comes."""
    seconds, per_second = (600, 20.0) if long else (10, 40.0)
    expiry = {"presence": HOUR, "identity": MINUTE if long else 8.0}
    with (
        Broker(folder / "broker") as broker,
        broker.subscribe() as reader,
        producer(folder, broker.port, expiry=expiry) as one,
    ):
        broker.stop()
        one.start("--rate", per_second, "--stop", folder / "enough", "--hold", seconds, "--until-empty")
        wait_until(lambda: len(one.produced()) >= per_second * seconds, "the events", seconds * 2 + PATIENCE)
        returned = time.time()
        broker.start()
        wait_until(lambda: one.has("connected"), "the connection")
        wait_until(
            lambda: any(r.at > returned and "replayed" not in r.event for r in reader.on("/presence")),
            "something new to be told", 4 * seconds + PATIENCE,
        )  # fmt: skip
        (folder / "enough").touch()
        settled(reader, one, seconds * 2 + PATIENCE)
        figures = judged(one.produced(), reader.received, one.ledger(), expiry)
        live = [r for r in reader.received if r.at > returned and r.topic.endswith(("/presence", "/identity"))
                and "replayed" not in r.event]
        figures |= {
            "outage_s": seconds, "replay_rate": round(rate(reader.received, returned), 1), "live_beside": len(live),
        }  # fmt: skip
    assert figures["undelivered"] == figures["dropped"].get("expired", 0), figures
    assert set(figures["undelivered_by_kind"]) <= {"identity"}, figures
    assert figures["replay_rate"] <= 1.1 * Mqtt().replay_rate, figures
    assert live, "nothing new was told meanwhile"
    return figures


def broker_killed(folder: Path, *, long: bool) -> Figures:
    """mosquitto killed at random while events are produced; a subscriber that keeps its session."""
    kills = 100 if long else 3
    with Broker(folder / "broker") as broker, broker.subscribe() as reader, producer(folder, broker.port) as one:
        assert broker.process is not None
        broker.process.send_signal(signal.SIGUSR1)  # have it write down the subscriber's session
        wait_until((broker.folder / "mosquitto.db").exists, "mosquitto to save")
        one.start("--rate", 50)
        for _ in range(kills):
            connections = one.connections()
            wait_until(lambda: " as reader " in broker.log.rpartition(" starting")[2], "the reader to be back")
            time.sleep(CHANCE.uniform(0.05, 1.5))
            broker.stop(signal.SIGKILL)
            time.sleep(CHANCE.uniform(0.0, 0.5))
            broker.start()
            wait_until(lambda: one.connections() > connections, "the producer to be back")  # noqa: B023
        assert one.process is not None
        one.process.send_signal(signal.SIGSTOP)
        produced = len(one.produced())
        one.kill()
        one.start("--count", 1, "--hold", 60, "--until-empty")
        settled(reader, one, 2 * PATIENCE)
        figures = judged(one.produced(), reader.received, one.ledger(), one.expiry)
        figures |= {"kills": kills, "events_before_the_last": produced}
    # What mosquitto has acknowledged and then lost, killed before it passed it on, is not ours.
    assert figures["undelivered"] == figures["acknowledged_by_the_broker_yet_undelivered"], figures
    return figures


def daemon_killed(folder: Path, *, long: bool) -> Figures:
    """The process that produces killed -9 at random, with the broker there and away by turns."""
    kills = 100 if long else 4
    with Broker(folder / "broker") as broker, broker.subscribe() as reader, producer(folder, broker.port) as one:
        for number in range(kills):
            before = len(one.produced())
            one.start("--rate", 200)
            wait_until(lambda: len(one.produced()) > before, "its first event")  # noqa: B023
            if number % 5 == 3:
                broker.stop()
            time.sleep(CHANCE.uniform(0.0, 1.0))
            one.kill()
            if number % 5 == 3:
                broker.start()
        one.start("--count", 1, "--hold", 120, "--until-empty")
        settled(reader, one, 180)
        figures = judged(one.produced(), reader.received, one.ledger(), one.expiry) | {"kills": kills}
    assert figures["undelivered"] == figures["dropped"].get("expired", 0), figures
    return figures


def service_killed(folder: Path, *, long: bool) -> Figures:
    """`onelook run` itself, looking at a clip, killed -9 at random; its own log is the ledger."""
    kills = 100 if long else 3
    promised: set[str] = set()
    clip = {"name": "door", "url": str(write_mp4(folder / "clip.mp4")), "loop": True, "paced": False, "fps": 10}
    with Broker(folder / "broker") as broker, broker.subscribe() as reader:
        config = write_config(folder, clip, broker=broker)

        def said() -> set[str]:
            return set(re.findall(r"is in the outbox: (\S{36})\n", (folder / "stderr").read_text()))

        for number in range(kills + 1):
            away = number % 3 == 1 and number < kills
            if away:
                broker.stop()
            with Daemon(config, "--verbose") as daemon:
                daemon.wait(said, "its first event")
                if number == kills:
                    daemon.stop()
                else:
                    time.sleep(CHANCE.uniform(0.0, 1.0))
            promised |= said()
            if away:
                broker.start()
        nothing = {"name": "door", "url": str(folder / "nothing.mp4")}
        with Daemon(write_config(folder, nothing, broker=broker)) as daemon:  # for what the last one has left
            daemon.wait(lambda: daemon.value("onelook_outbox_messages") == 0, "the outbox to be empty")
            daemon.stop()
        with contextlib.suppress(AssertionError):  # told below, with the other figures
            wait_until(lambda: promised <= {one.event["id"] for one in list(reader.received)}, "them to arrive", 10)
        arrived: dict[str, list[Received]] = {}
        for one in list(reader.received):
            arrived.setdefault(one.event["id"], []).append(one)
    copies = [one for each in arrived.values() for one in each[1:] if one.expiry is not None]
    figures = {
        "kills": kills, "promised": len(promised), "undelivered": len(promised - arrived.keys()),
        "copies": len(copies), "replayed": sum("replayed" in one.event for one in reader.received),
    }  # fmt: skip
    assert figures["undelivered"] == 0, figures
    assert all("replayed" in one.event for one in copies), figures
    return figures


def disk_full(folder: Path, *, long: bool) -> Figures:
    """A disk of its own that is full for a while, then not; then the process is killed and started again."""
    count = 5000 if long else 400
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        with Broker(folder / "broker") as broker, broker.subscribe() as reader, producer(
            folder, broker.port, outbox=disk / "outbox.db", expiry={"presence": HOUR, "identity": HOUR}
        ) as one:
            broker.stop()
            one.start("--rate", 200, "--stop", folder / "enough", "--hold", 600)
            wait_until(lambda: len(one.produced()) > count / 5, "the first events")
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
            full = len(one.produced())
            wait_until(lambda: len(one.produced()) > full + count, "events while it is full")
            (folder / "enough").touch()
            wait_until(lambda: one.has("done"), "the last event")
            (disk / "filler").unlink()
            wait_until(lambda: "can be written again" in (folder / "stderr").read_text(), "the disk to be used again")
            said = (folder / "stderr").read_text()
            assert said.count("cannot be written") == 1, said
            one.kill()
            broker.start()
            one.start("--count", 1, "--hold", 120, "--until-empty")
            settled(reader, one, 180)
            figures = judged(one.produced(), reader.received, one.ledger(), one.expiry)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert figures["undelivered"] == 0, figures
    return figures


def clock_jumps(folder: Path, *, long: bool) -> Figures:
    """The clock is set a year ahead, then a year back, while events wait; and again before they expire."""
    library = Path(FAKETIME.format(os.uname().machine))
    if not library.exists():
        pytest.skip("faketime is not installed (apt install faketime)")
    count = 600 if long else 120
    clock = folder / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    expiry = {"presence": 120.0, "identity": 4.0}
    with Broker(folder / "broker") as broker, broker.subscribe() as reader, producer(
        folder, broker.port, environment=environment, expiry=expiry
    ) as one:
        broker.stop()
        one.start("--rate", 40 if long else 15, "--count", count, "--hold", 60, "--until-empty")
        for share, shift in ((0.25, "+365d"), (0.5, "-365d"), (0.75, "+0")):
            wait_until(lambda: len(one.produced()) > count * share, "events")  # noqa: B023
            clock.write_text(shift)
        wait_until(lambda: one.has("done"), "the last event")
        clock.write_text("-365d")  # by the wall, nothing would expire for a year
        time.sleep(4.0)
        broker.start()
        settled(reader, one, 120)
        figures = judged(one.produced(), reader.received, one.ledger(), expiry)
        years = Counter(line["time"][:4] for line in one.produced())
        figures |= {"events_by_year_of_their_clock": dict(years)}
    assert len(years) >= (3 if long else 2), figures  # a starved machine may miss one
    assert figures["undelivered_by_kind"] == {"identity": count // 2}, figures
    assert figures["dropped"] == {"expired": count // 2}, figures
    return figures


def refused_then_let_in(folder: Path, *, long: bool) -> Figures:
    """The broker takes neither the password nor the events, until its owner mends the password file."""
    seconds, per_second = (60, 50.0) if long else (3, 50.0)
    users = {"pi": "another", "watcher": "w"}
    with Broker(folder / "broker", users) as broker, broker.subscribe(user=("watcher", "w")) as reader, producer(
        folder, broker.port, expiry={"presence": HOUR, "identity": HOUR}
    ) as one:
        one.start("--rate", per_second, "--count", int(seconds * per_second), "--hold", 120, "--until-empty",
                  "--password", "right")
        wait_until(lambda: one.has("done"), "the last event", seconds * 2 + PATIENCE)
        advice = "check mqtt.username and its password"
        wait_until(lambda: advice in (folder / "stderr").read_text(), "the refusal to be told")
        assert not one.has("connected")
        said = (folder / "stderr").read_text()
        assert said.count(advice) == 1, said
        broker.set_passwords(users | {"pi": "right"})
        broker.reload()
        settled(reader, one, 180)
        figures = judged(one.produced(), reader.received, one.ledger(), one.expiry)
    assert figures["undelivered"] == 0, figures
    assert figures["replayed"] == figures["produced"], figures
    return figures


PROOFS: dict[str, Callable[..., Figures]] = {
    proof.__name__: proof
    for proof in (
        outage, broker_killed, daemon_killed, service_killed, disk_full, clock_jumps, refused_then_let_in,
    )
}


def main() -> None:
    """Run what was asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proofs", metavar="PROOF", nargs="*", help=", ".join(PROOFS))
    parser.add_argument("--long", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.proofs or PROOFS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="onelook-proof-") as folder:
            try:
                figures = PROOFS[name](Path(folder), long=arguments.long)
            except pytest.skip.Exception as skipped:
                figures = {"skipped": str(skipped)}
        print(json.dumps({"proof": name, "seconds": round(time.monotonic() - began, 1)} | figures), flush=True)


if __name__ == "__main__":
    main()

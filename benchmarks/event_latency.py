"""How late an event is: from a frame's capture to a subscriber's callback, beside the network's own time.

    PYTHONPATH=daemon:. python -m benchmarks.event_latency [--seconds 60] [--burst] [--keep]

The whole daemon (service.run: capture, network, tracker, reporter, outbox on disk, publisher) looks at a camera of
640x480 before which about twenty faces come and go; the camera (GStreamer's RTSP server), mosquitto and the
subscriber are processes of their own on loopback, the subscriber in Python with paho as most are. A frame is captured
when it has come and is decoded. `inference` is the whole call of the network on the frame
that decided the event; `outside` is all else: converting the picture, handing it over, tracking, reporting, SQLite,
MQTT twice, and Python at both ends. Every event counts, the last of a frame's with those that went before it. With
--burst all faces come at once, and one frame decides twenty events of a kind.

Also from the same run: how long it takes from the first sight of a face to the word about who it is.
The last line is JSON; --keep keeps it, and writes it into docs/events.md.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the daemon's own door has it

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from edge_models.training.door import leave
from paho.mqtt.client import Client

import onelook
from benchmarks.daemon import MOSQUITTO, broker, camera_of, encode, gstreamer
from benchmarks.machine import describe as machine
from benchmarks.machine import neutral_name
from onelook import service
from onelook.config import Config
from onelook.event import Event
from onelook.frame import Frame
from onelook.model import FaceModel
from onelook.outbox import Outbox
from onelook.picture import read_picture
from onelook.reporter import Reporter
from onelook.track import Track, Tracker

PORTRAITS = Path(onelook.__file__).parent / "portraits"
HEADS = {"eileen_collins.jpg": (132, 9, 230, 224), "grace_hopper.jpg": (88, 11, 400, 450)}
"""x, y, width and height of the head and what is around it, in pixels of the portrait."""
COLUMNS, ROWS, FPS, PERIOD = 6, 4, 10, 60
SLOTS = COLUMNS * ROWS
HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "event_latency.json"
DOCS = HERE.parent / "docs" / "events.md"
BEGIN, END = "<!-- written by benchmarks/event_latency.py -->", "<!-- end -->"
ABSENT = 12
"""Frames of each period for which a face is away: longer than it takes to be believed gone."""

STAGES = {
    "waiting": "from the capture until the network begins: the picture converted, and handed over to the loop",
    "tracking": "whose face is whose",
    "reporting": "what is to be told, the gallery asked",
    "outbox": "the frame's events on disk",
    "sending": "from there until this event is on the wire: those before it, their JSON, the socket",
    "transport": "from there until the subscriber's callback: mosquitto, and the subscriber's own reading",
    "rest": "metrics and all else in between",
}

SUBSCRIBER = """
import json, sys, time
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
received = []
def hear(client, data, message):
    received.append((time.monotonic(), message.payload))
client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
client.on_message = hear
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect("127.0.0.1", int(sys.argv[1]))
client.subscribe("onelook/bench/+/+", 1)
client.loop_start()
sys.stdin.readline()
client.disconnect()
client.loop_stop()
for at, payload in received:
    print(json.dumps([at, payload.decode()]))
"""


def compose(path: Path, *, burst: bool) -> None:
    """A clip of one period, for going round and round, as a camera sends it: each slot's face is away once."""
    heads = []
    for name, (x, y, w, h) in HEADS.items():
        cut = read_picture(PORTRAITS / name)[y : y + h, x : x + w]
        heads.append(cv2.resize(cut, (640 // COLUMNS - 8, 480 // ROWS - 6), interpolation=cv2.INTER_AREA))
    pictures = []
    for index in range(PERIOD):
        canvas = np.full((480, 640, 3), (96, 110, 120), np.uint8)
        for slot in range(SLOTS):
            phase = 0 if burst else slot * PERIOD // SLOTS
            if (index - phase) % PERIOD < ABSENT:
                continue
            head = heads[slot % len(heads)]
            x, y = slot % COLUMNS * (640 // COLUMNS) + 4, slot // COLUMNS * (480 // ROWS) + 3
            canvas[y : y + head.shape[0], x : x + head.shape[1]] = head
        pictures.append(canvas)
    encode(pictures, path, FPS)


class Look:
    """What the daemon did, frame by frame, by spans laid around its parts."""

    def __init__(self) -> None:
        self.frames: dict[int, dict[str, float]] = {}
        """Index of a frame -> stage -> seconds."""
        self.captured: dict[int, float] = {}
        self.faces: dict[int, int] = {}
        self.first_seen: dict[int, tuple[int, float]] = {}
        self.told: list[tuple[str, int, float]] = []  # state, frames and seconds from first sight to identity
        self.sent: dict[bytes, tuple[float, float]] = {}
        """An event's payload -> when it was on the wire, monotonic; and seconds since it was on disk."""
        self._now: dict[str, float] = {}
        self._ended = 0.0
        self._count = 0
        self._wrap(FaceModel, "__call__", "inference")
        self._wrap(Tracker, "update", "tracking")
        self._wrap(Reporter, "report", "reporting")
        self._wrap(Outbox, "put", "outbox")
        publish = Client.publish

        def published(client: Client, topic: str, payload: bytes, *rest: Any) -> Any:
            info = publish(client, topic, payload, *rest)
            now = time.monotonic()
            self.sent[payload] = (now, now - self._ended)
            return info

        Client.publish = published  # type: ignore[method-assign,assignment]

    def _wrap(self, owner: type, name: str, stage: str) -> None:
        call = getattr(owner, name)

        def timed(*arguments: Any, **more: Any) -> Any:
            began = time.monotonic()
            result = call(*arguments, **more)
            self._ended = time.monotonic()
            self._now[stage] = self._now.get(stage, 0.0) + self._ended - began
            if stage == "inference":
                self._now["began"] = began
                self._count = len(result)
            return result

        setattr(owner, name, timed)

    def watch(self, frame: Frame, tracks: Sequence[Track], events: Sequence[Event]) -> None:
        """Shown every frame by the daemon."""
        self.frames[frame.index], self._now = self._now, {}
        now = self.frames[frame.index]
        now["waiting"] = now.pop("began") - frame.time
        self.captured[frame.index] = frame.time
        self.faces[frame.index] = self._count
        for track in tracks:
            self.first_seen.setdefault(track.id, (frame.index, track.first_seen))
        for event in events:
            if event.kind == "identity":
                index, seen = self.first_seen[event.data.track]  # type: ignore[union-attr]
                state = event.data.state  # type: ignore[union-attr]
                self.told.append((state, frame.index - index + 1, frame.time - seen))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    shares = {"p10": 10, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(values, share)) * 1000, 2) for name, share in shares.items()}


def histogram(title: str, values: Sequence[float]) -> None:
    """Bars of text; the last class holds the rest."""
    edges = [0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, float("inf")]
    counts, _ = np.histogram(np.asarray(values) * 1000, edges)
    print(f"\n{title}: {len(values)} events, {percentiles(values)} ms")
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            print(f"  {low:>5} to {high:>5} ms {count:>6} {'#' * max(1, round(60 * count / max(counts)))}")


def watched(seconds: float, *, burst: bool, threads: int) -> tuple[Look, str]:
    """Run it all for so long; what the daemon did, and the lines of the subscriber."""
    if MOSQUITTO is None or not gstreamer():
        sys.exit("This needs mosquitto and GStreamer's RTSP server: sh deploy/system-packages.sh")
    with ExitStack() as house:
        folder = Path(house.enter_context(tempfile.TemporaryDirectory(prefix="onelook-latency-")))
        compose(folder / "crowd.h264", burst=burst)
        camera = house.enter_context(camera_of(folder / "crowd.h264"))
        port = house.enter_context(broker(folder))
        reader = subprocess.Popen([sys.executable, "-c", SUBSCRIBER, str(port)], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        house.callback(reader.kill)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        config = Config.model_validate({
            "device": "bench",
            "model": {"threads": threads},
            "streams": [{"name": "door", "url": camera}],
            "gallery": {"path": folder / "gallery.db", "key_file": folder / "gallery.key"},
            "mqtt": {"port": port, "outbox": folder / "outbox.db"},
            "tracking": {"lost": 0.5},
            "metrics": {"port": 0},
        })  # fmt: skip
        look, stop = Look(), threading.Event()
        threading.Timer(seconds, stop.set).start()
        service.run(config, stop=stop, watch=look.watch)
        output, _ = reader.communicate("\n", timeout=30)
    return look, output


def measure(seconds: float, *, burst: bool, threads: int) -> dict[str, Any]:
    """Run it all for so long; the figures."""
    look, output = watched(seconds, burst=burst, threads=threads)
    if not look.captured:
        sys.exit("No frame was looked at: give it more --seconds, 10 or more")
    warm = sorted(look.captured)[len(look.captured) // 10]  # the first frames pay for what is loaded once
    spans: dict[str, list[float]] = {name: [] for name in ("total", "inference", "outside", *STAGES)}
    for line in output.splitlines():
        at, payload = json.loads(line)
        event = json.loads(payload)
        index = event["data"].get("frame")
        if index is None or index < warm or index not in look.captured or event.get("replayed"):
            continue
        sent, since = look.sent[payload.encode()]
        stages = look.frames[index] | {"sending": since, "transport": at - sent}
        total = at - look.captured[index]
        outside = total - stages["inference"]
        stages |= {"total": total, "outside": outside}
        stages["rest"] = outside - sum(stages[stage] for stage in STAGES if stage != "rest")
        for name, values in spans.items():
            values.append(stages[name])
    if not spans["total"]:
        sys.exit("No event was told: give it more --seconds, 10 or more")
    histogram("capture to callback", spans["total"])
    histogram("  of that, inference", spans["inference"])
    histogram("  of that, all else", spans["outside"])
    share = float(np.median(spans["outside"]) / np.median(spans["inference"]))
    figures: dict[str, Any] = {
        "events": len(spans["total"]),
        "frames": len(look.frames),
        "faces_per_frame_p50": float(np.median(list(look.faces.values()))),
        "capture_to_callback_ms": percentiles(spans["total"]),
        "inference_ms": percentiles(spans["inference"]),
        "outside_ms": percentiles(spans["outside"]),
        "outside_share_of_inference_p50": round(share, 3),
        "outside_by_stage_ms": {stage: percentiles(spans[stage]) for stage in STAGES},
        "burst": burst,
        "threads": threads,
        "machine": f"{neutral_name()} ({machine()['processor']})"
        + (", at real-time priority" if os.sched_getscheduler(0) != os.SCHED_OTHER else ""),
    }
    print("\nall else, in ms:")
    for stage, what in STAGES.items():
        print(f"  {stage:10} {figures['outside_by_stage_ms'][stage]['p50']:>6}  {what}")
    print()
    for state in sorted({state for state, _, _ in look.told}):
        frames = [frames for told, frames, _ in look.told if told == state]
        waits = [wait for told, _, wait in look.told if told == state]
        figures[f"identity_{state}"] = {
            "count": len(frames),
            "frames_p50": float(np.median(frames)), "frames_p90": float(np.percentile(frames, 90)),
            "seconds_p50": round(float(np.median(waits)), 2), "seconds_p90": round(float(np.percentile(waits, 90)), 2),
        }  # fmt: skip
        print(f"first sight to identity `{state}`, at {FPS} frames a second: {figures[f'identity_{state}']}")
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = {
        "**from the capture to the subscriber's callback**": figures["capture_to_callback_ms"],
        "of that, the network": figures["inference_ms"],
        "of that, all else": figures["outside_ms"],
        **{f"{stage}: {what}": figures["outside_by_stage_ms"][stage] for stage, what in STAGES.items()},
    }
    faces, events = figures["faces_per_frame_p50"], figures["events"]
    share = 100 * figures["outside_share_of_inference_p50"]
    return "\n".join([
        f"{faces:.0f} faces on frames of 640x480, {events} events, on {figures['machine']}:",
        "",
        "| ms | p50 | p99 |",
        "|---|---|---|",
        *(f"| {name} | {of['p50']:.1f} | {of['p99']:.1f} |" for name, of in rows.items()),
        "",
        f"All else is {share:.0f} % of the network's time, at the medians; the aim is 20 %.",
    ])  # fmt: skip


def filled(text: str, figures: dict[str, Any]) -> str:
    """The document with the table in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(figures)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--burst", action="store_true", help="all faces come at once")
    parser.add_argument("--keep", action="store_true", help="keep the figures, and write them into docs/events.md")
    arguments = parser.parse_args()
    figures = measure(arguments.seconds, burst=arguments.burst, threads=arguments.threads)
    if arguments.keep:
        RESULT.write_text(json.dumps(figures, indent=1) + "\n")
        DOCS.write_text(filled(DOCS.read_text(), figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    leave(main)

"""Demo: the real daemon on a made-up crowd, or on the user's own stream, told in plain words."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import cv2
import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from onelook import service
from onelook.capture import masked, read_picture
from onelook.config import Config, Gallery, Metrics, Mqtt, Report, stream_of
from onelook.draw import Captions, drawn
from onelook.errors import OwnerError
from onelook.event import Event
from onelook.frame import Frame
from onelook.track import Track
from onelook.video import VideoWriter

Image = NDArray[np.uint8]

WIDTH, HEIGHT, FPS, SECONDS = 640, 480, 12, 24
PORTRAITS = Path(__file__).parent / "portraits"
ENROLLED = "Eileen Collins"


def demo(
    source: str | None = None, *, broker: str | None = None, seconds: float = 60.0, folder: Path = Path("demo")
) -> None:
    """Play `source` (none: a crowd composed from two portraits) through the daemon.

    broker: `host` or `host:port`; none: one is started here, for as long as this lasts.
    seconds: at most so long. folder: where the annotated picture goes. Raises OwnerError where
    the source, the broker or the extra packages are missing.
    """
    stop, best = threading.Event(), _Best()
    logging.getLogger("onelook").setLevel(logging.WARNING)  # the events are the news here
    with ExitStack() as house:
        scratch = Path(house.enter_context(tempfile.TemporaryDirectory(prefix="onelook-demo-")))
        if broker is None:
            host, port = "127.0.0.1", house.enter_context(_broker())
        else:
            host, _, given = broker.partition(":")
            if not host or not (given or "1883").isdecimal() or int(given or 1883) > 65535:
                raise OwnerError(f"{broker} is no broker: give HOST or HOST:PORT.")
            port = int(given or 1883)
        made_up = source is None
        if source is None:
            source = str(scratch / "crowd.mp4")
            compose(Path(source))
        config = Config(
            device="demo",
            streams=[stream_of(source).model_copy(update={"name": "crowd"} if made_up else {})],
            gallery=Gallery(path=scratch / "gallery.db", key_file=scratch / "gallery.key"),
            mqtt=Mqtt(host=host, port=port, protocol="5" if broker else "3.1.1", outbox=scratch / "outbox.db"),
            metrics=Metrics(port=_free_port()),
            report=Report(far=1e-2),  # one person enrolled, before an audience of one
        )
        if made_up:
            for verdict in service.enroll(config, ENROLLED, [PORTRAITS / "eileen_collins.jpg"]):
                _say(f"{ENROLLED}'s portrait {verdict.reason}.")
        listener = house.enter_context(_Listener(host, port, config.mqtt.prefix, masked(source)))
        page = f"http://127.0.0.1:{config.metrics.port}/metrics"
        _say(f"Events: mqtt://{host}:{port}, topics {config.mqtt.prefix}/demo/#. Metrics: {page}")
        _say(f"At most {seconds:.0f} seconds; Ctrl-C ends it sooner.\n")
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        timer.start()
        house.callback(timer.cancel)
        figures: dict[str, float] = {}
        began = inf

        def watch(frame: Frame, tracks: Sequence[Track], events: Sequence[Event]) -> None:
            nonlocal began
            began = min(began, frame.time)
            best.look(frame, tracks, events)
            if frame.index % FPS == 0 and frame.time > began:
                figures.update(_figures(page, frame.time - began))

        service.run(config, stop=stop, watch=watch)
        listener.wait_for_goodbye()
        if not best.frames:
            raise OwnerError(f"No frame came from {source}.")
        _say("")
        _say(f"{best.frames} frames; events: " + ", ".join(f"{n} {k}" for k, n in sorted(listener.counts.items())))
        if figures:
            _say(
                f"Frame age (capture to publish) {1e3 * figures['age']:.0f} ms on average, network "
                f"{1e3 * figures['network']:.0f} ms, {figures['cpu']:.2f} CPU seconds a second, "
                f"{figures['memory'] / 2**20:.0f} MiB."
            )
        if best.picture is not None:
            folder.mkdir(parents=True, exist_ok=True)
            out = folder / "annotated.jpg"
            cv2.imwrite(str(out), cv2.cvtColor(best.picture, cv2.COLOR_RGB2BGR))
            _say(f"Annotated picture: {out}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- the crowd -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Head:
    """A head cut out of a portrait, with a soft rim."""

    pixels: NDArray[np.float32]
    alpha: NDArray[np.float32]

    @classmethod
    def cut(cls, portrait: str, box: tuple[int, int, int, int]) -> _Head:
        """`box`: x, y, width, height of the face in the portrait."""
        x, y, w, h = box
        left, top, right, low = x - round(0.45 * w), y - round(0.4 * h), x + round(1.45 * w), y + round(1.3 * h)
        pixels = read_picture(PORTRAITS / portrait)[max(0, top):low, max(0, left):right].astype(np.float32)
        height, width = pixels.shape[:2]
        v, u = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
        rim = np.clip((1.0 - np.sqrt(u**2 + v**2)) / 0.12, 0, 1)
        return cls(pixels, rim.astype(np.float32)[..., None])

    def paste(self, canvas: NDArray[np.float32], x: float, y: float, height: int) -> None:
        """Lay the head on the canvas, middle at x, y, `height` pixels high; what hangs over is cut off."""
        width = round(self.pixels.shape[1] * height / self.pixels.shape[0])
        how = cv2.INTER_AREA if height < self.pixels.shape[0] else cv2.INTER_LINEAR
        pixels, alpha = (cv2.resize(a, (width, height), interpolation=how) for a in (self.pixels, self.alpha))
        left, top = round(x - width / 2), round(y - height / 2)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, WIDTH), min(top + height, HEIGHT)
        if x1 >= x2 or y1 >= y2:
            return
        part = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
        share = alpha[part].reshape(y2 - y1, x2 - x1, 1)
        canvas[y1:y2, x1:x2] = canvas[y1:y2, x1:x2] * (1 - share) + pixels[part] * share


@dataclass(frozen=True)
class _Walker:
    """Somebody crossing the picture."""

    head: _Head
    height: int
    start: tuple[float, float]
    speed: tuple[float, float]
    enters: float
    leaves: float


def compose(path: Path) -> None:
    """Write the crowd as a video: two portraits in many sizes, moving, overlapping, coming and going."""
    random = np.random.default_rng(3)
    eileen = _Head.cut("eileen_collins.jpg", (178, 65, 92, 112))
    grace = _Head.cut("grace_hopper.jpg", (177, 123, 178, 224))
    walkers = []
    for i in range(14):
        height = (190, 150, 120, 96, 80, 66, 56)[i // 2]
        right = i % 4 < 2
        x = random.uniform(60, WIDTH - 60)
        y = 90 + (HEIGHT - 190) * (((i * 5) % 14) / 13)
        speed = (1 if right else -1) * random.uniform(6, 22)
        enters = 0.0 if i % 3 else float(random.uniform(1, 6))
        walkers.append(_Walker(grace if i % 2 else eileen, height, (x, y), (speed, random.uniform(-2, 2)),
                               enters, SECONDS if i % 5 else SECONDS - 6))
    walkers.sort(key=lambda walker: walker.height)  # the near ones hide the far ones
    wall = cv2.resize(random.uniform(90, 165, (6, 8, 3)).astype(np.float32), (WIDTH, HEIGHT),
                      interpolation=cv2.INTER_CUBIC)
    with VideoWriter(path) as video:
        for n in tqdm(range(SECONDS * FPS), "composing the crowd", unit="frame", disable=None, leave=False):
            time = n / FPS
            noise = random.normal(0, 3, (HEIGHT, WIDTH, 3))
            canvas = (wall + noise).astype(np.float32)
            for walker in walkers:
                if walker.enters <= time < walker.leaves:
                    # Back and forth between the walls.
                    way = (walker.start[0] + walker.speed[0] * time) % (2 * WIDTH)
                    walker.head.paste(canvas, way if way < WIDTH else 2 * WIDTH - way,
                                      walker.start[1] + walker.speed[1] * time, walker.height)
            video.write(np.clip(canvas, 0, 255).astype(np.uint8), time)


# --- broker and listener -------------------------------------------------------------------------


@contextmanager
def _broker() -> Iterator[int]:
    """A broker inside this process, on a free port of the loopback; gives the port."""
    try:
        from amqtt.broker import Broker  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        sentence = "The demo's own broker needs the extra: pip install 'onelook[demo]'; or give --broker."
        raise OwnerError(sentence) from None
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    port = _free_port()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker", daemon=True)
    thread.start()
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }

    async def start() -> Any:
        broker = Broker(settings)
        await broker.start()
        return broker

    broker = asyncio.run_coroutine_threadsafe(start(), loop).result(15)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


class _Listener:
    """Subscribes as any user would, and tells each event in plain words."""

    def __init__(self, host: str, port: int, prefix: str, source: str) -> None:
        self.counts: Counter[str] = Counter()
        self._source = source
        self._gone = threading.Event()
        self._topic = f"{prefix}/demo/#"
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        try:
            self._client.connect(host, port)
        except OSError as error:
            raise OwnerError(f"There is no broker at {host}:{port}: {error.strerror or error}.") from error

    def __enter__(self) -> _Listener:
        self._client.subscribe(self._topic, qos=1)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for_goodbye(self) -> None:
        """Until the daemon said offline, which is the last that it says."""
        self._gone.wait(3)

    def _hear(self, _client: Client, _userdata: object, received: MQTTMessage) -> None:
        if not received.payload:
            return
        event = json.loads(received.payload)
        kind, data = event["type"].removeprefix("onelook."), event["data"]
        self.counts[kind] += 1
        place = received.topic.split("/")[2]
        if kind == "status":
            self._gone.set() if place == "status" and data["state"] == "offline" else None
            _say(f"{event['time'][11:19]}  {'the daemon' if place == 'status' else place} is {data['state']}"
                 + (f": {data['reason'].replace(self._source, 'it')}" if data.get("reason") else ""))
        else:
            _say(f"{event['time'][11:19]}  {in_words(kind, data)}")


def in_words(kind: str, data: dict[str, Any]) -> str:
    """An event's data as a person would say it."""
    if kind == "crowd":
        return f"{data['count']} people in view, {data['known']} known, {data['unknown']} unknown"
    who = f"person {data['track']}"
    if kind == "presence":
        return f"{who} {data['state']}" + (f" after {data['seconds']:.0f} s" if data["state"] == "left" else "")
    if kind == "identity":
        known = f"is {data['name']} (similarity {data['similarity']:.2f})" if data["state"] == "known" else ""
        other = "may be somebody enrolled" if data["state"] == "uncertain" else "is nobody enrolled"
        correction = f", not {data['previous']}" if data.get("previous") else ""
        return f"{who} {known or other}{correction}"
    if kind == "attributes":
        parts = [str(data["gender"])] if data.get("gender") else []
        if data.get("age_range"):
            parts.append("aged {} to {}".format(*data["age_range"]))
        parts += [name.replace("_", " ").lower() for name, chance in data["attributes"].items() if chance > 0.5]
        return f"{who} looks {', '.join(parts)}"
    return f"{who} looks {data['emotion']} ({data['confidence']:.0%})"


# --- what is left at the end ---------------------------------------------------------------------


class _Best:
    """The frame that shows most, drawn."""

    def __init__(self) -> None:
        self.picture: Image | None = None
        self.frames = 0
        self._captions = Captions()
        self._most = 0

    def look(self, frame: Frame, tracks: Sequence[Track], events: Sequence[Event]) -> None:
        self.frames += 1
        self._captions.hear(events)
        named = sum(len(self._captions.lines(t.id)) for t in tracks if t.row is not None and t.state == "confirmed")
        if named > self._most or self.picture is None:
            self._most = named
            self.picture = drawn(frame.image, tracks, self._captions)


def _figures(page: str, seconds: float) -> dict[str, float]:
    """Read the daemon's own metrics, as Prometheus would, of the `seconds` that it has looked."""
    try:
        with urlopen(page, timeout=2) as answer:  # noqa: S310 - our own page
            text = answer.read().decode()
    except OSError:
        return {}
    sums: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            kind = "".join(f"/{v}" for k, v in sample.labels.items() if k in ("stage", "kind"))
            sums[sample.name + kind] += sample.value
    frames = max(1.0, sums["onelook_frame_age_seconds_count"])
    network = sums["onelook_stage_seconds_sum/frame"] + sums["onelook_stage_seconds_sum/faces"]
    return {
        "age": sums["onelook_frame_age_seconds_sum"] / frames,
        "network": network / frames,
        "cpu": sums["onelook_stage_cpu_seconds_total/total"] / seconds,
        "memory": sums["onelook_memory_bytes/rss"],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Demo: the real daemon on a made-up crowd, or on the user's own stream, told in plain words."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from math import inf, sin
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import cv2
import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from tqdm import tqdm

from onelook import service
from onelook.capture import frames, masked
from onelook.config import PASSWORD_VARIABLE, Config, Gallery, Metrics, Mqtt, stream_of
from onelook.draw import Captions, drawn
from onelook.errors import OwnerError
from onelook.event import Event
from onelook.frame import Frame
from onelook.picture import is_picture, read_picture, write_picture
from onelook.source import is_live
from onelook.track import Track
from onelook.video import VideoWriter

Image = NDArray[np.uint8]

WIDTH, HEIGHT, FPS, SECONDS = 640, 480, 12, 24
STILL = 5
"""Seconds for which a single picture is held before the daemon."""
LARGE = 1920
"""Pixels: the longer side of such a picture at most; three times what the network sees. As large as a telephone's photo
the film would take a gigabyte to write."""
PATIENCE = 10
"""Seconds for a broker to answer."""
STEP = 80
"""Pixels: how far to each side people walk."""
TALL = 2.25
"""Height of head and shoulders, in faces."""
PORTRAITS = Path(__file__).parent / "portraits"
ENROLLED = "Eileen Collins"


def demo(
    source: str | None = None, *, broker: str | None = None, seconds: float = 60.0, folder: Path = Path("demo")
) -> None:
    """Play `source` (none: a crowd composed from two portraits) through the daemon.

    A single picture is held for STILL seconds. broker: `host`, `host:port` or `user:password@host:port`; the password
    may be in ONELOOK_MQTT_PASSWORD as well; none: one is started here, for as long as this lasts.
    seconds: at most so long. folder: where the annotated picture goes. Raises OwnerError where
    the source cannot be read, and where the broker refuses, or it or the extra packages are missing.
    """
    if source is not None and not is_live(source):
        next(frames(source), None)  # a daemon waits for a file to come right, who looks at a demo does not
    stop, best = threading.Event(), _Best()
    logging.getLogger("onelook").setLevel(logging.WARNING)  # the events are the news here
    with ExitStack() as house:
        scratch = Path(house.enter_context(tempfile.TemporaryDirectory(prefix="onelook-demo-")))
        mqtt = Mqtt(port=house.enter_context(_broker()), protocol="3.1.1") if broker is None else broker_of(broker)
        mqtt = mqtt.model_copy(update={"outbox": scratch / "outbox.db"})
        made_up, shown = source is None, masked(source or "")
        if source is None:
            source = str(scratch / "crowd.mp4")
            _say(f"Composing a crowd of two people, {SECONDS} seconds of it...")
            compose(Path(source))
        elif is_picture(source) and not is_live(source):
            _say(f"Holding {shown} for {STILL} seconds...")
            source = _held(source, scratch / "still.mp4")
        config = Config(
            device="demo",
            streams=[stream_of(source).model_copy(update={"name": "crowd"} if made_up else {})],
            gallery=Gallery(path=scratch / "gallery.db", key_file=scratch / "gallery.key"),
            mqtt=mqtt,
            metrics=Metrics(port=_free_port()),
        )
        if made_up:
            for verdict in service.enroll(config, {ENROLLED: [PORTRAITS / "eileen_collins.jpg"]})[ENROLLED]:
                _say(f"{ENROLLED}'s portrait {verdict.reason}.")
        listener = house.enter_context(_Listener(mqtt, masked(source)))
        page = f"http://127.0.0.1:{config.metrics.port}/metrics"
        _say(f"Events: mqtt://{mqtt.host}:{mqtt.port}, topics {config.mqtt.prefix}/demo/#. Metrics: {page}")
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
            listener.seen.set()
            best.look(frame, tracks, events)
            if frame.index % FPS == 0 and frame.time > began:
                figures.update(_figures(page, frame.time - began))

        listener.lost = stop.set  # who never saw a picture need not wait for the camera to come back
        service.run(config, stop=stop, watch=watch)
        listener.wait_for_goodbye()
        if not best.frames:
            raise OwnerError(f"No frame came from {shown or source}.")
        _say("")
        _say(f"{best.frames} frames; events: " + ", ".join(f"{n} {k}" for k, n in sorted(listener.counts.items())))
        if figures:
            _say(
                f"Frame age (capture to publish) {1e3 * figures['age']:.0f} ms on average, network "
                f"{1e3 * figures['network']:.0f} ms, {figures['cpu']:.2f} CPU seconds a second, "
                f"{figures['memory'] / 2**20:.0f} MiB."
            )
        if best.picture is not None:
            out = folder / "annotated.jpg"
            write_picture(out, best.picture)
            _say(f"Annotated picture: {out}")


def broker_of(given: str) -> Mqtt:
    """The broker that `[USER[:PASSWORD]@]HOST[:PORT]` names. Raises OwnerError where it names none."""
    try:
        parts = urlsplit(f"mqtt://{given}")
        port = parts.port or 1883
    except ValueError:
        parts, port = urlsplit(""), 0
    if not parts.hostname or parts.path or parts.query or parts.fragment:
        raise OwnerError(f"{masked(f'mqtt://{given}').removeprefix('mqtt://')} is no broker: give HOST, HOST:PORT or "
                         "USER:PASSWORD@HOST:PORT (in a password, @ : / # ? % are %40 %3A %2F %23 %3F %25).")
    password = unquote(parts.password) if parts.password else os.environ.get(PASSWORD_VARIABLE)
    return Mqtt(host=parts.hostname, port=port, username=unquote(parts.username) if parts.username else None,
                password=SecretStr(password) if password else None)


def _held(picture: str, film: Path) -> str:
    """A film that shows one picture for STILL seconds."""
    image = read_picture(Path(picture.removeprefix("file://")).expanduser())
    scale = LARGE / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    with VideoWriter(film) as video:
        for n in range(STILL * FPS):
            video.write(image, n / FPS)
    return str(film)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- the crowd -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bust:
    """Head and shoulders cut out of a portrait."""

    pixels: NDArray[np.float32]
    alpha: NDArray[np.float32]

    @classmethod
    def cut(cls, portrait: str, box: tuple[int, int, int, int], *, hair: float) -> _Bust:
        """`box`: x, y, width, height of the face in the portrait; `hair`: how far hair or hat reach, in its widths."""
        x, y, w, h = box
        picture = read_picture(PORTRAITS / portrait)
        picture = picture[max(0, y - 3 * h // 4) : y + 3 * h // 2, max(0, x - w) : x + 2 * w]
        scale = 256 / len(picture)
        picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        left, top, wide, high = (scale * v for v in (min(x, w), min(y, 3 * h // 4), w, h))
        middle = round(left + wide / 2)

        def ellipse(mask: NDArray[np.uint8], down: float, across: float, along: float, what: int) -> None:
            axes = round(across * wide), round(along * high)
            cv2.ellipse(mask, (middle, round(top + down * high)), axes, 0, 0, 360, (what,), -1)

        # Somewhere round the face is hair, below it are shoulders, the rest is background: GrabCut
        # (Rother et al., 2004) finds the border.
        mask = np.full(picture.shape[:2], cv2.GC_BGD, np.uint8)
        ellipse(mask, 0.35, hair, 0.95, cv2.GC_PR_FGD)
        ellipse(mask, 1.9, 1.4, 0.85, cv2.GC_PR_FGD)
        ellipse(mask, 0.5, 0.42, 0.5, cv2.GC_FGD)
        ellipse(mask, 1.6, 0.6, 0.45, cv2.GC_FGD)
        scratch = np.zeros((2, 1, 65))
        cv2.grabCut(picture, mask, (0, 0, 0, 0), scratch[0], scratch[1], 4, cv2.GC_INIT_WITH_MASK)
        parts = cv2.connectedComponents(((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8))[1]
        alpha = (parts == parts[round(top + high / 2), middle]).astype(np.float32)
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 1.2), np.float32)
        alpha *= np.clip(np.arange(len(alpha), 0, -1, dtype=np.float32) / 40, 0, 1)[:, None]  # nothing carries them
        return cls(picture.astype(np.float32), alpha[..., None])

    def sized(self, face: float) -> _Bust:
        """The same with a face `face` pixels high."""
        scale = TALL * face / len(self.pixels)
        pixels, alpha = (
            np.asarray(cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.float32)
            for part in (self.pixels, self.alpha)
        )
        return _Bust(pixels, alpha[..., None])

    def paste(self, canvas: NDArray[np.float32], x: float, y: float) -> None:
        """Lay it on the canvas, middle at x, y; what hangs over is cut off."""
        height, width = self.pixels.shape[:2]
        left, top = round(x - width / 2), round(y - height / 2)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, WIDTH), min(top + height, HEIGHT)
        if x1 < x2 and y1 < y2:
            part = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
            below = canvas[y1:y2, x1:x2]
            below += self.alpha[part] * (self.pixels[part] - below)


@dataclass(frozen=True)
class _Walker:
    """Somebody who steps to and fro."""

    name: str
    bust: _Bust
    face: float
    """Height of the face in pixels."""
    place: tuple[float, float]
    pace: float
    """Radians a second; less than nought to begin with the left foot."""
    enters: float
    leaves: float

    def middle(self, time: float) -> tuple[float, float] | None:
        """x and y of the bust's middle, while somebody is there."""
        if not self.enters <= time < self.leaves:
            return None
        return self.place[0] + STEP * sin(self.pace * time), self.place[1]


def walkers() -> list[_Walker]:
    """Who is in the crowd: two people, again and again, the far ones first."""
    random = np.random.default_rng(3)
    people = (
        (ENROLLED, _Bust.cut("eileen_collins.jpg", (178, 65, 92, 112), hair=0.95)),
        ("Grace Hopper", _Bust.cut("grace_hopper.jpg", (177, 123, 178, 224), hair=0.7)),
    )
    crowd = []
    for i in range(14):
        face = (33, 39, 47, 56, 70, 88, 112)[i // 2]
        name, bust = people[i % 2]
        crowd.append(_Walker(
            name, bust.sized(face), face, (STEP + (0.618 * i % 1) * (WIDTH - 2 * STEP), 60 + 3.5 * (face - 33)),
            pace=(1 if i % 4 < 2 else -1) * random.uniform(0.15, 0.4),
            enters=0.0 if i % 3 else float(random.uniform(1, 6)), leaves=SECONDS if i % 5 else SECONDS - 6,
        ))  # fmt: skip
    return crowd


def compose(path: Path) -> None:
    """Write the crowd as a video: two portraits in many sizes, moving, overlapping, coming and going."""
    crowd = walkers()
    down = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    wall = np.array([150, 160, 168], np.float32) - down * np.array([66, 68, 68], np.float32)
    wall = wall + np.random.default_rng(4).normal(0, 3, (HEIGHT, WIDTH, 1)).astype(np.float32)
    with VideoWriter(path) as video:
        for n in tqdm(range(SECONDS * FPS), "composing the crowd", unit="frame", disable=None, leave=False):
            canvas = wall.copy()
            for walker in crowd:
                if (middle := walker.middle(n / FPS)) is not None:
                    walker.bust.paste(canvas, *middle)
            video.write(np.clip(canvas, 0, 255).astype(np.uint8), n / FPS)


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

    def __init__(self, mqtt: Mqtt, source: str) -> None:
        self.counts: Counter[str] = Counter()
        self.seen = threading.Event()
        """To be set when there was a picture."""
        self.lost: Callable[[], object] = lambda: None
        """Called when the camera is offline and there never was one."""
        self._states: dict[str, str] = {}
        self._kept: set[str] = set()  # topics of what a broker keeps
        self._source = source
        self._gone = threading.Event()
        self._topic = f"{mqtt.prefix}/demo/#"
        self._place = f"{mqtt.host}:{mqtt.port}"
        self._answer: ReasonCode | None = None
        self._answered = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        if mqtt.username is not None or mqtt.password is not None:
            secret = mqtt.password.get_secret_value() if mqtt.password is not None else None
            self._client.username_pw_set(mqtt.username or "demo", secret)
        self._client.on_connect = self._greet
        self._client.on_message = self._hear
        try:
            self._client.connect(mqtt.host, mqtt.port)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OwnerError(f"There is no broker at {self._place}: {reason}.") from error

    def __enter__(self) -> _Listener:
        self._client.loop_start()
        self._answered.wait(PATIENCE)
        if self._answer is not None and not self._answer.is_failure:
            return self
        self.__exit__()
        if self._answer is None:
            raise OwnerError(f"{self._place} takes the connection and says nothing: is that an MQTT port?")
        raise OwnerError(f"The broker at {self._place} refuses us ({self._answer}): give USER:PASSWORD@HOST:PORT, "
                         f"or the password in {PASSWORD_VARIABLE} and USER@HOST:PORT.")

    def __exit__(self, *_: object) -> None:
        # Or whoever comes later would hear of the demo's crowd as of one that is there.
        for taken_back in [self._client.publish(topic, b"", qos=1, retain=True) for topic in self._kept]:
            with suppress(RuntimeError, ValueError):  # it is not connected any more
                taken_back.wait_for_publish(1)
        self._client.disconnect()
        self._client.loop_stop()

    def _greet(self, client: Client, _data: object, _flags: object, code: ReasonCode, _properties: object) -> None:
        self._answer = code
        if not code.is_failure:
            client.subscribe(self._topic, qos=1)
        self._answered.set()

    def wait_for_goodbye(self) -> None:
        """Until the daemon said offline, which is the last that it says."""
        self._gone.wait(3)

    def _hear(self, _client: Client, _userdata: object, received: MQTTMessage) -> None:
        if not received.payload:
            return
        event = json.loads(received.payload)
        kind, data = event["type"].removeprefix("onelook."), event["data"]
        self.counts[kind] += 1
        if kind in ("status", "crowd", "mood"):
            self._kept.add(received.topic)
        place = received.topic.split("/")[2]
        if kind == "status":
            told, self._states[place] = self._states.get(place), data["state"]
            # What is retained tells of an earlier demo.
            if data["state"] == "offline" and not received.retain:
                if place == "status":
                    self._gone.set()
                elif data.get("reason") not in (None, "starting") and not self.seen.is_set():
                    self.lost()
            if told == data["state"]:
                return
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
        parts = [f"{data['gender']} ({data['gender_confidence']:.0%})"] if data.get("gender") else []
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
        seen = [track for track in tracks if track.row is not None and track.state == "confirmed"]
        told = sum(len(self._captions.lines(track.id)) for track in seen)
        # Who is half hidden is seen badly, and hides the words under another.
        hidden = sum(_touch(one.box, other.box) for one, other in combinations(seen, 2))
        if self.picture is None or told - 2 * hidden > self._most:
            self._most = told - 2 * hidden
            zoom = max(1, round(1280 / frame.image.shape[1]))  # words need room
            self.picture = drawn(frame.image, tracks, self._captions, zoom)


def _touch(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool((np.maximum(one[:2], other[:2]) < np.minimum(one[2:], other[2:])).all())


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

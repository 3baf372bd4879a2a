"""Fuzz: mutated inputs of every kind that an owner or a stranger can hand in. No crash, no hang, no traceback.

    PYTHONPATH=daemon:tests python tests/proofs/fuzz.py [KIND...] [--count 10000]

Each kind runs in a child process that reports the seed of what it is about to try; a child that dies or stands still is
told with that seed, and the next goes on. Refusals must be OwnerErrors (CaptureError and PictureError are). What the
network's runtime does with a network that is damaged is not ours to mend: that a damaged one never reaches it, because
its sha256 is checked first, is what is tried; and that one with a right sum ends in a sentence or in the child alone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import json
import multiprocessing
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import numpy as np
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from prometheus_client import CollectorRegistry

from broker import Broker
from clip import EILEEN, write_mp4
from daemon_process import DEVICE, PASSWORD, Daemon, write_config
from onelook import config, spec
from onelook.errors import OwnerError
from onelook.gallery import Gallery
from onelook.metrics import Metrics
from onelook.model import FaceModel, shipped
from onelook.outbox import Outbox
from onelook.picture import read_picture
from onelook.source import shots

Try: TypeAlias = Callable[[bytes], None]
ROOT = Path(__file__).resolve().parents[2]
HANGS, STARTS = 20.0, 180.0
"""Seconds that one input, and a child's start, may take on a busy machine."""
PATIENT = {"command": 120.0}
"""A ping may wait behind sixteen people with ten photographs each."""
EXPENSIVE = {"video": 20, "network": 50}
"""Kinds of which fewer are tried, and by how much."""


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, cut, doubled, moved or replaced by what breaks parsers."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at, size = chance.randrange(len(data)), chance.choice((1, 2, 4, 16, 64, len(data) // 3 + 1))
        match chance.randrange(7):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at : at + size] = chance.randbytes(min(size, 64))
            case 4:
                data[at:at] = chance.choice(BREAKERS)
            case 5:
                data[at : at + 4] = chance.choice((b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"))
            case _:
                del data[at:]
    return bytes(data)


BREAKERS = (
    b"\0", b"\n", b"'", b'"', b"{", b"[", b"&a [*a, *a]", b"!!python/object:os.system", b": ", b"- ", b"\xff\xfe",
    "\u202e".encode(), b"9" * 400, b"-1", b"1e999", b"nan", b"null", b"%s%n", b"../../",
    b"A" * 5000, b"\r\n\r\n", b"[" * 999,
)


# --- the kinds: a seed, and what is done with a mutation of it -----------------------------------------


def of_config(folder: Path, _house: ExitStack) -> tuple[list[bytes], Try]:
    file = folder / "config.yaml"

    def attempt(data: bytes) -> None:
        file.write_bytes(data)
        config.load(file)

    short = b"streams: [{name: door, url: 'rtsp://me:${HOME}@cam:554/live?x=1', fps: 5.0}]\nmqtt: {tls: {}}\n"
    return [(ROOT / "config.yaml").read_bytes(), short], attempt


def of_http(_folder: Path, house: ExitStack) -> tuple[list[bytes], Try]:
    metrics = Metrics(CollectorRegistry(), ["door"])
    url = house.enter_context(metrics.serve("127.0.0.1", 0, healthy=lambda: True, ready=lambda: True))
    port = int(url.rstrip("/").rpartition(":")[2])

    def ask(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                return client.recv(65536)
            except ConnectionError:
                return b""

    sys.stderr = said = io.StringIO()  # where the server's threads complain

    def attempt(data: bytes) -> None:
        ask(data)
        complaint, _ = said.getvalue(), said.truncate(said.seek(0))
        assert "Traceback" not in complaint, complaint[-900:]
        if chance.random() < 0.02:  # and it still answers
            assert ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200"), "the page is gone"
            assert threading.active_count() < 200, "threads stay"

    chance = random.Random(0)  # noqa: S311
    head = b"Host: a\r\nAccept: text/plain;version=0.0.4\r\nContent-Length: 5\r\nAccept-Encoding: gzip\r\n\r\nhello"
    return [b"GET /metrics?name[]=up HTTP/1.1\r\n" + head, b"POST /healthz HTTP/1.1\r\n" + head,
            b"HEAD /readyz HTTP/1.0\r\n\r\n"], attempt


def of_picture(folder: Path, _house: ExitStack) -> tuple[list[bytes], Try]:
    from PIL import Image  # noqa: PLC0415

    small = Image.open(EILEEN).resize((48, 48))
    seeds = []
    for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"):
        stored = io.BytesIO()
        small.save(stored, kind)
        seeds.append(stored.getvalue())
    file = folder / "picture.jpg"

    def attempt(data: bytes) -> None:
        file.write_bytes(data)
        read_picture(file)

    return seeds, attempt


def of_video(folder: Path, _house: ExitStack) -> tuple[list[bytes], Try]:
    film = write_mp4(folder / "seed.mp4").read_bytes()
    file = folder / "film.mp4"

    def attempt(data: bytes) -> None:
        file.write_bytes(data)
        stop = threading.Event()
        for number, shot in enumerate(
            shots(str(file), open_timeout=5, read_timeout=5, fps=None, loop=False, stop=stop)
        ):
            shot.look()
            if number == 10:
                stop.set()

    return [film], attempt


def of_spec(folder: Path, _house: ExitStack) -> tuple[list[bytes], Try]:
    shutil.copytree(shipped(), folder / "model")
    file = folder / "model" / "model.json"

    def attempt(data: bytes) -> None:
        file.write_bytes(data)
        spec.load(folder / "model")

    return [file.read_bytes()], attempt


def of_network(folder: Path, _house: ExitStack) -> tuple[list[bytes], Try]:
    """First as damage is met in the world, then as one who can also write the sum into model.json would do it."""
    shutil.copytree(shipped(), folder / "model")
    network, description = folder / "model" / "model.tflite", folder / "model" / "model.json"
    seed, told = network.read_bytes(), json.loads(description.read_text())
    plain = description.read_text()

    def attempt(data: bytes) -> None:
        network.write_bytes(data)
        if data != seed:
            description.write_text(plain)
            try:
                spec.load(folder / "model")
            except OwnerError as error:
                assert "damaged" in str(error), error  # noqa: PT017 - no test of pytest's
            else:
                raise AssertionError("a damaged network was taken")
        description.write_text(json.dumps(told | {"sha256": hashlib.sha256(data).hexdigest()}))
        FaceModel(folder / "model", threads=1, size=(160, 128))(np.zeros((96, 96, 3), np.uint8))

    return [seed], attempt


def of_gallery(folder: Path, _house: ExitStack) -> tuple[list[bytes], Try]:
    file, key = folder / "gallery.db", folder / "gallery.key"
    with Gallery.open(file, key, "ab" * 32) as gallery:
        for name in ("Ada", "Grace"):
            gallery.add(name, np.eye(256, dtype=np.float32)[len(name)], 0.9, "a.jpg")
    seed = file.read_bytes()

    def attempt(data: bytes) -> None:
        for left in folder.glob("gallery.db*"):
            left.unlink()
        file.write_bytes(data)
        file.chmod(0o600)
        with Gallery.open(file, key, "ab" * 32) as gallery:
            gallery.match(np.eye(256, dtype=np.float32)[:2])
            gallery.people()

    return [seed], attempt


def of_outbox(folder: Path, _house: ExitStack) -> tuple[list[bytes], Try]:
    file = folder / "outbox.db"
    with Outbox(file):
        pass
    seed = file.read_bytes()

    def attempt(data: bytes) -> None:
        for left in folder.glob("outbox.db*"):
            left.unlink()
        file.write_bytes(data)
        with Outbox(file) as outbox:
            len(outbox)

    return [seed], attempt


def of_command(folder: Path, house: ExitStack) -> tuple[list[bytes], Try]:
    """To a real daemon, by a real broker; it has to answer a ping ever and again."""
    asker = ("asker", "letmeask")
    broker = house.enter_context(Broker(folder / "broker", users={DEVICE: PASSWORD, asker[0]: asker[1]}))
    names = ["ping", "snapshot", "pause", "resume", "enroll", "forget", "unknown", "name"]
    mqtt = {"port": broker.port, "outbox": "outbox.db", "username": DEVICE, "password_file": "password",
            "commands": names}
    film = {"name": "door", "url": str(write_mp4(folder / "film.mp4")), "loop": True, "fps": 5.0}
    daemon = house.enter_context(Daemon(write_config(folder, film, broker=broker, mqtt=mqtt)))
    daemon.wait(lambda: daemon.value("onelook_mqtt_connected") == 1, "the connection", 60)

    answered = threading.Semaphore(0)
    client = Client(CallbackAPIVersion.VERSION2, client_id="fuzz", protocol=MQTTv5)
    client.username_pw_set(*asker)
    client.on_message = lambda _client, _data, _message: answered.release()
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    client.subscribe("pong", 1)

    def ask(name: str, payload: bytes, reply: str) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic, properties.CorrelationData = reply, payload[:9]
        with contextlib.suppress(ValueError):  # a topic that paho will not send
            client.publish(f"onelook/{DEVICE}/command/{name}", payload, 1, properties=properties).wait_for_publish(10)

    count = 0

    def attempt(data: bytes) -> None:
        nonlocal count
        chance = random.Random(data)  # noqa: S311 - repeatable on purpose
        places = (f"onelook/{DEVICE}/reply/fuzz", "elsewhere", f"onelook/{DEVICE}/status", "$SYS/a", "a" * 999)
        ask(chance.choice([*names, "nonsense", "ping/deeper", "\u202e"]), data, chance.choice(places))
        count += 1
        if count % 100 == 0:
            for _ in range(20):  # too many may wait at the moment; then it says so, which is an answer too
                ask("ping", b"{}", "pong")
                if answered.acquire(timeout=5):
                    break
            else:
                raise AssertionError("no answer to a ping")
            assert daemon.process.poll() is None, daemon.log
            assert "Traceback" not in daemon.log, daemon.log[-2000:]

    photo = base64.b64encode(EILEEN.read_bytes()).decode()
    seeds = [{}, {"stream": "door"}, {"stream": None}, {"name": "Ada"},
             {"name": "Ada", "photos": [photo], "consent": "yes"}]
    return [json.dumps(seed).encode() for seed in seeds], attempt


KINDS: dict[str, Callable[[Path, ExitStack], tuple[list[bytes], Try]]] = {
    "config": of_config, "http": of_http, "picture": of_picture, "video": of_video, "spec": of_spec,
    "network": of_network, "gallery": of_gallery, "outbox": of_outbox, "command": of_command,
}


# --- children ----------------------------------------------------------------------------------------


BEFORE = -1
"""Where a child stands before its first input."""


def child(kind: str, start: int, end: int, at: object, told: object) -> None:
    """Try the seeds from start to end; `at` says which, `told` counts taken, refused and failed."""
    import logging  # noqa: PLC0415
    import traceback  # noqa: PLC0415

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="onelook-fuzz-") as name, ExitStack() as house:
        seeds, attempt = KINDS[kind](Path(name), house)
        for number in range(start, end):
            at.value = number  # type: ignore[attr-defined]
            chance = random.Random(f"{kind} {number}")  # noqa: S311 - repeatable on purpose
            try:
                attempt(mutated(chance.choice(seeds), chance))
                told[0] += 1  # type: ignore[index]
            except OwnerError as error:
                told[1] += 1  # type: ignore[index]
                text = str(error)
                if not text or "Traceback" in text:
                    told[2] += 1  # type: ignore[index]
                    print(f"{kind} {number}: no sentence: {text!r}", flush=True)
            except Exception:  # noqa: BLE001 - every kind of failure is what is looked for
                told[2] += 1  # type: ignore[index]
                print(f"{kind} {number}:\n{traceback.format_exc(limit=-4)}", flush=True)
        at.value = end  # type: ignore[attr-defined]


def fuzz(kind: str, count: int) -> dict[str, int]:
    """Counts of what became of `count` mutations of a kind."""
    context = multiprocessing.get_context("spawn")
    at, told = context.Value("q", 0), context.Array("q", 3)
    died = hung = 0
    start = 0
    while start < count:
        at.value = BEFORE
        process = context.Process(target=child, args=(kind, start, count, at, told), daemon=True)
        process.start()
        last, since = BEFORE, time.monotonic()
        while process.is_alive():
            process.join(0.2)
            if at.value != last:
                last, since = at.value, time.monotonic()
            elif time.monotonic() - since > (STARTS if last == BEFORE else PATIENT.get(kind, HANGS)):
                hung += 1
                print(f"{kind} {at.value}: stands still", flush=True)
                process.kill()
                process.join()
                break
        else:
            if process.exitcode:
                died += 1
                print(f"{kind} {at.value}: the child ended with {process.exitcode}", flush=True)
        start = max(start, at.value) + 1 if at.value < count else count
    return {"tried": count, "taken": told[0], "refused": told[1], "failed": told[2], "died": died, "hung": hung}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    good = True
    for kind in options.kinds or KINDS:
        found = fuzz(kind, max(1, options.count // EXPENSIVE.get(kind, 1)))
        print(json.dumps({"kind": kind} | found), flush=True)
        # The runtime may die of a damaged network whose sum was made right; nothing else may of anything.
        good &= not found["failed"] and not found["hung"] and (kind == "network" or not found["died"])
    sys.exit(not good)


if __name__ == "__main__":
    main()

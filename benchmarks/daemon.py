"""Daemon: the whole thing, RTSP in and MQTT out, with the one pass or a cascade behind the same loop.

    python -m benchmarks.daemon SYSTEM CONFIG FACES THREADS SECONDS BATCHES    # one child: the daemon

The camera is GStreamer's RTSP server, which plays a crowd that sways a little; the broker is mosquitto. The
child is `onelook.service.run` as it ships, but for the network, which is told whom to describe.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from threading import Event as Flag
from typing import Any

import av
import numpy as np
import yaml
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from tqdm import tqdm

from benchmarks.machine import EMULATED
from benchmarks.memory import now
from benchmarks.result import Daemon, ResultError
from benchmarks.scene import scene
from onelook.face import Faces
from onelook.model import Whom
from onelook.picture import Image

SIZE, FPS = (640, 480), 25
FACES = 2 if EMULATED else 20
"""Emulated, a cascade takes minutes for a frame of twenty."""
WARM = 2.0
"""Seconds of every run that do not count: streams open, tracks begin."""
SERVER = Path(__file__).resolve().parent.parent / "tests" / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"
MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
PATIENCE = 30.0
HANGS = 900.0 if EMULATED else 120.0
"""Seconds that a run may take longer than it is to last."""


def run(names: Iterable[str], *, threads: int, streams: Iterable[int], seconds: float,
        batches: dict[str, list[int]]) -> list[Daemon]:
    """Every system with every number of streams; nothing where there is no broker or RTSP server, and says so."""
    if MOSQUITTO is None or not gstreamer():
        print("Without daemon: it needs mosquitto and GStreamer's RTSP server (sh deploy/system-packages.sh).",
              file=sys.stderr)
        return []
    rows = []
    with ExitStack() as house:
        folder = Path(house.enter_context(tempfile.TemporaryDirectory()))
        camera = house.enter_context(camera_of(clip(folder / "crowd.h264")))
        grid = [(name, count) for count in streams for name in names]
        for name, count in tqdm(grid, "daemon", unit="run", disable=None):
            rows.append(one(name, count, camera, folder, threads, seconds, batches.get(name)))
    return rows


def one(name: str, streams: int, camera: str, folder: Path, threads: int, seconds: float,
        batches: list[int] | None) -> Daemon:
    """One run of the daemon. Raises ResultError where it does not end well."""
    with ExitStack() as house:
        port = house.enter_context(broker(folder))
        messages = house.enter_context(subscribed(port))
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({
            "device": "bench", "streams": [{"name": f"s{i}", "url": camera} for i in range(streams)],
            "model": {"threads": threads}, "mqtt": {"port": port, "outbox": str(folder / "outbox.db")},
            "gallery": {"path": str(folder / "gallery.db"), "key_file": str(folder / "gallery.key")},
            "metrics": {"port": free_port()},
        }))
        command = [sys.executable, "-m", "benchmarks.daemon", name, str(config), str(FACES), str(threads),
                   str(seconds), json.dumps(batches)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + HANGS, check=False)
        if done.returncode:
            raise ResultError(f"The daemon with {name} failed: {done.stderr.strip()[-800:]}")
        time.sleep(0.3)  # the last messages are on their way
        told = json.loads(done.stdout.splitlines()[-1])
        return Daemon(system=name, streams=streams, messages=len(messages), **told)


def clip(file: Path) -> Path:
    """A crowd that sways, round and round."""
    picture = scene(SIZE, FACES).image
    angles = 2 * np.pi * np.arange(4 * FPS) / (4 * FPS)
    encode((np.roll(picture, (round(2 * np.sin(angle)), round(3 * np.cos(angle))), (0, 1)) for angle in angles),
           file, FPS)
    return file


def encode(pictures: Iterable[Image], file: Path, fps: int) -> None:
    """RGB pictures (480, 640, 3) as a camera sends them: H.264, one slice a picture."""
    with av.open(str(file), "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=fps, options={
            "preset": "veryfast", "bf": "0", "g": str(fps), "x264-params": "sliced-threads=0:slices=1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def gstreamer() -> bool:
    """Whether the RTSP server can run."""
    program = ("import gi; gi.require_version('GstRtspServer', '1.0')\n"
               "from gi.repository import GstRtspServer, Gst; Gst.init(None)\n"
               "assert all(map(Gst.ElementFactory.find, ('multifilesrc', 'h264parse', 'rtph264pay')))")
    return Path(SYSTEM_PYTHON).exists() and SERVER.exists() and subprocess.run(
        [SYSTEM_PYTHON, "-I", "-c", program], stderr=subprocess.DEVNULL, check=False).returncode == 0


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def listening(command: list[str], port: int) -> Iterator[None]:
    """A server process, from the moment that it listens to the end of the context."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise ResultError(f"{Path(command[0]).name} does not listen.")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def camera_of(file: Path) -> Iterator[str]:
    """An RTSP camera that plays the file; gives its URL."""
    port = free_port()
    with listening([SYSTEM_PYTHON, "-I", str(SERVER), str(port), "--clip", str(file)], port):
        yield f"rtsp://127.0.0.1:{port}/clip"


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """A mosquitto; gives its port."""
    port = free_port()
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    with listening([str(MOSQUITTO), "-c", str(folder / "mosquitto.conf")], port):
        yield port


@contextmanager
def subscribed(port: int) -> Iterator[list[str]]:
    """Topics of all that arrives."""
    topics: list[str] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: topics.append(message.topic)
    client.on_connect = lambda connected, *_: connected.subscribe("onelook/#", qos=1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield topics
    finally:
        client.disconnect()
        client.loop_stop()


# --- the child -----------------------------------------------------------------------------------


class Timed:
    """A system that notes when it is called and how long it takes."""

    def __init__(self, system: Any) -> None:
        self._system, self.spec, self.cohort = system, system.spec, system.cohort
        self.score, self.size = system.score, system.size
        self.began, self.took = 0.0, 0.0

    def __call__(self, image: Image, whom: Whom) -> Faces:
        """As the system does."""
        self.began = time.perf_counter()
        faces = self._system(image, whom)
        self.took = time.perf_counter() - self.began
        return faces


def child(name: str, config: str, faces: int, threads: int, seconds: float, batches: list[int] | None) -> None:
    """Be the daemon for so many seconds, then tell what it was like."""
    from benchmarks.cascade import build  # noqa: PLC0415 - the child alone needs them
    from onelook import service  # noqa: PLC0415
    from onelook.config import load  # noqa: PLC0415

    system = build(name, threads=threads, size=SIZE, batches=batches)
    system.given = scene(SIZE, faces).faces
    system(scene(SIZE, faces).image)
    timed = Timed(system)
    service.FaceModel = lambda *_, **__: timed  # type: ignore[assignment,misc]  # the same daemon, another network
    stop = Flag()
    ages: list[float] = []
    totals: list[float] = []
    inference: list[float] = []
    began: list[float] = []
    cpu: list[float] = []
    indices: dict[str, list[int]] = {}

    def watch(frame: Any, _tracks: object, _events: object) -> None:
        at = time.monotonic()
        if not began:
            began.append(at)
        if at - began[0] < WARM:
            return
        if not cpu:
            cpu.append(time.process_time())
        totals.append(time.perf_counter() - timed.began)
        inference.append(timed.took)
        ages.append(at - frame.time)
        indices.setdefault(frame.stream, []).append(frame.index)
        if at - began[0] >= WARM + seconds and len(ages) > 1:
            stop.set()

    code = service.run(load(config), stop=stop, watch=watch)
    if code or len(ages) < 2:
        raise SystemExit(f"ended with {code} after {len(ages)} frames")
    sent = sum(seen[-1] - seen[0] + 1 for seen in indices.values())
    print(json.dumps({
        "faces": faces, "seconds": round(time.monotonic() - began[0] - WARM, 3), "frames": len(ages),
        "dropped": max(0, sent - len(ages)), "cpu": round(time.process_time() - cpu[0], 4), "pss": now()["Pss"],
        **{key: [round(value, 6) for value in values]
           for key, values in (("ages", ages), ("totals", totals), ("inference", inference))},
    }))


if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), json.loads(sys.argv[6]))

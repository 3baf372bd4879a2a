"""Soak: many frames at full speed, cameras and the broker dying at random throughout; nothing may grow.

    PYTHONPATH=daemon:tests python tests/proofs/soak.py [--frames 200000] [--seed 1] [--csv FILE]

Four streams: two films read as fast as they can be, and two network cameras that are killed, as is the broker, every
few seconds, and started again. Its last line is JSON; exit code 1 where memory has grown by 5 MB or more after the
warm-up (a tenth of the frames), or file descriptors or threads by one. Bounded by --minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av
import cv2
from PIL import Image

from broker import Broker, free_port, wait_until
from clip import pictures
from daemon_process import Daemon, write_config

MEGABYTE = 2**20
MJPEG = Path(__file__).with_name("mjpeg_camera.py")
FEW = 20
"""Samples of which the median is taken at either end."""


class Camera:
    """A network camera that can be killed."""

    def __init__(self, picture: Path) -> None:
        self.port, self._picture = free_port(), picture
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, MJPEG, str(self.port), self._picture, "0.01"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment."""

    seconds: float
    frames: float
    rss: int
    fds: int
    threads: int

    @classmethod
    def of(cls, daemon: Daemon, began: float) -> Sample:
        process = Path("/proc") / str(daemon.process.pid)
        rollup = (process / "smaps_rollup").read_text()
        rss = next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Rss:"))
        fds, threads = len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
        return cls(time.monotonic() - began, frames(daemon), rss, fds, threads)


def frames(daemon: Daemon) -> float:
    return sum(value for (name, _), value in daemon.samples().items() if name == "onelook_frames_total")


def small_film(path: Path) -> Path:
    """The test clip in a quarter of its size, for speed."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for picture in pictures():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(cv2.resize(picture, (160, 120)), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=240)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)  # noqa: S311 - repeatable on purpose
    with ExitStack() as house:
        folder = Path(house.enter_context(tempfile.TemporaryDirectory(prefix="onelook-soak-")))
        broker = house.enter_context(Broker(folder / "broker"))
        film, picture = small_film(folder / "film.mp4"), folder / "picture.jpg"
        Image.fromarray(next(iter(pictures()))).resize((160, 120)).save(picture)
        cameras = [house.enter_context(Camera(picture)) for _ in range(2)]
        streams = [{"name": f"film{i}", "url": str(film), "loop": True, "paced": False} for i in range(2)]
        streams += [
            {"name": f"camera{i}", "url": f"http://127.0.0.1:{camera.port}/", "retry_min": 0.1, "retry_max": 0.5,
             "open_timeout": 2.0, "read_timeout": 2.0} for i, camera in enumerate(cameras)
        ]
        size = {"input_width": 160, "input_height": 128, "threads": 1}
        daemon = house.enter_context(Daemon(write_config(folder, *streams, broker=broker, model=size)))
        wait_until(lambda: all_up(daemon), "all streams and the broker to be up", 60)

        began, samples, deaths = time.monotonic(), [], {"camera": 0, "broker": 0}
        end = began + options.minutes * 60
        while (done := frames(daemon)) < options.frames and time.monotonic() < end:
            for _ in range(chance.randint(1, 3)):
                time.sleep(chance.uniform(0.5, 1.5))
                assert daemon.process.poll() is None, daemon.log
            victim = chance.choice([*cameras, broker])
            victim.stop()
            time.sleep(chance.uniform(0.2, 1.5))
            victim.start()
            deaths["broker" if victim is broker else "camera"] += 1
            wait_until(lambda: all_up(daemon), f"all to be up again\n{daemon.log[-2000:]}", 60)
            samples.append(Sample.of(daemon, began))
        verdict = judged(samples, options.frames)
        if options.csv:
            rows = [f"{s.seconds:.1f},{s.frames:.0f},{s.rss},{s.fds},{s.threads}" for s in samples]
            options.csv.write_text("\n".join(["seconds,frames,rss,fds,threads", *rows]) + "\n")
        stopped = daemon.stop()
        verdict |= {
            "deaths": deaths, "seconds": round(samples[-1].seconds), "stopped_in": round(stopped, 2),
            "exit": daemon.process.returncode, "tracebacks": daemon.log.count("Traceback"),
        }
        good = (
            done >= options.frames and verdict["rss_growth"] < 5 * MEGABYTE and verdict["fd_growth"] <= 0
            and verdict["thread_growth"] <= 0 and daemon.process.returncode == 0 and "Traceback" not in daemon.log
        )
        print(json.dumps(verdict | {"good": good}))
        sys.exit(not good)


def all_up(daemon: Daemon) -> bool:
    samples = daemon.samples()
    ups = [value for (name, _), value in samples.items() if name in ("onelook_stream_up", "onelook_mqtt_connected")]
    return len(ups) == 5 and min(ups) == 1


def judged(samples: list[Sample], wanted: int) -> dict[str, float]:
    """Growth from the first samples after the warm-up to the last; all taken with everything up."""
    warm = [s for s in samples if s.frames >= wanted / 10] or samples
    few = min(FEW, max(1, len(warm) // 4))
    first, last = warm[:few], warm[-few:]

    def growth(name: str, of: Callable[[Iterable[float]], float]) -> float:
        return of(getattr(s, name) for s in last) - of(getattr(s, name) for s in first)

    # Of descriptors and threads the least: a camera that is being opened has some for a moment.
    return {
        "frames": samples[-1].frames, "samples": len(samples), "rss": statistics.median(s.rss for s in last),
        "rss_growth": growth("rss", statistics.median), "fds": last[-1].fds, "fd_growth": growth("fds", min),
        "threads": last[-1].threads, "thread_growth": growth("threads", min),
    }


if __name__ == "__main__":
    main()

"""Reconnect: an RTSP server is killed and started again many times; frames are back each time, and nothing is leaked.

    PYTHONPATH=daemon:tests python tests/proofs/reconnect.py [--times 100]

From the moment the server listens again, frames have to be back within the longest wait between two tries (retry_max)
and 2 s. Its last line is JSON. Needs what the tests' RTSP server needs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from soak import Sample

from broker import wait_until
from clip import write_h264
from daemon_process import Daemon, write_config
from rtsp_camera import camera

RETRY_MAX, ALLOWED = 1.0, 2.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=100)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory(prefix="onelook-reconnect-") as name:
        clip = write_h264(Path(name) / "clip.h264")
        with camera(clip) as lens:
            door = {"name": "door", "url": lens.url, "retry_min": 0.2, "retry_max": RETRY_MAX}
            size = {"input_width": 160, "input_height": 128, "threads": 1}
            with Daemon(write_config(Path(name), door, model=size)) as daemon:
                daemon.wait_until_ready()
                began, back, samples = time.monotonic(), [], []
                for _ in range(times):
                    lens.kill()
                    daemon.wait(lambda: daemon.value("onelook_stream_up", stream="door") == 0, "the loss to be seen")
                    seen = daemon.value("onelook_frames_total", stream="door")
                    lens.start()
                    listens = time.monotonic()
                    wait_until(lambda: daemon.value("onelook_frames_total", stream="door") > seen, "frames", 60)  # noqa: B023
                    back.append(time.monotonic() - listens)
                    samples.append(Sample.of(daemon, began))
                daemon.stop()
                tracebacks = daemon.log.count("Traceback")
    quarter = max(1, times // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    verdict = {
        "times": times, "median_s": round(statistics.median(back), 2), "longest_s": round(max(back), 2),
        "late": sum(seconds > RETRY_MAX + ALLOWED for seconds in back), "allowed_s": RETRY_MAX + ALLOWED,
        "fd_growth": min(s.fds for s in late) - min(s.fds for s in early),
        "thread_growth": min(s.threads for s in late) - min(s.threads for s in early),
        "threads": [s.threads for s in samples][:: max(1, times // 20)],
        "rss_growth": statistics.median(s.rss for s in late) - statistics.median(s.rss for s in early),
        "tracebacks": tracebacks, "exit": daemon.process.returncode,
    }
    good = not (verdict["late"] or verdict["fd_growth"] > 0 or verdict["thread_growth"] > 0 or tracebacks)
    print(json.dumps(verdict | {"good": good}))
    sys.exit(not good)


if __name__ == "__main__":
    main()

"""Memory: what each system takes, in a process of its own.

    python -m benchmarks.memory SYSTEM FACES THREADS BATCHES      # one child, a JSON object on stdout
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from benchmarks import machine
from benchmarks.result import Memory, ResultError

FRAMES = 12
SIZE = (640, 480)


def run(names: Iterable[str], *, threads: int, crowds: Iterable[int], batches: dict[str, list[int]]) -> list[Memory]:
    """Every system with every crowd."""
    rows = []
    grid = [(name, faces) for name in names for faces in crowds]
    for name, faces in tqdm(grid, "memory", unit="process", disable=None):
        command = [sys.executable, "-m", "benchmarks.memory", name, str(faces), str(threads),
                   json.dumps(batches.get(name))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ResultError(f"{name} could not be measured: {done.stderr.strip()[-500:]}")
        rows.append(Memory.model_validate_json(done.stdout.splitlines()[-1]))
    return rows


def now() -> dict[str, int]:
    """Pss, Rss and the highest Rss of this process, in bytes."""
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text() + Path("/proc/self/status").read_text()
    return {key: int(size) * 1024 for key, size in re.findall(r"(?m)^(Pss|Rss|VmHWM):\s+(\d+) kB", text)}


def child(name: str, faces: int, threads: int, batches: list[int] | None) -> Memory:
    """Measure this process while it becomes that system."""
    from benchmarks.cascade import build  # noqa: PLC0415 - what all need is there before the first look
    from benchmarks.scene import scene  # noqa: PLC0415
    from onelook.model import _interpreter  # noqa: PLC0415

    _interpreter()  # loads the TFLite runtime, which all need as well
    shown = scene(SIZE, faces)
    bare = now()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    system = build(name, threads=threads, size=SIZE, batches=batches)
    system.given = shown.faces
    for _ in range(machine.rounds(FRAMES)):
        system(shown.image)
    steady = now()
    return Memory(system=name, faces=faces, bare_pss=bare["Pss"], steady_pss=steady["Pss"], bare_rss=bare["Rss"],
                  steady_rss=steady["Rss"], peak_rss=steady["VmHWM"])


if __name__ == "__main__":
    print(child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])).model_dump_json())

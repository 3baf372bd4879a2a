"""What a frame takes, from pixels to events, where everybody is described in each, and where a crowd takes turns.

    python -m benchmarks.turns        # some minutes; writes results/turns.json and the table in benchmarks/README.md

A crowd that stays, and sways a little, before the middle of the daemon: network, tracker and reporter, as they are by
default, ten frames a second. `Tracker.asks_for` says whom to describe, to the one pass and to a cascade alike. All run
in turn in one process, and ratios are taken round by round; what comes before all are known by sight does not count.
The last line is JSON.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in the daemon; read when numpy is loaded

import argparse
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from edge_models.training.door import leave

from benchmarks import machine, measure
from benchmarks.cascade import System, build
from benchmarks.result import RESULTS
from benchmarks.scene import scene
from onelook.config import Report, Tracking
from onelook.decode import Found
from onelook.face import Faces, Floats
from onelook.frame import Frame
from onelook.match import Match
from onelook.model import Whom
from onelook.picture import Image
from onelook.pipeline import Pipeline
from onelook.reporter import Reporter
from onelook.track import Tracker

RESULT = RESULTS / "turns.json"
DOCS = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- turns: written by benchmarks/turns.py -->", "<!-- end of turns -->"
SIZE, FPS = (640, 480), 10
KNOWN = 5.0
"""Seconds after which a crowd that stays is known by sight: each frame's share of it is what it will be."""
SYSTEMS = ("onelook", "batched")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Watched:
    """One system before one crowd; to the pipeline it is the network."""

    def __init__(self, system: System, faces: int, describe: int | None) -> None:
        """describe: as of Tracker."""
        self._system, self._shown, self._index = system, scene(SIZE, faces), 0
        self.spec, self.described = system.spec, 0
        report, tracking = Report(), Tracking()
        reporter = Reporter("door", report, self.spec.labels, nobody, partial(self.spec.similarities, report.far))
        tracker = Tracker(confirm=tracking.confirm, lost=tracking.lost, iou=tracking.iou, strong=system.score,
                          describe=describe, smooth=reporter.needs)
        self._pipeline = Pipeline(self, tracker, reporter)  # type: ignore[arg-type]
        for _ in range(round(KNOWN * FPS)):
            self.step()
        self.described = 0

    def step(self) -> None:
        """The next frame, from pixels to events."""
        angle, seconds = 2 * np.pi * self._index / (4 * FPS), self._index / FPS
        across, down = round(3 * np.cos(angle)), round(2 * np.sin(angle))
        given, away = self._shown.faces, np.array([across, down], np.float32)
        self._system.given = Found(given.boxes + np.tile(away, 2), given.scores, given.landmarks + away)
        image = np.roll(self._shown.image, (down, across), (0, 1))
        self._pipeline.step(Frame("door", self._index, image, seconds, BEGAN + timedelta(seconds=seconds)))
        self._index += 1

    def __call__(self, image: Image, whom: Whom) -> Faces:
        """As the system does, counted."""
        faces = self._system(image, whom)
        self.described += int(faces.described.sum())
        return faces


def nobody(embeddings: Floats) -> list[Match]:
    """Nobody is enrolled."""
    return [Match(None, -1.0, inf)] * len(embeddings)


def crowd(systems: dict[str, System], faces: int, budget: float, least: int, apart: machine.Apart) -> dict[str, Any]:
    """All systems before so many faces, either way, for `budget` seconds and at least `least` rounds."""
    in_turn = Tracking().describe
    watched = {(name, turns): Watched(system, faces, in_turn if turns else None)
               for name, system in systems.items() for turns in (False, True)}
    with apart:
        taken = measure.interleaved({f"{name} {turns}": each.step for (name, turns), each in watched.items()},
                                    budget=budget, least=least)
    rows: dict[str, Any] = {}
    for (name, turns), each in watched.items():
        samples, before = taken[f"{name} {turns}"], taken[f"{name} False"]
        rows.setdefault(name, {})["turns" if turns else "all"] = {
            "ms": round(1e3 * measure.median(samples.seconds), 2),
            "p95_ms": round(1e3 * measure.quantile(samples.seconds, 0.95), 2),
            "cpu_ms": round(1e3 * measure.median(samples.cpu), 2),
            "described": round(each.described / (len(samples.seconds) + 1), 1),  # one frame is not timed
            "share": round(measure.ratio(samples.seconds, before.seconds).value, 3),
        }
    return {"faces": faces, "rounds": len(taken["onelook True"].seconds), "systems": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"{result['machine']['processor']}, {result['machine']['cores']} cores, {result['threads']} threads, "
        f"network `{result['model'][:12]}`; {result['describe']} faces described in a frame where nobody is new, or "
        f"near another.", "",
        "| faces | system | all described: ms (CPU) | in turns: ms (CPU) | described in a frame | share of the time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["crowds"]:
        for name, ways in row["systems"].items():
            every, turns = ways["all"], ways["turns"]
            lines.append(f"| {row['faces']} | {name} | {every['ms']:.1f} ({every['cpu_ms']:.1f}) | {turns['ms']:.1f} "
                         f"({turns['cpu_ms']:.1f}) | {turns['described']:.1f} | {100 * turns['share']:.0f} % |")
    return "\n".join(lines)


def filled(text: str, result: dict[str, Any]) -> str:
    """The document with this result's table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(result)}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """One run."""
    ask = argparse.ArgumentParser(prog="python -m benchmarks.turns", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--faces", default="1,20,50,100", help="of each crowd")
    ask.add_argument("--seconds", type=float, default=20.0, help="for each crowd, beside its beginning")
    ask.add_argument("--least", type=int, default=20, help="rounds of each crowd, at least")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--out", type=Path, help="write the result there alone, and leave the docs")
    options = ask.parse_args()
    systems = {name: build(name, threads=options.threads, size=SIZE) for name in SYSTEMS}
    apart = machine.Apart(wanted=True, threads=options.threads)
    with machine.Awake(wanted=True) as awake, machine.Watch(awake) as watch:
        crowds = [crowd(systems, int(faces), options.seconds, options.least, apart)
                  for faces in options.faces.split(",")]
    commit, dirty = machine.commit()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit, "dirty": dirty,
        "model": systems["onelook"].spec.sha256, "threads": options.threads, "describe": Tracking().describe,
        "machine": machine.describe(), "watch": watch.told, "crowds": crowds,
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.out:
        options.out.write_text(text)
    else:
        RESULT.write_text(text)
        DOCS.write_text(filled(DOCS.read_text(), result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    leave(main)

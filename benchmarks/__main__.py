"""Run the benchmarks, write the result file and its page; the last line on stdout is one JSON object.

    python -m benchmarks                         # quick: minutes
    python -m benchmarks --full                  # every size and crowd: an hour
    python -m benchmarks latency memory          # some parts alone
    python -m benchmarks accuracy --data FOLDER  # with packed faces (lfw.npz, faces.npz, fer.npz), see README.md

A long run in pieces, in any order and on any day: give each piece the same --add-to FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from edge_models.training.door import leave
from edge_models.training.graph import macs

from benchmarks import accuracy, daemon, latency, machine, memory, nets, result
from benchmarks.cascade import SHELF, SYSTEMS
from benchmarks.latency import REAL
from onelook import spec
from onelook.errors import OwnerError
from onelook.model import shipped

Row = TypeVar("Row", result.Growth, result.Memory, result.Daemon)
PARTS = ("latency", "growth", "memory", "daemon", "accuracy")
GRIDS: dict[str, dict[str, Any]] = {
    "tiny": {"sizes": [(320, 240)], "crowds": [0, 2], "budget": 0.0, "least": 3, "growth": (1, 2), "memory": [2],
             "streams": [1], "seconds": 2.0, "most": 40},
    "quick": {"sizes": [(640, 480)], "crowds": [0, 1, 5, 20, 100], "budget": 6.0, "least": 10, "growth": (1, 100),
              "memory": [1, 100],
              "streams": [1, 4], "seconds": 8.0, "most": 1000},
    "full": {"sizes": [(640, 480), (320, 240), (1280, 720)], "crowds": [0, 1, 2, 5, 10, 20, 50, 100, 200],
             "budget": 8.0, "least": 15, "growth": (1, 100), "memory": [1, 20, 100, 200],
             "streams": [1, 2, 3, 4], "seconds": 8.0, "most": 10**9},
}
"""Name -> sizes and crowds of latency with seconds and least rounds for each cell, crowds of growth and memory,
streams and seconds of the daemon, and the most faces of a kind that accuracy looks at."""


def frames(text: str) -> list[tuple[int, int]]:
    """Width and height of each, of WxH,..."""
    sizes = [re.fullmatch(r"(\d{2,4})x(\d{2,4})", size) for size in text.split(",") if size]
    if not all(sizes):
        raise argparse.ArgumentTypeError(f"give sizes such as 640x480,320x240, not {text}")
    return [(int(size[1]), int(size[2])) for size in sizes if size]


def at_least_one(text: str) -> int:
    """A number of threads."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"give a whole number from 1 on, not {text}")
    return int(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    ask = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all that can run")
    ask.add_argument("--full", action="store_true", help="every size and crowd")
    ask.add_argument("--tiny", action="store_true", help="next to nothing, to see that it runs")
    ask.add_argument("--sizes", type=frames, default=[], metavar="WxH,...",
                     help="some sizes of frames alone, for latency")
    ask.add_argument("--systems", default=",".join(SYSTEMS), help="some systems alone, by name")
    ask.add_argument("--threads", type=at_least_one, default=min(2, os.cpu_count() or 1), help="of every runtime")
    ask.add_argument("--data", type=Path, help="folder of packed faces, for accuracy")
    ask.add_argument("--pictures", type=Path, help="folder with voc/: photographs with boxes, for accuracy")
    ask.add_argument("--host", default=machine.neutral_name(), help="folder name of the results: no real host name")
    ask.add_argument("--out", type=Path, default=result.RESULTS, help="where results go")
    ask.add_argument("--kinds", default=",".join(accuracy.KINDS), help="some kinds of accuracy alone")
    ask.add_argument("--add-to", type=Path, metavar="FILE", help="measure some parts, sizes, systems or kinds anew in "
                     "a result, or begin it; it bears the date and the commit of its last piece")
    ask.add_argument("--let-sleep", action="store_true", help="on a virtual machine, let idle cores halt and "
                     "threads go where they may: see machine.Awake and machine.Apart")
    return ask.parse_args()


def blank(options: argparse.Namespace, grid: result.Grid) -> result.Result:
    """A result without figures: who competes, and on what."""
    commit, dirty = machine.commit()
    return result.Result(
        date=datetime.now(UTC).isoformat(timespec="seconds"), host=options.host, commit=commit, dirty=dirty,
        model=spec.load(shipped())[0].sha256, threads=options.threads, grid=grid, machine=machine.describe(),
        systems={},
    )


def measured(run: result.Result, part: str, names: list[str], options: argparse.Namespace, chosen: dict[str, Any]
             ) -> None:
    """One part, into `run`."""
    batches = {name: system.batches for name, system in run.systems.items() if system.batches}
    apart = machine.Apart(wanted=not options.let_sleep, threads=run.threads)

    def kept(rows: list[Row]) -> list[Row]:
        """What was measured before of systems that are not measured anew."""
        return [row for row in rows if row.system not in names]

    match part:
        case "latency":
            run.peak = latency.peak(run.threads)
            counted, network = macs((shipped() / "model.tflite").read_bytes()), spec.load(shipped())[0]
            run.macs = {"frame": counted["frame"] * 1e6, "face": counted["faces"] * 1e6 / network.faces_at_once}
            sizes = options.sizes or chosen["sizes"]
            cells, batches = latency.run(names, threads=run.threads, sizes=sizes, crowds=chosen["crowds"],
                                         budget=chosen["budget"], least=chosen["least"], batches=batches,
                                         apart=apart)
            run.latency = [cell for cell in run.latency if (cell.width, cell.height) not in sizes] + cells
            for name, tuned in batches.items():
                run.systems[name].batches = tuned
        case "growth":
            run.growth = kept(run.growth) + latency.growth(names, threads=run.threads, budget=chosen["budget"],
                                                           least=chosen["least"], crowds=chosen["growth"],
                                                           batches=batches, apart=apart)
        case "memory":
            run.memory = kept(run.memory) + memory.run(names, threads=run.threads, crowds=chosen["memory"],
                                                       batches=batches)
        case "daemon":
            run.daemon = kept(run.daemon) + daemon.run(names, threads=run.threads, streams=chosen["streams"],
                                                       seconds=chosen["seconds"], batches=batches)
        case "accuracy":
            rows = accuracy.run([name for name in names if name in REAL], options.data, threads=run.threads,
                                most=chosen["most"], pictures=options.pictures, kinds=options.kinds.split(","))
            anew = {(row.system, row.key) for row in rows}
            run.accuracy = [row for row in run.accuracy if (row.system, row.key) not in anew] + rows


def joined(before: dict[str, float | bool | None] | None, now: dict[str, float | bool | None]
           ) -> dict[str, float | bool | None]:
    """What disturbed a part that was measured in pieces: the worst of it."""
    if before is None:
        return now
    return {"seconds": round(float(before["seconds"] or 0) + float(now["seconds"] or 0), 1),
            "others_share": max(float(before["others_share"] or 0), float(now["others_share"] or 0)),
            "throttled": max((told for told in (before["throttled"], now["throttled"]) if told is not None),
                             default=None)}


def main() -> int:
    """One run."""
    options = arguments()
    names = [name for name in options.systems.split(",") if name]
    for wrong, kind, there in ((set(options.parts) - set(PARTS), "part", PARTS),
                               (set(names) - set(SYSTEMS), "system", SYSTEMS),
                               (set(options.kinds.split(",")) - set(accuracy.KINDS), "kind", accuracy.KINDS)):
        if wrong:
            raise OwnerError(f"There is no {kind} named {', '.join(sorted(wrong))}; there are {', '.join(there)}.")
    accuracy.there(options.data, options.pictures)  # or it would be told after an hour
    absent: dict[str, str] = {}
    if "shelf" in names and (lacking := nets.missing(SHELF)):
        absent["shelf"] = f"{', '.join(lacking)} not fetched: run python -m benchmarks.nets"
        names.remove("shelf")
        print(f"Without shelf: {absent['shelf']}.", file=sys.stderr)
    if not names:
        raise OwnerError("There is no system left to measure: name some in --systems.")
    grid: result.Grid = "tiny" if options.tiny else "full" if options.full else "quick"
    more = options.add_to is not None and options.add_to.exists()
    run = result.load(options.add_to) if more else blank(options, grid)
    run.date, run.commit, run.dirty = (getattr(blank(options, grid), name) for name in ("date", "commit", "dirty"))
    for name in names:
        run.systems.setdefault(name, result.System(what=SYSTEMS[name], weights="real" if name in REAL else "random",
                                                   batches=None))
    run.absent = {name: why for name, why in (run.absent | absent).items() if name not in run.systems}
    network = spec.load(shipped())[0].sha256
    if run.model != network:
        print("This network is another one: what was measured of the former is left out.", file=sys.stderr)
        result.forget(run, network)
    file = options.add_to or result.place(run, options.out)
    with machine.Awake(wanted=not options.let_sleep) as awake:
        for part in options.parts or PARTS:
            if part == "accuracy" and options.data is None:
                print("Without accuracy: it needs --data.", file=sys.stderr)
                continue
            with machine.Watch(awake) as watch:
                chosen = GRIDS[grid] | ({"budget": 0.0, "least": 1} if machine.EMULATED else {})
                measured(run, part, names, options, chosen)
            run.watch[part] = joined(run.watch.get(part) if more else None, watch.told)
            run.grids[part] = grid
            result.save(run, file)  # what is measured is kept, whatever becomes of the rest
    if any(told.get("throttled") for told in run.watch.values()):
        print("The machine was throttled meanwhile: cool it and run again.", file=sys.stderr)
    with suppress(ModuleNotFoundError):  # matplotlib draws what is measured without it
        from benchmarks import report  # noqa: PLC0415

        for written in report.write(run, file.with_suffix("")):
            print(written, file=sys.stderr)
    print(json.dumps({"result": str(file), "grids": run.grids, "host": run.host, "threads": run.threads,
                      "absent": run.absent, "watch": run.watch, "targets": result.targets(run)}))
    return 0


if __name__ == "__main__":
    leave(main)

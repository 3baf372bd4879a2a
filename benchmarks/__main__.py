"""Run the benchmarks, write the result file; the last line on stdout is one JSON object.

    python -m benchmarks                         # quick: minutes
    python -m benchmarks --full                  # every size and crowd: an hour
    python -m benchmarks latency memory          # some parts alone
    python -m benchmarks accuracy --data FOLDER  # with packed faces (lfw.npz, faces.npz, fer.npz), see README.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks import accuracy, daemon, latency, machine, memory, nets, result
from benchmarks.cascade import SHELF, SYSTEMS
from benchmarks.latency import REAL
from onelook import spec
from onelook.errors import OwnerError
from onelook.model import shipped

PARTS = ("latency", "memory", "daemon", "accuracy")
GRIDS: dict[str, dict[str, Any]] = {
    "tiny": {"sizes": [(320, 240)], "crowds": [0, 2], "budget": 0.0, "memory": [2], "streams": [1], "seconds": 2.0,
             "most": 40},
    "quick": {"sizes": [(640, 480)], "crowds": [0, 1, 5, 20, 100], "budget": 6.0, "memory": [1, 100],
              "streams": [1, 4], "seconds": 8.0, "most": 400},
    "full": {"sizes": [(640, 480), (320, 240), (1280, 720)], "crowds": [0, 1, 2, 5, 10, 20, 50, 100, 200],
             "budget": 25.0, "memory": [1, 20, 100, 200], "streams": [1, 2, 3, 4], "seconds": 20.0, "most": 10**9},
}
"""Name -> sizes and crowds of latency with seconds for each cell, crowds of memory, streams and seconds of the
daemon, and the most faces of a kind that accuracy looks at."""


def arguments() -> argparse.Namespace:
    """The command line."""
    ask = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all that can run")
    ask.add_argument("--full", action="store_true", help="every size and crowd")
    ask.add_argument("--tiny", action="store_true", help="next to nothing, to see that it runs")
    ask.add_argument("--systems", default=",".join(SYSTEMS), help="some systems alone, by name")
    ask.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of every runtime")
    ask.add_argument("--data", type=Path, help="folder of packed faces, for accuracy")
    ask.add_argument("--host", default=machine.neutral_name(), help="folder name of the results: no real host name")
    ask.add_argument("--out", type=Path, default=result.RESULTS, help="where results go")
    ask.add_argument("--add-to", type=Path, metavar="FILE", help="measure some parts anew in a result that is there")
    return ask.parse_args()


def main() -> int:
    """One run."""
    options = arguments()
    if unknown := set(options.parts) - set(PARTS):
        raise OwnerError(f"There is no part named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    grid: Literal["tiny", "quick", "full"] = "tiny" if options.tiny else "full" if options.full else "quick"
    chosen = GRIDS[grid]
    parts = options.parts or list(PARTS)
    absent: dict[str, str] = {}
    names = [name for name in options.systems.split(",") if name]
    if "shelf" in names and (lacking := nets.missing(SHELF)):
        absent["shelf"] = f"{', '.join(lacking)} not fetched: run python -m benchmarks.nets"
        names.remove("shelf")
    network = spec.load(shipped())[0]
    commit, dirty = machine.commit()
    if options.add_to:
        run = result.load(options.add_to)
    else:
        run = result.Result(
            date=datetime.now(UTC).isoformat(timespec="seconds"), host=options.host, commit=commit, dirty=dirty,
            model=network.sha256, threads=options.threads, grid=grid, machine=machine.describe(),
            systems={name: result.System(what=SYSTEMS[name], weights="real" if name in REAL else "random",
                                         batches=None) for name in names},
            absent=absent,
        )
    for system, why in absent.items():
        print(f"Without {system}: {why}.", file=sys.stderr)
    batches = {name: s.batches for name, s in run.systems.items() if s.batches}
    for part in parts:
        with machine.Watch() as watch:
            if part == "latency":
                run.latency, batches = latency.run(names, threads=run.threads, sizes=chosen["sizes"],
                                                   crowds=chosen["crowds"], budget=chosen["budget"], batches=batches)
                for name, sizes in batches.items():
                    run.systems[name].batches = sizes
            elif part == "memory":
                run.memory = memory.run(names, threads=run.threads, crowds=chosen["memory"], batches=batches)
            elif part == "daemon":
                run.daemon = daemon.run(names, threads=run.threads, streams=chosen["streams"],
                                        seconds=chosen["seconds"], batches=batches)
            elif options.data is None:
                print("Without accuracy: no --data.", file=sys.stderr)
                continue
            else:
                run.accuracy = accuracy.run([n for n in names if n in REAL], options.data, threads=run.threads,
                                            most=chosen["most"])
                run.model = network.sha256
        run.watch[part] = watch.told
    if any(told.get("throttled") for told in run.watch.values()):
        print("The machine was throttled meanwhile: cool it and run again.", file=sys.stderr)
    if options.add_to:
        options.add_to.write_text(run.model_dump_json() + "\n")
        file = options.add_to
    else:
        file = result.save(run, options.out)
    print(json.dumps({"result": str(file), "grid": run.grid, "host": run.host, "threads": run.threads,
                      "absent": run.absent, "watch": run.watch, "targets": result.targets(run)}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OwnerError as error:
        print(error, file=sys.stderr)
        sys.exit(78)

"""How long a gallery of so many people takes to open, and to be asked about a frame's faces.

    PYTHONPATH=daemon:. python tests/proofs/search.py [--people 1000 10000 100000] [--faces 100]

Made-up templates, one a person, through the gallery as the daemon uses it. Prints one line of JSON for each size.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onelook.gallery import Gallery

MODEL = "a1" * 32


def measure(people: int, faces: int, folder: Path) -> dict[str, float]:
    """Seconds to enrol and to open, milliseconds to match (least and median of 15), and MiB of the process."""
    chance = np.random.default_rng(people)
    paths = folder / f"{people}.db", folder / f"{people}.key"
    began = time.perf_counter()
    with Gallery.open(*paths, MODEL) as gallery, gallery.transaction():
        for number in range(people):
            gallery.add(f"person {number}", chance.standard_normal(256), 0.9, "photo.jpg")
    enrolled = time.perf_counter()
    with Gallery.open(*paths, MODEL) as gallery:
        opened = time.perf_counter()
        asked = chance.standard_normal((faces, 256)).astype(np.float32)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
        gallery.match(asked)
        times = []
        for _ in range(15):
            before = time.perf_counter()
            gallery.match(asked)
            times.append(1000 * (time.perf_counter() - before))
    return {
        "people": people,
        "faces": faces,
        "enrol_s": round(enrolled - began, 2),
        "open_s": round(opened - enrolled, 2),
        "match_ms_least": round(min(times), 2),
        "match_ms_median": round(float(np.median(times)), 2),
        "process_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """Measures each size."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--people", type=int, nargs="+", default=[1000, 10_000, 100_000])
    ask.add_argument("--faces", type=int, default=100)
    options = ask.parse_args()
    with TemporaryDirectory() as folder:
        for people in options.people:
            sys.stdout.write(json.dumps(measure(people, options.faces, Path(folder))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

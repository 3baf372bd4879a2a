"""How long it takes to find a frame's faces among 100,000 people, and how often the decision is that of comparing all.

    python -m benchmarks.search --data FOLDER            # writes results/search.json and the table in the docs
    python -m benchmarks.search --people 100000 --faces 100 --looks FILE.npz

FOLDER holds packed faces (faces.npz and, where there are, fairface.npz, rafdb.npz and lfw.npz). Templates are those
of their real faces by the shipped network, as photos are enrolled, one to three a person; where that is not as many
as asked for, the rest lie between two real ones each, drawn at random (`made`), which crowds the space more than people
do.
To the door come other photos of the enrolled, at 80 px, and people who are not enrolled.

Exact (numpy compares all) and what the daemon does are timed in turns, in one run, each on one thread. A decision is
that of the reporter on one look: a name, uncertain, or unknown. Those that matter are where the true nearest person is
above the bar, or less than the least lead of two names below it; all others are `unknown` whoever is found.
The last line is JSON.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as in the daemon; read when numpy is loaded

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, describe, photographed
from tqdm import tqdm

from benchmarks import machine
from benchmarks.result import RESULTS
from onelook.cohort import Cohort
from onelook.errors import OwnerError
from onelook.face import Floats
from onelook.gallery import Gallery
from onelook.model import FaceModel, shipped
from onelook.nearest import CANDIDATES, READ, Nearest
from onelook.reporter import NARROW, TWINS
from onelook.spec import ModelSpec, load

RESULT = RESULTS / "search.json"
DOCS = Path(__file__).resolve().parent.parent / "docs" / "identity.md"
BEGIN, END = "<!-- search: written by benchmarks/search.py -->", "<!-- end of search -->"
TARGET = 5.0
"""Milliseconds for 100 faces among 100,000 people."""
TEMPLATES, PROBES = 3, 5


def unit(vectors: Floats) -> Floats:
    """Vectors (N, D) made unit length."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def real_looks(data: Path, threads: int) -> dict[str, np.ndarray]:
    """Of packed faces: a template (P, D) of each person, probes (N, D), and whose they are; -1: not enrolled."""
    model, packed = FaceModel(threads=threads), Packed(data / "faces.npz")
    everybody = np.arange(len(packed.table["landmarks"]))
    photos, seen = photographed(model, packed, everybody, "photos")
    door, found = describe(model, packed, everybody, 80, "door")
    identity, usable = packed.table["identity"], seen & found
    templates, probes, whose = [], [], []
    for name in np.unique(identity[usable & (identity != "")]):
        mine = np.flatnonzero(usable & (identity == name))
        count = min(TEMPLATES, max(len(mine) - 1, 1))
        probes += list(door.embeddings[mine[count : count + PROBES]])
        whose += [len(templates)] * len(mine[count : count + PROBES])
        templates.append(photos.embeddings[mine[:count]].mean(0))
    alone = np.random.default_rng(0).permutation(np.flatnonzero(usable & (identity == "")))
    strangers = len(alone) // 4
    probes += list(door.embeddings[alone[:strangers]])
    whose += [-1] * strangers
    templates += list(photos.embeddings[alone[strangers:]])
    for name in ("fairface", "rafdb", "lfw"):
        if (file := data / f"{name}.npz").exists():
            others = Packed(file)
            faces, seen = photographed(model, others, np.arange(len(others.table["landmarks"])), name)
            templates += list(faces.embeddings[seen])
    return {"templates": unit(np.array(templates)), "probes": unit(np.array(probes)), "whose": np.array(whose),
            "model": np.array(model.spec.stamp)}


def filled(templates: Floats, people: int) -> Floats:
    """As many templates as asked for: real ones first, the rest between two of them each."""
    random, short = np.random.default_rng(0), people - len(templates)
    if short <= 0:
        return templates[:people]
    one, other = random.integers(len(templates), size=(2, short))
    share = random.uniform(0.25, 0.75, (short, 1))
    return np.concatenate([templates, unit(share * templates[one] + (1 - share) * templates[other])])


def decided(found: tuple[np.ndarray, Floats, Floats], bar: float) -> np.ndarray:
    """As `Reporter` judges one look: row of the person, -2: uncertain, -1: unknown."""
    rows, similarity, margin = found
    verdict = np.where(similarity < bar, -1, -2)
    sure = (similarity >= bar + NARROW) & (margin >= TWINS)
    verdict[sure] = rows[sure]
    return verdict


def agreement(
    exact: Nearest, daemon: Nearest, templates: Floats, probes: Floats, spec: ModelSpec, cohort: Cohort
) -> list[dict[str, float]]:
    """How often the decision is the same, at the daemon's bar for so many people, and at lower ones."""
    common = cohort.commonness(templates)
    truth, told = (
        (rows, cosine - (cohort.commonness(probes) + common[rows]) / 2, margin)
        for rows, cosine, margin in (side.find(probes.copy()) for side in (exact, daemon))
    )
    size = np.array([80], np.float32)
    bars = {"the daemon's": float(spec.similarities(1e-3, size, len(exact))[0])}
    bars |= {f"false accept rate {far:g}": float(spec.similarities(far, size)[0]) for far in (1e-4, 1e-3)}
    rows = []
    for name, bar in bars.items():
        same = decided(truth, bar) == decided(told, bar)
        matter = truth[1] >= bar - TWINS
        rows.append({"bar": name, "similarity": round(bar, 4), "probes": len(probes), "matter": int(matter.sum()),
                     "same_of_matter": round(float(same[matter].mean()), 5), "same": round(float(same.mean()), 5)})
    return rows


def timed(
    sides: dict[str, Callable[[Floats], object]], probes: Floats, faces: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of each side for a frame, in turns: wall and CPU time of the process."""
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    random = np.random.default_rng(1)
    for _ in range(rounds):
        frame = probes[random.integers(len(probes), size=faces)]
        for name, find in sides.items():
            began, spent = time.perf_counter(), time.process_time()
            find(frame)
            wall[name].append(1e3 * (time.perf_counter() - began))
            cpu[name].append(1e3 * (time.process_time() - spent))
    return {
        name: {
            "wall_ms_median": round(float(np.median(wall[name])), 2), "wall_ms_least": round(min(wall[name]), 2),
            "wall_ms_p95": round(float(np.quantile(wall[name], 0.95)), 2),
            "cpu_ms_median": round(float(np.median(cpu[name])), 2),
        } for name in sides
    }


def measure(looks: dict[str, np.ndarray], *, people: int, faces: int, rounds: int) -> dict[str, Any]:
    """All of it, once."""
    spec, _ = load(shipped())
    cohort = Cohort.read(shipped(), spec)
    templates, probes = filled(looks["templates"], people), looks["probes"]
    names = [f"person {number}" for number in range(people)]
    exact, daemon = Nearest(many=sys.maxsize), Nearest()
    for side in (exact, daemon):
        side.put(dict(zip(names, templates, strict=True)))
    began = time.process_time()
    daemon.find(probes[:1])
    learnt = time.process_time() - began
    with TemporaryDirectory() as folder:
        paths = Path(folder, "gallery.db"), Path(folder, "gallery.key")
        with Gallery.open(*paths, spec.sha256, cohort) as gallery:
            with gallery.transaction():
                for name, template in tqdm(zip(names, templates, strict=True), "enrol", people, disable=None):
                    gallery.add(name, template, 0.9, "photo.jpg")
            gallery.match(probes[:1])
            began = time.process_time()
            gallery.add("somebody new", probes[0], 0.9, "photo.jpg")
            gallery.match(probes[:1])
            change = time.process_time() - began
            gallery.forget("somebody new")
            sides = {"exact": exact.find, "daemon": daemon.find, "gallery": gallery.match}
            with machine.Watch() as watch:
                times = timed(sides, probes, faces, rounds)
    commit, dirty = machine.commit()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit, "dirty": dirty,
        "model": spec.sha256, "machine": machine.describe(), "watch": watch.told,
        "people": people, "real": min(len(looks["templates"]), people),
        "made": max(people - len(looks["templates"]), 0),
        "faces": faces, "rounds": rounds, "candidates": CANDIDATES, "read": READ,
        "learn_cpu_s": round(learnt, 2), "one_more_person_cpu_ms": round(1e3 * change, 1),
        "times": times, "target_ms": TARGET,
        "times_faster": round(times["exact"]["wall_ms_median"] / times["daemon"]["wall_ms_median"], 1),
        "decisions": agreement(exact, daemon, templates, probes, spec, cohort),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    kinds = {
        "exact": "all compared, numpy", "daemon": "the daemon's search", "gallery": "… with names, `Gallery.match`",
    }
    lines = [
        f"{result['faces']} faces among {result['people']:,} people ({result['real']:,} real templates, "
        f"{result['made']:,} between two real ones), {result['machine']['processor']}, {result['machine']['cores']} "
        f"cores, one thread, network `{result['model'][:12]}`; asked: {result['target_ms']:g} ms.", "",
        "| ms | wall, median | least | p95 | CPU, median |", "| --- | --- | --- | --- | --- |",
        *(f"| {kinds[name]} | {row['wall_ms_median']:.1f} | {row['wall_ms_least']:.1f} | {row['wall_ms_p95']:.1f} | "
          f"{row['cpu_ms_median']:.1f} |" for name, row in result["times"].items()), "",
        "| bar | similarity | decisions that matter | the same as by comparing all |", "| --- | --- | --- | --- |",
        *(f"| {row['bar']} | {row['similarity']:.3f} | {row['matter']} of {row['probes']} | "
          f"{100 * row['same_of_matter']:.2f} % |" for row in result["decisions"]),
    ]
    return "\n".join(lines)


def fill(result: dict[str, Any], docs: Path = DOCS) -> str:
    """The docs' text with this result's table."""
    text = docs.read_text()
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(result)}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """One run."""
    ask = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, help="folder of packed faces")
    ask.add_argument("--looks", type=Path, help="keep what the network says of them here, and use it the next time")
    ask.add_argument("--people", type=int, default=100_000)
    ask.add_argument("--faces", type=int, default=100)
    ask.add_argument("--rounds", type=int, default=60)
    ask.add_argument("--threads", type=int, default=1, help="of the network")
    ask.add_argument("--out", type=Path, help="write the result there alone, and leave the docs")
    options = ask.parse_args()
    looks = None
    if options.looks and options.looks.exists():
        looks = dict(np.load(options.looks))
        if str(looks["model"]) != load(shipped())[0].stamp:
            looks = None
    if looks is None:
        if options.data is None:
            raise OwnerError("--data FOLDER is needed, or --looks FILE.npz of the shipped network.")
        looks = real_looks(options.data, options.threads)
        if options.looks:
            np.savez(options.looks, **looks)
    result = measure(looks, people=options.people, faces=options.faces, rounds=options.rounds)
    text = json.dumps(result, indent=1) + "\n"
    if options.out:
        options.out.write_text(text)
    else:
        RESULT.write_text(text)
        DOCS.write_text(fill(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    leave(main)

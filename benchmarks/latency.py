"""Latency: what a frame takes in each system, by its size and its number of faces."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import numpy as np
from tqdm import tqdm

from benchmarks import machine, measure, standin
from benchmarks.cascade import System, TfliteNet, build
from benchmarks.result import Cell, Growth, Own, Timing
from benchmarks.scene import DifferentFacesError, require_same, scene

REAL = ("onelook", "shelf")
"""Systems that find faces."""


def timing(samples: measure.Samples) -> Timing:
    """For the result file; a tenth of a microsecond is plenty."""
    return Timing(seconds=[round(s, 7) for s in samples.seconds], cpu=[round(s, 7) for s in samples.cpu],
                  joules=samples.joules)


class Stages:
    """How long each stage of the one pass takes: to be given to it as its `stage`."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Around one stage."""
        began = time.perf_counter()
        yield
        self.seconds.setdefault(name, []).append(round(time.perf_counter() - began, 7))


def cell(systems: dict[str, System], stages: Stages, size: tuple[int, int], faces: int, budget: float,
         least: int, apart: AbstractContextManager[None]) -> Cell:
    """All systems on one scene, for `budget` seconds and at least `least` rounds, within `apart`.

    Raises DifferentFacesError where one describes other faces than it was given.
    """
    shown = scene(size, faces)
    for system in systems.values():
        system.given = shown.faces
    require_same({name: system(shown.image) for name, system in systems.items()}, shown.faces)
    stages.seconds.clear()
    with apart:
        taken = measure.interleaved(
            {name: lambda system=system: system(shown.image) for name, system in systems.items()},
            budget=budget, least=least)
    found = Cell(width=size[0], height=size[1], faces=faces, hertz=machine.hertz(),
                 samples={name: timing(samples) for name, samples in taken.items()}, stages=dict(stages.seconds))
    # And as they would by themselves: what each real detector misses or makes up is told, not averaged in.
    for name in REAL:
        if name not in systems:
            continue
        systems[name].given = None
        alone = systems[name](shown.image)
        try:
            require_same({name: alone}, shown.faces)
            refused = None
        except DifferentFacesError as error:
            refused = str(error)
        samples = measure.interleaved({name: lambda name=name: systems[name](shown.image)}, budget=0,
                                       least=machine.rounds(3))
        found.own[name] = Own(found=len(alone), refused=refused, timing=timing(samples[name]))
    return found


def growth(names: Iterable[str], *, threads: int, budget: float, batches: dict[str, list[int]],
           apart: AbstractContextManager[None], least: int = 5, crowds: tuple[int, int] = (1, 100)) -> list[Growth]:
    """A small crowd and a large one in turn, each system by itself: the ratio that cells measured apart cannot give."""
    scenes = {str(faces): scene((640, 480), faces) for faces in crowds}
    rows = []
    for name in tqdm(list(names), "growth", unit="system", disable=None):
        system = build(name, threads=threads, size=(640, 480), batches=batches.get(name))

        def look(faces: str, system: System = system) -> None:
            system.given = scenes[faces].faces
            system(scenes[faces].image)

        for faces in scenes:
            look(faces)
        with apart:
            taken = measure.interleaved({faces: partial(look, faces) for faces in scenes}, budget=budget, least=least,
                                        most=150)
        few, many = (timing(taken[str(faces)]) for faces in crowds)
        rows.append(Growth(system=name, faces=crowds, few=few, many=many))
    return rows


def peak(threads: int) -> float:
    """Multiply-accumulates a second of the fastest int8 layer on this machine: the best of forty calls."""
    content, macs = standin.peak()
    net = TfliteNet(content, threads)
    picture = np.zeros((1, 24, 24, 256), np.int8)
    best = min(seconds for seconds in measure.interleaved({"peak": lambda: net(picture)}, budget=0, least=40)
               ["peak"].seconds)
    return macs / best


def run(names: Iterable[str], *, threads: int, sizes: Iterable[tuple[int, int]], crowds: Iterable[int], budget: float,
        apart: AbstractContextManager[None], least: int = 5, batches: dict[str, list[int]] | None = None,
        ) -> tuple[list[Cell], dict[str, list[int]]]:
    """Every cell of the grid, and the batch sizes that were found best. apart: what each cell is measured within."""
    grid = [(size, faces) for size in sizes for faces in crowds]
    cells, tuned, stages = [], dict(batches or {}), Stages()
    systems: dict[str, System] = {}
    built: tuple[int, int] | None = None
    for size, faces in tqdm(grid, "latency", unit="cell", disable=None):
        if size != built:
            systems = {name: build(name, threads=threads, size=size, batches=tuned.get(name),
                                   **({"stage": stages} if name == "onelook" else {})) for name in names}
            tuned |= {name: system.batches for name, system in systems.items() if hasattr(system, "batches")}
            built = size
        cells.append(cell(systems, stages, size, faces, budget, least, apart))
    return cells, tuned

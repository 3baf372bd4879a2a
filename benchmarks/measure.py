"""Measure: clocks and statistics. Everything is compared within one run, round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks import machine


@dataclass
class Samples:
    """What every call of one system took; call i of every system belongs to the same round."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of all threads, user and system."""
    joules: float | None = None
    """Of the package over all calls, where RAPL may be read."""


def interleaved(calls: dict[str, Callable[[], object]], *, budget: float, least: int = 5, most: int = 60,
                forwards: bool = False) -> dict[str, Samples]:
    """Call every system in turn, A B C, then C B A, until the budget of seconds is used.

    What disturbs the machine for a while so hits all alike. At least `least` rounds, at most `most`.
    forwards: always A B C.
    """
    taken = {name: Samples() for name in calls}
    for call in calls.values():
        call()
    names, began = list(calls), time.perf_counter()
    while len(taken[names[0]].seconds) < most:
        rounds = len(taken[names[0]].seconds)
        if rounds >= least and time.perf_counter() - began > budget:
            break
        for name in names if forwards or rounds % 2 == 0 else names[::-1]:
            energy = machine.joules()
            cpu, wall = time.process_time(), time.perf_counter()
            calls[name]()
            seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            used = machine.joules()
            taken[name].seconds.append(seconds)
            taken[name].cpu.append(cpu_seconds)
            if energy is not None and used is not None:
                taken[name].joules = (taken[name].joules or 0.0) + used - energy
    return taken


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: a value that was really measured (Hyndman and Fan 1996, definition 1)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle; the mean of both middle ones where the count is even."""
    return float(np.median(values))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of ratios taken round by round, its 95 % bootstrap interval, and where 90 % of the rounds lie."""

    value: float
    low: float
    high: float
    spread_low: float
    spread_high: float


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """`ours` over `theirs`, pair by pair. The interval: percentile bootstrap of the median (Efron), 1,000 draws."""
    pairs = np.asarray(ours, np.float64) / np.asarray(theirs, np.float64)
    random = np.random.default_rng(1)
    draws = np.median(pairs[random.integers(len(pairs), size=(1000, len(pairs)))], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Ratio(float(np.median(pairs)), float(low), float(high), quantile(pairs.tolist(), 0.05),
                 quantile(pairs.tolist(), 0.95))


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least squares: slope and intercept."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)

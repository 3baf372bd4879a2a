"""Draws deploy/dashboard.json from what a Prometheus has: its own panels and queries in their own places.

For docs/dashboard.png, where Grafana itself is not at hand; the values are Prometheus's. Used by watched.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Ranged = Callable[[str], list[dict[str, Any]]]
"""A query's answer over the time shown: for each series its labels and its [time, value] pairs."""
UNITS = {"s": "s", "hertz": "1/s", "bytes": "MB", "celsius": "°C", "none": ""}
COLUMN, ROW = 0.75, 0.42
"""Inches for one of Grafana's 24 columns, and for a row."""


def draw(dashboard: Mapping[str, Any], fill: Callable[[str], str], ask: Ranged, file: Path) -> None:
    """Each panel at its place. fill: puts values for the dashboard's variables into a title or query."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(24 * COLUMN, rows * ROW), facecolor="#f4f5f5")
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] / 24, 1 - at["y"] / rows
        if panel["type"] == "row":
            figure.text(left + 0.008, top - 0.6 / rows, fill(panel["title"]), weight="bold", fontsize=12, va="center")
            continue
        bottom, width, height = top - at["h"] / rows, at["w"] / 24, at["h"] / rows
        axes = figure.add_axes((left + 0.035, bottom + 1.0 / rows, width - 0.05, height - 2.4 / rows))
        axes.set_title(fill(panel["title"]), loc="left", fontsize=10, weight="bold")
        series = [(_legend(target.get("legendFormat", ""), found["metric"]), np.array(found["values"], float))
                  for target in panel["targets"] for found in ask(fill(target["expr"]))]
        _PAINT[panel["type"]](axes, series, panel["fieldConfig"]["defaults"].get("unit", "none"))
    FigureCanvasAgg(figure).print_png(file)


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), form)


Series = list[tuple[str, "np.ndarray[Any, Any]"]]


def _lines(axes: Axes, series: Series, unit: str) -> None:
    for name, values in series:
        scaled = values[:, 1] / (1e6 if unit == "bytes" else 1)
        axes.plot(values[:, 0] - values[-1, 0], scaled, linewidth=1.2, label=name)
    axes.tick_params(labelsize=7)
    axes.set_ylabel(UNITS.get(unit, unit), fontsize=7)
    axes.grid(alpha=0.3)
    if series:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.legend(fontsize=6, loc="upper left", ncols=1 + len(series) // 6, framealpha=0.7)
    else:
        axes.text(0.5, 0.5, "this machine does not tell", ha="center", transform=axes.transAxes, color="grey")


def _numbers(axes: Axes, series: Series, _unit: str) -> None:
    axes.set_axis_off()
    for place, (name, values) in enumerate(series):
        good = values[-1, 1] > 0
        axes.text((place + 0.5) / len(series), 0.5, f"{name}\n{'up' if good else 'down'}", ha="center", va="center",
                  fontsize=13, color="white", transform=axes.transAxes,
                  bbox={"boxstyle": "round,pad=0.6", "color": "#299c46" if good else "#d44a3a"})


def _heat(axes: Axes, series: Series, _unit: str) -> None:
    """Prometheus's buckets are cumulative: what is drawn is each less the one below."""
    bounded = sorted((float(name), dict(values.tolist())) for name, values in series if name != "+Inf")
    if not bounded:
        return
    times = sorted({when for _, values in bounded for when in values})
    sums = np.array([[values.get(when, 0) for when in times] for _, values in bounded])
    counts = np.diff(sums, axis=0, prepend=0).clip(min=0)
    axes.pcolormesh(np.array(times) - times[-1], np.arange(len(bounded)), counts, cmap="Oranges", shading="nearest")
    axes.set_yticks(np.arange(len(bounded)), [f"{bound * 1000:g} ms" for bound, _ in bounded], fontsize=6)
    axes.tick_params(axis="x", labelsize=7)


_PAINT: dict[str, Callable[[Axes, Series, str], None]] = {"timeseries": _lines, "stat": _numbers, "heatmap": _heat}

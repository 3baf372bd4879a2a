"""Report: a result file as one self-contained HTML page, and its plots as PNGs.

    python -m benchmarks.report [RESULT.json]      # default: the newest, of whatever grid; written beside it
"""

from __future__ import annotations

import argparse
import base64
import html
import io
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from edge_models.training.door import leave

from benchmarks import measure, tables
from benchmarks.result import Result, load, newest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USUAL = (640, 480)
COLOURS = {"onelook": "#d1495b", "plain": "#30638e", "batched": "#00798c", "recognise": "#9aa5b1",
           "lightest": "#7a5c99", "shelf": "#edae49"}


def main() -> int:
    """Write the page and the pictures."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("file", type=Path, nargs="?", metavar="RESULT.json")
    file = ask.parse_args().file or newest(whole=False)
    for written in write(load(file), file.with_suffix("")):
        print(written)
    return 0


def write(result: Result, stem: Path) -> list[Path]:
    """STEM.html and STEM-NAME.png for each plot that there are figures for."""
    written, pictures = [], {}
    for name, figure in plots(result).items():
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=110, metadata={"Software": None})
        plt.close(figure)
        pictures[name] = raw.getvalue()
        file = stem.with_name(f"{stem.name}-{name}.png")
        file.write_bytes(pictures[name])
        written.append(file)
    page = stem.with_suffix(".html")
    page.write_text(html_page(result, pictures))
    return [page, *written]


def _against_faces(result: Result, what: str, label: str, unit: float, size: tuple[int, int]) -> Figure | None:
    """Median time against the number of faces, linear and logarithmic."""
    cells = [cell for cell in result.latency if (cell.width, cell.height) == size]
    if len(cells) < 2:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name in result.systems:
        x = [cell.faces for cell in cells if name in cell.samples]
        y = [measure.median(getattr(cell.samples[name], what)) * unit for cell in cells if name in cell.samples]
        for axis in axes:
            axis.plot(x, y, marker="o", markersize=3.5, label=name, color=COLOURS.get(name))
    axes[1].set_yscale("log")
    crowds = [cell.faces for cell in cells]
    axes[1].set_xscale("symlog", linthresh=1)
    axes[1].set_xlim(0, max(crowds) * 1.2)
    axes[1].set_xticks(crowds, [str(faces) for faces in crowds])
    axes[1].minorticks_off()
    for axis in axes:
        axis.set_xlabel(f"faces in a {size[0]}x{size[1]} frame")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    return figure


def time(result: Result, size: tuple[int, int] = USUAL) -> Figure | None:
    """Wall time against faces."""
    return _against_faces(result, "seconds", "milliseconds a frame, median", 1e3, size)


def cpu(result: Result, size: tuple[int, int] = USUAL) -> Figure | None:
    """CPU time against faces."""
    return _against_faces(result, "cpu", "CPU milliseconds a frame, all threads, median", 1e3, size)


def memory(result: Result) -> Figure | None:
    """Memory over the bare process against faces: steady and peak."""
    if not result.memory:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for name in result.systems:
        rows = sorted((row for row in result.memory if row.system == name), key=lambda row: row.faces)
        x = [row.faces for row in rows]
        axis.plot(x, [row.steady / 2**20 for row in rows], marker="o", markersize=3.5, label=name,
                  color=COLOURS.get(name))
        axis.plot(x, [row.peak / 2**20 for row in rows], linestyle=":", color=COLOURS.get(name))
    axis.set_xlabel("faces in a 640x480 frame")
    axis.set_ylabel("MiB over the bare process: steady PSS (line), peak RSS (dots)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def stages(result: Result) -> Figure | None:
    """Where the one pass spends its time."""
    cells = [cell for cell in result.latency if (cell.width, cell.height) == (640, 480) and cell.stages]
    if not cells:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    x, low = range(len(cells)), [0.0] * len(cells)
    for name, colour in (("preprocess", "#edae49"), ("frame", "#d1495b"), ("decode", "#66a182"), ("faces", "#30638e")):
        height = [measure.median(cell.stages[name]) * 1e3 if name in cell.stages else 0.0 for cell in cells]
        axis.bar(x, height, bottom=low, label=name, color=colour)
        low = [a + b for a, b in zip(low, height, strict=True)]
    axis.set_xticks(list(x), [str(cell.faces) for cell in cells])
    axis.set_xlabel("faces in a 640x480 frame")
    axis.set_ylabel("milliseconds of each stage of the one pass, median")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def accuracy(result: Result) -> Figure | None:
    """What is right against what it takes: LFW at each size of face, over the time of a frame with 20 faces."""
    cell = result.cell(20)
    rows = [row for row in result.accuracy if row.key.startswith("lfw.accuracy.")]
    if cell is None or not rows:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    labels: dict[str, tuple[float, dict[str, float]]] = {}
    for name in dict.fromkeys(row.system for row in rows):
        if name not in cell.samples:
            continue
        x = measure.median(cell.samples[name].seconds) * 1e3
        mine = sorted((row for row in rows if row.system == name), key=lambda row: -int(row.key.rsplit(".", 1)[1]))
        axis.errorbar([x] * len(mine), [row.value * 100 for row in mine],
                      yerr=[[100 * (row.value - row.low) for row in mine],
                            [100 * (row.high - row.value) for row in mine]],
                      marker="o", markersize=4, label=name, color=COLOURS.get(name), linewidth=0.8, capsize=2)
        labels[name] = (x, {f"{row.key.rsplit('.', 1)[1]} px": row.value * 100 for row in mine})
    axis.set_xscale("log")
    axis.margins(x=0.25, y=0.1)
    low, high = axis.get_ylim()
    for name, (x, values) in labels.items():
        for (label, value), y in zip(values.items(), apart(list(values.values()), (high - low) / 24), strict=True):
            axis.annotate(label, (x, value), xytext=(x * 1.12, y), fontsize=8, va="center", color=COLOURS.get(name),
                          arrowprops={"arrowstyle": "-", "lw": 0.5, "color": COLOURS.get(name), "shrinkA": 0})
    axis.set_xlabel("milliseconds for a 640x480 frame with 20 faces, median")
    axis.set_ylabel("LFW, pairs told rightly, %")
    axis.grid(alpha=0.3, which="both")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def apart(values: list[float], least: float) -> list[float]:
    """The values, moved so little that no two are nearer to each other than `least`; in the order given.

    From the largest down, each as near to its own as those above leave room for; then all shifted back to the middle.
    """
    order = sorted(range(len(values)), key=lambda i: -values[i])
    moved = list(values)
    for above, i in pairwise(order):
        moved[i] = min(values[i], moved[above] - least)
    shift = sum(value - at for value, at in zip(values, moved, strict=True)) / len(values)
    return [at + shift for at in moved]


def sizes(result: Result) -> list[tuple[int, int]]:
    """Sizes of frames that were measured, the usual one first."""
    return sorted({(cell.width, cell.height) for cell in result.latency}, key=lambda size: (size != USUAL, size))


def plots(result: Result) -> dict[str, Figure]:
    """Every plot that there are figures for; those of sizes that are not the usual one say which."""
    drawn: dict[str, Figure | None] = {"time": time(result), "cpu": cpu(result)}
    for size in sizes(result):
        if size != USUAL:
            suffix = f"-{size[0]}x{size[1]}"
            drawn |= {f"time{suffix}": time(result, size), f"cpu{suffix}": cpu(result, size)}
    drawn |= {"memory": memory(result), "stages": stages(result), "accuracy": accuracy(result)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


CAPTIONS = {
    "time": "Time of a frame. Left linear, right logarithmic.",
    "cpu": "CPU time of a frame, user and system, all threads.",
    "memory": "Memory of each system in a process of its own, over Python with the same libraries.",
    "stages": "Where the one pass spends its time.",
    "accuracy": "Speed is never quoted without what it costs: only systems with real weights can stand here.",
}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #ddd;padding:.25em .7em;text-align:left}
td:not(:first-child){font-variant-numeric:tabular-nums}img{max-width:100%}.bad{color:#b00020;font-weight:600}
.note{color:#666}"""


def caption(plot: str) -> str:
    """What a plot shows."""
    name, _, size = plot.partition("-")
    return f"{size}: {CAPTIONS[name]}" if size else CAPTIONS[name]


def html_page(result: Result, pictures: dict[str, bytes]) -> str:
    """The page: nothing in it is fetched from anywhere."""
    def table(markdown: str) -> str:
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
        rows = [lines[0], *lines[2:]]
        return "<table>" + "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for row, tag in zip(rows, ["th"] + ["td"] * (len(rows) - 1), strict=True)) + "</table>"

    def facts(values: dict[str, Any]) -> str:
        return "<table>" + "".join(f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(str(value))}</td></tr>"
                                   for key, value in values.items() if value is not None) + "</table>"

    roofline = f"<p>{html.escape(tables.roofline(result))}</p>"
    warnings = "".join(f'<p class="bad">{html.escape(text)}</p>' for text in disturbances(result))
    parts = [f"<h2>{heading}</h2>{table(made)}" for heading, made in (
        ("Targets", tables.targets(result)),
        *((f"{what} {w}x{h} frame", table(result, (w, h))) for w, h in sizes(result) for what, table in (
            ("Time of a", tables.latency), ("Time saved by the one pass on a", tables.saved),
            ("Energy of a", tables.energy))),
        ("Growth", tables.growth(result)), ("Memory", tables.memory(result)),
        ("The whole daemon", tables.daemon(result)), ("Accuracy", tables.accuracy(result))) if made]
    drawn = "".join(
        f'<figure><img alt="{html.escape(caption(name))}" src="data:image/png;base64,'
        f'{base64.b64encode(raw).decode()}">'
        f'<figcaption class="note">{html.escape(caption(name))}</figcaption></figure>'
        for name, raw in pictures.items())
    systems = {name: f"{system.what} ({system.weights} weights, faces at once: {system.batches})"
               for name, system in result.systems.items()}
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>onelook benchmarks</title>'
            f"<style>{STYLE}</style><h1>One pass against cascades</h1>"
            f'<p class="note">{html.escape(result.date)}, commit {html.escape(result.commit[:12])}'
            f'{" with changes" if result.dirty else ""}, {result.threads} threads, '
            f"network {html.escape(result.model[:12])}. {html.escape(grids(result))} "
            f"How it was measured, and what may be wrong with it: benchmarks/README.md.</p>"
            f"{warnings}{''.join(parts)}{roofline}<h2>Plots</h2>{drawn}<h2>Systems</h2>"
            f"{facts(systems)}{facts(result.absent)}<h2>Machine</h2>{facts(result.machine)}</html>\n")


def grids(result: Result) -> str:
    """How large a grid each part was measured on."""
    parts = [part for part in ("latency", "growth", "memory", "daemon", "accuracy") if getattr(result, part)]
    return f"Grids: {', '.join(f'{part} {result.grid_of(part)}' for part in parts)}." if parts else ""


def disturbances(result: Result) -> list[str]:
    """What a reader must know before the figures."""
    told = []
    if result.machine.get("emulated"):
        told.append("Emulated processor: these times say nothing and must not be quoted.")
    for part, watch in result.watch.items():
        if watch.get("throttled"):
            told.append(f"{part}: the processor was throttled meanwhile.")
        share = watch.get("others_share")
        if share is not None and share > 0.05:
            told.append(f"{part}: other programs used {share:.0%} of the machine meanwhile. Ratios were taken round by "
                        "round, so they hold; wall times are longer than on a quiet machine.")
    return told


if __name__ == "__main__":
    leave(main)

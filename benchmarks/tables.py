"""Tables: a result's figures as Markdown, and the README and the model card filled with them.

    python -m benchmarks.tables          # from the newest full result; a test holds that this was done
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_models.training.door import leave

from benchmarks import measure
from benchmarks.result import Result, load, memory_saved, newest, overhead
from benchmarks.result import growth as exact_growth
from benchmarks.result import roofline as exact_roofline
from benchmarks.result import saved as time_saved
from benchmarks.result import targets as all_targets
from onelook.errors import OwnerError

REPOSITORY = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks: written by benchmarks/tables.py -->", "<!-- end of benchmarks -->"
NAMES = {
    "detection.ap50.voc": "Detection, hand-made boxes on 9 VOC pictures, AP50",
    "lfw.accuracy.112": "Same person or not, LFW, faces of 112 px",
    "lfw.accuracy.80": "… 80 px", "lfw.accuracy.48": "… 48 px", "lfw.accuracy.32": "… 32 px",
    "lfw.accuracy.24": "… 24 px",
    "lfw.found.112": "Faces found, LFW, 112 px", "lfw.found.80": "… 80 px", "lfw.found.48": "… 48 px",
    "lfw.found.32": "… 32 px", "lfw.found.24": "… 24 px",
    "celeba40.mean_accuracy": "40 CelebA attributes, mean accuracy",
    "gender.accuracy.utkface": "Gender, UTKFace", "gender.accuracy.celeba": "Gender, CelebA",
    "age.mae": "Age, UTKFace, mean error in years", "ethnicity.accuracy": "Ethnicity (5), UTKFace",
    "emotion.accuracy.fer2013": "Emotion (7), FER2013 PrivateTest",
}


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def targets(result: Result) -> str:
    """What was promised and what was measured."""
    def shown(row: dict[str, Any], which: str) -> str:
        if row[which] is None:
            return "not measured"
        if "growth" in row["target"]:
            return f"{row[which]:.2f}"
        # What rounding would hide is shown.
        near = row["met"] is False and _percent(row["asked"]) == _percent(row["measured"])
        return f"{100 * row[which]:.2f} %" if near else _percent(row[which])

    return _table(["target", "against", "asked", "measured", ""], [
        [row["target"], row["against"], f"{'≥' if row['at_least'] else '≤'} {shown(row, 'asked')}",
         shown(row, "measured"), {True: "met", False: "missed", None: ""}[row["met"]]]
        for row in all_targets(result)])


def latency(result: Result, size: tuple[int, int] = (640, 480)) -> str:
    """Median, p95 and p99 of each system; CPU time; and how it grows."""
    cells = [cell for cell in result.latency if (cell.width, cell.height) == size]
    shown = [cell for cell in cells if cell.faces in (1, 20, 100)]
    if not shown:
        return ""
    rows = []
    for name in result.timed(cells):
        row = [name]
        for cell in shown:
            seconds = cell.samples[name].seconds
            row.append(f"{measure.median(seconds) * 1e3:.1f} ({measure.quantile(seconds, 0.95) * 1e3:.0f}, "
                       f"{measure.quantile(seconds, 0.99) * 1e3:.0f})")
        row += [f"{measure.median(cell.samples[name].cpu) * 1e3:.1f}" for cell in shown]
        slope, _ = measure.line([cell.faces for cell in cells],
                                [measure.median(cell.samples[name].seconds) for cell in cells])
        row.append(f"{slope * 1e3:.3f}")
        if cells[0].faces == 0 and cells[-1].faces:
            alone, crowd = (measure.median(cell.samples[name].seconds) for cell in (cells[0], shown[-1]))
            row.append(_percent(1 - alone / crowd))
        rows.append(row)
    return _table(["ms: median (p95, p99)", *(f"{cell.faces} face{'s' * (cell.faces != 1)}" for cell in shown),
                   *(f"CPU, {cell.faces}" for cell in shown), "each face more",
                   *([f"share of {shown[-1].faces} faces"] if cells[0].faces == 0 else [])], rows)


def growth(result: Result) -> str:
    """How a frame grows with its crowd."""
    rows = []
    for row in result.growth:
        wall, cpu = (exact_growth(result, row.system, what) for what in ("seconds", "cpu"))  # type: ignore[arg-type]
        if wall and cpu:
            rows.append([row.system, *(f"{r.value:.2f} ({r.low:.2f} to {r.high:.2f})" for r in (wall, cpu))])
    return _table(["a frame with 100 faces over one with 1", "time", "CPU"], rows)


def roofline(result: Result) -> str:
    """How far the one pass is from what its arithmetic alone would take."""
    found = {faces: limit for faces in (1, 100) if (limit := exact_roofline(result, faces)) is not None}
    rows = [f"{faces} face{'s' * (faces > 1)} {1e3 * limit:.1f} of {1e3 * whole:.1f} ms"
            for faces, (limit, whole) in found.items()]
    if not rows or not result.peak:
        return ""
    grown = ""
    if len(rows) > 1:
        grown = f" By that alone, a hundred faces take {found[100][0] / found[1][0]:.2f} times as long as one."
    return (f"Roofline: at this machine's int8 peak of {result.peak / 1e9:.0f} G multiply-adds a second, arithmetic "
            f"alone would take: {', '.join(rows)}.{grown}")


def saved(result: Result, size: tuple[int, int] = (640, 480)) -> str:
    """The share of time that the one pass saves against each system, its interval, and where 90 % of the rounds lie."""
    cells = [cell for cell in result.latency if (cell.width, cell.height) == size and cell.faces]
    rows = []
    for name in result.timed(cells) if cells else ():
        if name == "onelook":
            continue
        for what, label in (("seconds", "time"), ("cpu", "CPU")):
            row = [f"{name}, {label}"]
            for cell in cells:
                found = time_saved(cell, what, name)  # type: ignore[arg-type]
                row.append("" if found is None else
                           f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f}; rounds "
                           f"{100 * found.spread_low:.1f} to {100 * found.spread_high:.1f})")
            rows.append(row)
    return _table(["saved against", *(f"{cell.faces} faces" for cell in cells)], rows) if cells else ""


def energy(result: Result, size: tuple[int, int] = (640, 480)) -> str:
    """Gigacycles of each system's frame, which is CPU time by frequency, and joules, where the machine tells."""
    cells = [cell for cell in result.latency if (cell.width, cell.height) == size]
    heads, rows = [], []
    for cell in cells:
        if cell.hertz is not None:
            heads.append(f"{cell.faces} faces, G cycles")
        if any(timing.joules is not None for timing in cell.samples.values()):
            heads.append(f"{cell.faces} faces, J")
    for name in result.timed(cells) if heads else ():
        row = [name]
        for cell in cells:
            timing = cell.samples[name]
            if cell.hertz is not None:
                row.append(f"{measure.median(timing.cpu) * cell.hertz / 1e9:.3f}")
            if any(each.joules is not None for each in cell.samples.values()):
                row.append("" if timing.joules is None else f"{timing.joules / len(timing.seconds):.3f}")
        rows.append(row)
    return _table(["a frame", *heads], rows)


def memory(result: Result) -> str:
    """MiB over the bare process."""
    crowds = sorted({row.faces for row in result.memory})
    rows = []
    for name in result.systems:
        mine = {row.faces: row for row in result.memory if row.system == name}
        if not mine:
            continue
        saving = memory_saved(result, name)
        sizes = [f"{mine[faces].steady / 2**20:.0f} (peak {mine[faces].peak / 2**20:.0f})" if faces in mine else ""
                 for faces in crowds]
        rows.append([name, *sizes,
                     "" if name == "onelook" or saving is None else _percent(saving)])
    return _table(["MiB, steady (peak)", *(f"{faces} faces" for faces in crowds), "onelook saves, 100 faces"], rows)


def daemon(result: Result) -> str:
    """Frame age and work of the whole daemon."""
    rows = []
    for row in sorted(result.daemon, key=lambda row: row.streams):
        ages = sorted(row.ages)
        rows.append([row.system, str(row.streams), f"{row.frames / row.seconds:.1f}",
                     f"{measure.median(ages) * 1e3:.0f}", f"{measure.quantile(ages, 0.99) * 1e3:.0f}",
                     f"{row.cpu / row.frames * 1e3:.1f}", f"{row.pss / 2**20:.0f}", _percent(overhead(row)),
                     str(row.messages)])
    return _table(["system", "streams", "frames seen a second", "age p50, ms", "age p99, ms", "CPU ms a frame",
                   "PSS, MiB", "outside inference", "MQTT messages"], rows)


def accuracy(result: Result) -> str:
    """What each system gets right."""
    systems = list(dict.fromkeys(row.system for row in result.accuracy))
    found = {(row.system, row.key): row for row in result.accuracy}

    def shown(name: str, key: str) -> str:
        row = found.get((name, key))
        if row is None:
            return "does not tell"
        times, unit = (1, "") if key == "age.mae" else (100, " %")
        return f"{row.value * times:.1f}{unit} ({row.low * times:.1f} to {row.high * times:.1f})"

    keys = [key for key in NAMES if any((name, key) in found for name in systems)]
    return _table(["what", "n", *systems], [
        [NAMES[key], f"{max(found[name, key].n for name in systems if (name, key) in found):,}",
         *(shown(name, key) for name in systems)] for key in keys])


def block(result: Result, *, whole: bool = True) -> str:
    """What the model card shows, and, if not `whole`, the README."""
    quiet = [f"others used {share:.0%} of the machine" for part in ("latency",)
             if (share := result.watch.get(part, {}).get("others_share")) is not None and share > 0.05]
    about = (f"{result.machine.get('processor')}, {result.machine.get('cores')} cores, {result.threads} threads, "
             f"ai-edge-litert {result.machine.get('ai-edge-litert')}, {result.date[:10]}, "
             f"commit `{result.commit[:8]}`, network `{result.model[:12]}`{''.join(', ' + text for text in quiet)}")
    parts = [f"Measured on: {about}. Every sample: `benchmarks/results/{result.host}/`."]
    parts += [targets(result), latency(result), *([roofline(result), accuracy(result)] if whole else [])]
    return "\n\n".join(part for part in parts if part)


def filled(text: str, result: Result, *, whole: bool = True) -> str:
    """A document with the block between its marks. Raises OwnerError where it has none."""
    if BEGIN not in text or END not in text:
        raise OwnerError(f"There is no place for the figures: {BEGIN} and {END} are missing.")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:start]}\n{block(result, whole=whole)}\n{text[end:]}"


DOCUMENTS = {"README.md": False, "edge_models/onelook/MODEL_CARD.md": True}
"""Which show our figures, and whether all of them."""


def main() -> int:
    """Fill both."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result = load(newest())
    for name, whole in DOCUMENTS.items():
        file = REPOSITORY / name
        file.write_text(filled(file.read_text(), result, whole=whole))
    return 0


if __name__ == "__main__":
    leave(main)

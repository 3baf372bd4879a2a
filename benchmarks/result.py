"""Result: one file holds all that a run measured, every sample of it; everything shown is computed from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from benchmarks import measure
from onelook.errors import OwnerError

RESULTS = Path(__file__).resolve().parent / "results"


class ResultError(OwnerError):
    """A result file cannot be used."""


Grid = Literal["quick", "full", "tiny"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class System(_Part):
    """One competitor."""

    what: str
    weights: Literal["real", "random"]
    batches: list[int] | None = Field(description="Faces at once, of each network; none: the model's own.")


class Timing(_Part):
    """Every call of one system in one cell."""

    seconds: list[float]
    cpu: list[float]
    joules: float | None = None


class Own(_Part):
    """A system that was left to find the faces itself."""

    found: int
    refused: str | None = Field(description="Why this must not be compared: it saw other faces.")
    timing: Timing


class Cell(_Part):
    """One size of frame with so many faces: every system described the same ones."""

    width: int
    height: int
    faces: int
    hertz: float | None
    samples: dict[str, Timing]
    own: dict[str, Own] = {}
    stages: dict[str, list[float]] = Field(default={}, description="Seconds of each stage of the one pass.")


class Growth(_Part):
    """A frame with few faces and one with many at 640x480, in turn."""

    system: str
    faces: tuple[int, int] = (1, 100)
    few: Timing
    many: Timing


class Memory(_Part):
    """One system in a process of its own; bytes."""

    system: str
    faces: int
    bare_pss: int = Field(description="Python with the libraries that every system needs.")
    steady_pss: int = Field(description="After many frames.")
    bare_rss: int
    steady_rss: int
    peak_rss: int

    @property
    def steady(self) -> int:
        """What the system itself takes."""
        return self.steady_pss - self.bare_pss

    @property
    def peak(self) -> int:
        """The most that it ever took."""
        return self.peak_rss - self.bare_rss


class Daemon(_Part):
    """The whole daemon: RTSP in, MQTT out."""

    system: str
    streams: int
    faces: int
    seconds: float
    frames: int
    dropped: int
    messages: int
    cpu: float
    pss: int
    ages: list[float] = Field(description="Seconds from capture until the events were handed on.")
    totals: list[float] = Field(description="Seconds of the whole turn of the loop, frame by frame.")
    inference: list[float] = Field(description="Seconds within the model, frame by frame.")


class Accuracy(_Part):
    """One figure of one system on the pictures that all were given."""

    system: str
    key: str
    value: float
    low: float
    high: float
    n: int


class Result(_Part):
    """A run."""

    version: Literal[1] = 1
    date: str
    host: str = Field(description="A neutral name of the kind of machine.")
    commit: str
    dirty: bool
    model: str = Field(description="sha256 of the one pass's network.")
    threads: int
    grid: Grid = Field(description="Of the parts that `grids` does not tell of.")
    grids: dict[str, Grid] = Field(default={}, description="Part -> how large a grid it was measured on.")
    machine: dict[str, str | int | float | bool | None]
    peak: float | None = Field(default=None, description="Multiply-accumulates a second of the fastest int8 layer.")
    macs: dict[str, float] = Field(default={}, description="Of the one pass: of a 640x480 frame, and of a face.")
    watch: dict[str, dict[str, float | bool | None]] = Field(
        default={}, description="Part -> its seconds, the share of the machine that others used, throttling.")
    systems: dict[str, System]
    absent: dict[str, str] = Field(default={}, description="System -> why it could not run.")
    latency: list[Cell] = []
    growth: list[Growth] = []
    memory: list[Memory] = []
    daemon: list[Daemon] = []
    accuracy: list[Accuracy] = []

    def grid_of(self, part: str) -> Grid:
        """How large a grid a part was measured on."""
        return self.grids.get(part, self.grid)

    def timed(self, cells: list[Cell]) -> list[str]:
        """The systems that all these cells have: in a run of pieces not each was in each part."""
        return [name for name in self.systems if all(name in cell.samples for cell in cells)]

    def cell(self, faces: int, width: int = 640, height: int = 480) -> Cell | None:
        """The cell of that size and crowd, if it was measured."""
        return next((c for c in self.latency if (c.width, c.height, c.faces) == (width, height, faces)), None)


def place(result: Result, folder: Path = RESULTS) -> Path:
    """Where it belongs: HOST/DATE-SHA.json."""
    return folder / result.host / f"{result.date[:10]}-{result.commit[:8]}.json"


def save(result: Result, file: Path) -> Path:
    """Write it, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(result.model_dump_json() + "\n")
    part.replace(file)
    return file


def forget(result: Result, network: str) -> None:
    """Leave out what depends on the one pass's network, there being another now; what its opponents did by
    themselves stays. Times of systems are only compared within a run, so all of latency goes."""
    result.model, result.latency, result.macs = network, [], {}
    result.growth = [row for row in result.growth if row.system != "onelook"]
    result.memory = [row for row in result.memory if row.system != "onelook"]
    result.daemon = [row for row in result.daemon if row.system != "onelook"]
    result.accuracy = [row for row in result.accuracy if row.system != "onelook"]


def load(file: Path) -> Result:
    """Read one back. Raises ResultError."""
    try:
        return Result.model_validate_json(file.read_text())
    except (OSError, ValueError) as error:
        raise ResultError(f"{file} is not a result of these benchmarks: {error}") from None


def newest(folder: Path = RESULTS, *, whole: bool = True) -> Path:
    """The newest whose latency is of the full grid, or the newest of all. Raises ResultError where there is none.

    whole: look for the full grid first.
    """
    files = sorted(folder.glob("*/*.json"), key=lambda file: load(file).date)
    full = [file for file in files if load(file).grid_of("latency") == "full"]
    if not files:
        raise ResultError(f"There is no result in {folder}: run make bench.")
    return (full if whole and full else files)[-1]


# --- what the project promises -------------------------------------------------------------------


def saved(cell: Cell | None, what: Literal["seconds", "cpu"], against: str) -> measure.Ratio | None:
    """The share of `against`'s time that the one pass saves, as a ratio of 1 minus it: see `measure.ratio`."""
    if cell is None or not {"onelook", against} <= cell.samples.keys():
        return None
    ours, theirs = (getattr(cell.samples[name], what) for name in ("onelook", against))
    r = measure.ratio(ours, theirs)
    return measure.Ratio(1 - r.value, 1 - r.high, 1 - r.low, 1 - r.spread_high, 1 - r.spread_low)


def growth(result: Result, system: str, what: Literal["seconds", "cpu"] = "seconds") -> measure.Ratio | None:
    """Time of a frame with 100 faces over that of one with 1, pair by pair."""
    row = next((row for row in result.growth if (row.system, row.faces) == (system, (1, 100))), None)
    return measure.ratio(getattr(row.many, what), getattr(row.few, what)) if row else None


def memory_saved(result: Result, against: str, faces: int = 100) -> float | None:
    """The share of `against`'s memory, over the bare process, that the one pass saves."""
    rows = {row.system: row for row in result.memory if row.faces == faces}
    if "onelook" not in rows or against not in rows:
        return None
    return 1 - rows["onelook"].steady / rows[against].steady


def roofline(result: Result, faces: int) -> tuple[float, float] | None:
    """Seconds that the one pass's arithmetic would take at the machine's int8 peak, and those that it took."""
    cell = result.cell(faces)
    if cell is None or "onelook" not in cell.samples or not result.peak or not result.macs:
        return None
    return ((result.macs["frame"] + faces * result.macs["face"]) / result.peak,
            measure.median(cell.samples["onelook"].seconds))


def overhead(row: Daemon) -> float:
    """The share of a frame's turn that is not spent in the model."""
    return 1 - sum(row.inference) / sum(row.totals)


def targets(result: Result) -> list[dict[str, Any]]:
    """Every target: what was asked, what was measured, and whether it holds; nothing where it was not measured."""
    rows: list[dict[str, Any]] = []

    def row(name: str, against: str, asked: float, measured: float | None, *, at_least: bool = True) -> None:
        met = None if measured is None else measured >= asked if at_least else measured <= asked
        rows.append({"target": name, "against": against, "asked": asked, "at_least": at_least,
                     "measured": None if measured is None else round(measured, 6), "met": met})

    for faces, plain, batched in ((100, 0.97, 0.95), (20, 0.88, 0.82)):
        for against, asked in (("plain", plain), ("batched", batched)):
            found = saved(result.cell(faces), "seconds", against)
            row(f"inference time saved, {faces} faces", against, asked, found.value if found else None)
    for against, asked in (("plain", 0.97), ("batched", 0.95)):
        found = saved(result.cell(100), "cpu", against)
        row("CPU time saved, 100 faces", against, asked, found.value if found else None)
    for against, asked in (("plain", 0.6), ("batched", 0.7)):
        row("memory saved over the bare process", against, asked, memory_saved(result, against))
    for what, name in (("seconds", "growth"), ("cpu", "growth, CPU")):
        grown = growth(result, "onelook", what)  # type: ignore[arg-type]
        row(f"{name}: frame with 100 faces / with 1", "itself", 1.5, grown.value if grown else None, at_least=False)
    whole = next((d for d in result.daemon if (d.system, d.streams) == ("onelook", 1)), None)
    row("daemon overhead outside inference, 20 faces", "itself", 0.2, overhead(whole) if whole else None,
        at_least=False)
    return rows

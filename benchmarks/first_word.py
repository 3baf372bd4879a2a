"""First word: how long somebody who is new in view stands there before an event says who it is.

    PYTHONPATH=daemon:. python -m benchmarks.first_word --data faces.npz [--seconds 5] [--most 96]
    PYTHONPATH=daemon:. python -m benchmarks.first_word --tables      # docs/identity.md from the kept figures

Held-out people with three photos or more are enrolled from two of them; their other photos come into view, and so
do as many people who are not enrolled. Several stand on one frame of 640x480, at a given size of face; every frame
shows each of them anew: turned, shifted, scaled, blurred, lit and compressed (`openset.Shaken`), and every second
another photo, where there is one. Network, tracker, gallery and reporter are the daemon's, with its defaults.

Counted is from the first face that the detector believes in (`Track.first_seen`) to the first identity event, in
frames and seconds; not the milliseconds that the frame itself takes. Once for each `report.far`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from edge_models.training.calibrate import MISLABELLED
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, photographed
from edge_models.training.openset import Shaken
from numpy.typing import NDArray
from tqdm import tqdm

from onelook.config import Report, Tracking
from onelook.event import Identity
from onelook.frame import Frame
from onelook.gallery import Gallery
from onelook.model import FaceModel, shipped
from onelook.reporter import Reporter
from onelook.track import Tracker

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "first_word.json"
DOCS = HERE.parent / "docs" / "identity.md"
BEGIN, END = "<!-- written by benchmarks/first_word.py -->", "<!-- end -->"
SIZES, FARS, FPS = (112, 80, 48), (1e-2, 1e-3, 1e-4), 10
TEMPLATES = 2
WIDTH, HEIGHT = 640, 480


@dataclass
class Watched:
    """What was told of people of one kind, at one size of face and one false accept rate."""

    people: int = 0
    tracks: int = 0
    first: list[tuple[str, int, float]] = field(default_factory=list)
    """State of the first word, frames and seconds until then."""
    named: list[tuple[bool, int, float]] = field(default_factory=list)
    """Whether the first name is the right one, frames and seconds until then."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who comes into view."""

    name: str | None
    """In the gallery; none: a stranger."""
    photos: tuple[int, ...]
    """Rows of the packed file, none of them enrolled."""


Picture = tuple[NDArray[np.uint8], list[tuple[float, float]]]


def clip(packed: Shaken, visitors: Sequence[Visitor], size: int, seconds: float) -> Iterator[Picture]:
    """Frames with the visitors in their places, and the middles of those places, in pixels."""
    cell = size + 2 * round(size * 16 / 112 * 1.1)
    across = WIDTH // cell
    for index in range(round(seconds * FPS)):
        frame = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
        middles = []
        for place, visitor in enumerate(visitors):
            patch = packed.patch(visitor.photos[index // FPS % len(visitor.photos)])
            side = round(patch.shape[0] * size / 112)
            patch = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
            x, y = place % across * cell + max(cell - side, 0) // 2, place // across * cell + max(cell - side, 0) // 2
            part = patch[: HEIGHT - y, : WIDTH - x]
            frame[y : y + part.shape[0], x : x + part.shape[1]] = part
            middles.append((x + side / 2, y + side / 2))
        yield frame, middles


def watch(model: FaceModel, gallery: Gallery, packed: Shaken, visitors: Sequence[Visitor], size: int, seconds: float,
          found: dict[tuple[str, float], Watched]) -> None:
    """One clip, as the daemon would see it under each rate."""
    defaults = Tracking()
    tracker = Tracker(confirm=defaults.confirm, lost=defaults.lost, iou=defaults.iou, strong=model.score,
                      alike=model.spec.threshold(1e-2), describe=defaults.describe, smooth=())
    reporters = {
        far: Reporter("door", Report(far=far, presence=False, age=False, gender=False, emotion=False, crowd=False),
                      model.spec.labels, gallery.match, partial(model.spec.similarities, far))
        for far in FARS
    }  # fmt: skip
    who: dict[int, int] = {}
    began: dict[int, int] = {}
    told: dict[tuple[float, int], set[str]] = {}
    for index, (image, middles) in enumerate(clip(packed, visitors, size, seconds)):
        time = index / FPS
        faces = model(image, partial(tracker.asks_for, time=time))
        tracks = tracker.update(faces, time)
        first_seen = dict(zip(tracks.ids, tracks.first_seen.tolist(), strict=True))
        for track in tracks:
            if track.id in who:
                continue
            middle = (track.box[:2] + track.box[2:]) / 2
            away = [float(np.hypot(middle[0] - x, middle[1] - y)) for x, y in middles]
            if min(away) < size / 2 and int(np.argmin(away)) not in who.values():
                who[track.id], began[track.id] = int(np.argmin(away)), index
        frame = Frame("door", index, image, time, datetime.fromtimestamp(time, UTC))
        for far, reporter in reporters.items():
            for event in reporter.report(tracks, faces, frame):
                data = event.data
                if not isinstance(data, Identity) or data.track not in who:
                    continue
                visitor = visitors[who[data.track]]
                kept = found.setdefault(("stranger" if visitor.name is None else "enrolled", far), Watched())
                waited = index - began[data.track] + 1, time - first_seen[data.track]
                said = told.setdefault((far, data.track), set())
                if not said:
                    kept.first.append((data.state, *waited))
                if data.state == "known" and "known" not in said:
                    kept.named.append((data.name == visitor.name, *waited))
                said.add(data.state)
    for far in FARS:
        for number, visitor in enumerate(visitors):
            kept = found.setdefault(("stranger" if visitor.name is None else "enrolled", far), Watched())
            kept.people += 1
            kept.tracks += number in who.values()


def spread(waits: Sequence[tuple[Any, int, float]]) -> dict[str, float] | None:
    """Median and 90th percentile, in frames and seconds."""
    if not waits:
        return None
    frames, seconds = [wait[1] for wait in waits], [wait[2] for wait in waits]
    return {
        "frames_p50": float(np.median(frames)), "frames_p90": float(np.percentile(frames, 90)),
        "seconds_p50": round(float(np.median(seconds)), 2), "seconds_p90": round(float(np.percentile(seconds, 90)), 2),
    }  # fmt: skip


def measure(data: Path, seconds: float, most: int, threads: int) -> dict[str, Any]:
    """All sizes and rates; the figures."""
    model, photos, packed = FaceModel(shipped(), threads=threads), Packed(data), Shaken(data, seed=1)
    rows = packed.rows("test")
    identity, teacher = packed.table["identity"][rows], packed.table["teacher"][rows].astype(np.float32)
    visitors: list[Visitor] = []
    enrolled: list[int] = []
    with tempfile.TemporaryDirectory(prefix="onelook-first-word-") as name, Gallery.open(
        Path(name, "gallery.db"), Path(name, "gallery.key"), model.spec.stamp, model.cohort
    ) as gallery:
        names, counts = np.unique(identity[identity != ""], return_counts=True)
        for person in names[counts > TEMPLATES][:most].tolist():
            mine = rows[identity == person]
            faces, seen = photographed(model, photos, mine, person)
            for row in np.flatnonzero(seen)[:TEMPLATES].tolist():
                gallery.add(person, faces.embeddings[row], float(faces.quality[row]), f"{mine[row]}")
            visitors.append(Visitor(person, tuple(mine[TEMPLATES:].tolist())))
            enrolled += np.flatnonzero(identity == person).tolist()
        # Labels name some people twice: whom the teacher takes for an enrolled person is no stranger.
        apart = (teacher @ teacher[enrolled].T).max(1) < MISLABELLED
        strangers = [person for person in names.tolist() if apart[identity == person].all()][: len(visitors)]
        visitors += [Visitor(None, tuple(rows[identity == person].tolist())) for person in strangers]
        order = np.random.default_rng(2).permutation(len(visitors))
        result: dict[str, Any] = {"model": model.spec.sha256[:12], "enrolled": len(gallery.people()),
                                  "strangers": len(strangers), "fps": FPS, "seconds": seconds, "rows": []}
        for size in SIZES:
            cell = size + 2 * round(size * 16 / 112 * 1.1)
            at_once = (WIDTH // cell) * (HEIGHT // cell)
            found: dict[tuple[str, float], Watched] = {}
            for start in tqdm(range(0, len(order), at_once), f"{size} px", disable=None):
                together = [visitors[i] for i in order[start : start + at_once]]
                watch(model, gallery, packed, together, size, seconds, found)
            for far in FARS:
                friends, others = found["enrolled", far], found["stranger", far]
                right = [wait for wait in friends.named if wait[0]]
                result["rows"].append({
                    "size": size, "far": far, "enrolled_seen": friends.tracks, "strangers_seen": others.tracks,
                    "named_rightly": len(right), "named_wrongly": len(friends.named) - len(right),
                    "named": spread(right),
                    "strangers_named": len(others.named),
                    "first_word": spread(friends.first + others.first),
                    "unknown": spread([wait for wait in others.first if wait[0] == "unknown"]),
                })  # fmt: skip
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    def wait(each: dict[str, float] | None) -> str:
        if each is None:
            return "never"
        return (f"{each['frames_p50']:.0f} ({each['frames_p90']:.0f}) frames, "
                f"{each['seconds_p50']:.1f} ({each['seconds_p90']:.1f}) s")

    lines = [
        f"{result['enrolled']} people enrolled from two photos each, {result['strangers']} strangers, "
        f"{result['fps']} frames a second, in view for {result['seconds']:g} s, network {result['model']}. "
        "From the first face to the event, median (90th percentile):",
        "",
        "| `report.far` | face | to the right name | enrolled, named rightly / wrongly | strangers, to `unknown` "
        "| strangers named |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        seen, strangers = max(row["enrolled_seen"], 1), max(row["strangers_seen"], 1)
        lines.append(
            f"| {row['far']:g} | {row['size']} px | {wait(row['named'])} | {100 * row['named_rightly'] / seen:.0f} % / "
            f"{100 * row['named_wrongly'] / seen:.1f} % | {wait(row['unknown'])} | "
            f"{100 * row['strangers_named'] / strangers:.1f} % |"
        )
    return "\n".join(lines)


def filled(text: str, result: dict[str, Any]) -> str:
    """The document with the table in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(result)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Parse, measure, keep, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="faces.npz, see edge_models/training")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--most", type=int, default=96, help="people to enrol")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tables", action="store_true", help="write the document from the figures that are kept")
    arguments = parser.parse_args()
    if arguments.data is not None:
        result = measure(arguments.data, arguments.seconds, arguments.most, arguments.threads)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result))
    elif not arguments.tables:
        sys.exit("give --data, or --tables")
    DOCS.write_text(filled(DOCS.read_text(), json.loads(RESULT.read_text())))


if __name__ == "__main__":
    leave(main)

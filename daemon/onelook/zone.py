"""Zone and line: places on a stream's picture that people enter, leave and cross.

    places = Places(stream.zones, stream.lines)
    for crossing in places.update(tracks, time, width, height):
        print(crossing.place, crossing.state, crossing.count)

A person is where the middle of their face is. A face trembles from frame to frame: a border counts as crossed
when the face is clear of it, and that of a zone when this has lasted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from onelook.track import Track

STEADY = 0.3  # s: for which somebody must be in a zone to have entered it, and out of it to have left
CLEAR = 0.2  # sizes of the face: how far beyond a border or a line somebody must be to have crossed it

Point: TypeAlias = Sequence[float]
Doubles: TypeAlias = NDArray[np.float64]


class ZoneLike(Protocol):
    """A polygon; its corners are fractions of the picture's width and height."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def polygon(self) -> Sequence[Point]: ...  # noqa: D102


class LineLike(Protocol):
    """A line; its ends are fractions of the picture's width and height."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def start(self) -> Point: ...  # noqa: D102
    @property
    def end(self) -> Point: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """Somebody entered or left a zone, or crossed a line."""

    place: str
    track: Track
    state: Literal["entered", "left"]
    """Of a line: entered is from the left of it to the right, as seen from its start towards its end."""
    seconds: float
    """For which the zone was stayed in; 0 for who enters, and of a line."""
    count: int
    """How many are in the zone now; of a line, how many have entered by it less those who left."""
    is_line: bool


@dataclass(slots=True)
class _Stay:
    inside: bool = False
    since: float = 0.0  # when the last change of inside was believed
    differs: float | None = None  # since when the face is on the other side


@dataclass(slots=True)
class _Polygon:
    name: str
    corners: NDArray[np.float32]  # (N, 2) fractions, see _beyond
    stays: dict[int, _Stay] = field(default_factory=dict)
    tracks: dict[int, Track] = field(default_factory=dict)

    def update(self, tracks: Sequence[Track], time: float, shape: Doubles) -> Iterator[Crossing]:
        here = {track.id: track for track in tracks}
        for number in [number for number in self.stays if number not in here]:
            stay, track = self.stays.pop(number), self.tracks.pop(number)
            if stay.inside:
                yield self._say(track, "left", track.last_seen - stay.since)
        for track in tracks:
            if track.row is None:
                continue
            stay = self.stays.setdefault(track.id, _Stay())
            self.tracks[track.id] = track
            x, y = _middle(track).tolist()
            depth = cv2.pointPolygonTest(self.corners * shape.astype(np.float32), (x, y), True)
            if (-depth if stay.inside else depth) < CLEAR * float(track.box[2] - track.box[0]):
                stay.differs = None
                continue
            stay.differs = time if stay.differs is None else stay.differs
            if track.state != "tentative" and time - stay.differs >= STEADY - 1e-6:
                before, stay.inside = stay.since, not stay.inside
                stay.since, stay.differs = stay.differs, None
                yield self._say(track, "entered" if stay.inside else "left", 0 if stay.inside else stay.since - before)

    def _say(self, track: Track, state: Literal["entered", "left"], seconds: float) -> Crossing:
        count = sum(stay.inside for stay in self.stays.values())
        return Crossing(self.name, track, state, round(max(seconds, 0), 3), count, is_line=False)


@dataclass(slots=True)
class _Line:
    name: str
    start: Doubles  # fractions
    end: Doubles
    sides: dict[int, tuple[float, Doubles]] = field(default_factory=dict)  # the last clear side; where, in fractions
    balance: int = 0

    def update(self, tracks: Sequence[Track], _time: float, shape: Doubles) -> Iterator[Crossing]:
        here = {track.id for track in tracks}
        self.sides = {number: kept for number, kept in self.sides.items() if number in here}
        start, along = self.start * shape, (self.end - self.start) * shape
        length = float(np.hypot(*along))
        for track in tracks:
            if track.row is None:
                continue
            place = np.clip(_middle(track), 0, shape)  # who is cut by the picture's border passes no line's end there
            distance = _across(along, place - start) / length
            if abs(distance) < CLEAR * float(track.box[2] - track.box[0]):
                continue
            side, before = self.sides.get(track.id, (float(np.sign(distance)), place / shape))
            before = before * shape  # a camera may change the size of its pictures
            if side != np.sign(distance) and track.state == "tentative":
                continue  # it is told once this is a person
            self.sides[track.id] = float(np.sign(distance)), place / shape
            if side == np.sign(distance):
                continue
            # Where the way met the line: beyond its ends it was walked around.
            was = _across(along, before - start) / length
            met = before + (place - before) * (was / (was - distance))
            if 0 <= float((met - start) @ along) <= length**2:
                entered = distance > 0  # y grows downwards: this is the right hand
                self.balance += 1 if entered else -1
                yield Crossing(self.name, track, "entered" if entered else "left", 0, self.balance, is_line=True)


class Places:
    """The zones and lines of one stream."""

    def __init__(self, zones: Sequence[ZoneLike] = (), lines: Sequence[LineLike] = ()) -> None:
        """Nobody is anywhere yet."""
        self._places: list[_Polygon | _Line] = [
            *(_Polygon(zone.name, _beyond(np.array(zone.polygon, np.float32))) for zone in zones),
            *(_Line(line.name, np.array(line.start), np.array(line.end)) for line in lines),
        ]

    def __len__(self) -> int:
        return len(self._places)

    def update(self, tracks: Sequence[Track], time: float, width: int, height: int) -> Iterator[Crossing]:
        """What this frame changed. tracks: all there are, lost ones among them; who is missing has left.

        Nothing is told of those that are tentative, but where they were counts once they are people: where frames
        are few, they have crossed a line by then.
        """
        shape = np.array([width, height], np.float64)
        for place in self._places:
            yield from place.update(tracks, time, shape)


def _beyond(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """The polygon, its edges along the picture's border moved out by a picture's size.

    Nobody leaves a zone there: who is cut by the border, and even has the middle of the face beyond it, is within.
    """
    along = corners == np.roll(corners, -1, 0)  # of each corner: the edge from it to the next
    out = np.float32(along & (corners == 1)) - np.float32(along & (corners == 0))
    return np.stack([corners + np.roll(out, 1, 0), corners + out], 1).reshape(-1, 2)


def _middle(track: Track) -> Doubles:
    middle: Doubles = (track.box[:2] + track.box[2:]) / 2
    return middle


def _across(along: Doubles, to: Doubles) -> float:
    return float(along[0] * to[1] - along[1] * to[0])

"""Track: one person followed from frame to frame; Tracker: faces become tracks.

    tracker = Tracker(confirm=0.3, lost=2.0, iou=0.2)
    for faces, time in frames:
        for track in tracker.update(faces, time):
            print(track.id, track.state, track.box)

A face belongs to a track if it is where the track should be by now, or if it looks like it,
and best both: places part people who look alike, looks part people whose ways cross. Where two
tracks may have one face, it goes to the one that it looks more like than like the other, however
like that is; and while faces overlap nothing is learnt of looks, as each is seen through
the other.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import repeat
from math import inf
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from onelook.face import Faces, Floats

State: TypeAlias = Literal["tentative", "confirmed", "lost"]
Trait: TypeAlias = Literal["attributes", "age", "gender", "ethnicity", "emotion"]
Doubles: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]

TRAITS: Final[frozenset[Trait]] = frozenset({"attributes", "age", "gender", "ethnicity", "emotion"})
"""What of a face can be averaged over its track."""

# Motion. Lengths are in sizes of the face, so that near and far people obey the same numbers.
ERROR = 0.05  # sizes: how far off a detected box's centre is
AGILITY = 1.5  # sizes/s: by how much a head changes its speed within a second
HASTE = 3.0  # sizes/s: the speed that a new face may have
COAST = 2.0  # s: for how long an unseen head keeps its speed; people stop and turn
SIZING = 0.15  # s: time constant of the size, which is averaged only

# Looks.
CONTRAST = 0.8  # how much looks may add to, or take from, an overlap of boxes (0 to 1)
RIVALRY = 1.5  # the same for each unit of cosine by which a face looks more like one track than like another
TRUSTED = 0.4  # quality from which that counts in full; of 19 faces in 20 the shipped model thinks better
LAST_RESORT = 0.01  # what is left, at least, of a worth that is contested
HIDING = 0.1  # overlap of boxes from which one face hides part of the other
ACQUAINTED = 5  # faces that a track must have before it can do without those that overlap another
REACH = 1.0  # sizes: how far from its place a track is looked for
STRIDE = 2.0  # sizes/s: by how much that grows while it is unseen
FARTHEST = 4.0  # sizes: and to no more than this

# Averages: after so many seconds an old face counts only e^-1 as much.
FADES: Final = np.array([2.0, 0.5, 10.0])
PACE: Final = {
    "attributes": 0, "quality": 0,  # hats and glasses come off
    "emotion": 1,
    "age": 2, "age_squared": 2, "gender": 2, "ethnicity": 2, "embedding": 2,
}  # fmt: skip
"""What is averaged -> which of the fades."""
NUMBERS: Final = frozenset({"quality", "age", "age_squared", "gender"})
"""Those of them that are one number of a face."""


class Track(NamedTuple):
    """One person as known after one frame; the next frame makes a new Track with the same id.

    The arrays are not to be written to. Traits are averages over the track, weighted by
    score and quality, in which old faces fade; None if the tracker was told to leave them out.
    """

    id: int
    """From 1, never used twice by the same tracker."""
    state: State
    """Tentative until seen for long enough to be believed; lost while not seen."""
    row: int | None
    """Row of this track's face in the frame's Faces; None if it was not seen in this frame."""
    box: Doubles
    """(4,) x1, y1, x2, y2 in source pixels, smoothed; of the last time that it was seen."""
    velocity: Doubles
    """(2,) source pixels per second."""
    landmarks: Floats
    """(5, 2) as last seen."""
    score: float
    """The detector's confidence when last seen, 0 to 1."""
    first_seen: float
    """Seconds on the frames' clock."""
    last_seen: float
    """Seconds on the frames' clock."""
    embedding: Floats
    """(D,) unit length: mean of the faces' embeddings. Never leaves the device."""
    quality: float
    """Mean quality of the faces, 0 to 1."""
    attributes: Floats | None
    """(40,) probabilities."""
    age: float | None
    """Years."""
    age_deviation: float | None
    """Years: standard deviation of the age from frame to frame."""
    gender: float | None
    """Probability of male."""
    ethnicity: Floats | None
    """(5,) probabilities."""
    emotion: Floats | None
    """(7,) probabilities; fades sooner than the others, as expressions do."""


class Tracker:
    """Follows the faces of one stream. No clock of its own: each frame brings its time."""

    def __init__(
        self,
        *,
        confirm: float = 0.3,
        lost: float = 2.0,
        iou: float = 0.2,
        strong: float = 0.5,
        alike: float = 0.4,
        smooth: Collection[Trait] = TRAITS,
    ) -> None:
        """Nobody yet.

        confirm: seconds for which a face must be seen, in most frames and the last, before its
        track is confirmed.
        lost: seconds for which a track is remembered without being seen; longer where frames
        come more seldom than that.
        iou: least overlap of boxes, or its worth in likeness, for a face to belong to a track.
        strong: least score of a face that may begin a track; weaker ones only continue one.
        alike: cosine at which two faces are surely one person; the gallery's threshold will do.
        smooth: the traits to average; the others are never looked at.
        """
        self.confirm = confirm
        self.lost = lost
        self.iou = max(iou, 1e-6)
        self.strong = strong
        self.alike = alike
        self.smooth = frozenset(smooth)
        self._columns: dict[str, slice] = {}  # of each mean in the table's
        self._pace: Rows = np.arange(0)  # of each column, which of FADES
        self.ended: list[Track] = []
        """Tracks that the last update forgot, as they were last seen; tentative ones among them."""
        self._table: _Table | None = None
        self._time = -inf
        self._steps: deque[float] = deque(maxlen=2)  # between frames, seconds
        self._memory = lost  # seconds
        self._next_id = 1
        self._hidden = np.zeros(0, np.bool_)  # (faces,) of this frame

    def update(self, faces: Faces, time: float) -> list[Track]:
        """The tracks alive after this frame, oldest first, lost ones among them.

        time: monotonic seconds of the frame. Any step will do, none too; a clock that goes
        back is taken to stand still.
        """
        step = max(time - self._time, 0.0)
        self._time = time = max(self._time, time)
        # A slow camera or a slow machine must not make everybody forgotten by the next frame, and
        # a camera that was away is no slow one: what counts are the steps before this one.
        self._memory = max(self.lost, 1.5 * min(self._steps, default=step))
        if step < inf:
            self._steps.append(step)
        table = self._begin(faces, np.arange(0), time) if self._table is None else self._table

        forgotten = time - table.last > self._memory
        self.ended = self._end(table, forgotten)
        table = table.take(~forgotten)

        table.row = rows = self._associate(table, faces, time)
        table.frames += 1
        seen = np.flatnonzero(rows >= 0)
        if seen.size:
            # All of them is the usual case, and needs no picking.
            self._learn(table, slice(None) if seen.size == len(table) else seen, rows[seen], faces, time)
        table.confirmed |= (
            (rows >= 0) & (2 * table.hits > table.frames) & (time - table.first >= self.confirm)
        )
        doubtful = ~table.confirmed & (time - table.last > self.confirm)
        self.ended += self._end(table, doubtful)
        table = table.take(~doubtful)

        fresh = faces.scores >= self.strong
        fresh[rows[seen]] = False
        if fresh.any():
            table = table.join(self._begin(faces, np.flatnonzero(fresh), time))
        self._table = table
        return self._tracks(table)

    def _associate(self, table: "_Table", faces: Faces, time: float) -> Rows:
        """Row of each track's face, or -1. Two rounds, after ByteTrack.

        A weak detection is rarely a new person but often one who turns or is half hidden: the
        second round gives what is left to the tracks that were seen a moment ago.
        """
        rows = np.full(len(table), -1, np.intp)
        if not len(table) or not len(faces):
            return rows
        worth = self._worth(table, faces, time)
        strong = faces.scores >= self.strong
        everybody = np.arange(len(table))
        _assign(worth, everybody, np.flatnonzero(strong), rows)
        if not strong.all():
            followed = np.flatnonzero((rows < 0) & (table.row >= 0))
            _assign(worth, followed, np.flatnonzero(~strong), rows)
        return rows

    def _worth(self, table: "_Table", faces: Faces, time: float) -> Floats:
        """(tracks, faces) how well each face would continue each track; 0 where it cannot.

        Notes which faces lie over more than one track.
        """
        unseen = time - table.last
        centre = table.centre + table.velocity * (COAST * -np.expm1(-unseen / COAST))[:, None]
        expected = _boxes(centre, table.size).astype(np.float32)
        overlap, apart = _overlaps(expected, faces.boxes)
        self._hidden = (overlap > HIDING).sum(0) > 1
        cosine = table.template @ faces.embeddings.T
        likeness = np.clip(cosine / np.float32(self.alike), 0, 1)
        quality = table.means[:, self._columns["quality"]].ravel()
        trust = np.minimum.outer(quality, faces.quality)
        # The longer a place was out of sight, the less it says who is there now.
        overlap *= np.exp(-2 * unseen / self._memory).astype(np.float32)[:, None]
        worth: Floats = overlap + CONTRAST * trust * (2 * likeness - 1)
        reach = np.minimum(REACH + STRIDE * unseen, FARTHEST).astype(np.float32)[:, None]
        worth[(worth < self.iou) | (apart > reach)] = 0
        self._judge_claims(worth, cosine, trust)
        return worth

    def _judge_claims(self, worth: Floats, cosine: Floats, trust: Floats) -> None:
        """Where several tracks may have a face, let their looks against each other decide: into `worth`.

        A person's faces are nearer to each other than to the other's, whatever their cosines are: those
        depend on light, pose and network more than on who it is. So it is their difference that counts.
        """
        contested = np.flatnonzero((worth > 0).sum(0) > 1)
        if not contested.size:
            return
        there = worth[:, contested]
        looks = np.where(there > 0, cosine[:, contested], -np.inf)
        everyone = np.arange(len(contested))
        first = looks.argmax(0)
        rival = np.repeat(looks[first, everyone][None], len(looks), 0)
        # A face that looks like none of them says little of which it is.
        told = np.clip(looks[first, everyone] / np.float32(self.alike), 0, 1) ** 2
        looks[first, everyone] = -np.inf
        rival[first, everyone] = looks.max(0)
        told = told * np.minimum(trust[:, contested] / np.float32(TRUSTED), 1)
        more = RIVALRY * told * (cosine[:, contested] - rival)
        # Who loses may have it all the same, should the other have a better one.
        worth[:, contested] = np.where(there > 0, np.maximum(there + more, LAST_RESORT), 0)

    def _learn(self, table: "_Table", seen: Rows | slice, rows: Rows, faces: Faces, time: float) -> None:
        """Bring the tracks `seen` up to `time` with their faces, which are those at `rows`.

        Of those that are hidden no looks are learnt.
        """
        unseen = time - table.last[seen]
        centre, size = _places(faces.boxes[rows])

        # A Kalman filter whose speed fades while unseen; x and y share one covariance, kept in
        # units of the face's size: of the place, of place and speed, of the speed.
        coast = COAST * -np.expm1(-unseen / COAST)
        fade = np.exp(-unseen / COAST)
        a, b, c = table.spread[seen].T
        push = AGILITY**2
        a, b, c = (
            a + 2 * coast * b + coast**2 * c + push * unseen**3 / 3,
            fade * (b + coast * c) + push * unseen**2 / 2,
            fade**2 * c + push * unseen,
        )
        gain, kick = a / (a + ERROR**2), b / (a + ERROR**2)
        place = table.centre[seen] + coast[:, None] * table.velocity[seen]
        speed = fade[:, None] * table.velocity[seen]
        surprise = centre - place
        table.spread[seen] = np.stack([(1 - gain) * a, (1 - gain) * b, c - kick * b], 1)
        table.centre[seen] = place + gain[:, None] * surprise
        table.velocity[seen] = speed + kick[:, None] * surprise
        table.size[seen] += -np.expm1(-unseen / SIZING)[:, None] * (size - table.size[seen])

        # Weighted means in which the old fades: a frame's share is its weight in all the weight
        # that is left, so any frame rate, gaps, and two frames at one time come out right.
        weight = _weights(faces)[rows, None]
        mass = table.mass[seen] * np.exp(-unseen[:, None] / FADES) + weight
        table.mass[seen] = mass
        share = (weight / mass).astype(np.float32)[:, self._pace]
        known = self._hidden[rows] & (table.hits[seen] >= ACQUAINTED)
        if known.any():
            share[known, self._columns["embedding"]] = 0
        old = table.means[seen]
        table.means[seen] = means = old + share * (self._looks(faces)[rows] - old)
        table.template[seen] = _unit(means[:, self._columns["embedding"]])

        table.landmarks[seen] = faces.landmarks[rows]
        table.score[seen] = faces.scores[rows]
        table.last[seen] = time
        table.hits[seen] += 1

    def _begin(self, faces: Faces, rows: Rows, time: float) -> "_Table":
        """A tentative track for each of the faces at `rows`."""
        if self._table is None or not len(self._table):
            self._lay_out(faces)
        born = faces.take(rows)
        count = len(born)
        ids = np.arange(self._next_id, self._next_id + count)
        self._next_id += count
        centre, size = _places(born.boxes)
        return _Table(
            id=ids,
            row=rows,
            confirmed=np.zeros(count, np.bool_),
            hits=np.ones(count, np.int64),
            frames=np.ones(count, np.int64),
            first=np.full(count, time),
            last=np.full(count, time),
            centre=centre,
            velocity=np.zeros((count, 2)),
            size=size,
            spread=np.tile([ERROR**2, 0.0, HASTE**2], (count, 1)),
            landmarks=born.landmarks,
            score=born.scores,
            mass=np.repeat(_weights(born)[:, None], len(FADES), 1),
            means=self._looks(born),
            template=_unit(born.embeddings),
        )

    def _lay_out(self, faces: Faces) -> None:
        """Give each of what is averaged its columns."""
        looks = self._each_look(faces)
        ends = np.cumsum([values.shape[1] for values in looks.values()]).tolist()
        self._columns = dict(zip(looks, map(slice, [0, *ends], ends), strict=False))
        self._pace = np.repeat([PACE[name] for name in looks], [values.shape[1] for values in looks.values()])

    def _looks(self, faces: Faces) -> Floats:
        """What is averaged of each face, (N, columns)."""
        return np.concatenate(list(self._each_look(faces).values()), 1)

    def _each_look(self, faces: Faces) -> dict[str, Floats]:
        """The same by name; the keys are those of PACE."""
        looks = {"embedding": faces.embeddings, "quality": faces.quality[:, None]}
        for trait in self.smooth:
            values = getattr(faces, trait)
            looks[trait] = values if values.ndim > 1 else values[:, None]
        if "age" in looks:
            looks["age_squared"] = looks["age"] ** 2
        return looks

    def _end(self, table: "_Table", over: NDArray[np.bool_]) -> list[Track]:
        """The tracks that are over, out of sight."""
        if not over.any():
            return []
        ended = table.take(over)
        ended.row[:] = -1
        return self._tracks(ended)

    def _tracks(self, table: "_Table") -> list[Track]:
        """The table as others read it: rows of copies, as the table itself is written to."""
        means: dict[str, Iterable[Any]] = dict.fromkeys((*PACE, "age_deviation"), repeat(None))
        copied = table.means.copy()
        for name, columns in self._columns.items():
            mean = copied[:, columns]
            means[name] = mean.ravel().tolist() if name in NUMBERS else mean
        if "age" in self._columns:
            age, squared = copied[:, self._columns["age"]], copied[:, self._columns["age_squared"]]
            means["age_deviation"] = np.sqrt(np.maximum(squared - age**2, 0)).ravel().tolist()
        rows: list[int | None] = [row if row >= 0 else None for row in table.row.tolist()]
        states: list[State] = [
            "tentative" if not confirmed else "lost" if row is None else "confirmed"
            for confirmed, row in zip(table.confirmed.tolist(), rows, strict=True)
        ]
        return [
            Track._make(values)
            for values in zip(
                table.id.tolist(),
                states,
                rows,
                _boxes(table.centre, table.size),
                table.velocity.copy(),
                table.landmarks.copy(),
                table.score.tolist(),
                table.first.tolist(),
                table.last.tolist(),
                table.template.copy(),
                means["quality"],
                means["attributes"],
                means["age"],
                means["age_deviation"],
                means["gender"],
                means["ethnicity"],
                means["emotion"],
                strict=False,  # traits left out are None without end
            )
        ]


@dataclass(slots=True, eq=False)
class _Table:
    """All tracks of a tracker as one struct of arrays, row i of every array being track i."""

    id: NDArray[np.int64]
    row: Rows  # of this frame's face; -1: not seen
    confirmed: NDArray[np.bool_]
    hits: NDArray[np.int64]  # frames that it was seen in
    frames: NDArray[np.int64]  # frames since it began
    first: Doubles
    last: Doubles  # the time that all below is of
    centre: Doubles  # (N, 2)
    velocity: Doubles  # (N, 2)
    size: Doubles  # (N, 2) width, height
    spread: Doubles  # (N, 3) covariance of place and speed
    landmarks: Floats
    score: Floats
    mass: Doubles  # (N, len(FADES)) weight of all faces in the means
    means: Floats  # (N, columns) what _looks gives
    template: Floats  # (N, D) mean embedding, unit length

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: NDArray[np.bool_]) -> Self:
        """The tracks where `rows` is true."""
        return self if rows.all() else self._of(lambda arrays: arrays[0][rows], self)

    def join(self, other: Self) -> Self:
        """These tracks, then the others."""
        if not len(self) or not len(other):
            return self if len(self) else other
        return self._of(np.concatenate, self, other)

    @classmethod
    def _of(cls, change: Callable[[list[Any]], Any], *tables: Self) -> Self:
        return cls(*(change([getattr(table, name) for table in tables]) for name in cls.__slots__))


def _assign(worth: Floats, tracks: Rows, faces: Rows, rows: Rows) -> None:
    """Write into `rows` the pairs of `tracks` and `faces` whose worths have the greatest sum."""
    worth = worth[np.ix_(tracks, faces)]
    possible = worth > 0
    choices, rivals = possible.sum(1), possible.sum(0)
    # Most people stand alone: a pair in which neither has another choice is in every best sum.
    alone, its = np.nonzero(possible & (choices == 1)[:, None] & (rivals == 1))
    rows[tracks[alone]] = faces[its]
    choices[alone] = rivals[its] = 0
    tracks_left, faces_left = np.flatnonzero(choices), np.flatnonzero(rivals)
    if tracks_left.size and faces_left.size:
        left = worth[np.ix_(tracks_left, faces_left)]
        a, b = linear_sum_assignment(left, maximize=True)
        paired = left[a, b] > 0
        rows[tracks[tracks_left[a[paired]]]] = faces[faces_left[b[paired]]]


def _overlaps(ours: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Of every pair of boxes (N, 4), (M, 4): IoU, and distance of centres in sizes of ours; (N, M)."""
    ax1, ay1, ax2, ay2 = ours.T[:, :, None]
    bx1, by1, bx2, by2 = theirs.T[:, None, :]
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    both = np.maximum(width, 0) * np.maximum(height, 0)
    either = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both
    apart = np.hypot(ax1 + ax2 - bx1 - bx2, ay1 + ay2 - by1 - by2) / (ax2 - ax1 + ay2 - ay1)
    return both / either, apart


def _places(boxes: Floats) -> tuple[Doubles, Doubles]:
    """Centres (N, 2) and sizes (N, 2), a pixel at least, of boxes (N, 4)."""
    corners = boxes.astype(np.float64)
    low, high = corners[:, :2], corners[:, 2:]
    return (low + high) / 2, np.maximum(high - low, 1)


def _boxes(centre: Doubles, size: Doubles) -> Doubles:
    """Boxes (N, 4) of centres and sizes."""
    boxes: Doubles = np.concatenate([centre - size / 2, centre + size / 2], 1)
    return boxes


def _weights(faces: Faces) -> Doubles:
    """(N,) how much each face counts in an average; a little even when it is poor."""
    weights: Doubles = np.maximum(faces.scores * faces.quality, 1e-3).astype(np.float64)
    return weights


def _unit(vectors: Floats) -> Floats:
    """Vectors (N, D) made unit length; a zero vector stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    unit: Floats = vectors / np.maximum(length, 1e-12)[:, None]
    return unit

"""Track: one person followed from frame to frame; Tracker: faces become tracks.

    tracker = Tracker(confirm=0.3, lost=2.0, iou=0.2)
    for image, time in frames:
        faces = model(image, partial(tracker.asks_for, time=time))
        for track in tracker.update(faces, time):
            print(track.id, track.state, track.box)

A face belongs to a track if it is where the track should be by now, or if it looks like it,
and best both: places part people who look alike, looks part people whose ways cross. Where two
tracks may have one face, it goes to the one that it looks more like than like the other, however
like that is; and while faces overlap nothing is learnt of looks, as each is seen through
the other.

In a crowd, to describe everybody costs more than to find them, and who stays in place with nobody near looks as a
moment ago. `Tracker.asks_for` tells whose looks are wanted; who is not described is followed by place alone.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from math import inf
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from onelook.assignment import assign
from onelook.face import Faces, Floats

State: TypeAlias = Literal["tentative", "confirmed", "lost"]
Trait: TypeAlias = Literal["attributes", "age", "gender", "ethnicity", "emotion"]
Doubles: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]
Table: TypeAlias = NDArray[np.void]
"""Tracks, a record each: see `_record`."""

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
GROWTH = 2.0  # how many times as large, or as small, a face may look as it did; and so many times more a second unseen
SURE = 0.5  # overlap of boxes from which a face that nobody else is near to is the track's, whatever it looks like
NEW = 3.0  # s: for which a track is described in every frame: it is found out who that is
OTHERWISE = 0.5  # of the cosine `alike`: whose face looks less like its track is new, it may be somebody in their place
TURN = 1.0  # s: within which the turn of all others comes

# Averages: after so many seconds an old face counts only e^-1 as much.
FADES: Final = (2.0, 0.5, 10.0, 10.0)
IDENTITY: Final = 3
"""The fade of the embedding, which at times learns nothing from a face of which all else is learnt."""
PACE: Final = {
    "attributes": 0, "quality": 0,  # hats and glasses come off
    "emotion": 1,
    "age": 2, "age_squared": 2, "gender": 2, "ethnicity": 2,
    "embedding": IDENTITY,
}  # fmt: skip
"""What is averaged -> which of the fades."""
RATES: Final = -1 / np.array([COAST, SIZING, *FADES])
"""1/s: by which all that fades does so."""
TINY: Final = 1e-9
"""Where nothing is averaged yet, so that it is not divided by nothing."""
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


class Tracks(Sequence[Track]):
    """All tracks after one frame, oldest first: a struct of arrays, as a crowd is handled by numpy in one go.

    A Track of each is made only for who asks for one: at most frames nobody does.
    """

    __slots__ = ("_columns", "_each", "_table", "ids", "rows")

    def __init__(self, table: Table, columns: dict[str, slice]) -> None:
        """table: theirs for good, a record each (see `_record`). columns: of each mean in those of the records."""
        self._table, self._columns = table, columns
        self._each: list[Track] | None = None
        self.ids: list[int] = table["id"].tolist()
        self.rows: Rows = table["row"]
        """(N,) row of each track's face in the frame's Faces; -1 if it was not seen in this frame."""

    @property
    def first_seen(self) -> Doubles:
        """(N,) seconds on the frames' clock."""
        first: Doubles = self._table["first"]
        return first

    @property
    def last_seen(self) -> Doubles:
        """(N,) seconds on the frames' clock."""
        last: Doubles = self._table["last"]
        return last

    @property
    def in_view(self) -> int:
        """How many are confirmed, and seen in this frame."""
        return int(np.count_nonzero(self._table["confirmed"] & (self.rows >= 0)))

    def believed(self) -> Self:
        """Those that are not tentative."""
        confirmed = self._table["confirmed"]
        return self if confirmed.all() else type(self)(self._table[confirmed], self._columns)

    def mean(self, trait: Trait) -> Floats:
        """(N,) or (N, labels): see `Track`. Raises KeyError if the tracker leaves it out."""
        means: Floats = self._table["means"][:, self._columns[trait]]
        return means[:, 0] if trait in NUMBERS else means

    def age_deviation(self, place: int) -> float:
        """Of the track there, see `Track`."""
        means = self._table["means"][place]
        [age], [squared] = means[self._columns["age"]], means[self._columns["age_squared"]]
        return math.sqrt(max(squared - age**2, 0))

    def box(self, place: int) -> tuple[float, float, float, float]:
        """Of the track there, see `Track`."""
        (x, y), (width, height) = self._table["centre"][place].tolist(), self._table["size"][place].tolist()
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Track: ...
    @overload
    def __getitem__(self, place: slice) -> list[Track]: ...
    def __getitem__(self, place: int | slice) -> Track | list[Track]:
        if self._each is None:
            self._each = self._make()
        return self._each[place]

    def _make(self) -> list[Track]:
        table = self._table
        means: dict[str, Iterable[Any]] = dict.fromkeys((*PACE, "age_deviation"), repeat(None))
        for name, columns in self._columns.items():
            mean = table["means"][:, columns]
            means[name] = mean.ravel().tolist() if name in NUMBERS else mean
        if "age" in self._columns:
            means["age_deviation"] = map(self.age_deviation, range(len(self)))
        rows: list[int | None] = [row if row >= 0 else None for row in self.rows.tolist()]
        states: list[State] = [
            "tentative" if not confirmed else "lost" if row is None else "confirmed"
            for confirmed, row in zip(table["confirmed"].tolist(), rows, strict=True)
        ]
        return [
            Track._make(values)
            for values in zip(
                self.ids,
                states,
                rows,
                _boxes(table["centre"], table["size"]),
                table["velocity"],
                table["landmarks"],
                table["score"].tolist(),
                table["first"].tolist(),
                table["last"].tolist(),
                table["template"],
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
        describe: int | None = 16,
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
        describe: faces whose looks are wanted in a frame, if there are as many: of more, those whose place tells
        whose they are take turns. None: all of them.
        smooth: the traits to average; the others are never looked at.
        """
        self.confirm = confirm
        self.lost = lost
        self.iou = max(iou, 1e-6)
        self.strong = strong
        self.alike = alike
        self.describe = inf if describe is None else describe
        self.smooth = frozenset(smooth)
        self._columns: dict[str, slice] = {}  # of each mean in the records'
        self._pace: Rows = np.arange(0)  # of each column, which of FADES
        self._ended: list[Table] = []
        self._table: Table = np.zeros(0, np.dtype([]))
        self._time = -inf
        self._steps: deque[float] = deque(maxlen=2)  # between frames, seconds
        self._memory = lost  # seconds
        self._excuse = 0.0  # seconds for which nobody could be seen, since the last update
        self._excused, self._excused_until = 0.0, -inf
        self._next_id = 1
        self._hidden = np.zeros(0, np.bool_)  # (faces,) of this frame

    def excuse(self, seconds: float) -> None:
        """For so long nobody was looked for: that nobody was seen then does not tell that anybody left."""
        if len(self._table):  # else it would be held for the first who come, and before the first frame for ever
            self._excuse += seconds

    def rescale(self, across: float, down: float) -> None:
        """Pictures are so many times as wide and as high from now on: whoever was there is where they were in them."""
        if len(self._table):
            for name in ("centre", "velocity", "size", "landmarks"):
                self._table[name] *= np.asarray((across, down), self._table[name].dtype)

    def asks_for(self, boxes: Floats, time: float) -> NDArray[np.bool_]:
        """(N,) whether each of the faces in `boxes` (N, 4) is to be described, before `update` at the same `time`."""
        table, asked = self._table, np.ones(len(boxes), np.bool_)
        if len(boxes) <= self.describe or not len(table):
            return asked
        time = max(time, self._time)
        tracks, faces = self._in_place(table, *_placed(boxes), time)
        looked = table["looked"][tracks]
        in_turn = math.ceil(len(faces) * (time - self._time) / TURN)
        overdue = int(np.count_nonzero(time - looked >= TURN))  # as fewer are in place than were
        count = max(self.describe - (len(boxes) - len(faces)), in_turn, overdue)
        asked[faces[looked.argsort(kind="stable")[count:]]] = False
        return asked

    def update(self, faces: Faces, time: float) -> Tracks:
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
        fresh = self._fresh(faces, time)
        table = self._table if len(self._table) else fresh[:0]

        if self._excuse:
            self._excused = self._excuse + (self._excused if time <= self._excused_until else 0)
            self._excused_until, self._excuse = time + self._memory, 0.0
        memory = self._memory + (self._excused if time <= self._excused_until else 0)
        forgotten = time - table["last"] > memory
        self._ended = self._end(table, forgotten)
        table = _where(table, ~forgotten)

        table["row"] = rows = self._associate(table, fresh, time)
        table["frames"] += 1
        seen = rows >= 0
        claimed = rows[seen]
        if claimed.size:
            # All of them is the usual case, and needs no picking.
            learning = _where(table, seen)
            self._learn(learning, fresh.take(claimed), self._hidden[claimed], time)
            if learning is not table:
                table[seen] = learning
        confirmed = table["confirmed"]
        confirmed |= seen & (2 * table["hits"] > table["frames"]) & (time - table["first"] >= self.confirm)
        doubtful = ~confirmed & (time - table["last"] > self.confirm)
        self._ended += self._end(table, doubtful)
        table = _where(table, ~doubtful)

        begins = fresh["score"] >= self.strong
        begins[claimed] = False
        if begins.any():
            table = self._joined(table, fresh[begins])
        self._table = table
        return Tracks(table.copy(), self._columns)  # as the table itself is written to

    @property
    def ended(self) -> list[Track]:
        """Tracks that the last update forgot, as they were last seen; tentative ones among them."""
        return [track for table in self._ended for track in Tracks(table, self._columns)]

    def _associate(self, table: Table, fresh: Table, time: float) -> Rows:
        """Row of each track's face, or -1. Two rounds, after ByteTrack.

        A weak detection is rarely a new person but often one who turns or is half hidden: the
        second round gives what is left to the tracks that were seen a moment ago.
        """
        rows = np.full(len(table), -1, np.intp)
        if not len(table) or not len(fresh):
            return rows
        worth = self._worth(table, fresh, time, rows)
        strong = fresh["score"] >= self.strong
        everybody = np.arange(len(table))
        if strong.all():
            _assign(worth, everybody, np.arange(len(fresh)), rows)
            return rows
        _assign(worth[:, strong], everybody, np.flatnonzero(strong), rows)
        followed, weak = np.flatnonzero((rows < 0) & (table["row"] >= 0)), np.flatnonzero(~strong)
        _assign(worth[np.ix_(followed, weak)], followed, weak, rows)
        return rows

    def _in_place(self, table: Table, centres: Doubles, sizes: Doubles, time: float) -> tuple[Rows, Rows]:
        """Tracks and faces, pair by pair, whose place alone tells that they belong together.

        The track is not new and was seen in the frame before, and nobody else is near.
        """
        overlap, _ = _overlaps(_expected(table, time - table["last"]), table["size"], centres, sizes)
        near = overlap > HIDING
        alone = (overlap >= SURE) & (near.sum(1) == 1)[:, None] & (near.sum(0) == 1)
        known = table["confirmed"] & (table["row"] >= 0) & (time - table["since"] > NEW)
        tracks, faces = (alone & known[:, None]).nonzero()
        return tracks, faces

    def _worth(self, table: Table, fresh: Table, time: float, rows: Rows) -> Doubles:
        """(tracks, faces) how well each face would continue each track; 0 where it cannot.

        Notes which faces lie over more than one track; writes into `rows` who is followed by place alone.
        """
        unseen = time - table["last"]
        overlap, apart = _overlaps(_expected(table, unseen), table["size"], fresh["centre"], fresh["size"])
        self._hidden = (overlap > HIDING).sum(0) > 1
        cosine = table["template"] @ fresh["means"][:, self._columns["embedding"]].T
        likeness = np.clip(cosine / np.float32(self.alike), 0, 1)
        quality = self._columns["quality"].start
        trust = np.minimum.outer(table["means"][:, quality], fresh["means"][:, quality])
        # The longer a place was out of sight, the less it says who is there now.
        overlap *= np.exp(unseen * (-2 / self._memory))[:, None]
        worth: Doubles = overlap + trust * (likeness * np.float32(2 * CONTRAST) - np.float32(CONTRAST))
        reach = np.minimum(REACH + STRIDE * unseen, FARTHEST)[:, None]
        # Blurred faces look alike: without this one track would gather a whole street of them.
        ours, theirs = table["size"].sum(1)[:, None], fresh["size"].sum(1)
        grown = np.maximum(ours / theirs, theirs / ours)
        worth[(worth < self.iou) | (apart > reach) | (grown > GROWTH * (1 + unseen)[:, None])] = 0
        undescribed = np.flatnonzero(fresh["looked"] < time)
        if undescribed.size:
            faces = fresh[undescribed]
            tracks, its = self._in_place(table, faces["centre"], faces["size"], time)
            rows[tracks] = undescribed[its]
            worth[tracks] = worth[:, undescribed[its]] = 0
        self._judge_claims(worth, cosine, trust)
        return worth

    def _judge_claims(self, worth: Doubles, cosine: Floats, trust: Floats) -> None:
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

    def _learn(self, table: Table, faces: Table, hidden: NDArray[np.bool_], time: float) -> None:
        """Bring tracks up to `time` with their faces, row by row.

        Of those that are hidden no looks are learnt.
        """
        unseen = time - table["last"]
        decays = np.exp(np.multiply.outer(unseen, RATES))

        # A Kalman filter whose speed fades while unseen; x and y share one covariance, kept in
        # units of the face's size: of the place, of place and speed, of the speed.
        fade = decays[:, 0]
        coast = COAST * (1 - fade)
        spread = table["spread"]
        a, b, c = spread.T
        push = AGILITY**2 * unseen
        d = b + coast * c
        a = a + coast * (b + d) + push * unseen**2 / 3
        b = fade * d + push * unseen / 2
        c = fade**2 * c + push
        trust = 1 / (a + ERROR**2)
        gain, kick = a * trust, b * trust
        spread[:, 0] = ERROR**2 * gain  # what (1 - gain) leaves of it
        spread[:, 1] = ERROR**2 * kick
        spread[:, 2] = c - kick * b
        centre, velocity, size = table["centre"], table["velocity"], table["size"]
        place = centre + coast[:, None] * velocity
        surprise = faces["centre"] - place
        centre[:] = place + gain[:, None] * surprise
        velocity *= fade[:, None]
        velocity += kick[:, None] * surprise
        size += (1 - decays[:, 1:2]) * (faces["size"] - size)

        cosine = np.einsum("ij,ij->i", table["template"], faces["means"][:, self._columns["embedding"]])
        table["since"][(faces["looked"] >= time) & (cosine < OTHERWISE * self.alike)] = time

        # Weighted means in which the old fades: a frame's share is its weight in all the weight
        # that is left, so any frame rate, gaps, and two frames at one time come out right.
        mass, weight = table["mass"], faces["mass"]
        mass *= decays[:, 2:]
        mass += weight
        share = (weight / np.maximum(mass, TINY)).astype(np.float32)
        share[hidden & (table["hits"] >= ACQUAINTED), IDENTITY] = 0
        means = table["means"]
        means += share.take(self._pace, 1) * (faces["means"] - means)
        table["template"] = _unit(means[:, self._columns["embedding"]])

        table["landmarks"] = faces["landmarks"]
        table["score"] = faces["score"]
        table["looked"] = np.maximum(table["looked"], faces["looked"])
        table["last"] = time
        table["hits"] += 1

    def _fresh(self, faces: Faces, time: float) -> Table:
        """Each face as a tentative track of its own, without a number."""
        if not len(self._table) and (len(faces) or not self._columns):
            self._lay_out(faces)
        fresh = np.zeros(len(faces), self._record)
        if not len(faces):
            return fresh
        described = faces.described
        fresh["row"] = np.arange(len(faces))
        fresh["hits"] = fresh["frames"] = 1
        fresh["first"] = fresh["since"] = fresh["last"] = time
        fresh["looked"] = np.where(described, time, -inf)
        fresh["centre"], fresh["size"] = _placed(faces.boxes)
        fresh["spread"] = ERROR**2, 0.0, HASTE**2
        fresh["landmarks"] = faces.landmarks
        fresh["score"] = faces.scores
        # How much each counts in an average; a little even when it is poor.
        fresh["mass"] = np.where(described, np.maximum(faces.scores * faces.quality, 1e-3), 0)[:, None]
        for name, values in self._each_look(faces).items():
            fresh["means"][:, self._columns[name]] = values
        return fresh

    def _joined(self, table: Table, born: Table) -> Table:
        """These tracks, then the others, which get their numbers."""
        born["id"] = np.arange(self._next_id, self._next_id + len(born))
        born["template"] = _unit(born["means"][:, self._columns["embedding"]])
        self._next_id += len(born)
        # np.concatenate would first compare the records' fields, one by one.
        joined = np.empty(len(table) + len(born), self._record)
        joined[: len(table)] = table
        joined[len(table) :] = born
        return joined

    def _lay_out(self, faces: Faces) -> None:
        """Give each of what is averaged its columns."""
        looks = self._each_look(faces)
        widths = [values.shape[1] for values in looks.values()]
        ends = np.cumsum(widths).tolist()
        self._columns = dict(zip(looks, map(slice, [0, *ends], ends), strict=False))
        self._pace = np.repeat([PACE[name] for name in looks], widths)
        self._record = _record(sum(widths), faces.embeddings.shape[1])

    def _each_look(self, faces: Faces) -> dict[str, Floats]:
        """What is averaged of each face, (N, columns) by name; the keys are those of PACE."""
        looks = {"embedding": faces.embeddings, "quality": faces.quality[:, None]}
        for trait in self.smooth:
            values = getattr(faces, trait)
            looks[trait] = values if values.ndim > 1 else values[:, None]
        if "age" in looks:
            looks["age_squared"] = looks["age"] ** 2
        return looks

    @staticmethod
    def _end(table: Table, over: NDArray[np.bool_]) -> list[Table]:
        """The tracks that are over, out of sight."""
        if not over.any():
            return []
        ended = table[over]
        ended["row"] = -1
        return [ended]


def _record(columns: int, embedding: int) -> np.dtype[np.void]:
    """All that is kept of a track, in one piece: tracks are picked and joined at every turn, and each array costs."""
    return np.dtype([
        ("id", np.int64),
        ("row", np.intp),  # of this frame's face; -1: not seen
        ("confirmed", np.bool_),
        ("hits", np.int64),  # frames that it was seen in
        ("frames", np.int64),  # frames since it began
        ("first", np.float64),
        ("since", np.float64),  # when it began to look as it does
        ("looked", np.float64),  # when a face of it was described
        ("last", np.float64),  # the time that all below is of
        ("centre", np.float64, 2),
        ("velocity", np.float64, 2),
        ("size", np.float64, 2),  # width, height
        ("spread", np.float64, 3),  # covariance of place and speed
        ("mass", np.float64, len(FADES)),  # weight of all faces in the means
        ("landmarks", np.float32, (5, 2)),
        ("score", np.float32),
        ("means", np.float32, columns),  # what is averaged
        ("template", np.float32, embedding),  # mean embedding, unit length
    ], align=True)  # fmt: skip


NOBODY: Final = Tracks(np.zeros(0, _record(0, 0)), {})
"""Tracks of a frame before the first."""


def _where(table: Table, true: NDArray[np.bool_]) -> Table:
    """Those records; the table itself if that is all of them."""
    return table if true.all() else table.take(true.nonzero()[0])


def _expected(table: Table, unseen: Doubles) -> Doubles:
    """(N, 2) where tracks should be by now."""
    coast = COAST * (1 - np.exp(unseen * (-1 / COAST)))
    expected: Doubles = table["centre"] + coast[:, None] * table["velocity"]
    return expected


def _assign(worth: Doubles, tracks: Rows, faces: Rows, rows: Rows) -> None:
    """Write into `rows` the pairs of `tracks` and `faces` whose worths, (tracks, faces), have the greatest sum."""
    possible = worth > 0
    choices, rivals = possible.sum(1), possible.sum(0)
    # Most people stand alone: a pair in which neither has another choice is in every best sum.
    alone, its = (possible & (choices == 1)[:, None] & (rivals == 1)).nonzero()
    rows[tracks[alone]] = faces[its]
    choices[alone] = rivals[its] = 0
    tracks_left, faces_left = choices.nonzero()[0], rivals.nonzero()[0]
    if tracks_left.size and faces_left.size:
        for track, face in assign(worth[tracks_left[:, None], faces_left]):
            rows[tracks[tracks_left[track]]] = faces[faces_left[face]]


def _overlaps(centre: Doubles, size: Doubles, centres: Doubles, sizes: Doubles) -> tuple[Doubles, Doubles]:
    """Of every pair of boxes, N with M: IoU, and distance of centres in sizes of ours; (N, M)."""
    low, high = (centre - size / 2).T[:, :, None], (centre + size / 2).T[:, :, None]
    lows, highs = (centres - sizes / 2).T[:, None, :], (centres + sizes / 2).T[:, None, :]
    width = np.minimum(high[0], highs[0]) - np.maximum(low[0], lows[0])
    height = np.minimum(high[1], highs[1]) - np.maximum(low[1], lows[1])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    either = np.add.outer(size[:, 0] * size[:, 1], sizes[:, 0] * sizes[:, 1]) - both
    x, y = np.subtract.outer(centre[:, 0], centres[:, 0]), np.subtract.outer(centre[:, 1], centres[:, 1])
    apart = np.hypot(x, y) * (2 / (size[:, :1] + size[:, 1:]))
    return both / either, apart


def _placed(boxes: Floats) -> tuple[Doubles, Doubles]:
    """Centres and sizes, (N, 2) each, of boxes (N, 4)."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:]
    return (low + high) / 2, np.maximum(high - low, 1)


def _boxes(centre: Doubles, size: Doubles) -> Doubles:
    """Boxes (N, 4) of centres and sizes."""
    half = size / 2
    boxes: Doubles = np.concatenate([centre - half, centre + half], 1)
    return boxes


def _unit(vectors: Floats) -> Floats:
    """Vectors (N, D) made unit length; a zero vector stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    unit: Floats = vectors / np.maximum(length, 1e-12)[:, None]
    return unit

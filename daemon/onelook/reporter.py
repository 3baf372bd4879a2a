"""Reporter: tracks become events, and only what changed becomes one.

    reporter = Reporter("door", config.report, labels, match=gallery.match, bar=partial(spec.similarities, 1e-3))
    tracker = Tracker(smooth=reporter.needs)
    for frame in frames:
        faces = model(frame.image)
        for event in reporter.report(tracker.update(faces, frame.time), faces, frame):
            print(event.kind, event.data)

One class for each topic; a topic that the owner switched off has no object, so nothing of it
is ever computed. All of them are slow to speak and slower to take a word back: a single frame
proves nothing, and whoever listens may open a door.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import inf, isnan, nan
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onelook.config import Policy, Report
from onelook.errors import OwnerError
from onelook.event import Attributes, Crowd, Emotion, Event, Identity, Line, Mood, Presence, Zone
from onelook.face import Faces, Floats
from onelook.frame import Frame
from onelook.match import Match
from onelook.track import NOBODY, Tracks, Trait
from onelook.visitor import Visitors
from onelook.zone import Places

Matcher: TypeAlias = Callable[[Floats], Sequence[Match]]
"""(N, D) embeddings to N matches."""
Said: TypeAlias = Presence | Identity | Attributes | Emotion | Crowd | Mood | Zone | Line
Bar: TypeAlias = Callable[[Floats, int, Floats], Floats]
"""(N,) sizes of faces, how many people are enrolled, and (N,) agreement of what is compared, to (N,) similarities
from which it is that person; see `ModelSpec.similarities`."""

# Identity.
VOTE = 0.1  # s: what one vote stands for; neighbouring frames say the same thing, and share it
SELDOM = 3.0  # votes: the most that a single face has, where frames come slowly
CLEAR = 0.1  # cosine: a similarity this far from the threshold counts in full, a nearer one less
NARROW = 0.03  # cosine: less than this above the threshold is no knowledge yet, but no stranger either
LOOKS = 50.0  # votes: for which faces are averaged; more of them tell people better apart, fewer see a change sooner
TWINS = 0.02  # cosine: two enrolled people this close to each other cannot be told apart
MEMORY = 16.0  # votes: what is remembered of them; new votes push out old ones
RESERVE = 2.0  # votes: for nobody, so that a few frames never are a majority
ENOUGH = 0.75  # share of the votes for a first word
SURE = 0.8  # share of the votes for taking it back
DENIED = 0.45  # share against a name that brings it into doubt: of all with the reserve, the half
PATIENCE = 3.0  # s: of silence, or of doubt, after which something is said in any case

# Attributes and emotion.
BAND = 0.1  # probability: how far past 0.5 an attribute must be to change
AGING = 5.0  # years: by how much an age must be off to change, and at least the half of its range
LEAD = 0.1  # probability: by how much a new emotion or ethnicity must beat the old
BLINK = 0.5  # s: unseen for less than this, as in a frame in which the network misses a face, nobody is out of sight

# Crowd and mood.
EVERYTHING: Final = Policy()
FEWEST = 3  # people: of fewer, what they look like together tells too much of each
AGES: Final = ((18, "under 18"), (65, "18 to 64"), (inf, "65 and over"))  # years: below which, and its name
NEGATIVE: Final = frozenset({"angry", "disgust", "fear", "sad"})
WAVER = 2.0  # years: by how far an age must be past a border to be counted beyond it
MOODY = 5.0  # s: between two moods told
SWING = 0.1  # of valence, or of one emotion's share: by how much it must differ to be told
STEADY = 0.5  # s: for which a count must last
RESTLESS = 2.0  # s: after which one is said even if it does not


class Labels(Protocol):
    """Names of the network's outputs, in their order."""

    @property
    def attributes(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def ethnicity(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def emotion(self) -> Sequence[str]: ...  # noqa: D102


class Reporter:
    """Says what changes in one stream. No clock: times are those of the frames."""

    def __init__(
        self, stream: str, report: Report, labels: Labels, match: Matcher, bar: Bar, policy: Policy = EVERYTHING,
        *, places: Places | None = None, visitors: Visitors | None = None,
    ) -> None:
        """Nothing said yet.

        report: what of it is said. policy: what is found out at all; it comes first.
        places: zones and lines. visitors: the unknown people of all streams of the device.

        match: asked for the nearest enrolled person of each face; never, if identity is off.
        bar: similarity from which a face is the person that it is nearest to, for the chosen false accept rate.

        Raises OwnerError if `report` asks for an attribute that the network does not know.
        """
        self.stream = stream
        levels = {what: policy.level(what) for what in ("identity", "attributes", "emotion")}
        report = allowed(report, levels)
        self._identity = identity = _Identity(match, bar, visitors) if report.identity else None
        self._topics: list[_Topic] = []
        needs: set[Trait] = set()
        if report.presence:
            self._topics.append(_Presence())
        if identity:
            self._topics.append(identity if levels["identity"] == "on" else _Unsaid(identity))
        if levels["attributes"] == "on" and (report.attributes or report.age or report.gender or report.ethnicity):
            attributes = _Attributes(report, labels)
            needs |= attributes.needs
            self._topics.append(attributes)
        if report.emotion and levels["emotion"] == "on":
            needs.add("emotion")
            self._topics.append(_Emotion(labels.emotion, report.settle))
        if report.crowd:
            counted = levels["attributes"] == "aggregate"
            crowd = _Crowd(identity, ages=counted and report.age, genders=counted and report.gender)
            needs |= crowd.needs
            self._topics.append(crowd)
        if levels["emotion"] != "off" and (report.mood or (report.emotion and levels["emotion"] == "aggregate")):
            needs.add("emotion")
            self._topics.append(_Mood(labels.emotion))
        if places:
            self._topics.append(_Place(places))
        purpose = policy.purpose
        self._purposes: dict[type, str | None] = {
            Presence: purpose.presence, Crowd: purpose.presence, Identity: purpose.identity,
            Attributes: purpose.attributes, Emotion: purpose.emotion, Mood: purpose.emotion,
            Zone: purpose.presence, Line: purpose.presence,
        }  # fmt: skip
        self.needs: Final = frozenset(needs)
        """The traits that a tracker has to average for this reporter."""

    def report(self, tracks: Tracks, faces: Faces, frame: Frame) -> list[Event]:
        """What this frame changed.

        tracks: all tracks alive after the frame; whoever was there and is no more has left.
        faces: the frame's faces, which the tracks' rows point into.
        """
        height, width = frame.image.shape[:2]
        moment = _Moment(tracks, tracks.believed(), faces, frame.time, frame.index, width, height)
        said = [data for topic in self._topics for data in topic.look(moment)]
        said.sort(key=lambda data: isinstance(data, Presence) and data.state == "left")  # whoever listens forgets them
        return [
            Event(stream=self.stream, time=frame.utc, captured=frame.captured, data=self._declared(data))
            for data in said
        ]

    def _declared(self, data: Said) -> Said:
        """The same, with what it is for."""
        purpose = self._purposes[type(data)]
        return data if purpose is None else data.model_copy(update={"purpose": purpose})


    def forget(self, name: str) -> None:
        """Whoever was taken for this person is nobody yet: the name is not told again, not even as a previous one."""
        if self._identity:
            self._identity.forget(name)

    @property
    def unknown(self) -> set[int]:
        """Tracks alive that are said to be unknown."""
        return self._identity.unknown() if self._identity else set()


@dataclass(frozen=True, slots=True)
class _Moment:
    """One frame as the topics see it."""

    tracks: Tracks
    present: Tracks  # those that were confirmed: whom the events are about
    faces: Faces
    time: float
    index: int
    width: int
    height: int

    @property
    def described(self) -> NDArray[np.bool_]:
        """(N,) whether the present were looked at in this frame: that nobody looked does not make anything last."""
        described: NDArray[np.bool_] = np.append(self.faces.described, False)[self.present.rows]  # -1: not seen
        return described

    def where(self, place: int, tracks: Tracks | None = None) -> dict[str, Any]:
        """What every event about one person carries: who is at that place among the present, or among `tracks`."""
        tracks = self.present if tracks is None else tracks
        box = tuple(round(edge, 1) for edge in tracks.box(place))
        return {"track": tracks.ids[place], "box": box, "frame": self.index}


class _Topic(Protocol):
    def look(self, moment: _Moment) -> Iterable[Said]:
        """What of this topic the moment changed."""


class _Unsaid:
    """A topic whose findings serve others, and are not published."""

    def __init__(self, topic: _Topic) -> None:
        self._topic = topic

    def look(self, moment: _Moment) -> Iterable[Said]:
        for _ in self._topic.look(moment):
            pass
        return ()


class _Presence:
    """Who came and who went."""

    def __init__(self) -> None:
        self._present = NOBODY

    def look(self, moment: _Moment) -> Iterator[Presence]:
        before, self._present = self._present, moment.present
        if before.ids != moment.present.ids:
            yield from self._say("appeared", moment.present, before, moment)
            yield from self._say("left", before, moment.present, moment)

    @staticmethod
    def _say(
        state: Literal["appeared", "left"], tracks: Tracks, others: Tracks, moment: _Moment
    ) -> Iterator[Presence]:
        """Of those who are not among the others."""
        there = set(others.ids)
        for place, number in enumerate(tracks.ids):
            if number not in there:
                seconds = round(float(tracks.last_seen[place] - tracks.first_seen[place]), 3)
                yield Presence(**moment.where(place, tracks), state=state, seconds=seconds)


class _Place:
    """Who is where."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def look(self, moment: _Moment) -> Iterator[Zone | Line]:
        for found in self._places.update(moment.tracks, moment.time, moment.width, moment.height):
            box = tuple(round(edge, 1) for edge in found.track.box.tolist())
            where: dict[str, Any] = {"track": found.track.id, "box": box, "frame": moment.index}
            if found.is_line:
                direction: Literal["in", "out"] = "in" if found.state == "entered" else "out"
                yield Line(**where, line=found.place, direction=direction, balance=found.count)
            else:
                yield Zone(**where, zone=found.place, state=found.state, seconds=found.seconds, count=found.count)


Verdict: TypeAlias = tuple[Literal["known", "unknown", "uncertain"], str | None]
UNKNOWN: Final[Verdict] = ("unknown", None)
UNCERTAIN: Final[Verdict] = ("uncertain", None)


def judge(match: Match, bar: float) -> tuple[Verdict, float]:
    """Who a face is, as the gallery answers and `Bar` asks, and how far that is from something else."""
    if match.name is None:
        return UNKNOWN, inf
    above = match.similarity - bar
    if above < 0:
        return UNKNOWN, -above
    if match.margin < TWINS:
        return UNCERTAIN, above
    if above < NARROW:
        return UNCERTAIN, NARROW - above
    return ("known", match.name), min(above, match.margin)


@dataclass(slots=True)
class _Ballot:
    """The votes on who one track is, and what was said of it."""

    voted: float  # when
    doubt: float | None  # since when the votes do not bear out what was said, or the silence
    said: Verdict | None = None
    name: str | None = None  # the last one said
    visitor: str | None = None  # the last one said, while `said` is unknown
    votes: dict[Verdict, float] = field(default_factory=dict)
    similarities: dict[Verdict, float] = field(default_factory=dict)  # times their votes

    def cast(self, verdict: Verdict, weight: float, similarity: float) -> None:
        """Add a vote."""
        keep = 1 - weight / MEMORY
        for each in self.votes:
            self.votes[each] *= keep
            self.similarities[each] *= keep
        self.votes[verdict] = self.votes.get(verdict, 0) + weight
        self.similarities[verdict] = self.similarities.get(verdict, 0) + weight * similarity

    def decide(self, time: float) -> Verdict | None:
        """What to say now; none: nothing new."""
        if self.doubt is None and len(self.votes) == 1 and self.said in self.votes:
            return None  # of most people, at most frames
        everybody = sum(self.votes.values())
        best = max(self.votes, key=self.votes.__getitem__, default=UNKNOWN)
        share = self.votes.get(best, 0) / (everybody + RESERVE)
        if best == UNCERTAIN and self.said == UNKNOWN:
            return None  # nobody has to hear that a stranger came a little nearer to somebody
        if best != self.said and share >= (SURE if self.said else ENOUGH):
            return best
        if self.said:
            against = everybody - self.votes.get(self.said, 0)
            if self.said[0] != "known" or against < DENIED * (everybody + RESERVE):
                self.doubt = None
                return None
        if self.doubt is None:
            self.doubt = time
        if time - self.doubt < PATIENCE:
            return None
        return UNKNOWN if best == UNKNOWN and not self.said else UNCERTAIN


class _Identity:
    """Who people are, by votes.

    Each vote is cast by the mean of the faces so far, as a stranger's mean stays a stranger's while
    a friend's comes nearer to the photos; what a single bad face says is averaged away.
    """

    def __init__(self, match: Matcher, bar: Bar, visitors: Visitors | None) -> None:
        self._match = match
        self._bar = bar
        self._visitors = visitors
        self._ballots: dict[int, _Ballot] = {}
        # Of each track: mean of the faces that voted, not of unit length, as its length tells; votes in it.
        self._means: _Columns | None = None

    def look(self, moment: _Moment) -> Iterator[Identity]:
        self._vote(moment)
        if self._visitors is not None:
            there = {self._ballots[number].visitor for number in moment.present.ids}
            self._visitors.seen([name for name in there if name is not None], moment.time)
        for place, (number, row) in enumerate(zip(moment.present.ids, moment.present.rows.tolist(), strict=True)):
            ballot = self._ballots[number]
            # Only a vote changes anything, or time where something waits for it.
            if row < 0 or (ballot.voted != moment.time and ballot.doubt is None):
                continue
            verdict = ballot.decide(moment.time)
            if verdict:
                yield self._say(ballot, verdict, moment.where(place), self._visitor(verdict, number, row, moment))

    def _visitor(self, verdict: Verdict, track: int, row: int, moment: _Moment) -> str | None:
        """Which unknown person this is."""
        if self._visitors is None or verdict != UNKNOWN or self._means is None:
            return None
        place = moment.tracks.ids.index(track)
        if not self._means["seen"][place]:
            return None
        mean = self._means["looks"][place]
        length = max(float(np.linalg.norm(mean)), 1e-6)
        size = float(moment.faces.sizes[row])
        beside = (
            self._ballots[other].visitor
            for other, there in zip(moment.present.ids, moment.present.rows.tolist(), strict=True)
            if there >= 0 and other != track
        )
        others = [name for name in beside if name is not None]
        return self._visitors.who(mean / np.float32(length), length, size, moment.time, others)

    def forget(self, name: str) -> None:
        """Take back all votes for this person, and what was said of it."""
        verdict: Verdict = ("known", name)
        for ballot in self._ballots.values():
            ballot.votes.pop(verdict, None)
            ballot.similarities.pop(verdict, None)
            if ballot.name == name:
                ballot.name = None
            if ballot.said == verdict:
                ballot.said = ballot.doubt = None

    def counts(self, present: Tracks) -> tuple[int, int]:
        """How many of them were said to be known and unknown."""
        said = [self._ballots[number].said for number in present.ids]
        return sum(verdict is not None and verdict[0] == "known" for verdict in said), said.count(UNKNOWN)

    def unknown(self) -> set[int]:
        """Tracks that are said to be."""
        return {number for number, ballot in self._ballots.items() if ballot.said == UNKNOWN}

    def _vote(self, moment: _Moment) -> None:
        tracks, ballots = moment.tracks, self._ballots
        if list(ballots) != tracks.ids:
            self._ballots = ballots = {
                number: ballots.get(number) or _Ballot(first - VOTE, doubt=first)
                for number, first in zip(tracks.ids, tracks.first_seen.tolist(), strict=True)
            }
        if not tracks:
            self._means = None
            return
        if self._means is None:
            self._means = _Columns(looks=np.zeros_like(moment.faces.embeddings[0]), seen=0.0)
        self._means.align(tracks)
        voters, rows, places = [], [], []
        described = moment.faces.described.tolist()
        for place, (row, ballot) in enumerate(zip(tracks.rows.tolist(), ballots.values(), strict=True)):
            # Four fifths, so that a camera of ten frames a second need not be exact.
            if row >= 0 and described[row] and moment.time - ballot.voted >= 0.8 * VOTE:
                voters.append(ballot)
                rows.append(row)
                places.append(place)
        if not rows:
            return
        qualities = moment.faces.quality[rows].tolist()
        votes = [
            min((moment.time - ballot.voted) / VOTE, SELDOM) * max(quality, 1e-3)
            for ballot, quality in zip(voters, qualities, strict=True)
        ]
        means, lengths = _averaged(self._means, places, moment.faces.embeddings[rows], np.array(votes))
        matches = self._match(means)
        agreement = lengths * np.array([match.agreement for match in matches], np.float32)
        bars = self._bar(moment.faces.sizes[rows], matches[0].enrolled, agreement).tolist()
        for ballot, match, bar, vote in zip(voters, matches, bars, votes, strict=True):
            verdict, clearness = judge(match, bar)
            ballot.voted = moment.time
            weight = vote * min(max(clearness / CLEAR, 0.1), 1)
            ballot.cast(verdict, weight, nan if match.name is None else match.similarity)

    def _say(self, ballot: _Ballot, verdict: Verdict, where: dict[str, Any], visitor: str | None) -> Identity:
        state, name = verdict
        previous = ballot.name if ballot.name != name else None
        ballot.said, ballot.doubt, ballot.name, ballot.visitor = verdict, None, name or ballot.name, visitor
        # Who is uncertain is told by how many votes the strongest has.
        backed = max(ballot.votes, key=ballot.votes.__getitem__) if verdict == UNCERTAIN else verdict
        votes = ballot.votes.get(backed, 0)
        similarity = ballot.similarities[backed] / votes if votes else nan
        return Identity(
            **where,
            state=state,
            name=name,
            previous=previous,
            similarity=None if isnan(similarity) else round(similarity, 3),
            confidence=round(votes / sum(ballot.votes.values()), 3) if votes else 0,
            visitor=visitor,
        )


class _Columns:
    """Arrays with a row for each track there is, in the tracks' order."""

    def __init__(self, **blank: Any) -> None:
        """blank: for each array, what the row of a new track holds."""
        rows = {name: np.asarray(row) for name, row in blank.items()}
        # One record for a track, as each array costs when they are picked.
        record = np.dtype([(name, row.dtype, row.shape) for name, row in rows.items()], align=True)
        self._ids: list[int] = []
        self._blank = np.array([tuple(rows.values())], record)
        self._table = self._blank[:0]

    def align(self, tracks: Tracks) -> None:
        """Make room for the new, forget the gone."""
        if tracks.ids == self._ids:
            return
        place = {number: row for row, number in enumerate(self._ids)}
        rows = [place.get(number, len(place)) for number in tracks.ids]
        table = np.empty(len(place) + 1, self._blank.dtype)
        table[:-1], table[-1:] = self._table, self._blank
        self._table, self._ids = table.take(rows), tracks.ids

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._table[name]


def _averaged(
    means: _Columns, places: list[int], faces: Floats, votes: NDArray[np.float64]
) -> tuple[Floats, Floats]:
    """Average `faces` (N, D) into the means at `places`, with `votes` (N,) as weights.

    Returns those means as unit vectors, and (N,) the lengths that they had: 1 if all faces were alike.
    """
    means["seen"][places] = seen = means["seen"][places] * (1 - votes / LOOKS) + votes
    looks: Floats = means["looks"][places]
    looks += (votes / seen).astype(np.float32)[:, None] * (faces - looks)
    means["looks"][places] = looks
    lengths = np.maximum(np.sqrt(np.einsum("ij,ij->i", looks, looks)), np.float32(1e-6))
    return looks / lengths[:, None], lengths


class _Attributes:
    """What people look like: said once it is settled, and again when some of it has changed."""

    def __init__(self, report: Report, labels: Labels) -> None:
        self._report = report
        self._asked = indices(report.attributes, labels.attributes)
        self._ethnicities = labels.ethnicity
        wanted: dict[Trait, bool] = {
            "attributes": bool(report.attributes),
            "age": report.age,
            "gender": report.gender,
            "ethnicity": report.ethnicity,
        }
        self.needs = {trait for trait, on in wanted.items() if on}
        yes_or_no = len(self._asked) + report.gender
        self._told = _Columns(
            said=False,
            traits=np.zeros(yes_or_no, np.bool_),
            age=0.0,
            ethnicity=0,
            since=np.full(yes_or_no + 2, inf),  # when each of them began to differ
        )

    def look(self, moment: _Moment) -> Iterator[Attributes]:
        tracks, told, settle = moment.present, self._told, self._report.settle
        told.align(tracks)
        if not tracks:
            return
        chances, age, ethnicity = self._read(tracks)
        everyone = np.arange(len(tracks))
        traits = chances > np.where(told["traits"], 0.5 - BAND, 0.5 + BAND)
        strongest = ethnicity.argmax(1)
        beaten = ethnicity[everyone, strongest] >= ethnicity[everyone, told["ethnicity"]] + LEAD
        aged = np.abs(age - told["age"]) > AGING
        differs = np.concatenate([traits != told["traits"], aged[:, None], beaten[:, None]], 1)

        there = moment.time - tracks.last_seen < BLINK
        told["since"][:] = np.where(differs & there[:, None], np.minimum(told["since"], moment.time), inf)
        # For how long it has differed from what was said; what was not, from nothing.
        since = np.where(told["said"], told["since"].min(1), tracks.first_seen)
        due = moment.described & (moment.time - since >= settle)
        for row in due.nonzero()[0].tolist():
            if told["said"][row]:
                told["traits"][row] = traits[row]
                told["ethnicity"][row] = strongest[row] if beaten[row] else told["ethnicity"][row]
            else:
                told["traits"][row] = chances[row] > 0.5
                told["ethnicity"][row] = strongest[row]
                told["said"][row] = True
            told["age"][row] = age[row]
            told["since"][row] = inf
            yield self._say(row, chances[row].tolist(), ethnicity[row], moment)

    def _read(self, tracks: Tracks) -> tuple[Floats, Floats, Floats]:
        """Chances of what is yes or no (N, asked + gender), ages (N,), ethnicities (N, 5 or 1)."""
        report, count = self._report, len(tracks)
        chances = np.zeros((count, 0), np.float32)
        if report.attributes:
            chances = tracks.mean("attributes")[:, self._asked]
        if report.gender:
            chances = np.concatenate([chances, tracks.mean("gender")[:, None]], 1)
        age = tracks.mean("age") if report.age else np.zeros(count, np.float32)
        return chances, age, tracks.mean("ethnicity") if report.ethnicity else np.zeros((count, 1), np.float32)

    def _say(self, row: int, chances: list[float], ethnicity: Floats, moment: _Moment) -> Attributes:
        report, told = self._report, self._told
        looks: dict[str, Any] = {
            "attributes": {
                name: _ratio(chance) for name, chance in zip(report.attributes, chances, strict=False)
            }
        }
        if report.age:
            age = max(float(told["age"][row]), 0)
            about = max(moment.present.age_deviation(row), AGING)
            looks["age"] = round(age, 1)
            looks["age_range"] = (max(round(age - about), 0), round(age + about))
        if report.gender:
            male = bool(told["traits"][row, -1])
            looks["gender"] = "male" if male else "female"
            # What wavers stays as it was said for a while, and then is as likely as not.
            looks["gender_confidence"] = max(_ratio(chances[-1] if male else 1 - chances[-1]), 0.5)
        if report.ethnicity:
            said = int(told["ethnicity"][row])
            looks["ethnicity"] = self._ethnicities[said]
            looks["ethnicity_confidence"] = _ratio(ethnicity[said])
        return Attributes(**moment.where(row), **looks)


class _Emotion:
    """The facial expression."""

    def __init__(self, names: Sequence[str], settle: float) -> None:
        self._names = names
        self._settle = settle
        # Columns of the distribution; -1: none, as strong as nothing.
        self._told = _Columns(said=-1, next=-1, since=0.0)

    def look(self, moment: _Moment) -> Iterator[Emotion]:
        tracks, told = moment.present, self._told
        told.align(tracks)
        if not tracks:
            return
        everyone = np.arange(len(tracks))
        chances = np.concatenate([tracks.mean("emotion"), np.zeros((len(tracks), 1), np.float32)], 1)
        said, coming = told["said"], told["next"]
        strongest = chances.argmax(1)
        strength = chances[everyone, strongest]
        hurdle = chances[everyone, said] + LEAD
        # The next emotion stays so while it clears the hurdle and none is clearly stronger:
        # else two that are much alike would hinder each other for ever.
        held = chances[everyone, coming]
        stays = (coming >= 0) & (held >= hurdle) & (strength < held + LEAD)
        candidate = np.where(stays, coming, np.where(strength >= hurdle, strongest, -1))
        candidate[moment.time - tracks.last_seen >= BLINK] = -1
        told["since"][candidate != coming] = moment.time
        told["next"][:] = candidate
        due = (candidate >= 0) & moment.described & (moment.time - told["since"] >= self._settle)
        for row in due.nonzero()[0].tolist():
            before, now = int(said[row]), int(candidate[row])
            said[row], told["next"][row] = now, -1
            yield Emotion(
                **moment.where(row),
                emotion=self._names[now],
                confidence=_ratio(chances[row, now]),
                previous=self._names[before] if before >= 0 else None,
                distribution={
                    name: _ratio(chance) for name, chance in zip(self._names, chances[row], strict=False)
                },
                valence=_valence(self._names, chances[row]),
            )


class _Crowd:
    """How many people there are, and where that is all that may be said, of what age and gender."""

    def __init__(self, identity: _Identity | None, *, ages: bool = False, genders: bool = False) -> None:
        self._identity = identity
        self._ages, self._genders = ages, genders
        wanted: dict[Trait, bool] = {"age": ages, "gender": genders}
        self.needs = {trait for trait, on in wanted.items() if on}
        self._counted = _Columns(age=-1, male=-1)  # what each is counted as, -1: not yet; who wavers stays that
        self._said: dict[str, Any] | None = None  # as an event's fields: to compare events takes ten times as long
        self._next: dict[str, Any] | None = None
        self._next_since = self._differs_since = 0.0

    def look(self, moment: _Moment) -> Iterator[Crowd]:
        crowd = self._count(moment.present)
        if crowd == self._said:
            self._next = None
            return
        if self._next is None:
            self._differs_since = moment.time
        if crowd != self._next:
            self._next, self._next_since = crowd, moment.time
        steady = moment.time - self._next_since >= STEADY
        if steady or moment.time - self._differs_since >= RESTLESS or self._said is None:
            self._said, self._next = crowd, None
            yield Crowd(**crowd)

    def _count(self, present: Tracks) -> dict[str, Any]:
        known, unknown = self._identity.counts(present) if self._identity else (0, 0)
        ages = genders = None
        self._counted.align(present)
        if present and self._ages:
            self._move(self._counted["age"], present.mean("age"), np.array([below for below, _ in AGES[:-1]]), WAVER)
        if present and self._genders:
            self._move(self._counted["male"], present.mean("gender"), np.array([0.5]), BAND)
        if len(present) >= FEWEST and self._ages:
            counts = np.bincount(self._counted["age"], minlength=len(AGES)).tolist()
            ages = {name: count for (_, name), count in zip(AGES, counts, strict=True)}
        if len(present) >= FEWEST and self._genders:
            male = int(np.count_nonzero(self._counted["male"]))
            genders = {"female": len(present) - male, "male": male}
        return {"count": len(present), "known": known, "unknown": unknown, "ages": ages, "genders": genders}

    @staticmethod
    def _move(counted: NDArray[Any], values: Floats, borders: NDArray[Any], clear: float) -> None:
        """Count `values` (N,) by the `borders` reached, into `counted` (N,): anew only who is clear of one."""
        now = np.searchsorted(borders, values, "right")
        lower = np.searchsorted(borders, values - clear, "right")
        upper = np.searchsorted(borders, values + clear, "right")
        moved = (counted < 0) | (lower > counted) | (upper < counted)
        counted[moved] = now[moved]


class _Mood:
    """How people look together."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._said: Mood | None = None
        self._when = -inf

    def look(self, moment: _Moment) -> Iterator[Mood]:
        # Those out of sight for a moment too, or a few people of whom one is hidden now and then were told ever anew.
        people = len(moment.present)
        if people < FEWEST:
            mood = Mood(people=people)
        else:
            mean = moment.present.mean("emotion").mean(0)
            shares = {name: _ratio(share) for name, share in zip(self._names, mean, strict=False)}
            mood = Mood(people=people, distribution=shares, valence=_valence(self._names, mean))
        if self._said is None or (moment.time - self._when >= MOODY and self._differs(mood, self._said)):
            self._said, self._when = mood, moment.time
            yield mood

    @staticmethod
    def _differs(now: Mood, said: Mood) -> bool:
        if now.distribution is None or said.distribution is None:
            return now.distribution is not said.distribution or now.people != said.people
        return now.people != said.people or any(
            abs(now.distribution[name] - share) >= SWING for name, share in said.distribution.items()
        )


def _valence(names: Sequence[str], chances: Floats) -> float:
    """See `Mood.valence`; -1 to 1."""
    pleased = sum(float(c) for name, c in zip(names, chances, strict=False) if name == "happy")
    displeased = sum(float(c) for name, c in zip(names, chances, strict=False) if name in NEGATIVE)
    return round(min(max(pleased - displeased, -1.0), 1.0), 3)


def allowed(report: Report, levels: dict[str, str]) -> Report:
    """Of what the owner wants said, what the policy lets be found out."""
    change: dict[str, object] = {}
    if levels["identity"] == "off":
        change["identity"] = False
    if levels["attributes"] == "off":
        change |= {"attributes": [], "age": False, "gender": False, "ethnicity": False}
    if levels["emotion"] == "off":
        change |= {"emotion": False, "mood": False}
    return report.model_copy(update=change)


def indices(asked: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where each name asked for stands among the names there are."""
    unknown = [name for name in asked if name not in names]
    if unknown:
        sentences = []
        for name in unknown:
            meant = get_close_matches(name, names, 1)
            sentences.append(f"'{name}'" + (f" (did you mean '{meant[0]}'?)" if meant else ""))
        raise OwnerError(f"report.attributes: the network does not know {', '.join(sentences)}")
    return [list(names).index(name) for name in asked]


def _ratio(chance: float) -> float:
    """A probability as it is published: three digits, and never a hair past 0 or 1."""
    return min(max(round(float(chance), 3), 0.0), 1.0)

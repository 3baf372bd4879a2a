"""Strangers: tracks of people whom nobody knows, kept for a while, gathered into clusters, and given a name.

    for cluster in clusters(gallery.strangers(), similarity=0.5):
        print(cluster.id, len(cluster.strangers), cluster.first, cluster.last)
    name_cluster(gallery, "u17", "Ada", similarity=0.5)

Only where the owner asked for it: a template of somebody who never agreed is kept here, so few of them are
kept, sealed as the enrolled are, and for days at most.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf

import cv2
import numpy as np
from numpy.typing import NDArray

from onelook.cohort import NOBODY, Cohort
from onelook.errors import GalleryError
from onelook.face import Faces, Floats
from onelook.frame import Frame
from onelook.gallery import Gallery, Note, Stranger, clean_name
from onelook.track import Track

log = logging.getLogger(__name__)

WRITE = 10.0
"""Seconds between two writes: each takes tens of milliseconds on an SD card."""
TIDY = 3600.0
"""Seconds between two looks for what has outlived its time."""
LASTS = 2.0
"""Seconds for which somebody must have been seen to be worth keeping."""
WORTH = 0.3
"""Least quality of the mean of a track's faces, 0 to 1."""
TEMPLATES = 10
"""Most tracks of a cluster that become templates, the best first."""
CROP = 160
"""Pixels of a kept picture's side."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Tracks that look like one person's."""

    id: str
    """`u` and the number of its oldest track; the same until that one is dropped."""
    strangers: tuple[Stranger, ...]
    """Oldest first."""

    @property
    def first(self) -> datetime:
        """When it was first seen, UTC."""
        return min(each.first for each in self.strangers)

    @property
    def last(self) -> datetime:
        """When it was last seen, UTC."""
        return max(each.last for each in self.strangers)

    @property
    def streams(self) -> tuple[str, ...]:
        """Where."""
        return tuple(sorted({each.stream for each in self.strangers}))


def clusters(strangers: Sequence[Stranger], similarity: float, cohort: Cohort = NOBODY) -> list[Cluster]:
    """Gathers tracks into people; the most often seen first.

    similarity: from which two tracks are taken for one person, by the model of `cohort`. Average linkage, which
    neither chains strangers together by way of a third, nor demands that all pairs of a person's tracks be near.
    """
    if not strangers:
        return []
    looks = np.stack([each.embedding for each in strangers]).astype(np.float64)
    common = cohort.commonness(looks.astype(np.float32))
    labels = _gathered(looks @ looks.T - (common[:, None] + common[None]) / 2, similarity)
    found = []
    for label in np.unique(labels).tolist():
        mine = tuple(strangers[row] for row in np.flatnonzero(labels == label).tolist())
        found.append(Cluster(f"u{min(each.number for each in mine)}", mine))
    return sorted(found, key=lambda cluster: (-len(cluster.strangers), cluster.first))


def _gathered(alike: NDArray[np.float64], similarity: float) -> NDArray[np.intp]:
    """The group (N,) of each, by average linkage of `alike` (N, N) until no two are as alike as `similarity`."""
    alike = np.minimum(alike, 1.0)
    np.fill_diagonal(alike, -np.inf)
    groups, sizes = np.arange(len(alike)), np.ones(len(alike))
    nearest = alike.argmax(1)
    while True:
        likeness = alike[np.arange(len(alike)), nearest]
        one = int(likeness.argmax())
        if likeness[one] < min(similarity, 1 - 1e-6):
            return groups
        other = int(nearest[one])
        both = (sizes[one] * alike[one] + sizes[other] * alike[other]) / (sizes[one] + sizes[other])
        both[one] = -np.inf
        alike[one] = alike[:, one] = both
        alike[other] = alike[:, other] = -np.inf
        groups[groups == other] = one
        sizes[one] += sizes[other]
        # A mean is nowhere nearer than the nearer of the two was: only who was near to one of them looks again.
        again = (nearest == one) | (nearest == other)
        nearest[again] = alike[again].argmax(1)


def name_cluster(
    gallery: Gallery, cluster: str, name: str, similarity: float, note: Note | None = None, *, cohort: Cohort = NOBODY,
) -> int:
    """Enrols a cluster, by its id, as `name`, and drops its tracks; how many templates that makes.

    similarity, cohort: as of `clusters`; from it on, a cluster that is like somebody enrolled under another name is
    refused. note: on what ground the person is enrolled; none: as noted before.
    Raises GalleryError with one sentence, also where there is no such cluster.
    """
    name = clean_name(name)
    found = clusters([each for each in gallery.strangers() if each.model == gallery.model_sha], similarity, cohort)
    chosen = next((each for each in found if each.id == cluster), None)
    if chosen is None:
        there = ", ".join(each.id for each in found) or "none"
        raise GalleryError(f"There is no cluster {cluster} of unknown people; there are: {there}.")
    best = sorted(chosen.strangers, key=lambda each: -each.quality)[:TEMPLATES]
    mean = np.mean([each.embedding for each in best], axis=0)
    match = gallery.match((mean / np.linalg.norm(mean))[None].astype(np.float32))[0]
    if match.name not in (None, name) and match.similarity >= similarity:
        raise GalleryError(
            f"{cluster} looks like {match.name}, who is enrolled (similarity {match.similarity:.2f}): "
            f"give it that name, or forget one of the two."
        )
    with gallery.transaction():
        for each in best:
            source = f"seen on {each.stream}, {each.first:%Y-%m-%d %H:%M} UTC"
            gallery.add(name, each.embedding, each.quality, source)
        if note is not None and note != Note():
            gallery.annotate(name, note)
        gallery.drop_strangers([each.number for each in chosen.strangers])
    return len(best)


@dataclass(slots=True)
class _Seen:
    last: datetime
    lasted: float  # seconds, by the frames' clock: that of the wall may be set meanwhile
    embedding: Floats
    quality: float
    unknown: bool = False
    best: float = 0.0
    crop: bytes | None = None
    forgotten: bool = False


class Lookout:
    """Notices which tracks of one stream end without a name. No clock: times are those of the frames."""

    def __init__(self, stream: str, *, crops: bool = False) -> None:
        """crops: keep a picture of each."""
        self.stream = stream
        self.crops = crops
        self._seen: dict[int, _Seen] = {}

    def look(
        self, tracks: Sequence[Track], faces: Faces, frame: Frame, unknown: Collection[int]
    ) -> Iterator[Stranger]:
        """The strangers who have left with this frame; `unknown`: tracks that are said to be so."""
        alive = set()
        for track in tracks:
            alive.add(track.id)
            if track.state == "tentative":
                continue
            seen = self._seen.get(track.id)
            if seen is None:
                lasted = frame.time - track.first_seen
                seen = self._seen[track.id] = _Seen(frame.utc, lasted, track.embedding, track.quality)
            seen.unknown = track.id in unknown and not seen.forgotten
            if track.row is None:
                continue
            seen.last, seen.lasted = frame.utc, frame.time - track.first_seen
            seen.embedding, seen.quality = track.embedding, track.quality
            quality = float(faces.quality[track.row])
            if self.crops and seen.unknown and quality > seen.best and (crop := _crop(frame, faces.boxes[track.row])):
                seen.best, seen.crop = quality, crop
        yield from self._left([number for number in self._seen if number not in alive])

    def end(self) -> Iterator[Stranger]:
        """The strangers who are in view to the end."""
        yield from self._left(list(self._seen))

    def forget(self, embeddings: Floats, alike: float) -> None:
        """Do not notice whoever is in view and looks like any of `embeddings`, (N, D) of unit length: cosine of at
        least `alike`. What was seen of them before they were forgotten is in the track's mean."""
        for seen in self._seen.values():
            if float((embeddings @ seen.embedding).max()) >= alike:
                seen.forgotten, seen.unknown, seen.crop = True, False, None

    def _left(self, tracks: Iterable[int]) -> Iterator[Stranger]:
        for gone in map(self._seen.pop, tracks):
            if gone.unknown and gone.quality >= WORTH and gone.lasted >= LASTS:
                first = gone.last - timedelta(seconds=gone.lasted)
                yield Stranger(self.stream, first, gone.last, gone.embedding, gone.quality, gone.crop)


class Guestbook:
    """Stores strangers, a few at a time, and destroys what in the gallery has outlived its time."""

    def __init__(
        self, gallery: Gallery, *, days: float = 0, most: int = 500, lifetime: timedelta | None = None,
        streams: Collection[str] = (),
    ) -> None:
        """days: for which strangers are kept; 0: not at all. lifetime: of templates, see `Gallery.expire`.
        streams: whose strangers are ours; another daemon may keep its own in the same gallery.
        """
        self._gallery, self._streams = gallery, frozenset(streams)
        self._days, self._most, self._lifetime = timedelta(days=days), most, lifetime
        self._waiting: list[Stranger] = []
        self._wrote = self._tidied = -inf
        self._fails = False

    def write(self, strangers: Sequence[Stranger], time: float) -> None:
        """Takes note of `strangers`; the gallery is written to every `WRITE` seconds at most, and tidied hourly.

        time: of the frame, in seconds. A gallery that cannot be written costs these, and is said once.
        """
        if self._days:
            self._waiting = [*self._waiting, *strangers][-self._most :]
        try:
            if self._waiting and time - self._wrote >= WRITE:
                self._wrote = time
                with self._gallery.transaction():
                    for stranger in self._waiting:
                        kept = replace(stranger, until=stranger.last + self._days)
                        self._gallery.keep_stranger(kept, most=self._most)
                self._waiting, self._fails = [], False
            if time - self._tidied >= TIDY:
                self._tidied = time
                self._gallery.expire(self._lifetime)
                self._gallery.expire_strangers(self._days, self._streams)
                self._fails = False
        except GalleryError as error:
            if not self._fails:
                log.warning("%s Strangers are not kept, and old templates not destroyed.", error)
            self._fails = True

    def forget(self, embeddings: Floats, alike: float) -> None:
        """Do not store whoever looks like any of `embeddings`, (N, D) of unit length: cosine of at least `alike`."""
        self._waiting = [each for each in self._waiting if float((embeddings @ each.embedding).max()) < alike]


def _crop(frame: Frame, box: Floats) -> bytes | None:
    """JPEG of the square around a face, half as large again; none where the frame shows nothing of it."""
    x, y = (box[:2] + box[2:]) / 2
    half = 0.75 * float(max(box[2:] - box[:2]))
    height, width = frame.image.shape[:2]
    left, top = max(round(x - half), 0), max(round(y - half), 0)
    right, bottom = min(round(x + half), width), min(round(y + half), height)
    if right <= left or bottom <= top:
        return None
    part = frame.image[top:bottom, left:right]
    scale = min(1.0, CROP / max(part.shape[:2]))
    size = max(round(scale * part.shape[1]), 1), max(round(scale * part.shape[0]), 1)
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(data)

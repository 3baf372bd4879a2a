"""Control: what the commands do to a running daemon. All of it happens in the frame loop's thread."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import TracebackType
from typing import Any, Self

from onelook import __version__
from onelook.capture import Capture, LatestFrames
from onelook.commands import (
    Enroll,
    Enrolled,
    Forget,
    Forgotten,
    GiveName,
    Handler,
    ListUnknown,
    Named,
    Pause,
    Paused,
    PhotoVerdict,
    Ping,
    Pong,
    Resume,
    Scene,
    Snapshot,
    StreamNow,
    TrackNow,
    Unknown,
    UnknownNow,
)
from onelook.config import Stream
from onelook.enroll import Verdict
from onelook.errors import OwnerError
from onelook.event import Attributes, Emotion, Event, Identity
from onelook.gallery import Note, clean_name
from onelook.pipeline import Pipeline
from onelook.strangers import Cluster

log = logging.getLogger(__name__)

PAUSED = "paused"
"""The reason that a paused stream's status gives."""


class Control:
    """The captures of all streams, and the handlers of the commands.

    Within the `with` block every stream is captured that is not paused. Who paused a camera may have
    relied on it: `paused` is the file that remembers, over a restart, which are; none: nothing does.
    `on_change(stream, up, reason)` hears of what becomes of them, from any thread. `enroll`, `forget`,
    `unknown` and `name` are the gallery's: `forget` gives the number of templates destroyed, `name` that
    of those made.
    """

    def __init__(
        self,
        streams: Iterable[Stream],
        inbox: LatestFrames,
        on_change: Callable[[str, bool, str | None], None],
        pipelines: Mapping[str, Pipeline],
        *,
        enroll: Callable[[str, Sequence[Path], Note], list[Verdict]],
        forget: Callable[[str], int],
        unknown: Callable[[], list[Cluster]],
        name: Callable[[str, str, Note], int],
        paused: Path | None = None,
    ) -> None:
        self._streams = {stream.name: stream for stream in streams}
        self._inbox = inbox
        self._on_change = on_change
        self._pipelines = pipelines
        self._enroll, self._forget = enroll, forget
        self._unknown, self._name = unknown, name
        self._file = paused
        self._began = time.monotonic()
        self._up: set[str] = set()
        self._captures: dict[str, Capture] = {}
        # Frames before a stream was paused, and the time of the last: neither is given again.
        self._delivered: dict[str, tuple[int, float]] = {}
        self._said: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in self._streams}
        self.handlers: Mapping[str, Handler] = {
            "ping": self.ping,
            "snapshot": self.snapshot,
            "pause": self.pause,
            "resume": self.resume,
            "enroll": self.enroll,
            "forget": self.forget,
            "unknown": self.unknown,
            "name": self.name,
        }

    def __enter__(self) -> Self:
        paused = self._remembered()
        for name in self._streams:
            if name in paused:
                self._inbox.register(name)  # it has not come to its end
                self._changed(name, False, PAUSED)
            else:
                self._start(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for capture in self._captures.values():
            capture.stop()  # all of them before the first is waited for
        for capture in self._captures.values():
            capture.__exit__(kind, error, trace)
        self._captures.clear()

    def is_paused(self, stream: str) -> bool:
        """Whether it is not to be looked at; a capture that was left in a hurry may still deliver a frame."""
        return stream not in self._captures

    def hear(self, stream: str, events: Iterable[Event]) -> None:
        """Remember what the newest frame of `stream` had said of its tracks, for a snapshot."""
        said = self._said[stream]
        for event in events:
            if isinstance(event.data, Identity | Attributes | Emotion):
                said.setdefault(event.data.track, {})[event.kind] = event.data
        there = set(self._pipelines[stream].tracks.ids)
        self._said[stream] = {track: data for track, data in said.items() if track in there}

    def forgotten(self, name: str) -> None:
        """Take a person's name out of what a snapshot would tell."""
        for tracks in self._said.values():
            for data in tracks.values():
                who = data.get("identity")
                if who is not None and name in (who.name, who.previous):
                    del data["identity"]

    def ping(self, _asked: Ping) -> Pong:
        """The loop turns, or nobody would answer."""
        return Pong(version=__version__, seconds=round(time.monotonic() - self._began, 1))

    def snapshot(self, asked: Snapshot) -> Scene:
        """Whom the newest frames show."""
        return Scene(streams=[self._scene(name) for name in self._meant(asked.stream)])

    def pause(self, asked: Pause) -> Paused:
        """Let go of the cameras; who is paused already stays so."""
        meant = [name for name in self._meant(asked.stream) if name in self._captures]
        for name in meant:
            self._captures[name].stop()  # all of them before the first is waited for: the loop stands still meanwhile
        for name in meant:
            capture = self._captures.pop(name)
            capture.__exit__(None, None, None)
            self._delivered[name] = capture.delivered, capture.newest
            self._inbox.register(name)  # it has not come to its end
            self._changed(name, False, PAUSED)
        self._remember()
        return self._paused()

    def resume(self, asked: Resume) -> Paused:
        """Open the cameras again."""
        for name in self._meant(asked.stream):
            if name not in self._captures:
                self._changed(name, False, "starting")
                self._start(name)
        self._remember()
        return self._paused()

    def enroll(self, asked: Enroll) -> Enrolled:
        """Enrol the faces on the photos. Raises OwnerError where none can be used."""
        name = clean_name(asked.name)
        with ExitStack() as house:
            try:
                folder = house.enter_context(TemporaryDirectory(prefix="onelook-"))
                photos = []
                for number, content in enumerate(asked.photos, 1):
                    file = house.enter_context(TemporaryFile())  # nameless: it is gone with us, even if we are killed
                    file.write(content)
                    file.flush()
                    photos.append(Path(folder, f"photo-{number}"))
                    photos[-1].symlink_to(f"/proc/self/fd/{file.fileno()}")
            except OSError as error:
                raise OwnerError(f"There is no room to lay the photos down: {error.strerror}.") from None
            verdicts = self._enroll(name, photos, Note(purpose=asked.purpose, consent=asked.consent))
        told = [
            PhotoVerdict(photo=number, accepted=verdict.accepted, reason=verdict.reason)
            for number, verdict in enumerate(verdicts, 1)
        ]
        if not any(verdict.accepted for verdict in told):
            reasons = "; ".join(f"photo {verdict.photo} {verdict.reason}" for verdict in told)
            raise OwnerError(f"{name} is not enrolled: {reasons}.")
        return Enrolled(name=name, photos=told)

    def forget(self, asked: Forget) -> Forgotten:
        """Destroy what is kept of a person. Raises OwnerError where nothing is."""
        name = clean_name(asked.name)
        templates = self._forget(name)
        if not templates:
            raise OwnerError(f"Nobody named {name} is enrolled.")
        return Forgotten(name=name, templates=templates)

    def unknown(self, _asked: ListUnknown) -> Unknown:
        """Whom nobody knows."""
        return Unknown(
            clusters=[
                UnknownNow(
                    cluster=each.id, times=len(each.strangers), first=each.first, last=each.last,
                    streams=list(each.streams),
                )
                for each in self._unknown()
            ]
        )

    def name(self, asked: GiveName) -> Named:
        """Enrol one of them. Raises OwnerError where that cannot be."""
        name, note = clean_name(asked.name), Note(purpose=asked.purpose, consent=asked.consent)
        return Named(name=name, templates=self._name(asked.cluster, name, note))

    def _remember(self) -> None:
        if self._file is None:
            return
        try:
            coming = self._file.with_name(self._file.name + ".new")
            with coming.open("w") as file:
                file.write(json.dumps(self._paused().paused))
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave an empty one in its place
            coming.replace(self._file)  # whole, or as it was
            folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            log.warning("Which streams are paused cannot be written to %s (%s): a restart would forget it.",
                        self._file, error.strerror)

    def _remembered(self) -> set[str]:
        try:
            paused = {str(name) for name in json.loads(self._file.read_bytes())} if self._file else set()
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, TypeError) as error:
            # Whoever paused a camera wants it not to look; to look all the same is the worse mistake.
            log.warning("Which streams were paused cannot be read from %s (%s): all are, until told to resume.",
                        self._file, error)
            return set(self._streams)
        paused &= self._streams.keys()
        if paused:
            log.info("still paused: %s", ", ".join(sorted(paused)))
        return paused

    def _start(self, name: str) -> None:
        first, after = self._delivered.get(name, (0, -inf))
        self._captures[name] = Capture(self._streams[name], self._inbox, self._changed, first=first, after=after)
        self._captures[name].__enter__()

    def _changed(self, stream: str, up: bool, reason: str | None) -> None:
        (self._up.add if up else self._up.discard)(stream)
        self._on_change(stream, up, reason)

    def _meant(self, stream: str | None) -> list[str]:
        if stream is not None and stream not in self._streams:
            raise OwnerError(f"There is no stream {stream}; there are {', '.join(self._streams)}.")
        return list(self._streams) if stream is None else [stream]

    def _paused(self) -> Paused:
        return Paused(paused=[name for name in self._streams if name not in self._captures])

    def _scene(self, name: str) -> StreamNow:
        if name not in self._captures:
            return StreamNow(stream=name, state="paused", tracks=[])
        if name not in self._up:
            return StreamNow(stream=name, state="offline", tracks=[])
        said = self._said[name]
        tracks = [
            TrackNow(
                track=track.id,
                box=tuple(round(edge, 1) for edge in track.box.tolist()),
                seconds=round(track.last_seen - track.first_seen, 3),
                **said.get(track.id, {}),
            )
            for track in self._pipelines[name].tracks
            if track.state == "confirmed"
        ]
        return StreamNow(stream=name, state="online", tracks=tracks)

"""Capture: a stream's frames, each dated, from whatever its URL names.

`Capture` reads one source in one thread and is the only place that tries again. `LatestFrames` is
the only hand-over between those threads and the loop. `frames` reads the same sources in the
caller's own thread, for replay.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from math import inf
from types import TracebackType
from typing import Self, TypeAlias

from onelook.config import Stream
from onelook.frame import Frame
from onelook.picture import PictureError, read_picture
from onelook.source import CaptureError, Shot, is_live, length, masked, shots

__all__ = ["Capture", "CaptureError", "LatestFrames", "PictureError", "frames", "length", "masked", "read_picture"]

log = logging.getLogger(__name__)

JOIN_SECONDS = 0.8
"""How long a stopping capture waits for its thread: longer than a frame of any camera in good health."""
RETOLD = 60.0
"""Seconds after which a stream that is down tells its reason anew, if it is another by then: at boot the network was
not there, and now the password is refused."""

ENDED = "has come to its end"
"""The last words of the reason that a file's or folder's status gives once all of it was shown."""

Clock: TypeAlias = Callable[[float | None], tuple[float, datetime]]
"""Position of a shot -> its monotonic time and its UTC."""


class LatestFrames:
    """The newest frame of every stream, handed from the capture threads to the loop.

    A slow loop sees fresh frames: a newer one replaces one that still waits, which is counted as
    dropped. A stream that is much faster than another does not starve it: `take` goes round.
    """

    def __init__(self) -> None:
        """No stream is registered yet."""
        self._changed = threading.Condition()
        self._waiting: dict[str, Frame | None] = {}  # in order of turn: first the one taken longest ago
        self._dropped: Counter[str] = Counter()
        self._ended: set[str] = set()
        self._error: Exception | None = None

    def register(self, stream: str) -> None:
        """Expect frames of `stream` until it ends."""
        with self._changed:
            self._waiting.setdefault(stream, None)
            self._ended.discard(stream)

    def put(self, frame: Frame, *, wait: bool = False) -> None:
        """Hand in a stream's newest frame; with `wait`, only once its last one was taken.

        A frame of a stream that has ended is ignored, and a waiting `put` then returns.
        """
        name = frame.stream
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: name in self._ended or self._waiting.get(name) is None)
            if name in self._ended:
                return
            if self._waiting.get(name) is not None:
                self._dropped[name] += 1
            self._waiting[name] = frame
            self._changed.notify_all()

    def take(self, timeout: float) -> Frame | None:
        """The newest frame of the stream that has waited longest for its turn.

        None after `timeout` seconds without a frame, and at once when all is `finished`.
        Raises the error of a thread that failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._next() or self._finished(), timeout)
            if self._error:
                raise self._error
            name = self._next()
            if name is None:
                return None
            frame = self._waiting.pop(name)
            self._waiting[name] = None  # to the end of the round
            self._changed.notify_all()
            return frame

    def fail(self, error: Exception) -> None:
        """Hand in a thread's bug, for `take` to raise in the main thread."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def end(self, stream: str) -> None:
        """Expect nothing more of `stream`; a frame that waits can still be taken."""
        with self._changed:
            self._ended.add(stream)
            self._changed.notify_all()

    def dropped(self, stream: str) -> int:
        """How many frames of `stream` were replaced before anybody took them."""
        with self._changed:
            return self._dropped[stream]

    @property
    def finished(self) -> bool:
        """Whether every registered stream has ended and no frame waits."""
        with self._changed:
            return self._finished()

    def _next(self) -> str | None:
        return next((name for name, frame in self._waiting.items() if frame is not None), None)

    def _finished(self) -> bool:
        return bool(self._waiting) and self._ended >= self._waiting.keys() and self._next() is None


class Capture:
    """One stream read in one thread, for as long as the `with` block lasts.

    A source that fails is opened again, after a pause that grows from `retry_min` to `retry_max`
    and is never twice the same, so that cameras behind one switch are not all asked at once.

    `on_change(stream, up, reason)` is called from that thread, only when the stream comes up,
    goes down (`reason` is a sentence, password masked), is down for another reason after RETOLD
    seconds, or ends; not when the block is left.
    """

    def __init__(
        self, stream: Stream, inbox: LatestFrames, on_change: Callable[[str, bool, str | None], None], *,
        first: int = 0, after: float = -inf,
    ) -> None:
        """Nothing is opened before the block is entered. first: the number that its first frame gets. after: the time
        of the frame before that; of a file that nothing paces it may lie in what is yet to come.
        """
        self.stream = stream
        self._inbox = inbox
        self._on_change = on_change
        self._up: bool | None = None  # not known yet
        self._reason: str | None = None
        self._since = 0.0
        self.delivered = first
        """Frames that the stream has delivered, those before this capture among them."""
        self.newest = after
        """Time of the last of them."""
        self._stop = threading.Event()
        self._leave = 0.0
        self._thread = threading.Thread(target=self._run, name=f"capture-{stream.name}", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._inbox.register(self.stream.name)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread, or leave it behind in a call of a dead camera, which cannot be interrupted."""
        self.stop()
        self._thread.join(max(0.0, self._leave - time.monotonic()))

    def stop(self) -> None:
        """Tell the thread to end, without waiting; leaving the block then waits no longer than from here.

        For all captures of a house at once: a dozen cameras may hang, and their waits must not add up.
        """
        if not self._stop.is_set():
            self._stop.set()
            self._inbox.end(self.stream.name)
            self._leave = time.monotonic() + (JOIN_SECONDS if self._up else JOIN_SECONDS / 8)

    def _run(self) -> None:
        try:
            self._keep_reading()
            if not self._stop.is_set():  # else it was ended then, and may have been started again since
                self._inbox.end(self.stream.name)
        except Exception as bug:  # noqa: BLE001 - not swallowed: the main thread raises it
            self._inbox.fail(bug)

    def _keep_reading(self) -> None:
        shortest, longest = self.stream.retry_min, max(self.stream.retry_min, self.stream.retry_max)
        pause = shortest
        while not self._stop.is_set():
            try:
                self._read()
            except CaptureError as error:
                if self._stop.is_set():
                    return  # left, not failed
                if self._up and time.monotonic() - self._since > pause:
                    pause = shortest  # it had been well for a while: this is a new misfortune
                self._say(up=False, reason=str(error))
            else:
                if not self._stop.is_set():
                    end = f"{masked(self.stream.url)} {ENDED}"
                    self._say(up=False, reason=end, level=logging.INFO)  # as a file must: nothing is wrong
                return
            pause = min(2 * pause, longest)
            self._stop.wait(random.uniform(max(pause / 2, shortest), pause))  # noqa: S311 - no secret

    def _read(self) -> None:
        """Read the source to its end; CaptureError when it fails first."""
        stream = self.stream
        unhurried = not stream.paced and not is_live(stream.url)
        source = shots(
            stream.url,
            open_timeout=stream.open_timeout,
            read_timeout=stream.read_timeout,
            fps=stream.fps,
            loop=stream.loop,
            stop=self._stop,
        )
        for frame in _dated(stream.name, source, self._clock(), fps=stream.fps, first=self.delivered):
            if self._stop.is_set():
                return  # paused or ended while this picture was read: it is not up any more
            self._say(up=True)
            self.delivered, self.newest = frame.index + 1, frame.time
            lag = time.monotonic() - frame.time if unhurried else 0.0
            self._inbox.put(replace(frame, lag=lag), wait=unhurried)

    def _clock(self) -> Clock:
        """When a shot was taken: a camera's just now; a file's at its place after the start."""
        start: float | None = None
        utc = datetime.now(UTC)

        def clock(position: float | None) -> tuple[float, datetime]:
            nonlocal start, utc
            now = time.monotonic()
            if position is None:
                return now, datetime.now(UTC)
            if start is None:
                ahead = max(self.newest - now, 0.0)
                start, utc = now + ahead - position, datetime.now(UTC) + timedelta(seconds=ahead - position)
            if self.stream.paced:
                late = now - (start + position)
                if late > 1:  # too slow to keep its pace: slip, or frames would seem ever older
                    start, utc = start + late, utc + timedelta(seconds=late)
                self._stop.wait(max(0.0, -late))
            return start + position, utc + timedelta(seconds=position)

        return clock

    def _say(self, *, up: bool, reason: str | None = None, level: int = logging.WARNING) -> None:
        now = time.monotonic()
        if up == self._up and (reason == self._reason or now - self._since < RETOLD):
            return
        self._up, self._reason, self._since = up, reason, now
        if up:
            log.info("stream %s is up", self.stream.name)
        else:
            log.log(level, "stream %s is down: %s", self.stream.name, reason)
        self._on_change(self.stream.name, up, reason)


def frames(
    url: str,
    *,
    stream: str = "replay",
    start: datetime | None = None,
    fps: float | None = None,
    open_timeout: float = 10.0,
    read_timeout: float = 10.0,
) -> Iterator[Frame]:
    """The frames of one source, read once, in the caller's thread; none is dropped.

    A frame of a video file or folder is dated by its place alone, so a replay is exact: `time` is
    its seconds into the file (a folder's pictures are PICTURE_SECONDS apart) and `utc` is `start`
    (none: now) plus that. A camera's frames have the real clocks. `fps` is the most frames to
    look at in a second.

    Raises:
        CaptureError: when the source cannot be opened or breaks.
    """
    utc = start or datetime.now(UTC)

    def clock(position: float | None) -> tuple[float, datetime]:
        if position is None:
            return time.monotonic(), datetime.now(UTC)
        return position, utc + timedelta(seconds=position)

    source = shots(
        url, open_timeout=open_timeout, read_timeout=read_timeout, fps=fps, loop=False, stop=threading.Event()
    )
    return _dated(stream, source, clock, fps=fps, first=0)


def _dated(
    stream: str, source: Iterable[Shot], clock: Clock, *, fps: float | None, first: int
) -> Iterator[Frame]:
    """At most `fps` of the shots a second, as dated frames numbered from `first`."""
    period = 1 / fps if fps else 0.0
    due = float("-inf")
    index = count(first)
    for shot in source:
        moment, utc = clock(shot.position)
        if moment < due - period / 4:  # cameras are not exact: a little early will do
            continue
        image = shot.look()
        if image is None:
            continue
        due = (due if moment - due <= period else moment) + period  # nor does one late frame cost the next
        yield Frame(stream, next(index), image, moment, utc)

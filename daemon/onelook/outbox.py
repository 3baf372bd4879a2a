"""Outbox: events that wait for the broker; a copy on disk outlives the process.

Memory is the truth and SQLite its copy: an event is in both before `put` returns, so a
killed process loses nothing, and a full or failing disk costs the copy but no event.
Bounded and expiring, because a stale event is worse than none.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Self

from pydantic import ValidationError

from onelook.errors import OwnerError
from onelook.event import Event

log = logging.getLogger(__name__)

REASONS = ("expired", "full", "refused", "unreadable")
"""Why an event may be dropped undelivered: too old; no room; the broker denied its topic;
its stored form is not of this version."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event and its place in the queue."""

    number: int
    """Ours and rising; the broker's message ids start again with each connection."""
    event: Event
    expires: float
    """Seconds since the epoch."""
    size: int
    """Bytes of its stored form."""


class Outbox:
    """Events in the order they were put, until deleted, expired or pushed out by newer ones.

    May be used from any thread. `path`: the file that outlives the process; none: memory
    only. `on_dropped(reason, count)` hears of every event that leaves undelivered, `reason`
    being one of `REASONS`. Raises OwnerError where the file cannot be used; a damaged file
    is set aside as `<name>.broken`.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        max_messages: int = 10_000,
        max_bytes: int = 8 * 2**20,
        on_dropped: Callable[[str, int], None] = lambda _reason, _count: None,
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_dropped = on_dropped
        self._lock = Lock()  # guards all below; never held while anybody else's code runs
        self._waiting: dict[int, Waiting] = {}
        self._bytes = 0
        self._newest = 0
        self._disk: sqlite3.Connection | None = None
        self._disk_fails = False
        if path is not None:
            self._disk, stored = _open(path)
            self._load(stored)

    def put(self, event: Event, expires: float) -> None:
        """Keep `event` until `expires` (seconds since the epoch); the oldest give way when full."""
        text = event.model_dump_json()
        size = len(text.encode())
        with self._lock:
            self._newest += 1
            self._waiting[self._newest] = Waiting(self._newest, event, expires, size)
            self._bytes += size
            self._write("INSERT INTO waiting VALUES (?, ?, ?)", [(self._newest, expires, text)])
            dropped = self._make_room()
        self._tell("full", dropped)

    def oldest(self, count: int, after: int = 0) -> list[Waiting]:
        """At most `count` events behind number `after`, oldest first."""
        with self._lock:
            return list(islice((w for w in self._waiting.values() if w.number > after), count))

    @property
    def newest(self) -> int:
        """Number of the event put last; 0 before the first."""
        with self._lock:
            return self._newest

    def delete(self, numbers: Iterable[int]) -> None:
        """Forget events that were delivered; numbers that are gone already do no harm."""
        with self._lock:
            self._forget(numbers)

    def drop(self, numbers: Iterable[int], reason: str) -> None:
        """Forget events that will never be delivered, and count them."""
        with self._lock:
            dropped = self._forget(numbers)
        self._tell(reason, dropped)

    def expire(self, now: float) -> int:
        """Drop what expired by `now` (seconds since the epoch); how many. To be called every second or so."""
        with self._lock:
            dropped = self._forget([w.number for w in self._waiting.values() if w.expires <= now])
            if self._disk_fails:
                self._copy_all()
        self._tell("expired", dropped)
        return dropped

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)

    def close(self) -> None:
        """Let go of the file; what waits is there at the next start."""
        with self._lock:
            if self._disk is not None:
                self._disk.close()
                self._disk = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, stored: list[tuple[int, float, str]]) -> None:
        unreadable = []
        for number, expires, text in stored:
            self._newest = number
            try:
                event = Event.model_validate_json(text)
            except ValidationError:  # written by another version
                unreadable.append((number,))
                continue
            size = len(text.encode())
            self._waiting[number] = Waiting(number, event, expires, size)
            self._bytes += size
        self._write("DELETE FROM waiting WHERE number = ?", unreadable)
        full = self._make_room()
        self._tell("unreadable", len(unreadable))
        self._tell("full", full)

    def _make_room(self) -> int:
        doomed = []
        count, size = len(self._waiting), self._bytes
        for oldest in self._waiting.values():
            if count <= self._max_messages and size <= self._max_bytes:
                break
            doomed.append(oldest.number)
            count, size = count - 1, size - oldest.size
        return self._forget(doomed)

    def _forget(self, numbers: Iterable[int]) -> int:
        gone = [w for w in (self._waiting.pop(number, None) for number in numbers) if w is not None]
        self._bytes -= sum(w.size for w in gone)
        self._write("DELETE FROM waiting WHERE number = ?", [(w.number,) for w in gone])
        return len(gone)

    def _tell(self, reason: str, count: int) -> None:
        if count:
            self._on_dropped(reason, count)

    def _write(self, statement: str, rows: list[tuple[int]] | list[tuple[int, float, str]]) -> None:
        if self._disk is None or self._disk_fails or not rows:
            return
        try:
            with self._disk:
                self._disk.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            self._disk_fails = True
            log.warning("The outbox cannot be written (%s): events wait in memory only, trying again.", error)

    def _copy_all(self) -> None:
        """Bring a disk that failed up to date; while it fails it is tried here only."""
        if self._disk is None:
            return
        rows = [(w.number, w.expires, w.event.model_dump_json()) for w in self._waiting.values()]
        try:
            with self._disk:
                self._disk.execute("DELETE FROM waiting")
                self._disk.executemany("INSERT INTO waiting VALUES (?, ?, ?)", rows)
        except sqlite3.OperationalError:
            return
        self._disk_fails = False
        log.info("The outbox can be written again.")


def _open(path: Path) -> tuple[sqlite3.Connection, list[tuple[int, float, str]]]:
    try:
        path.touch(mode=0o600)  # names of people are in it
    except OSError as error:
        raise OwnerError(f"The outbox {path} cannot be opened: {error.strerror}.") from None
    try:
        return _connect(path)
    except sqlite3.OperationalError as error:
        raise OwnerError(
            f"The outbox {path} cannot be opened ({error}): is another onelook using it?"
        ) from None
    except sqlite3.DatabaseError as error:
        # Nobody may be near to mend it: start anew, keep the damaged file for who looks into it.
        aside = path.with_name(path.name + ".broken")
        log.warning("The outbox %s is damaged (%s): now %s; starting empty.", path, error, aside.name)
        path.replace(aside)
        for journal in ("-wal", "-shm"):
            path.with_name(path.name + journal).unlink(missing_ok=True)
        return _open(path)


def _connect(path: Path) -> tuple[sqlite3.Connection, list[tuple[int, float, str]]]:
    disk = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        disk.execute("PRAGMA locking_mode = EXCLUSIVE")  # two daemons on one outbox would both send it
        disk.execute("PRAGMA journal_mode = WAL")
        # A commit outlives the process without waiting for the disk; a power cut may cost the
        # last moments, never the file. FULL would stop the caller for tens of ms on an SD card.
        disk.execute("PRAGMA synchronous = NORMAL")
        with disk:
            disk.execute(
                "CREATE TABLE IF NOT EXISTS waiting"
                " (number INTEGER PRIMARY KEY, expires REAL NOT NULL, event TEXT NOT NULL)"
            )
        return disk, disk.execute("SELECT number, expires, event FROM waiting ORDER BY number").fetchall()
    except BaseException:
        disk.close()
        raise

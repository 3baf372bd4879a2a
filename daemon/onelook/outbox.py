"""Outbox: events that wait for the broker; a copy on disk outlives the process.

Memory is the truth and SQLite its copy: an event is in both before `put` returns, so a
killed process loses nothing; a full or failing disk costs the copy but no event. `sync`,
called every second or so, makes the copy outlive a power cut as well.

Bounded and expiring, because a stale event is worse than none. How old an event is, is
measured by a clock that nobody can set: a board without a clock of its own may be told a year
of another decade while it runs. Only after a reboot has the clock on the wall to be believed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import EDQUOT, EIO, ENOSPC, EROFS
from math import inf
from pathlib import Path
from threading import Lock
from typing import Self

from pydantic import ValidationError

from onelook.errors import BusyError, OwnerError
from onelook.event import Event

log = logging.getLogger(__name__)

REASONS = ("expired", "forgotten", "full", "refused", "unreadable")
"""Why an event may be dropped undelivered: too old; about a person who was forgotten, or of a kind that the
policy forbids by now; no room; the broker will not have it; its stored form is not of this version."""

BYTES = 4_000_000
"""Most bytes of one kind of event, where nothing else is said: about 8,000 events."""

SLACK = 90.0
"""Seconds by which a board's clock may be behind at boot, and events of before it still be dated:
one without a battery goes on from a time that was saved to disk, by systemd-timesyncd every minute."""

WORLD = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")
"""What a failing disk says, by SQLite's names; it may get well again. Whatever else is wrong may not."""

_CREATE = (
    "CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, boot TEXT NOT NULL,"
    " deadline REAL NOT NULL, put REAL NOT NULL, life REAL NOT NULL, event TEXT NOT NULL)"
)
_INSERT = "INSERT INTO waiting VALUES (?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM waiting WHERE number = ?"
_VERSION = 1

_Row = tuple[int, str, float, float, float, str]


def seconds_since_boot() -> float:
    """A clock that is never set, and counts what the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Which boot of the machine this is; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event and its place in the queue."""

    number: int
    """Ours and rising; the broker's message ids start again with each connection."""
    stream: str | None
    kind: str
    text: str
    """The event's JSON: as an object it would take several times the memory."""
    captured: float | None
    """The event's, which its JSON leaves out."""
    deadline: float
    """From when on it is not to be delivered any more, by the outbox's clock."""
    put: float
    """When it was put, in seconds since the epoch by what the clock on the wall said then."""
    life: float
    """For how many seconds from then it was worth delivering."""

    @property
    def event(self) -> Event:
        """The event as it was put."""
        return Event.model_validate_json(self.text).model_copy(update={"captured": self.captured})

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())


class Outbox:
    """Events in the order they were put, until deleted, expired or pushed out by newer ones.

    May be used from any thread. `path`: the file that outlives the process; none: memory
    only. `most`: bytes that may wait, by kind of event; BYTES of a kind that is not named.
    `on_dropped(reason, count)` hears of every event that leaves undelivered, `reason` being one
    of `REASONS`; `on_failed(count)` of tries to write to the disk that failed, from `expire`.
    `clock`, `wall` and `boot` are for tests of what clocks can do to it.

    Raises OwnerError where the file cannot be used, BusyError where another has it; a damaged file is set aside as
    `<name>.broken`. A disk that is full, or fails, is no reason not to start.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        most: Mapping[str, int] | None = None,
        on_dropped: Callable[[str, int], None] = lambda _reason, _count: None,
        on_failed: Callable[[int], None] = lambda _count: None,
        clock: Callable[[], float] = seconds_since_boot,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self._path = path
        self._most = dict(most or {})
        self._on_dropped, self._on_failed = on_dropped, on_failed
        self._clock, self._wall = clock, wall
        self._boot = boot_id() if boot is None else boot
        self._lock = Lock()  # guards all below; never held while anybody else's code runs
        self._waiting: dict[int, Waiting] = {}
        self._kinds: defaultdict[str, dict[int, Waiting]] = defaultdict(dict)
        self._streams: defaultdict[str | None, dict[int, Waiting]] = defaultdict(dict)
        self._bytes: Counter[str] = Counter()
        self._newest = 0
        self._soonest = inf  # no deadline is sooner
        self._disk: sqlite3.Connection | None = None
        self._disk_fails = False
        self._again = -inf  # from when on it may be copied anew
        self._read = path is None  # whether what the file held at the start is in the memory
        self._doomed: list[Callable[[Waiting], bool]] = []  # what of it is to be destroyed before anybody is told
        self._untidy = False  # whether a name may be left in it that was to be destroyed
        self._failures = 0  # tries to write that nobody was told of yet
        self._unsynced = False
        if path is not None:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise OwnerError(
                    f"The outbox {path} cannot be kept: its folder cannot be made ({error.strerror}). Make it, or give "
                    f"another mqtt.outbox."
                ) from None
            self._disk, stored = _open(path)
            self._disk_fails = self._disk is None
            self._read = self._disk is not None
            if self._disk_fails:  # above all numbers that the file may turn out to hold
                self._failures = 1
                self._newest = int(wall()) << 20
            for reason, count in self._load(stored).items():
                self._tell(reason, count)

    def put(self, *events: tuple[Event, float]) -> list[int]:
        """Keep events, each for so many seconds; their numbers. All are on disk or none, at the price of one.

        The oldest of a kind give way when there is no room.
        """
        texts = [(event, event.model_dump_json(), life) for event, life in events]
        with self._lock:
            now, wall = self._clock(), self._wall()
            fresh = [
                Waiting(number, event.stream, event.kind, text, event.captured, now + life, wall, life)
                for number, (event, text, life) in enumerate(texts, self._newest + 1)
            ]
            self._newest += len(fresh)
            for waiting in fresh:
                self._add(waiting)
            self._write(_INSERT, [self._row(waiting) for waiting in fresh])
            dropped = sum(self._make_room(kind) for kind in {waiting.kind for waiting in fresh})
        self._tell("full", dropped)
        return [waiting.number for waiting in fresh]

    def heads(self, after: Mapping[str | None, int]) -> list[Waiting]:
        """Of each stream, the oldest event behind the number that `after` has of it; 0 where it has none."""
        with self._lock:
            found = [
                next((waiting for number, waiting in lane.items() if number > after.get(stream, 0)), None)
                for stream, lane in self._streams.items()
            ]
        return [waiting for waiting in found if waiting is not None]

    def left(self, waiting: Waiting) -> float:
        """Seconds for which it is still worth delivering; negative when it is not."""
        return waiting.deadline - self._clock()

    def waited(self, waiting: Waiting) -> float:
        """Seconds since it was put."""
        return waiting.life - self.left(waiting)

    @property
    def newest(self) -> int:
        """Number of the event put last; 0 before the first."""
        with self._lock:
            return self._newest

    @property
    def failing(self) -> bool:
        """Whether what waits should be on disk, and is in memory only."""
        with self._lock:
            return self._disk_fails

    @property
    def unread(self) -> bool:
        """Whether the file may hold events of an earlier run that could not be read yet; an `expire` brings them."""
        with self._lock:
            return not self._read

    def delete(self, numbers: Iterable[int]) -> None:
        """Forget events that were delivered; numbers that are gone already do no harm."""
        with self._lock:
            self._forget(numbers)

    def drop(self, numbers: Iterable[int], reason: str) -> None:
        """Forget events that will never be delivered, and count them."""
        with self._lock:
            dropped = self._forget(numbers)
        self._tell(reason, dropped)

    def expire(self) -> int:
        """Drop what has expired; how many. To be called every second or so."""
        gone: Counter[str] = Counter()
        with self._lock:
            if self._disk_fails and self._clock() >= self._again:
                began = self._clock()
                gone = self._copy_all()
                # A large outbox takes seconds to copy, and whoever puts an event waits meanwhile: let it be a tenth of
                # the time. Of one that takes less than 0.1 s every try counts.
                self._again = self._clock() + 9 * (self._clock() - began) - 1
            failures, self._failures = self._failures, 0
            now = self._clock()
            if now >= self._soonest:
                gone["expired"] += self._forget([w.number for w in self._waiting.values() if w.deadline <= now])
                self._soonest = min((w.deadline for w in self._waiting.values()), default=inf)
        for reason, count in gone.items():
            self._tell(reason, count)
        if failures:
            self._on_failed(failures)
        return gone["expired"]

    def forget(self, name: str) -> int:
        """Destroy what waits about an enrolled person; how many events.

        No byte of the name is left in the file: what was delivered long ago is overwritten too, and a damaged
        file that was set aside goes with it.
        """
        if self._path is not None:
            with suppress(OSError):
                _aside(self._path).unlink()
        return self._destroy(lambda waiting: name in _named(waiting), untidy=True)

    def forbid(self, kinds: Collection[str], enrolled: Collection[str] | None = None) -> int:
        """Destroy what waits of kinds that are not to be told any more, as `forget` does; how many events.

        enrolled: what is about anybody else goes too; none: whoever it is about.
        """
        return self._destroy(
            lambda waiting: waiting.kind in kinds or (enrolled is not None and not _named(waiting).issubset(enrolled))
        )

    def sync(self) -> None:
        """Have what was written reach the disk itself: from here on a power cut does not lose it.

        Takes as long as the disk does, tens of milliseconds on an SD card; nobody else waits meanwhile.
        """
        with self._lock:
            if self._path is None or not self._unsynced or not self._waiting:
                return
            self._unsynced = False
        try:
            journal = os.open(f"{self._path}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return
        except OSError as error:
            with self._lock:
                self._fail(error)
            return
        try:
            os.fsync(journal)
        except OSError as error:
            with self._lock:
                self._fail(error)
        finally:
            os.close(journal)

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        """What waits just now, oldest first."""
        with self._lock:
            return iter(list(self._waiting.values()))

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

    def _destroy(self, doomed: Callable[[Waiting], bool], *, untidy: bool = False) -> int:
        """Destroy those; how many. untidy: bytes may be left of some that are gone already."""
        with self._lock:
            dropped = self._forget([waiting.number for waiting in self._waiting.values() if doomed(waiting)])
            if not self._read:
                self._doomed.append(doomed)
            self._untidy = self._untidy or untidy or dropped > 0
            self._tidy()
        self._tell("forgotten", dropped)
        return dropped

    def _load(self, stored: list[_Row]) -> Counter[str]:
        """Take in what the file held; how many cannot be kept, and why."""
        gone: Counter[str] = Counter()
        doomed: list[tuple[int]] = []
        for number, boot, deadline, put, life, text in stored:
            self._newest = max(self._newest, number)
            left = self._left_of_stored(boot, deadline, put, life)
            try:
                event = Event.model_validate_json(text)
            except ValidationError:  # written by another version
                gone["unreadable"] += 1
                doomed.append((number,))
                continue
            if left <= 0:
                gone["expired"] += 1
                doomed.append((number,))
                continue
            waiting = Waiting(number, event.stream, event.kind, text, None, self._clock() + left, put, life)
            if any(each(waiting) for each in self._doomed):
                gone["forgotten"] += 1
                doomed.append((number,))
                self._untidy = True
                continue
            self._add(waiting)
        self._write(_DELETE, doomed)
        for kind in list(self._kinds):
            gone["full"] += self._make_room(kind)
        return gone

    def _left_of_stored(self, boot: str, deadline: float, put: float, life: float) -> float:
        if boot and boot == self._boot:
            return deadline - self._clock()
        age = self._wall() - put
        # The clock says that it was put in the future: then nobody knows how old it is.
        return -inf if age < -SLACK else min(life - age, life)

    def _row(self, waiting: Waiting) -> _Row:
        return (waiting.number, self._boot, waiting.deadline, waiting.put, waiting.life, waiting.text)

    def _add(self, waiting: Waiting) -> None:
        self._waiting[waiting.number] = waiting
        self._kinds[waiting.kind][waiting.number] = waiting
        self._streams[waiting.stream][waiting.number] = waiting
        self._bytes[waiting.kind] += waiting.size
        self._soonest = min(self._soonest, waiting.deadline)

    def _make_room(self, kind: str) -> int:
        size, most = self._bytes[kind], self._most.get(kind, BYTES)
        doomed = []
        for oldest in self._kinds[kind].values():
            if size <= most:
                break
            doomed.append(oldest.number)
            size -= oldest.size
        return self._forget(doomed)

    def _forget(self, numbers: Iterable[int]) -> int:
        gone = [w for w in (self._waiting.pop(number, None) for number in numbers) if w is not None]
        for waiting in gone:
            del self._kinds[waiting.kind][waiting.number]
            del self._streams[waiting.stream][waiting.number]
            self._bytes[waiting.kind] -= waiting.size
        self._write(_DELETE, [(w.number,) for w in gone])
        return len(gone)

    def _tell(self, reason: str, count: int) -> None:
        if count:
            self._on_dropped(reason, count)

    def _write(self, statement: str, rows: list[tuple[int]] | list[_Row]) -> None:
        if self._disk is None or self._disk_fails or not rows:
            return
        try:
            with self._disk:
                self._disk.executemany(statement, rows)
            self._unsynced = True
        except sqlite3.DatabaseError as error:
            self._fail(error)

    def _tidy(self) -> None:
        """Leave no byte in the file of what is gone from it; where the disk fails, later."""
        if self._disk is None or self._disk_fails or not self._untidy:
            return
        try:
            self._disk.execute("VACUUM")
            self._disk.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._untidy = False
        except sqlite3.DatabaseError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        if not self._disk_fails:
            self._disk_fails = True
            _complain(error)

    def _copy_all(self) -> Counter[str]:
        """Bring a disk that failed up to date; while it fails it is tried here only."""
        gone: Counter[str] = Counter()
        if self._disk is None:
            if self._path is None:
                return gone
            try:
                self._disk, stored = _open(self._path, quiet=True)
            except OwnerError:  # its folder is gone, or another holds it: no reason to end now
                stored = []
            if self._disk is None:
                self._failures += 1
                return gone
            if not self._read:  # it could not be when we started
                gone = self._load(stored)
                self._waiting = dict(sorted(self._waiting.items()))
                for lane in (*self._kinds.values(), *self._streams.values()):
                    ordered = sorted(lane.items())
                    lane.clear()
                    lane.update(ordered)
            self._read = True
            self._doomed.clear()
        rows = [self._row(w) for w in self._waiting.values()]
        try:
            # The journal may hold all the room that there is, and gives it back only so.
            self._disk.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with self._disk:
                self._disk.execute("DELETE FROM waiting")
                self._disk.executemany(_INSERT, rows)
        except sqlite3.OperationalError:
            self._failures += 1
            return gone
        except sqlite3.DatabaseError as error:
            # Damaged, maybe where only writing meets it. What it held is in the memory; the next try starts a new file.
            self._failures += 1
            self._disk.close()
            self._disk = None
            if self._path is not None:
                with suppress(OSError):  # a disk that fails altogether: the next try meets it again
                    _set_aside(self._path, error)
            return gone
        self._disk_fails, self._unsynced = False, True
        self._tidy()
        log.info("The outbox can be written again.")
        return gone


def _named(waiting: Waiting) -> set[str]:
    """The people whom it tells of."""
    if waiting.kind != "identity":
        return set()
    data = waiting.event.data
    return {name for name in (getattr(data, "name", None), getattr(data, "previous", None)) if name is not None}


def _complain(error: Exception) -> None:
    log.warning("The outbox cannot be written (%s): events wait in memory only, trying again.", error)


def _open(path: Path, *, quiet: bool = False) -> tuple[sqlite3.Connection | None, list[_Row]]:
    """The file and what it holds; no file where the disk fails, which is said unless `quiet`."""
    try:
        path.touch(mode=0o600)  # names of people are in it
        return _connect(path)
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT, EIO, EROFS):
            raise OwnerError(f"The outbox {path} cannot be opened: {error.strerror}.") from None
        trouble: Exception = error
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith(WORLD):
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            raise (BusyError if busy else OwnerError)(
                f"The outbox {path} cannot be opened ({error}): is another onelook using it?"
            ) from None
        trouble = error
    except sqlite3.DatabaseError as error:
        try:
            _set_aside(path, error)
        except OSError as why:
            raise OwnerError(
                f"The outbox {path} is damaged ({error}) and cannot be set aside: {why.strerror}. Move it away."
            ) from None
        return _open(path)
    if not quiet:
        _complain(trouble)
    return None, []


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".broken")


def _set_aside(path: Path, error: Exception) -> None:
    """Nobody may be near to mend it: start anew, keep the damaged file for who looks into it."""
    aside = _aside(path)
    path.replace(aside)
    log.warning("The outbox %s is damaged (%s): now %s; starting empty.", path, error, aside.name)
    for journal in ("-wal", "-shm"):
        path.with_name(path.name + journal).unlink(missing_ok=True)


def _connect(path: Path) -> tuple[sqlite3.Connection, list[_Row]]:
    disk = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        disk.execute("PRAGMA locking_mode = EXCLUSIVE")  # two daemons on one outbox would both send it
        disk.execute("PRAGMA journal_mode = WAL")
        # A commit outlives the process without waiting for the disk; `sync` makes it outlive a
        # power cut. FULL would stop the frame loop for tens of ms on an SD card, at each event.
        disk.execute("PRAGMA synchronous = NORMAL")
        disk.execute("PRAGMA secure_delete = ON")
        # A killed process leaves what it had delivered in the journal, names of people who were forgotten among it.
        disk.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        [version] = disk.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:  # nothing that is worth a minute of anybody's time
            with disk:
                disk.execute("DROP TABLE IF EXISTS waiting")
                disk.execute(_CREATE)
                disk.execute(f"PRAGMA user_version = {_VERSION}")
        columns = "number, boot, deadline, put, life, event"
        return disk, disk.execute(f"SELECT {columns} FROM waiting ORDER BY number").fetchall()  # noqa: S608
    except UnicodeDecodeError as error:  # SQLite quotes the damage, and Python cannot read the quote
        disk.close()
        raise sqlite3.DatabaseError("its schema is damaged") from error
    except BaseException:
        disk.close()
        raise

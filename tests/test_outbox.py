"""The outbox keeps events in order through crashes, and drops them only for a reason it tells."""

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from errno import EACCES, EIO, EROFS
from pathlib import Path
from typing import Any, Self

import pytest

from onelook.errors import OwnerError
from onelook.event import Event, Identity, Presence
from onelook.outbox import REASONS, Outbox

FOREVER = 4e9


class Clocks:
    """A clock that only goes on, and one on the wall that anybody may set."""

    def __init__(self) -> None:
        self.boot, self.since_boot, self.wall = "first", 100.0, 1.8e9

    def outbox(self, path: Path | None, **more: Any) -> Outbox:
        return Outbox(path, clock=lambda: self.since_boot, wall=lambda: self.wall, boot=self.boot, **more)

    def wait(self, seconds: float) -> None:
        self.since_boot += seconds
        self.wall += seconds

    def reboot(self, seconds: float, behind: float = 0.0) -> None:
        """Off for so long; the clock on the wall may have stood still meanwhile, or longer."""
        self.boot, self.since_boot = f"after {self.boot}", 5.0
        self.wall += seconds - behind


def appeared(track: int, stream: str = "door") -> Event:
    data = Presence(track=track, box=(1.5, 2.25, 30.125, 40.0), frame=track, state="appeared", seconds=0.0)
    return Event(stream=stream, time=datetime.now(UTC), captured=12.5, data=data)


def raised(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def tracks(outbox: Outbox) -> list[int]:
    return [w.event.data.track for w in outbox if isinstance(w.event.data, Presence)]


class Dropped(Counter[str]):
    def __call__(self, reason: str, count: int) -> None:
        assert reason in REASONS
        self[reason] += count


@pytest.fixture(params=["memory", "disk"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "outbox.db" if request.param == "disk" else None


def test_events_come_out_in_the_order_they_went_in(path: Path | None) -> None:
    with Outbox(path) as outbox:
        for track in range(10):
            outbox.put((appeared(track), FOREVER))
        assert tracks(outbox) == list(range(10))
        assert list(outbox)[-1].number == outbox.newest
        assert len(outbox) == 10


def test_each_stream_has_a_queue_of_its_own(path: Path | None) -> None:
    with Outbox(path) as outbox:
        one, two, three, four = outbox.put(*((appeared(n, "yard" if n == 2 else "door"), FOREVER) for n in range(4)))
        assert [w.number for w in outbox.heads({})] == [one, three]
        assert [w.number for w in outbox.heads({"door": one, "yard": three})] == [two]
        outbox.delete([one, two])
        assert [w.number for w in outbox.heads({})] == [four, three]
        assert outbox.heads({"door": four, "yard": four}) == []


def test_events_put_together_cost_the_disk_one_commit_and_are_numbered_in_order(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        statements: list[str] = []
        assert outbox._disk is not None
        outbox._disk.set_trace_callback(statements.append)
        numbers = outbox.put(*((appeared(track), FOREVER) for track in range(20)))
        assert numbers == sorted(numbers)
        assert tracks(outbox) == list(range(20))
    assert sum(each.startswith("INSERT") for each in statements) == 20
    assert statements.count("COMMIT") == 1


def test_a_delivered_event_is_gone_and_not_counted_as_dropped(path: Path | None) -> None:
    dropped = Dropped()
    with Outbox(path, on_dropped=dropped) as outbox:
        for track in range(3):
            outbox.put((appeared(track), FOREVER))
        middle = list(outbox)[1].number
        outbox.delete([middle])
        outbox.delete([middle, 999])
        assert tracks(outbox) == [0, 2]
    assert not dropped


def test_expired_events_are_dropped_and_counted(path: Path | None) -> None:
    dropped, clocks = Dropped(), Clocks()
    with clocks.outbox(path, on_dropped=dropped) as outbox:
        for track, life in enumerate((100.0, 300.0, 200.0)):
            outbox.put((appeared(track), life))
        clocks.wait(99.9)
        assert outbox.expire() == 0
        clocks.wait(100.1)
        assert outbox.expire() == 2
        assert tracks(outbox) == [1]
        [left] = outbox
        assert outbox.left(left) == pytest.approx(100)
    assert dropped == {"expired": 2}


def identified(name: str, track: int = 1) -> Event:
    data = Identity(track=track, box=(1.5, 2.25, 30.125, 40.0), frame=1, state="known", name=name, confidence=1)
    return Event(stream="door", time=datetime.now(UTC), captured=12.5, data=data)


def test_of_a_person_who_is_forgotten_no_byte_waits(tmp_path: Path) -> None:
    dropped = Dropped()
    with Outbox(tmp_path / "outbox.db", on_dropped=dropped) as outbox:
        for track in range(200):
            outbox.put((identified("Ada Lovelace" if track % 2 else "Ben", track), FOREVER))
        delivered = [waiting.number for waiting in outbox][:50]
        outbox.delete(delivered)  # their bytes are still in the file
        assert outbox.forget("Ada Lovelace") == 75
        assert len(outbox) == 75
        whole = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"Lovelace" not in whole
        assert b"Ben" in whole
        outbox.put((identified("Ben", 999), FOREVER))
    assert dropped == {"forgotten": 75}
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert len(outbox) == 76
    with Outbox() as outbox:
        outbox.put((identified("Ada"), FOREVER))
        assert outbox.forget("Ada") == 1


def test_what_is_not_to_be_told_any_more_is_destroyed(tmp_path: Path) -> None:
    dropped = Dropped()
    with Outbox(tmp_path / "outbox.db") as outbox:
        outbox.put((identified("Ada Lovelace"), FOREVER), (appeared(2), FOREVER))
    with Outbox(tmp_path / "outbox.db", on_dropped=dropped) as outbox:
        assert outbox.forbid({"emotion"}) == 0
        assert outbox.forbid((), {"Ada Lovelace", "Ben"}) == 0
        assert outbox.forbid((), {"Ben"}) == 1  # she was forgotten while nobody had the outbox
        assert tracks(outbox) == [2]
        assert b"Lovelace" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
        outbox.put((identified("Ben"), FOREVER))
        assert outbox.forbid({"identity", "emotion"}) == 1
        assert tracks(outbox) == [2]
        assert b"Ben" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert dropped == {"forgotten": 2}


def test_what_was_delivered_before_a_kill_is_not_left_in_the_file(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        outbox.delete(outbox.put((identified("Ada Lovelace"), FOREVER)))
        for part in tmp_path.glob("outbox.db*"):  # as a kill leaves them
            shutil.copy(part, tmp_path / part.name.replace("outbox", "killed"))
    assert b"Lovelace" in (tmp_path / "killed.db-wal").read_bytes()
    with Outbox(tmp_path / "killed.db"):
        assert not any(b"Lovelace" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_full_outbox_gives_up_its_oldest(path: Path | None) -> None:
    dropped = Dropped()
    size = len(appeared(0).model_dump_json())
    with Outbox(path, most={"presence": 3 * size + size // 2}, on_dropped=dropped) as outbox:
        for track in range(5):
            outbox.put((appeared(track), FOREVER))
        assert tracks(outbox) == [2, 3, 4]
        outbox.delete([next(iter(outbox)).number])
        outbox.put((appeared(5), FOREVER))
        assert tracks(outbox) == [3, 4, 5]  # what was deleted made room
    assert dropped == {"full": 2}


def test_a_kind_of_event_that_comes_in_floods_takes_no_room_from_another(path: Path | None) -> None:
    dropped = Dropped()
    size = len(appeared(0).model_dump_json())
    with Outbox(path, most={"presence": 3 * size + size // 2}, on_dropped=dropped) as outbox:
        who = Identity(track=7, box=(0, 0, 1, 1), frame=0, state="known", name="Zoë", confidence=1)
        outbox.put((Event(stream="door", time=datetime.now(UTC), data=who), FOREVER))
        for track in range(100):
            outbox.put((appeared(track), FOREVER))
        assert [w.kind for w in outbox] == ["identity", "presence", "presence", "presence"]
        assert next(iter(outbox)).event.data == who
    assert dropped == {"full": 97}


# --- clocks -------------------------------------------------------------------------------------

YEAR = 365 * 86400.0


@pytest.mark.parametrize("jump", [YEAR, -YEAR, -60.0, 61.0], ids=lambda jump: f"{jump:+.0f}s")
def test_a_clock_that_is_set_makes_no_event_older_or_younger(path: Path | None, jump: float) -> None:
    clocks = Clocks()
    with clocks.outbox(path) as outbox:
        outbox.put((appeared(1), 60))
        clocks.wait(10)
        clocks.wall += jump
        assert outbox.expire() == 0
        assert outbox.left(next(iter(outbox))) == pytest.approx(50)
        outbox.put((appeared(2), 60))
        clocks.wait(50)
        assert outbox.expire() == 1
        assert tracks(outbox) == [2]


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_nor_while_the_daemon_starts_again(tmp_path: Path, jump: float) -> None:
    clocks, path = Clocks(), tmp_path / "outbox.db"
    with clocks.outbox(path) as outbox:
        outbox.put((appeared(1), 60))
        outbox.put((appeared(2), 20))
    clocks.wait(30)
    clocks.wall += jump
    with clocks.outbox(path) as outbox:
        assert tracks(outbox) == [1]
        assert outbox.left(next(iter(outbox))) == pytest.approx(30)


def test_after_a_reboot_the_clock_on_the_wall_tells_how_old_an_event_is(tmp_path: Path) -> None:
    clocks, path, dropped = Clocks(), tmp_path / "outbox.db", Dropped()
    with clocks.outbox(path) as outbox:
        outbox.put((appeared(1), 3600))
        outbox.put((appeared(2), 60))
    clocks.reboot(600)
    with clocks.outbox(path, on_dropped=dropped) as outbox:
        assert tracks(outbox) == [1]
        assert outbox.left(next(iter(outbox))) == pytest.approx(3000)
    assert dropped == {"expired": 1}


def test_a_board_without_a_clock_goes_on_from_the_time_it_saved(tmp_path: Path) -> None:
    clocks, path = Clocks(), tmp_path / "outbox.db"
    with clocks.outbox(path) as outbox:
        outbox.put((appeared(1), 3600))
    clocks.reboot(30, behind=60)
    with clocks.outbox(path) as outbox:
        assert outbox.left(next(iter(outbox))) == 3600  # no more than it had


def test_an_event_from_the_future_is_of_no_age_at_all_and_dropped(tmp_path: Path) -> None:
    clocks, path, dropped = Clocks(), tmp_path / "outbox.db", Dropped()
    with clocks.outbox(path) as outbox:
        outbox.put((appeared(1), 3600))
    clocks.reboot(600, behind=YEAR)
    with clocks.outbox(path, on_dropped=dropped) as outbox:
        assert tracks(outbox) == []
    assert dropped == {"expired": 1}


# --- restarts -----------------------------------------------------------------------------------


def test_what_waits_survives_a_restart_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    event = appeared(7)
    with Outbox(path) as outbox:
        outbox.put((appeared(6), FOREVER))
        outbox.put((event, FOREVER))
        outbox.put((appeared(8), FOREVER))
        outbox.delete([next(iter(outbox)).number])
    with Outbox(path) as outbox:
        (seventh, eighth) = outbox
        assert seventh.event == event.model_copy(update={"captured": None})  # another process's clock
        assert outbox.left(seventh) == pytest.approx(FOREVER, abs=5)
        outbox.put((appeared(9), FOREVER))
        assert tracks(outbox) == [7, 8, 9]
        assert outbox.newest > eighth.number


CRASH = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from onelook.event import Event, Identity, Presence
from onelook.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for track in range(100_000):
    data = Presence(track=track, box=(0, 0, 1, 1), frame=track, state="appeared", seconds=0)
    outbox.put((Event(stream="door", time=datetime.now(UTC), data=data), 4e9))
    print(track, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_had_put(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    command = [sys.executable, "-c", CRASH, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(200)]
        process.kill()
        said += [int(line) for line in process.stdout if line.endswith("\n")]
    with Outbox(path, most={"presence": 2**30}) as outbox:
        kept = tracks(outbox)
    assert kept[: len(said)] == said
    assert len(kept) - len(said) <= 1  # put, but killed before it said so


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        outbox.put((appeared(1), FOREVER))
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_second_daemon_on_the_same_outbox_is_told(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path), pytest.raises(OwnerError, match="another onelook"):
        Outbox(path)


def test_a_folder_that_is_missing_is_made_or_told(tmp_path: Path) -> None:
    with Outbox(tmp_path / "new" / "one" / "outbox.db") as outbox:
        assert not outbox.failing
    assert stat.S_IMODE((tmp_path / "new" / "one").stat().st_mode) == 0o700
    with pytest.raises(OwnerError, match=r"outbox\.db/no/outbox\.db cannot be kept: its folder cannot be made \(Not"):
        Outbox(tmp_path / "new" / "one" / "outbox.db" / "no" / "outbox.db")


def test_a_damaged_file_is_set_aside_and_the_daemon_starts(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"this is no database, and long enough to be sure of it " * 100)
    with pytest.MonkeyPatch.context() as hands:
        hands.setattr(Path, "replace", raised(PermissionError(EACCES, "Permission denied")))
        with pytest.raises(OwnerError, match=r"is damaged .* and cannot be set aside: Permission denied"):
            Outbox(path)
    with Outbox(path) as outbox:
        assert len(outbox) == 0
        outbox.put((appeared(1), FOREVER))
    assert (tmp_path / "outbox.db.broken").read_bytes().startswith(b"this is no database")
    with Outbox(path) as outbox:
        assert tracks(outbox) == [1]


def test_events_of_another_version_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        for track in range(3):
            outbox.put((appeared(track), FOREVER))
    with sqlite3.connect(path) as disk:
        disk.execute("UPDATE waiting SET event = '{\"mood\": 3}' WHERE number = 2")
    disk.close()
    dropped = Dropped()
    with Outbox(path, on_dropped=dropped) as outbox:
        assert tracks(outbox) == [0, 2]
    assert dropped == {"unreadable": 1}
    dropped.clear()
    with Outbox(path, on_dropped=dropped):
        assert not dropped


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_outbox import FOREVER, appeared, tracks
from onelook.outbox import Outbox

logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
path = Path(sys.argv[1])
outbox = Outbox(path)
outbox.put((appeared(0), FOREVER))
outbox.put((appeared(1), FOREVER))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("outbox.db-wal").stat().st_size, hard))
for track in range(2, 50):
    outbox.put((appeared(track), FOREVER))
outbox.delete([next(iter(outbox)).number])
outbox.expire()
assert tracks(outbox) == list(range(1, 50)), "an event was lost"
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
outbox.expire()
outbox.put((appeared(50), FOREVER))
sys.stdout.flush()
import os
os._exit(9)  # as a kill would
"""


def test_a_full_disk_costs_no_event_and_is_said_once(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    path = tmp_path / "outbox.db"
    command = [sys.executable, "-c", FULL_DISK, str(path), str(Path(__file__).parent)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 9, ended.stderr
    said = ended.stdout.splitlines()
    assert len(said) == 2, said
    assert said[0].startswith("The outbox cannot be written (")
    assert said[1] == "The outbox can be written again."
    with Outbox(path) as outbox:
        assert tracks(outbox) == list(range(1, 51))  # caught up with what happened meanwhile


FULL_OF_JOURNAL = """
import os, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_outbox import FOREVER, appeared, tracks
from onelook.outbox import Outbox

path = Path(sys.argv[1])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
outbox = Outbox(path)
for track in range(800):  # one by one: the journal grows by pages for each
    outbox.put((appeared(track), FOREVER))
journal = os.path.getsize(f"{path}-wal")
assert journal > 3_000_000, journal
resource.setrlimit(resource.RLIMIT_FSIZE, (journal, hard))
outbox.put(*((appeared(track), FOREVER) for track in range(800, 5000)))
assert outbox.failing
resource.setrlimit(resource.RLIMIT_FSIZE, (journal + 100_000, hard))
for _ in range(3):
    outbox.expire()
assert not outbox.failing
os._exit(9)
"""


def test_a_disk_that_the_journal_fills_can_be_used_again(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    command = [sys.executable, "-c", FULL_OF_JOURNAL, str(path), str(Path(__file__).parent)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 9, ended.stderr
    with Outbox(path) as outbox:
        assert tracks(outbox) == list(range(5000))


FULL_FROM_THE_START = """
import logging, os, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_outbox import FOREVER, appeared, tracks
from onelook.outbox import Outbox

logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
outbox = Outbox(Path(sys.argv[1]))
outbox.put((appeared(7), FOREVER))
assert outbox.failing
outbox.expire()
assert tracks(outbox)[-1] == 7
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
outbox.expire()
assert not outbox.failing
outbox.put((appeared(8), FOREVER))
sys.stdout.flush()
os._exit(9)
"""


@pytest.mark.parametrize("before", [0, 3])
def test_a_disk_that_is_full_at_the_start_is_no_reason_not_to_start(tmp_path: Path, before: int) -> None:
    path = tmp_path / "outbox.db"
    if before:
        with Outbox(path) as outbox:
            for track in range(before):
                outbox.put((appeared(track), FOREVER))
    command = [sys.executable, "-c", FULL_FROM_THE_START, str(path), str(Path(__file__).parent)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 9, ended.stderr
    said = ended.stdout.splitlines()
    assert [line.partition(" (")[0] for line in said] == [
        "The outbox cannot be written", "The outbox can be written again.",
    ]  # fmt: skip
    with Outbox(path) as outbox:
        assert tracks(outbox) == [*range(before), 7, 8]


class Damaged:
    """A connection to a file whose pages are no longer what SQLite wrote."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, *_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    executemany = execute

    def close(self) -> None:
        pass


class Failing(Damaged):
    """A connection to a file on a disk that fails."""

    def execute(self, *_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    executemany = execute


def test_a_file_damaged_in_use_is_set_aside_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    failed: list[int] = []
    with Outbox(path, on_failed=failed.append) as outbox:
        outbox.put((appeared(1), FOREVER))
        outbox._disk.close()  # type: ignore[union-attr]
        outbox._disk = Damaged()  # type: ignore[assignment]
        path.write_bytes(b"no database any more, and long enough to be sure of it " * 100)
        outbox.put((appeared(2), FOREVER))
        assert outbox.failing
        for _ in range(3):
            outbox.expire()
        assert not outbox.failing
        assert sum(failed) == 2  # to write, and the first time to catch up
    with Outbox(path) as outbox:
        assert tracks(outbox) == [1, 2]
    assert path.with_name("outbox.db.broken").exists()


def test_a_disk_that_fails_is_tried_for_a_tenth_of_the_time(tmp_path: Path) -> None:
    clocks = Clocks()

    class Slow(Failing):
        def execute(self, *arguments: object) -> None:
            clocks.wait(2.0)  # as a large outbox takes
            super().execute(*arguments)

    with clocks.outbox(tmp_path / "outbox.db") as outbox:
        outbox._disk, disk = Failing(), outbox._disk  # type: ignore[assignment]
        outbox.put((appeared(1), FOREVER))
        outbox._disk = Slow()  # type: ignore[assignment]
        began = clocks.since_boot
        for _ in range(60):
            outbox.expire()
            clocks.wait(1.0)
        tried = clocks.since_boot - began - 60
        assert 6.0 <= tried <= 10.0
        outbox._disk = disk
        clocks.wait(20.0)
        outbox.expire()
        assert not outbox.failing


def damage_free_page(path: Path) -> None:
    """As a memory card may: nothing is missed before it is to be written to."""
    raw = bytearray(path.read_bytes())
    size, trunk = (int.from_bytes(raw[at : at + count], "big") for at, count in ((16, 2), (32, 4)))
    assert trunk, "there is no free page"
    raw[(trunk - 1) * size : trunk * size] = b"\xff" * size
    path.write_bytes(raw)


def test_damage_that_only_writing_meets_costs_nothing_and_brings_nothing_back(tmp_path: Path) -> None:
    path, dropped = tmp_path / "outbox.db", Dropped()
    with Outbox(path) as outbox:
        stored = outbox.put(*((appeared(track), FOREVER) for track in range(100)))
        outbox.delete(stored[:60])
    damage_free_page(path)
    with Outbox(path, most={"presence": 30_000}, on_dropped=dropped) as outbox:
        outbox.put(*((appeared(track), FOREVER) for track in range(100, 130)))
        assert outbox.failing
        outbox.delete(stored[60:])  # the broker took them
        for _ in range(30):
            outbox.expire()
        assert not outbox.failing
        assert tracks(outbox) == list(range(100, 130))
        outbox.put((appeared(130), FOREVER))
        assert tracks(outbox) == list(range(100, 131))
    assert not dropped
    with Outbox(path) as outbox:
        assert tracks(outbox) == list(range(100, 131))
        assert path.with_name("outbox.db.broken").exists()
        outbox.forget("Ada")
        assert not path.with_name("outbox.db.broken").exists()  # who knows whose name is in it


def test_a_person_forgotten_while_the_disk_fails_is_gone_from_it_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        outbox.put(*((identified("Ada Lovelace", track), FOREVER) for track in range(300)))
        disk, outbox._disk = outbox._disk, Failing()  # type: ignore[assignment]
        assert outbox.forget("Ada Lovelace") == 300
        assert outbox.failing
        outbox._disk = disk
        outbox.expire()
        assert not outbox.failing
        assert b"Lovelace" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_what_a_file_holds_that_could_not_be_read_at_the_start_is_destroyed_once_it_can(tmp_path: Path) -> None:
    path, dropped = tmp_path / "outbox.db", Dropped()
    with Outbox(path) as outbox:
        outbox.put((identified("Ada Lovelace", 1), FOREVER), (identified("Bob", 2), FOREVER), (appeared(3), FOREVER))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "touch", raised(OSError(EROFS, "Read-only file system")))
        outbox = Outbox(path, on_dropped=dropped)
    with outbox:
        outbox.forget("Ada Lovelace")
        assert outbox.unread
        outbox.expire()
        assert not outbox.unread
        assert [waiting.kind for waiting in outbox] == ["identity", "presence"]
        assert b"Lovelace" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "touch", raised(OSError(EROFS, "Read-only file system")))
        outbox = Outbox(path, on_dropped=dropped)
    with outbox:
        outbox.forbid({"identity"})
        outbox.expire()
        assert tracks(outbox) == [3]
        assert len(outbox) == 1
        assert b"Bob" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert dropped == {"forgotten": 2}


def test_a_folder_that_is_gone_for_a_while_loses_nothing_and_ends_nobody(tmp_path: Path) -> None:
    """As where it lies on a disk that is pulled out and put in again."""
    path = tmp_path / "disk" / "outbox.db"
    path.parent.mkdir()
    with Outbox(path) as outbox:
        outbox._disk.close()  # type: ignore[union-attr]
        outbox._disk = Damaged()  # type: ignore[assignment]
        path.parent.rename(tmp_path / "pulled out")
        outbox.put((appeared(1), FOREVER))
        for _ in range(3):
            outbox.expire()
        assert outbox.failing
        assert tracks(outbox) == [1]
        path.parent.mkdir()
        outbox.expire()
        assert not outbox.failing
    with Outbox(path) as outbox:
        assert tracks(outbox) == [1]


def test_a_journal_that_cannot_be_opened_is_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(EIO, "Input/output error")

    with Outbox(tmp_path / "outbox.db") as outbox:
        outbox.put((appeared(1), FOREVER))
        with monkeypatch.context() as hands:
            hands.setattr(os, "open", broken)
            outbox.sync()
        assert outbox.failing
        outbox.expire()
        assert not outbox.failing


def test_syncing_is_done_once_and_only_where_something_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(file: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        real(file)

    monkeypatch.setattr("os.fsync", fsync)
    with Outbox(tmp_path / "outbox.db") as outbox:
        outbox.sync()
        assert not synced
        outbox.put((appeared(1), FOREVER))
        outbox.sync()
        outbox.sync()
        assert synced == [str(tmp_path / "outbox.db-wal")]
        outbox.put((appeared(2), FOREVER))
        outbox.delete([w.number for w in outbox])
        outbox.sync()
        assert len(synced) == 1  # delivered already: no reason to wear out an SD card


def test_putting_an_event_does_not_hold_up_the_frame_loop(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        took = []
        for track in range(300):
            event = appeared(track)
            before = time.perf_counter()
            outbox.put((event, FOREVER))
            took.append(time.perf_counter() - before)
    assert sorted(took)[150] < 0.02  # seconds; of the hundred that a frame may take


def test_damage_that_sqlite_cannot_even_quote_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path):
        pass
    stored = path.read_bytes()
    path.write_bytes(stored.replace(b"tablewaiting", b"table\xff\xfeiting").replace(b"CREATE TABLE", b"CREATE TXBLE"))

    with Outbox(path) as outbox:
        assert len(outbox) == 0

    assert path.with_name("outbox.db.broken").exists()

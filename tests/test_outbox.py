"""The outbox keeps events in order through crashes, and drops them only for a reason it tells."""

import resource
import sqlite3
import stat
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from onelook.errors import OwnerError
from onelook.event import Event, Presence
from onelook.outbox import REASONS, Outbox

FOREVER = 4e9


def appeared(track: int, stream: str = "door") -> Event:
    data = Presence(track=track, box=(1.5, 2.25, 30.125, 40.0), frame=track, state="appeared", seconds=0.0)
    return Event(stream=stream, time=datetime.now(UTC), captured=12.5, data=data)


def tracks(outbox: Outbox) -> list[int]:
    return [w.event.data.track for w in outbox.oldest(1_000_000) if isinstance(w.event.data, Presence)]


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
            outbox.put(appeared(track), FOREVER)
        first = outbox.oldest(4)
        assert [w.event.data.frame for w in first] == [0, 1, 2, 3]  # type: ignore[union-attr]
        rest = outbox.oldest(100, after=first[-1].number)
        assert [w.event.data.frame for w in rest] == [4, 5, 6, 7, 8, 9]  # type: ignore[union-attr]
        assert rest[-1].number == outbox.newest
        assert len(outbox) == 10


def test_a_delivered_event_is_gone_and_not_counted_as_dropped(path: Path | None) -> None:
    dropped = Dropped()
    with Outbox(path, on_dropped=dropped) as outbox:
        for track in range(3):
            outbox.put(appeared(track), FOREVER)
        middle = outbox.oldest(3)[1].number
        outbox.delete([middle])
        outbox.delete([middle, 999])
        assert tracks(outbox) == [0, 2]
    assert not dropped


def test_expired_events_are_dropped_and_counted(path: Path | None) -> None:
    dropped = Dropped()
    with Outbox(path, on_dropped=dropped) as outbox:
        for track, expires in enumerate((100.0, 300.0, 200.0)):
            outbox.put(appeared(track), expires)
        assert outbox.expire(99.9) == 0
        assert outbox.expire(200.0) == 2
        assert tracks(outbox) == [1]
    assert dropped == {"expired": 2}


def test_a_full_outbox_gives_up_its_oldest(path: Path | None) -> None:
    dropped = Dropped()
    with Outbox(path, max_messages=3, on_dropped=dropped) as outbox:
        for track in range(5):
            outbox.put(appeared(track), FOREVER)
        assert tracks(outbox) == [2, 3, 4]
    assert dropped == {"full": 2}


def test_bytes_are_bounded_too(path: Path | None) -> None:
    dropped = Dropped()
    size = len(appeared(0).model_dump_json())
    with Outbox(path, max_bytes=3 * size + size // 2, on_dropped=dropped) as outbox:
        for track in range(5):
            outbox.put(appeared(track), FOREVER)
        assert tracks(outbox) == [2, 3, 4]
        outbox.delete([outbox.oldest(1)[0].number])
        outbox.put(appeared(5), FOREVER)
        assert tracks(outbox) == [3, 4, 5]  # what was deleted made room
    assert dropped == {"full": 2}


def test_what_waits_survives_a_restart_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    event = appeared(7)
    with Outbox(path) as outbox:
        outbox.put(appeared(6), FOREVER)
        outbox.put(event, FOREVER)
        outbox.put(appeared(8), FOREVER)
        outbox.delete([outbox.oldest(1)[0].number])
    with Outbox(path) as outbox:
        (seventh, eighth) = outbox.oldest(10)
        assert seventh.event == event.model_copy(update={"captured": None})  # another process's clock
        assert seventh.expires == FOREVER
        outbox.put(appeared(9), FOREVER)
        assert tracks(outbox) == [7, 8, 9]
        assert outbox.newest > eighth.number


CRASH = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from onelook.event import Event, Presence
from onelook.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for track in range(100_000):
    data = Presence(track=track, box=(0, 0, 1, 1), frame=track, state="appeared", seconds=0)
    outbox.put(Event(stream="door", time=datetime.now(UTC), data=data), 4e9)
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
    with Outbox(path, max_messages=200_000, max_bytes=2**30) as outbox:
        kept = tracks(outbox)
    assert kept[: len(said)] == said
    assert len(kept) - len(said) <= 1  # put, but killed before it said so


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        outbox.put(appeared(1), FOREVER)
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_second_daemon_on_the_same_outbox_is_told(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path), pytest.raises(OwnerError, match="another onelook"):
        Outbox(path)


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(OwnerError, match=r"no/outbox\.db cannot be opened: No such file or directory"):
        Outbox(tmp_path / "no" / "outbox.db")


def test_a_damaged_file_is_set_aside_and_the_daemon_starts(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"this is no database, and long enough to be sure of it " * 100)
    with Outbox(path) as outbox:
        assert len(outbox) == 0
        outbox.put(appeared(1), FOREVER)
    assert (tmp_path / "outbox.db.broken").read_bytes().startswith(b"this is no database")
    with Outbox(path) as outbox:
        assert tracks(outbox) == [1]


def test_events_of_another_version_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        for track in range(3):
            outbox.put(appeared(track), FOREVER)
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
outbox.put(appeared(0), FOREVER)
outbox.put(appeared(1), FOREVER)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("outbox.db-wal").stat().st_size, hard))
for track in range(2, 50):
    outbox.put(appeared(track), FOREVER)
outbox.delete([outbox.oldest(1)[0].number])
outbox.expire(0)
assert tracks(outbox) == list(range(1, 50)), "an event was lost"
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
outbox.expire(0)
outbox.put(appeared(50), FOREVER)
sys.stdout.flush()
import os
os._exit(9)  # as a kill would
"""


def test_a_full_disk_costs_no_event_and_is_said_once(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    path = tmp_path / "outbox.db"
    command = [sys.executable, "-c", FULL_DISK, str(path), str(Path(__file__).parent)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 9, ended.stderr
    said = ended.stdout.splitlines()
    assert len(said) == 2, said
    assert said[0].startswith("The outbox cannot be written (")
    assert said[1] == "The outbox can be written again."
    with Outbox(path) as outbox:
        assert tracks(outbox) == list(range(1, 51))  # caught up with what happened meanwhile


def test_putting_an_event_does_not_hold_up_the_frame_loop(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        took = []
        for track in range(300):
            event = appeared(track)
            before = time.perf_counter()
            outbox.put(event, FOREVER)
            took.append(time.perf_counter() - before)
    assert sorted(took)[150] < 0.005

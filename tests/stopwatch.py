"""How long something takes, whatever else the machine has to do meanwhile."""

from __future__ import annotations

import time
from pathlib import Path


class Stopwatch:
    """Seconds since it was made, less those for which a process stood in line for a processor.

    So a promise in seconds can be held to while other programs are at work. The time that its threads stood in line
    is the kernel's own count (the second figure of /proc/PID/task/*/schedstat; Documentation/scheduler/sched-stats);
    that of threads which have ended is not known any more, and counts as taken.
    """

    def __init__(self, process: int | str = "self") -> None:
        """Of the process of that id; of this one where none is given."""
        self._threads = Path(f"/proc/{process}/task")
        self._began, self._before = time.monotonic(), self._in_line()

    @property
    def seconds(self) -> float:
        """What has been taken until now; also to be asked of a process that has ended and not been waited for."""
        return time.monotonic() - self._began - max(0.0, self._in_line() - self._before)

    def _in_line(self) -> float:
        nanoseconds = 0
        for file in self._threads.glob("*/schedstat"):
            try:
                nanoseconds += int(file.read_text().split()[1])
            except OSError:  # a thread that has just ended
                continue
        return nanoseconds / 1e9

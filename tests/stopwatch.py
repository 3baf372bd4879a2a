"""How long something takes, whatever else the machine has to do meanwhile."""

from __future__ import annotations

import time
from pathlib import Path


class Stopwatch:
    """Seconds since it was made, less those for which who is timed, or who times, stood in line for a processor.

    So a promise in seconds can be held to while other programs are at work. How long a thread stood in line is the
    kernel's own count: the second figure of /proc/PID/task/*/schedstat (Documentation/scheduler/sched-stats). Of a
    thread that ends, what it stood since the last look is not known, and counts as taken: so look often.
    """

    def __init__(self, process: int | None = None) -> None:
        """Of the process of that id; of this one where none is given."""
        self._threads = [Path(f"/proc/{each or 'self'}/task") for each in {process, None}]
        self._in_line: dict[Path, int] = {}
        self.look()
        self._before = sum(self._in_line.values())
        self._began = time.monotonic()

    def look(self) -> None:
        """See how long each thread has stood in line."""
        for file in [file for threads in self._threads for file in threads.glob("*/schedstat")]:
            try:
                self._in_line[file] = int(file.read_text().split()[1])
            except OSError:  # ended just now
                continue

    @property
    def seconds(self) -> float:
        """What has been taken until now."""
        self.look()
        return time.monotonic() - self._began - (sum(self._in_line.values()) - self._before) / 1e9

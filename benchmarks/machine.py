"""Machine: what the figures were measured on, and whether it held still meanwhile."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from onelook.metrics import BoardCollector

SYS, PROC = Path("/sys"), Path("/proc")
PACKAGES = ("ai-edge-litert", "tflite-runtime", "numpy", "opencv-python-headless", "onnxruntime", "faiss-cpu")
EMULATED = bool(os.environ.get("ONELOOK_EMULATED"))
"""Whether this processor pretends to be of another kind, a hundred times as slow."""
REPOSITORY = Path(__file__).resolve().parent.parent


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def neutral_name() -> str:
    """A name for the results' folder that tells the kind of machine and not whose it is."""
    return f"{platform.machine().replace('_', '-')}-{os.cpu_count()}core{'' if dot_product() else '-nodot'}"


def describe() -> dict[str, str | int | float | bool | None]:
    """Board, processor, kernel, governor and versions."""
    text = _read(PROC / "cpuinfo") or ""
    model = re.search(r"(?m)^(?:model name|Model|Hardware)\s*:\s*(.+)$", text)
    frequencies = SYS / "devices/system/cpu/cpu0/cpufreq"
    highest = _read(frequencies / "cpuinfo_max_freq")
    memory = re.search(r"MemTotal:\s+(\d+)", _read(PROC / "meminfo") or "")
    found: dict[str, str | int | float | bool | None] = {
        "board": _read(PROC / "device-tree/model"),
        "processor": model[1] if model else platform.processor() or None,
        "architecture": platform.machine(),
        "int8_dot_product": dot_product(),
        "cores": os.cpu_count(),
        "virtual": virtual(),
        "emulated": EMULATED,
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "governor": _read(frequencies / "scaling_governor"),
        "max_hertz": int(highest) * 1000 if highest else None,
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> tuple[str, bool]:
    """The commit that is checked out, and whether files differ from it."""
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "HEAD") or "unknown", bool(git("status", "--porcelain", "--untracked-files=no"))


def hertz() -> float | None:
    """Mean frequency of the cores now, where the machine tells."""
    values = [_read(file) for file in (SYS / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    known = [int(value) * 1000 for value in values if value]
    return sum(known) / len(known) if known else None


def joules() -> float | None:
    """Energy that the processor package has used so far, where RAPL may be read."""
    value = _read(SYS / "class/powercap/intel-rapl:0/energy_uj")
    return int(value) / 1e6 if value else None


SPIN = """
import os, sys
os.nice(19)
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


def busy_seconds() -> float:
    """Seconds that all cores have been busy, with what the hypervisor gave to others."""
    fields = [int(n) for n in (_read(PROC / "stat") or "cpu 0 0 0 0 0 0 0 0").splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def busy(seconds: float = 0.5) -> bool:
    """Whether others use more than a fifth of the machine."""
    began, before = time.monotonic(), busy_seconds()
    time.sleep(seconds)
    return busy_seconds() - before > 0.2 * (time.monotonic() - began) * (os.cpu_count() or 1)


def rounds(count: int) -> int:
    """How often to do what is timed: `count` times, or once where times mean nothing."""
    return 1 if EMULATED else count


def dot_product() -> bool:
    """Whether the processor multiplies and adds bytes in one instruction (Arm's dot product, x86's VNNI).

    Raspberry Pi 5 and Jetson Orin do, Pi 4 does not, and of two "AMD EPYC" measured only one: the other has a fifth of
    its int8 peak.
    """
    told = re.search(r"(?m)^(?:flags|Features)\b(.*)$", _read(PROC / "cpuinfo") or "")
    return told is not None and not {"avx512_vnni", "avx_vnni", "asimddp"}.isdisjoint(told[1].split())


def virtual() -> bool:
    """Whether a hypervisor is beneath."""
    return "hypervisor" in (_read(PROC / "cpuinfo") or "")


class Awake:
    """Keeps the cores of a virtual machine from halting, as the `performance` governor does on a board.

    with Awake() as awake: ...

    A halted virtual core is given back to its host, and Linux then starts a thread that is woken for it on the core
    that woke it: two threads share one core, and a network takes 4.7 ms or 9.5 ms as luck will have it (both measured,
    half of the calls each). A program for each core that runs only where nothing else would keeps them at hand. No
    system is measured with what it uses. On a machine that is busy anyway nothing halts, and nothing is done.
    """

    def __init__(self, wanted: bool) -> None:
        """wanted: whether to do so; elsewhere than on a virtual machine it does nothing."""
        self._cores = os.sched_getaffinity(0) if wanted and virtual() and not busy() else set()
        self._spinning: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Awake:
        self._spinning = [subprocess.Popen([sys.executable, "-S", "-c", SPIN, str(core)]) for core in self._cores]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._spinning:
            process.kill()
            process.wait()
        self._spinning = []

    def cpu(self) -> float:
        """Seconds that they have used so far."""
        ticks = 0
        for process in self._spinning:
            fields = (_read(PROC / str(process.pid) / "stat") or "").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if fields else 0
        return ticks / os.sysconf("SC_CLK_TCK")


class Apart:
    """Holds the two threads of every runtime apart, on a virtual machine: the main one on the first core, the others
    on the rest.

    with apart: ...    # as often as wanted

    On so few cores Linux leaves a thread that is woken for a moment where it was, and after another system's long
    call that may be the core of the one that waits for it. The cascades lose most: of a hundred faces one by one,
    427 ms became 282, and the 7.8 of the one pass stayed. With another number of threads than two it does nothing,
    as it could not tell which belong together.
    """

    def __init__(self, wanted: bool, threads: int) -> None:
        """threads: of each runtime."""
        self._cores = sorted(os.sched_getaffinity(0)) if wanted and threads == 2 and virtual() else []

    def __enter__(self) -> None:
        if len(self._cores) > 1:
            first, *rest = self._cores
            self._bind(os.getpid(), [first])
            for i, thread in enumerate(thread for thread in self._threads() if thread != os.getpid()):
                self._bind(thread, [rest[i % len(rest)]])

    def __exit__(self, *_: object) -> None:
        for thread in self._threads() if self._cores else ():
            self._bind(thread, self._cores)

    @staticmethod
    def _threads() -> list[int]:
        """Of this process; the main one has the process's number."""
        return sorted(int(task.name) for task in (PROC / "self/task").iterdir())

    @staticmethod
    def _bind(thread: int, cores: list[int]) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(thread, cores)


class Watch:
    """What disturbed a run: throttling, and the work of others.

    with Watch() as watch: ...
    watch.told
    """

    def __init__(self, awake: Awake | None = None) -> None:
        """awake: whose work is no disturbance."""
        self._awake = awake or Awake(wanted=False)

    def __enter__(self) -> Watch:
        self._began, self._own, self._all = time.monotonic(), self._own_cpu(), busy_seconds()
        self._throttled = self._throttles()
        self.told: dict[str, float | bool | None] = {}
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self._began
        busy = busy_seconds() - self._all
        others = max(0.0, busy - (self._own_cpu() - self._own)) / max(seconds, 1e-9) / (os.cpu_count() or 1)
        now = self._throttles()
        self.told = {
            "seconds": round(seconds, 1),
            "others_share": round(others, 3),
            "throttled": now > self._throttled if now is not None and self._throttled is not None else None,
        }

    def _own_cpu(self) -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system + self._awake.cpu()

    def _throttles(self) -> int | None:
        """How often the processor was throttled; on a Raspberry Pi, whether it is or ever was."""
        counts = [_read(file) for file in
                  (SYS / "devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
        known = [int(count) for count in counts if count]
        known += [int(sample.value) for family in BoardCollector(SYS).collect()
                  if "throttled" in family.name for sample in family.samples]
        return sum(known) if known else None

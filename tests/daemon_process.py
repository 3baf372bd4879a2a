"""`onelook` as its users run it: the real process, its config file, its page, its camera."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import urlopen

import yaml
from prometheus_client.parser import text_string_to_metric_families

from broker import PATIENCE, Broker, Certificates, free_port, wait_until
from stopwatch import Stopwatch

HERE = Path(__file__).resolve().parent

DEVICE, PASSWORD, READER = "hall", "opensesame", ("reader", "letmesee")


DOOR = """
import gc, json, os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as `main` does, before numpy is loaded
from onelook import demo, doctor, schema, service
from onelook.__main__ import main
assert len(os.listdir("/proc/self/task")) == 1  # a fork has but the thread that forks
gc.freeze()  # or each fork, as it ends, collects and so copies all of it
for line in sys.stdin:
    words, folder, environment, *files = json.loads(line)
    if not (child := os.fork()):
        for number, file in enumerate((os.devnull, *files)):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.exit(main(words))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
TOLD: list[str] = []
"""What each command has told; conftest looks into it for secrets."""


@functools.cache
def _door() -> subprocess.Popen[str]:
    """A process that has loaded all that commands need, which takes most of a second, and forks for each of them."""
    command = [sys.executable, "-c", DOOR]
    door = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    atexit.register(door.communicate)  # at the end of its input it ends
    return door


def onelook(
    *arguments: str | Path, cwd: Path | None = None, seconds: float = 2 * PATIENCE
) -> subprocess.CompletedProcess[str]:
    """One command, run to its end in a process of its own."""
    words, door = [*map(str, arguments)], _door()
    assert door.stdin
    assert door.stdout
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = words, str(cwd or Path.cwd()), dict(os.environ), str(out), str(err)
        door.stdin.write(json.dumps(asked) + "\n")
        door.stdin.flush()
        try:
            assert select.select([door.stdout], [], [], seconds)[0], f"not within {seconds} s: onelook {words}"
            code = int(door.stdout.readline())
        except BaseException:  # the command is not to outlive who waits for it
            os.killpg(door.pid, signal.SIGKILL)
            _door.cache_clear()
            raise
        done = subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())
    TOLD.extend((done.stdout, done.stderr))
    return done


def write_config(folder: Path, *streams: dict[str, Any], broker: Broker | None = None, **sections: Any) -> Path:
    """A config file in `folder`, where everything that the daemon keeps lies too; no broker: JSON lines."""
    tree: dict[str, Any] = {
        "device": DEVICE,
        "streams": list(streams),
        "gallery": {"path": "gallery.db", "key_file": "gallery.key"},
        "metrics": {"port": free_port()},
        "tracking": {"lost": 0.8},
        "report": {"settle": 0.5},
    }
    if broker is None:
        tree["publish"] = "stdout"
    else:
        tree["mqtt"] = {"port": broker.port, "outbox": "outbox.db", "paused": "paused.json"}
        if broker.users is not None:
            word = folder / "password"
            word.write_text(broker.users[DEVICE] + "\n")
            tree["mqtt"] |= {"username": DEVICE, "password_file": "password"}
        if broker.tls is not None:
            tree["mqtt"]["tls"] = {"ca_file": str(broker.tls.ca)}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree | sections))
    return file


def locked_broker(folder: Path) -> Broker:
    """A broker as it should be: TLS alone, a password each, and an ACL by which each does its own."""
    return Broker(
        folder,
        users={DEVICE: PASSWORD, READER[0]: READER[1]},
        acl=f"user {DEVICE}\ntopic write onelook/{DEVICE}/#\n\nuser {READER[0]}\ntopic read onelook/#\n",
        tls=Certificates(folder / "certificates"),
    )


SAID: list[Path] = []
"""Files with what each daemon has said; conftest looks into them for secrets."""


class Daemon:
    """`onelook run`, from `with` to its end; what it says goes to files beside the config."""

    def __init__(self, config: Path, *options: str, **environment: str) -> None:
        self.config, self._options = config, options
        self.port = int(yaml.safe_load(config.read_text())["metrics"]["port"])
        self._out, self._err = config.with_name("stdout"), config.with_name("stderr")
        SAID.extend({self._out, self._err} - set(SAID))
        self._environment = os.environ | environment

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "onelook", "run", "--config", str(self.config), *self._options]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=self._environment
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def out(self) -> str:
        return self._out.read_text()

    def wait(self, true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        """Until it is true, or the daemon has ended without."""

        def alive_and_true() -> object:
            assert self.process.poll() is None, f"ended with {self.process.returncode} before: {what}\n{self.log}"
            return true()

        wait_until(alive_and_true, f"{what}\n{self.log}", seconds)

    def page(self, path: str) -> tuple[int, str]:
        """Status and text; status 0 while nobody listens."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_until_ready(self) -> None:
        self.wait(lambda: self.page("/readyz")[0] == 200, "/readyz to say 200")

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of /metrics, by name and labels."""
        families = text_string_to_metric_families(self.page("/metrics")[1])
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def value(self, name: str, **labels: str) -> float:
        """One sample; nan while it is not there."""
        return self.samples().get((name, frozenset(labels.items())), float("nan"))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """Ask it to end; gives the seconds that it took, but for those in line for a processor."""
        watch = Stopwatch(self.process.pid)
        self.process.send_signal(how)

        def ended() -> object:
            watch.look()
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)

        wait_until(ended, f"its end\n{self.log}")
        seconds = watch.seconds  # before the process is waited for, and gone
        self.process.wait()
        return seconds


class Manager:
    """systemd's end of the notify socket; like systemd, it reads whether or not somebody asks what it has heard."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)
        self._reading, self._ended = threading.Lock(), threading.Event()
        self._reader = threading.Thread(target=self._read_on)
        self._heard: list[str] = []
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "4000000"}

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._reader.join()
        self._socket.close()

    def _read_on(self) -> None:
        while not self._ended.wait(0.2):  # the kernel keeps ten messages for it, by default
            self.listen()

    def listen(self) -> list[str]:
        """The lines of all messages so far."""
        with self._reading, suppress(BlockingIOError):
            while True:
                self._heard += self._socket.recv(4096).decode().splitlines()
        return list(self._heard)

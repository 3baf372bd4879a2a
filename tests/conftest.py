"""What every test can ask for."""

import logging
import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from daemon_process import SAID, TOLD

REPOSITORY = Path(__file__).resolve().parent.parent

# The daemon is also started as a process, from folders of its own.
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (REPOSITORY / "daemon", REPOSITORY)))

# A shell that runs this in the background has SIGINT ignored, which the processes started here would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the golden files anew (make golden)")


@pytest.fixture(scope="session")
def testdata() -> Path:
    """Photographs that are not part of the repository; tests that need them skip without."""
    folder = Path(os.environ.get("ONELOOK_TESTDATA", REPOSITORY.parent / "shared" / "testdata"))
    if not folder.is_dir():
        pytest.skip(f"no extra photographs at {folder} (set ONELOOK_TESTDATA)")
    return folder


SECRETS = ("opensesame", "s3cr3t", "s3cret", "letmesee", "hunter2")
"""Every password and camera's password that a test gives to onelook."""


class _Ear(logging.Handler):
    """Hears every record at every level, as text with its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(self.format(record))


@pytest.fixture(autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    """Fails a test in which a password was logged: in this process by whatever logger, by a daemon, by a command.

    What goes straight to stdout or stderr is looked through below, as pytest has caught it.
    """
    began = _said()
    TOLD.clear()
    ear, ours = _Ear(), logging.getLogger("onelook")
    level = ours.level
    logging.getLogger().addHandler(ear)
    ours.setLevel(logging.DEBUG)
    communicate = subprocess.Popen.communicate  # `run` calls it as well

    def overheard(process: "subprocess.Popen[Any]", *arguments: Any, **options: Any) -> tuple[Any, Any]:
        told = communicate(process, *arguments, **options)
        if isinstance(process.args, list | tuple) and "onelook" in process.args:
            ear.heard += [text.decode(errors="replace") if isinstance(text, bytes) else text for text in told if text]
        return told

    try:
        with mock.patch.object(subprocess.Popen, "communicate", overheard):
            yield
    finally:
        logging.getLogger().removeHandler(ear)
        ours.setLevel(level)
    for file, size in _said().items():
        if size != began.get(file):
            ear.heard.append(file.read_text(errors="replace"))
    for text in (*ear.heard, *TOLD):
        assert not _told(text), f"a secret was logged: {text[:2000]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails a test while which a password came to stdout, stderr or the log: its own, or its processes'."""
    report = yield
    ended = report.when == "teardown" and report.passed  # by when all is in the sections
    if ended and (told := [f"{name}: {text[:2000]}" for name, text in report.sections if _told(text)]):
        report.outcome = "failed"
        report.longrepr = "a secret was printed: " + "\n".join(told)
    return report


def _told(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def _said() -> dict[Path, int]:
    """What daemons have said so far: file -> size."""
    return {file: file.stat().st_size for file in SAID if file.exists()}

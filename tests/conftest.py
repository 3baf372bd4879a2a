"""What every test can ask for."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_process import SAID

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
    """Fails a test in which a password was logged, in this process or by a daemon that the test has started."""
    began = _said()
    ear, logger = _Ear(), logging.getLogger("onelook")
    level = logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
    for file, size in _said().items():
        if size != began.get(file):
            ear.heard.append(file.read_text(errors="replace"))
    for text in ear.heard:
        told = [secret for secret in SECRETS if secret in text]
        assert not told, f"a secret was logged: {text[:2000]}"


def _said() -> dict[Path, int]:
    """What daemons have said so far: file -> size."""
    return {file: file.stat().st_size for file in SAID if file.exists()}

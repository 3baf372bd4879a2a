"""What every test can ask for."""

import os
import signal
from pathlib import Path

import pytest

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

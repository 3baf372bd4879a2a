"""What every test can ask for."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def testdata() -> Path:
    """Photographs that are not part of the repository; tests that need them skip without."""
    folder = Path(os.environ.get("ONELOOK_TESTDATA", REPOSITORY.parent / "shared" / "testdata"))
    if not folder.is_dir():
        pytest.skip(f"no extra photographs at {folder} (set ONELOOK_TESTDATA)")
    return folder

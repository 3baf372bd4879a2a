"""Environments of their own for what cannot be tried in the one that the tests run in."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LOCKS = REPOSITORY / "requirements"
UNREACHABLE = re.compile(
    "NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|Network is unreachable"
)


def environment(name: str, requirements: str, python: str | Path = sys.executable) -> Path:
    """Python of an environment that holds `requirements` (a lock's text), made at its first use.

    It stays in .cache until the requirements change. Where no packages can be had the test is skipped.
    """
    version = subprocess.run([python, "-VV"], capture_output=True, text=True, check=True).stdout
    folder = REPOSITORY / ".cache" / f"{name}-{hashlib.sha256((version + requirements).encode()).hexdigest()[:12]}"
    own, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        command = [python, "-m", "venv", "--clear", "--without-pip", folder]  # ours serves, and its own takes seconds
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"{python} cannot make environments (apt install python3-venv)")
        locked = folder / "requirements.txt"
        locked.write_text(requirements)
        pip(own, "install", "--no-compile", "--require-hashes", "--only-binary", ":all:", "-r", locked)
        complete.touch()
    return own


def pip(python: str | Path, verb: str, *arguments: str | Path) -> None:
    """`pip VERB` for that environment; skips the test where the package index cannot be reached."""
    command = [sys.executable, "-m", "pip", "--python", python, verb, "--quiet", "--disable-pip-version-check",
               *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr


def some_of(lock: str, names: Collection[str]) -> str:
    """The part of a lock's text that pins the packages of these names."""
    pins = re.findall(r"(?m)^[a-z0-9-]+==.*(?:\n[ ].*)*", lock)
    chosen = [pin for pin in pins if pin.partition("==")[0] in names]
    assert len(chosen) == len(names)
    return "\n".join(chosen) + "\n"

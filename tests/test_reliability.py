"""The long proofs, in a short form: they run, and would find what they look for."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker import MOSQUITTO

PROOFS = Path(__file__).resolve().parent / "proofs"
sys.path.append(str(PROOFS))

import fuzz  # noqa: E402
from soak import Sample, judged  # noqa: E402


def proof(name: str, *arguments: str) -> tuple[int, list[dict[str, object]]]:
    """Exit code, and the lines that are JSON."""
    command = [sys.executable, PROOFS / name, *arguments]
    path = f"{PROOFS.parent.parent / 'daemon'}:{PROOFS.parent}"
    environment = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=280)
        finally:
            if process.poll() is None:  # with all that it has started: they are of one session
                os.killpg(process.pid, signal.SIGKILL)
    told = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert told, err
    return process.returncode, told


@pytest.mark.timeout(300)
def test_broken_inputs_end_in_sentences() -> None:
    kinds = ["config", "http", "spec", "gallery"]
    code, told = proof("fuzz.py", *kinds, "--count", "60")

    assert code == 0, told
    assert [row["kind"] for row in told] == kinds
    assert all(row["refused"] or row["taken"] for row in told)


def test_mutations_repeat_and_change_something() -> None:
    seed = b"streams: [{name: door, url: /dev/video0}]"
    twice = [[fuzz.mutated(seed, random.Random(n)) for n in range(50)] for _ in range(2)]  # noqa: S311

    assert twice[0] == twice[1]
    assert sum(data != seed for data in twice[0]) > 45


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed (apt install mosquitto)")
@pytest.mark.timeout(300)
def test_a_short_soak_with_deaths() -> None:
    code, [told] = proof("soak.py", "--frames", "300")

    assert code in (0, 1)
    assert told["frames"] >= 300  # type: ignore[operator]
    assert told["exit"] == 0
    assert told["tracebacks"] == 0
    assert told["fd_growth"] <= 2  # type: ignore[operator]  # too short to be strict


def test_the_soak_sees_a_leak() -> None:
    leaking = [Sample(n, 100.0 * n, 10**8 + n * 10**5, 12 + n // 10, 20) for n in range(1, 101)]
    steady = [Sample(n, 100.0 * n, 10**8 + n % 7 * 10**5, 12 + n % 3, 20 + n % 4) for n in range(1, 101)]

    assert judged(leaking, 10_000)["rss_growth"] > 5 * 2**20
    assert judged(leaking, 10_000)["fd_growth"] > 0
    assert judged(steady, 10_000)["rss_growth"] < 10**6
    assert judged(steady, 10_000)["fd_growth"] == judged(steady, 10_000)["thread_growth"] == 0

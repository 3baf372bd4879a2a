"""Passwords never reach a log: conftest listens to every test, and here is shown that it would hear."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TELLS = """
import logging
import os
import subprocess
import sys
from pathlib import Path

from daemon_process import SAID, onelook

def test_in_this_process():
    logging.getLogger("onelook.capture").debug("opening rtsp://me:%s@cam/live", "s3cr3t")

def test_by_a_daemon(tmp_path):
    SAID.append(tmp_path / "stderr")
    SAID[-1].write_text("connecting with opensesame\\n")

def test_by_a_library():
    logging.getLogger("paho").warning("sending the password hunter2")

def test_by_a_command():
    subprocess.run([sys.executable, "-c", "print('letmesee')", "onelook"], capture_output=True)

def test_by_a_command_of_ours():
    onelook("replay", "letmesee.mp4")

def test_by_a_process_of_which_nobody_asks():
    os.write(2, b"s3cr3t\\n")

def test_silent(tmp_path):
    logging.getLogger("onelook.capture").debug("opening rtsp://me:***@cam/live")
    SAID.append(tmp_path / "stderr")
    SAID[-1].write_text("connecting\\n")
"""


def test_a_password_in_a_log_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_tells.py").write_text(TELLS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'temp'}", "."]

    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False, env=environment
    )

    assert "7 passed, 6 errors" in done.stdout, done.stdout
    assert done.stdout.count("a secret was logged") >= 5
    assert "a secret was printed" in done.stdout


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_not_even_verbose_tells_a_cameras_password(tmp_path: Path, flag: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "streams: [{name: door, url: 'rtsp://me:s3cr3t@127.0.0.1:9/live'}]\npublish: stdout\n"
        "mqtt: {username: me, password: opensesame}\ngallery: {path: g.db, key_file: g.key}\nmetrics: {port: 0}\n"
    )
    command = [sys.executable, "-m", "onelook", "run", flag, "--config", str(config)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "is down" in line:
                break
        process.terminate()
        out, rest = process.communicate(timeout=90)

    assert "me:***@" in said
    assert not [word for word in ("s3cr3t", "opensesame") if word in said + rest + out]

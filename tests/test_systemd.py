"""The service: it talks to a real notify socket, and its unit is sound and shut tight."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from onelook import systemd

REPOSITORY = Path(__file__).resolve().parent.parent
UNIT = REPOSITORY / "systemd" / "onelook.service"
TEMPLATE = REPOSITORY / "systemd" / "onelook@.service"
EXECUTABLE = "/opt/onelook/bin/onelook"


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's end of the notify socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_the_manager_hears_each_message(manager: socket.socket) -> None:
    assert systemd.notify("READY=1\nSTATUS=1 of 1 stream is up: Tür")
    assert systemd.notify("WATCHDOG=1")

    assert manager.recv(4096).decode() == "READY=1\nSTATUS=1 of 1 stream is up: Tür"
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"onelook-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)

        assert systemd.notify("READY=1")

        assert listener.recv(4096) == b"READY=1"


def test_a_manager_that_is_busy_is_not_waited_for(manager: socket.socket) -> None:
    sent = 0
    while systemd.notify("WATCHDOG=1"):
        sent += 1
        assert sent < 100_000, "its queue has no end"

    assert sent
    assert manager.recv(4096) == b"WATCHDOG=1"
    assert systemd.notify("WATCHDOG=1")


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    assert not systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not systemd.notify("READY=1")

    def no_more(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", no_more)
    assert not systemd.notify("READY=1")


@pytest.mark.parametrize(("microseconds", "pid", "interval"), [
    ("30000000", "ours", 15.0),
    ("500000", None, 0.25),
    ("30000000", "1", None),
    ("0", "ours", None),
    ("soon", "ours", None),
    (None, None, None),
])  # fmt: skip
def test_the_watchdog_is_fed_twice_as_often_as_it_bites(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, pid: str | None, interval: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "ours" else value)

    assert systemd.watchdog_interval() == interval


# --- the unit ------------------------------------------------------------------------------------


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(params=[UNIT, TEMPLATE], ids=["single", "template"])
def installed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The unit as installed: `verify` looks whether what it starts is there and may run."""
    program = tmp_path / "bin" / "onelook"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = request.param.read_text()
    assert text.count(f"ExecStart={EXECUTABLE} ") == 1
    unit = tmp_path / request.param.name.replace("@.", "@yard.")
    unit.write_text(text.replace(EXECUTABLE, str(program)))
    return unit


def test_systemd_finds_nothing_wrong_with_the_unit(installed: Path) -> None:
    checked = analyze("verify", "--man=no", str(installed))

    assert checked.stderr == ""  # where it tells unknown keys, with exit code 0
    assert checked.returncode == 0


def test_systemd_finds_nothing_wrong_with_the_example_for_a_jetsons_camera(installed: Path) -> None:
    drop_in = installed.with_name(installed.name + ".d") / "jetson-camera.conf"
    drop_in.parent.mkdir()
    shutil.copy(REPOSITORY / "deploy" / "examples" / drop_in.name, drop_in)

    assert analyze("verify", "--man=no", str(installed)).stderr == ""

    drop_in.write_text(drop_in.read_text().replace("DeviceAllow=/dev/nvmap rw", "DeviceAllow=/nvmap rw"))
    assert "/nvmap" in analyze("verify", "--man=no", str(installed)).stderr


def test_systemd_would_find_something_wrong(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("WatchdogSec=", "WatchDogSec="))

    assert "WatchDogSec" in analyze("verify", "--man=no", str(installed)).stderr


def test_the_service_is_exposed_by_no_more_than_it_needs(installed: Path) -> None:
    checked = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(installed))

    assert checked.returncode == 0, checked.stdout
    exposure = re.search(r"Overall exposure level for onelook\S*\.service: (\d+\.\d)", checked.stdout)
    assert exposure, checked.stdout
    assert float(exposure[1]) <= 2.0


def settings(unit: Path = UNIT) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_a_camera_can_be_opened_by_the_service() -> None:
    unit = settings()

    assert "PrivateDevices" not in unit  # hides /dev/video0
    assert "video" in unit["SupplementaryGroups"][0].split()
    assert "char-video4linux rw" in unit["DeviceAllow"]


def test_the_name_of_cameras_is_known_before_one_is_plugged_in() -> None:
    """DeviceAllow is looked up in /proc/devices, once, as the service starts."""
    unit = settings()

    assert "modprobe@videodev.service" in unit["Wants"]
    assert "modprobe@videodev.service" in unit["After"]


def test_the_owners_mistake_is_not_tried_again_and_a_crash_is() -> None:
    unit = settings()

    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["78"]
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) >= 10


def test_a_leak_or_a_crowd_takes_the_service_and_not_the_board() -> None:
    unit = settings()

    assert unit["MemoryMax"] == ["1G"]
    assert int(unit["TasksMax"][0]) >= 64
    assert int(unit["CPUWeight"][0]) < 100  # of every other service
    assert int(unit["OOMScoreAdjust"][0]) > 0
    assert unit["LimitCORE"] == ["0"]  # there are faces in it


def test_plain_and_encrypted_credentials_do_not_meet_and_none_is_needed() -> None:
    """systemd keeps one line for a name, and looks for a bare file name among both kinds."""
    for unit in (settings(), settings(TEMPLATE)):
        plain, encrypted, default = (
            dict(line.split(":", 1) for line in unit[key])
            for key in ("LoadCredential", "LoadCredentialEncrypted", "SetCredential"))

        assert list(plain) == [f"{name}.plain" for name in encrypted] == ["mqtt-password.plain", "gallery-key.plain"]
        assert all(path.startswith("/etc/credstore/onelook.") for path in plain.values())
        assert list(encrypted.values()) == [path.replace("credstore", "credstore.encrypted") for path in plain.values()]
        assert default == dict.fromkeys([*plain, *encrypted], r"\n")


def test_a_credential_is_the_encrypted_one_else_the_plain_else_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert systemd.credential("gallery-key") is None

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    encrypted, plain = tmp_path / "gallery-key", tmp_path / "gallery-key.plain"
    assert systemd.credential("gallery-key") is None

    encrypted.write_text("\n")  # as the unit sets them
    plain.write_text("\n")
    assert systemd.credential("gallery-key") is None
    plain.write_text("1\n")
    assert systemd.credential("gallery-key") == plain
    encrypted.write_text("2\n")
    assert systemd.credential("gallery-key") == encrypted


def test_the_template_is_the_same_unit_for_many() -> None:
    def body(file: Path) -> list[str]:
        return file.read_text().partition("[Unit]")[2].splitlines()

    one, many = body(UNIT), body(TEMPLATE)
    assert len(one) == len(many)
    others = [line for before, line in zip(one, many, strict=True) if line != before]
    assert [line.partition("=")[0] for line in others] == [
        "Description", "ExecStart", "StateDirectory", "EnvironmentFile", "LoadCredential", "LoadCredentialEncrypted",
    ]
    assert all("%i" in line and "%I" not in line for line in others)  # the latter takes yard-2 for yard/2


def test_the_service_starts_before_the_network_is_there() -> None:
    assert all("network-online.target" not in value for values in settings().values() for value in values)


def test_every_setting_is_explained() -> None:
    """Under a section's heading and after each empty line, the first line says why."""
    for block in UNIT.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("[")]
        simple = all(line.startswith(("Description=", "Documentation=", "WantedBy=")) for line in lines[:1])
        assert simple or lines[0].startswith("#"), f"nothing says why: {lines[0]}"


# --- the daemon within what the unit allows ------------------------------------------------------


def confined(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of this Python under the unit's rules for system calls and memory."""
    if shutil.which("systemd-analyze") is None or find_library("seccomp") is None:
        pytest.skip("systemd-analyze or libseccomp is not installed (Debian: systemd, libseccomp2)")
    sandbox = [sys.executable, str(REPOSITORY / "tests" / "sandbox.py"), str(UNIT), sys.executable]
    return subprocess.run([*sandbox, *command], capture_output=True, text=True, timeout=250, check=False)


def test_what_the_unit_forbids_is_refused() -> None:
    script = """
import mmap, os, socket
def tried(action):
    try:
        action()
    except OSError as error:
        return error.errno
print(
    tried(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)),
    tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    tried(lambda: os.chroot("/")),
    tried(lambda: socket.socket(socket.AF_INET)),
)
"""
    assert confined("-c", script).stdout == "1 97 1 None\n"


def test_the_network_runs_within_what_the_unit_allows() -> None:
    portraits = REPOSITORY / "daemon" / "onelook" / "portraits"

    done = confined("-m", "onelook", "replay", f"{portraits}/")

    assert done.returncode == 0, done.stderr
    assert '"type":"onelook.crowd"' in done.stdout

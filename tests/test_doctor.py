"""The doctor: it looks at the thing itself, names each fault, and says what to do."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections import namedtuple
from collections.abc import Iterator
from itertools import pairwise
from math import inf
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from broker import Broker, free_port
from clip import write_mp4
from daemon_process import DEVICE, PASSWORD, locked_broker, onelook, write_config
from onelook import config, doctor
from onelook.doctor import Finding, Measured, smallest, suggest
from onelook.metrics import BoardCollector
from onelook.source import CaptureError, Shot, masked


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4")


# --- the command, from outside -----------------------------------------------------------------


def test_a_healthy_machine_passes_with_its_broker_and_camera(tmp_path: Path, clip: Path) -> None:
    with locked_broker(tmp_path / "broker") as broker:
        file = write_config(tmp_path, {"name": "door", "url": str(clip)}, broker=broker)

        done = onelook("doctor", "--quick", "--json", "--config", file)

    told = json.loads(done.stdout)
    found = {row["check"]: row for row in told["findings"]}
    assert done.returncode == 0, done.stdout
    assert told["ok"]
    assert found["camera door"]["message"].startswith("pictures of 640x480")
    assert found["broker"]["message"] == f"127.0.0.1:{broker.port} lets us in"
    assert found["certificate"]["state"] == "warning"  # it lasts an hour
    assert {"runtime", "int8 kernels", "threads", "memory", "codecs", "clock", f"disk {tmp_path}"} <= found.keys()
    assert PASSWORD not in done.stdout + done.stderr


def test_each_fault_is_told_with_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    streams = [
        {"name": "away", "url": f"rtsp://me:s3cr3t@127.0.0.1:{free_port()}/live"},
        {"name": "gone", "url": "/dev/video97"},
    ]
    file = write_config(tmp_path, *streams, publish="mqtt", mqtt={"port": port, "outbox": "outbox.db"},
                        model={"path": "nowhere"})

    done = onelook("doctor", "--config", file)  # of no network there is no speed

    assert (done.returncode, done.stderr) == (78, "")
    assert "FAULT  int8 kernels: The model cannot be read: " in done.stdout
    assert f"FAULT  broker: 127.0.0.1:{port} does not answer" in done.stdout
    assert "FAULT  camera away: rtsp://me:***@127.0.0.1" in done.stdout
    assert "FAULT  camera gone: /dev/video97 is not there" in done.stdout
    lines = done.stdout.splitlines()
    assert all(after.startswith("       -> ") for line, after in pairwise(lines) if "FAULT" in line)
    assert "s3cr3t" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# --- the broker --------------------------------------------------------------------------------


def greeted(broker: Broker, **changes: object) -> dict[str, Finding]:
    plain = {"port": broker.port, "username": DEVICE, "password": PASSWORD}
    return by_check(list(doctor._broker(config.Mqtt.model_validate(plain | changes), "doctor")))


def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    with Broker(tmp_path, users={DEVICE: PASSWORD}) as broker:
        assert greeted(broker)["broker"].state == "ok"
        refused = greeted(broker, password="wrong")["broker"]  # noqa: S106

    assert refused.state == "fault"
    assert "refuses us" in refused.message
    assert refused.advice == "check mqtt.username and its password"


def test_an_authority_that_is_not_known_is_told(tmp_path: Path) -> None:
    with locked_broker(tmp_path) as broker:
        found = greeted(broker, tls={})

    assert found["certificate"].state == "fault"
    assert "not trusted" in found["certificate"].message
    assert "broker" not in found


def test_something_else_on_the_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout
            return super().wait(timeout / 20)

    monkeypatch.setattr(doctor, "threading", SimpleNamespace(Event=Impatient))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mqtt = config.Mqtt(port=silent.getsockname()[1])
        [found] = doctor._broker(mqtt, "doctor")

    assert found.state == "fault"
    assert "says nothing" in found.message


# --- the board, on a folder that looks like its own ----------------------------------------------


def sysfs(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return folder


def test_a_cpu_kept_slow_is_told_and_one_that_only_sounds_so_is_not(tmp_path: Path) -> None:
    slow = sysfs(
        tmp_path / "pi", cpu0__cpufreq__scaling_governor="powersave", cpu0__cpufreq__scaling_driver="cpufreq-dt"
    )
    laptop = sysfs(
        tmp_path / "pc", cpu0__cpufreq__scaling_governor="powersave", cpu0__cpufreq__scaling_driver="intel_pstate"
    )

    assert [f.state for f in doctor._governor(slow)] == ["warning"]
    assert [f.state for f in doctor._governor(laptop)] == ["ok"]
    assert list(doctor._governor(tmp_path / "virtual")) == []


def test_heat_and_a_weak_supply_are_told(tmp_path: Path) -> None:
    hot = sysfs(
        tmp_path, class__thermal__thermal_zone0__temp="84300", class__thermal__thermal_zone0__type="cpu-thermal",
        devices__platform__soc__firmware__get_throttled="0x50004",
    )
    (tmp_path / "devices/platform/soc/firmware").rename(tmp_path / "devices/platform/soc/raspberrypi-firmware")

    found = list(doctor._board(BoardCollector(hot)))

    assert [(f.check, f.state) for f in found] == [
        ("temperature", "warning"), ("throttling", "fault"), ("throttling", "warning"), ("throttling", "warning"),
    ]
    assert found[0].message == "84 °C (cpu-thermal)"
    assert [f.message for f in found[1:]] == [
        "throttled, now", "under voltage, since it was booted", "throttled, since it was booted",
    ]
    assert "supply" in str(found[2].advice)


@pytest.mark.parametrize(("url", "trouble", "advice"), [
    ("http://cam/live.cgi?user=me&password=s3cr3t", "is not there: the address answers, but has nothing at that path",
     "check the URL in a player"),
    ("http://cam/live.cgi?user=me&password=s3cr3t", "refuses the user name or password", "check user and password"),
    ("/dev/video97", "gives no pictures: another program holds it", "sudo systemctl stop onelook"),
    ("/dev/video97", "may not be opened: the user must be in the group video", "--groups video joe, then log in anew"),
])
def test_what_to_do_is_of_what_is_the_matter_and_for_whom_it_is(
    monkeypatch: pytest.MonkeyPatch, url: str, trouble: str, advice: str
) -> None:
    def shots(url: str, **_: object) -> Iterator[Shot]:
        raise CaptureError(f"{masked(url)} {trouble}")
        yield

    monkeypatch.setattr("onelook.doctor.shots", shots)
    monkeypatch.setattr("onelook.doctor._has_service", lambda: False)
    monkeypatch.setattr("pwd.getpwuid", lambda _number: SimpleNamespace(pw_name="joe"))

    found = doctor._camera(config.Stream(name="door", url=url))

    assert found.state == "fault"
    assert advice in str(found.advice)
    monkeypatch.setattr("onelook.doctor._has_service", lambda: True)
    assert doctor._into_video() == "run this as root or as the service's user: sudo -u onelook onelook doctor"


def test_the_pace_of_a_slow_camera_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in five seconds was none a second."""
    now = [0.0]

    def shots(_url: str, **_: object) -> Iterator[Shot]:
        while True:
            now[0] += 5
            yield Shot(None, lambda: np.zeros((48, 64, 3), np.uint8))

    monkeypatch.setattr("onelook.doctor.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("onelook.doctor.shots", shots)

    message = doctor._camera(config.Stream(name="door", url="rtsp://cam/x")).message

    assert re.fullmatch(r"pictures of 64x48, 0\.2 a second, .*", message), message


def test_little_memory_and_a_full_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 512000 kB\nMemAvailable:  102400 kB\n")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage(10**9, 10**9, 10**6))

    assert doctor._memory(tmp_path / "meminfo").message == "100 MB free for use"
    assert doctor._memory(tmp_path / "meminfo").state == "warning"
    assert doctor._disk(tmp_path / "not" / "yet").state == "fault"


def test_a_folder_that_this_user_may_not_write_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor make, as in /var/lib. Stood in for, as root may do everything."""
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path and access(path, mode))
    (tmp_path / "file").touch()

    for folder in (tmp_path, tmp_path / "not" / "yet"):
        assert doctor._disk(folder).state == "warning"
        assert doctor._disk(folder).message == f"this user may not write to {tmp_path}"
    assert doctor.unwritable(tmp_path / "file") == tmp_path
    assert doctor.unwritable(tmp_path / "file" / "outbox.db") == tmp_path / "file"
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "file" and access(path, mode))
    assert doctor.unwritable(tmp_path / "file") == tmp_path / "file"
    assert doctor.unwritable(tmp_path / "not" / "yet" / "outbox.db") is None


# --- speed ---------------------------------------------------------------------------------------


def test_the_measurement_keeps_its_time_and_is_a_measurement() -> None:
    rows = doctor.measure(config.Model(), seconds=1.0)

    assert {(row.width, row.height) for row in rows} == set(doctor.SIZES)
    one = {row.width * row.height: row.milliseconds for row in rows if row.threads == 1}
    assert one[320 * 256] < one[1280 * 736]


def table(*rows: tuple[int, int, int, float]) -> list[Measured]:
    return [Measured(*row) for row in rows]


def test_the_largest_input_that_is_fast_enough_is_suggested() -> None:
    rows = table((1, 320, 256, 20), (2, 320, 256, 12), (1, 640, 480, 60), (2, 640, 480, 40), (1, 960, 736, 150),
                 (2, 960, 736, 90))

    assert (suggest(rows, 1).input_width, suggest(rows, 1).threads) == (640, 2)
    assert (suggest(rows, 3).input_width, suggest(rows, 3).threads) == (640, 2)  # slow; a smaller one would see nobody
    assert suggest(rows, 3).fps == pytest.approx(0.7 * 25 / 3)
    assert suggest(rows, 99).input_width == 640


def test_no_larger_input_is_suggested_than_the_cameras_have_pixels_for() -> None:
    rows = table((2, 640, 480, 10), (2, 960, 736, 20), (2, 1280, 736, 30))

    for width, height, best in ((640, 480, 640), (800, 480, 960), (320, 240, 640), (1920, 1080, 1280), (inf, 1, 1280)):
        assert suggest(rows, 1, (width, height)).input_width == best


def test_how_near_people_must_come_is_told() -> None:
    told = json.loads((Path(__file__).parents[1] / "edge_models" / "onelook" / "sizes.json").read_text())
    for name in ("320x256", "640x480", "1280x736", "1920x1088"):
        least = smallest(*map(int, name.split("x")))
        for size, row in told["inputs"][name]["faces"].items():
            if float(size) >= least:
                assert row["found"]["value"] > 0.97, (name, size)
            elif float(size) < 0.7 * least:
                assert row["found"]["value"] < 0.03, (name, size)


def test_a_thread_that_brings_nothing_is_not_suggested() -> None:
    rows = table((1, 640, 480, 20), (2, 640, 480, 19), (4, 640, 480, 30))

    assert suggest(rows, 1).threads == 1

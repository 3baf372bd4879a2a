"""Doctor: what of this machine keeps onelook from working well, and what to do about it.

    for finding in examine(streams=…, model=…, mqtt=…, files=…):
        print(finding.state, finding.message, finding.advice)

Each check looks at the thing itself: it opens the camera, greets the broker, runs the network.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import platform
import pwd
import shutil
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from onelook import config
from onelook.errors import OwnerError
from onelook.metrics import BoardCollector
from onelook.model import RUNTIMES, FaceModel, Image
from onelook.picture import read_picture
from onelook.publish import tls_context
from onelook.source import CaptureError, is_live, masked, shots

State = Literal["ok", "warning", "fault"]

HOT = 80.0
"""°C at which a Raspberry Pi starts to slow down (its firmware's soft limit)."""
LITTLE_DISK, NO_DISK = 500 * 2**20, 50 * 2**20
LITTLE_MEMORY = 400 * 2**20
"""What the daemon takes with a stream or two at 640x480."""
SOON = 14.0
"""Days before a certificate ends that are worth a word."""
SIZES = ((320, 256), (480, 384), (640, 480), (960, 736), (1280, 736))
LEAST_SIZE = (640, 480)
"""Nothing smaller is suggested: it would take people out of sight for the sake of frames."""
LEAST_FACE = 16.0
"""Side of a face's template in the network's input, in pixels, from which all are found; of faces a third smaller none
are (sizes.json beside the model)."""
WISHED_FPS = 10.0
"""Frames a second for each stream from which people walking by are followed without gaps."""
SERVICE = "onelook"
"""The user that the service runs as."""
AS_SERVICE = f"run this as root or as the service's user: sudo -u {SERVICE} onelook doctor"
SPARE = 0.7
"""Share of the time that the network may take; the rest is for decoding and for everything else."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has seen."""

    check: str
    """What was looked at, as `camera door`."""
    state: State
    message: str
    """What was seen, one sentence or less."""
    advice: str | None = None
    """What to do about it; none where nothing is wrong."""
    picture: tuple[int, int] | None = None
    """Width and height of a camera's pictures; none of all else."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The network on this machine."""

    threads: int
    width: int
    height: int
    milliseconds: float
    """Median for a frame."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings for the section `model` of the config."""

    threads: int
    input_width: int
    input_height: int
    fps: float
    """Frames a second that they leave for each stream."""


def examine(
    *,
    streams: Sequence[config.Stream],
    model: config.Model,
    mqtt: config.Mqtt | None,
    device: str,
    files: Iterable[Path],
) -> Iterator[Finding]:
    """Check everything but the speed; findings come as they are found.

    mqtt: none where nothing is published to a broker. files: where onelook keeps things.
    """
    yield _runtime()
    yield _kernels(model)
    yield _threads(model.threads)
    yield from _governor()
    yield from _board(BoardCollector())
    yield _memory()
    yield _codecs()
    for stream in streams:
        yield _camera(stream)
    if mqtt is not None:
        yield from _broker(mqtt, device)
    yield _clock()
    for folder in dict.fromkeys(file.parent for file in files):
        yield _disk(folder)


# --- the network's runtime -------------------------------------------------------------------


def _runtime() -> Finding:
    for name in RUNTIMES:
        package = name.partition(".")[0]
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            return Finding("runtime", "fault", f"{package} is installed and cannot be loaded: {error}",
                           "install onelook anew; tflite-runtime needs numpy 1")
        try:
            number = version(package.replace("_", "-").removesuffix("-nightly"))
        except PackageNotFoundError:
            number = "of unknown version"
        return Finding("runtime", "ok", f"{package} {number}, Python {platform.python_version()}, {platform.machine()}")
    return Finding("runtime", "fault", "no TFLite runtime is installed", "pip install ai-edge-litert")


def _kernels(model: config.Model) -> Finding:
    """Whether int8 runs in kernels made for this CPU: against the plain ones, in one and the same process."""
    name = "int8 kernels"
    try:
        fast = FaceModel(model.path, threads=1, size=(320, 256))
        plain = FaceModel(model.path, threads=1, size=(320, 256), runtime=_without_delegates())
    except OwnerError as error:
        return Finding(name, "fault", str(error), "see onelook check")
    except (ImportError, AttributeError):
        return Finding(name, "warning", "this runtime cannot be asked", "use ai-edge-litert")
    picture = _crowd()
    ratio = _median(plain, picture, 0.6) / _median(fast, picture, 0.6)
    features = _cpu_features()
    if ratio < 1.3:
        return Finding(name, "warning", f"no faster than plain code ({features}): the runtime has none for this CPU, "
                       "or the CPU is emulated",
                       "use ai-edge-litert on a 64-bit system; frames take several times longer without")
    return Finding(name, "ok", f"{ratio:.1f} times as fast as plain code ({features})")


def _without_delegates() -> Any:
    for name in RUNTIMES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        kind = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return functools.partial(module.Interpreter, experimental_op_resolver_type=kind)
    raise ImportError


_FEATURES = ("i8mm", "asimddp", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "asimd", "neon")
"""What int8 kernels are made for, the best first, as Linux calls it in /proc/cpuinfo."""


def _cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    words = set(_read(cpuinfo).split())
    return ", ".join(name for name in _FEATURES if name in words) or "of a kind that it does not tell"


def _threads(threads: int) -> Finding:
    cores = len(os.sched_getaffinity(0))
    if threads > cores:
        return Finding("threads", "warning", f"model.threads is {threads}, and there are {cores} cores",
                       f"set model.threads to {cores} or less")
    return Finding("threads", "ok", f"{threads} of {cores} cores")


# --- the board -------------------------------------------------------------------------------


def _governor(cpu: Path = Path("/sys/devices/system/cpu")) -> Iterator[Finding]:
    """Frequencies; nothing where the kernel does not set them (a virtual machine)."""
    found = {_read(file) for file in cpu.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    if not found:
        return
    drivers = {_read(file) for file in cpu.glob("cpu[0-9]*/cpufreq/scaling_driver")}
    said = ", ".join(sorted(found))
    # These two call by that name a governor that does go up under load.
    dynamic = drivers <= {"intel_pstate", "amd-pstate-epp", "amd-pstate"}
    if "powersave" in found and not dynamic:
        yield Finding("governor", "warning", f"{said}: the CPU stays at its lowest frequency",
                      "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    else:
        yield Finding("governor", "ok", said)


def _board(collector: BoardCollector) -> Iterator[Finding]:
    """Temperature and throttling, where the board tells."""
    families = {family.name: family.samples for family in collector.collect()}
    zones = families.get("onelook_board_temperature_celsius", [])
    if zones:
        hottest = max(zones, key=lambda sample: sample.value)
        message = f"{hottest.value:.0f} °C ({hottest.labels['type'] or hottest.labels['zone']})"
        hot = hottest.value >= HOT
        yield Finding("temperature", "warning" if hot else "ok", message,
                      "give the board a heat sink, a fan or more air" if hot else None)
    advice = {
        "under_voltage": "use the supply that is made for this board, and a short cable",
        "frequency_capped": "see to its cooling and its supply",
        "throttled": "see to its cooling",
        "soft_temperature_limit": "see to its cooling",
    }
    throttled = "onelook_board_throttled"
    for name, when in ((throttled, "now"), (f"{throttled}_since_boot", "since it was booted")):
        reasons = [sample.labels["reason"] for sample in families.get(name, []) if sample.value]
        for reason in reasons:
            yield Finding("throttling", "fault" if when == "now" else "warning",
                          f"{reason.replace('_', ' ')}, {when}", advice[reason])
    if families.get(throttled) and not any(sample.value for sample in families[throttled]):
        yield Finding("throttling", "ok", "none now")


def _memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    lines = dict(line.split(":", 1) for line in _read(meminfo).splitlines() if ":" in line)
    free = int(lines.get("MemAvailable", "0").split()[0]) * 1024
    message = f"{_size(free)} free for use"
    if 0 < free < LITTLE_MEMORY:
        return Finding("memory", "warning", message, "end other programs, or set a smaller model.input_width")
    return Finding("memory", "ok", message)


def _there(path: Path) -> Path:
    """It, or the nearest folder above it that there is."""
    return next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110 - Path's own raises


def unwritable(file: Path) -> Path | None:
    """What keeps this user from writing a file: itself, or the nearest folder above it; none where nothing does."""
    if (there := _there(file)) == file:
        if not os.access(file, os.W_OK):
            return file
        there = file.parent  # journals lie beside it
    return None if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else there


def _has_service() -> bool:
    """Whether the service's user is there."""
    try:
        return bool(pwd.getpwnam(SERVICE))
    except KeyError:
        return False


def _disk(folder: Path) -> Finding:
    name = f"disk {folder}"
    there = _there(folder)
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(name, "fault", f"cannot be asked: {error.strerror}", "see dmesg: the disk may be broken")
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return Finding(name, "fault", "is read-only", "remount it, or keep gallery and mqtt.outbox elsewhere")
    message = f"{_size(free)} free"
    if shut := unwritable(folder / "file"):
        elsewhere = "let gallery.path, gallery.key_file and mqtt.outbox be where you may write, or run this as root"
        return Finding(name, "warning", f"this user may not write to {shut}",
                       AS_SERVICE if _has_service() else elsewhere)
    if free < LITTLE_DISK:
        return Finding(name, "fault" if free < NO_DISK else "warning", message,
                       "free some: gallery and waiting events are kept there")
    return Finding(name, "ok", message)


# --- the clock -------------------------------------------------------------------------------


class _Timex(ctypes.Structure):
    """The head of the kernel's `struct timex`; adjtimex(2)."""

    _fields_ = (("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
                ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
                ("rest", ctypes.c_byte * 256))


_UNSYNCHRONISED = 0x40


def _clock() -> Finding:
    asked = _Timex(modes=0)
    answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    now = datetime.now(UTC)
    said = f"{now:%Y-%m-%d %H:%M} UTC"
    advice = "sudo timedatectl set-ntp true; events are dated by this clock, and certificates checked against it"
    if now.year < 2025:
        return Finding("clock", "fault", f"it says {said}", advice)
    if answer < 0:
        return Finding("clock", "warning", f"{said}; the kernel does not say whether it is right", advice)
    if asked.status & _UNSYNCHRONISED:
        return Finding("clock", "warning", f"{said}, and nobody sets it by the network", advice)
    return Finding("clock", "ok", f"{said}, set by the network, right to {asked.maxerror / 1e6:.2f} s")


# --- cameras ---------------------------------------------------------------------------------


def _codecs() -> Finding:
    missing = {"h264", "hevc", "mjpeg"} - set(av.codecs_available)
    if missing:
        return Finding("codecs", "warning", f"FFmpeg cannot decode {', '.join(sorted(missing))}",
                       "install the av package of PyPI, which can")
    return Finding("codecs", "ok", "H.264, H.265 and MJPEG can be decoded")


def _camera(stream: config.Stream) -> Finding:
    """Open it as the daemon would, and wait for a few pictures."""
    name = f"camera {stream.name}"
    if "://" not in stream.url and is_live(stream.url):
        device = Path(stream.url if stream.url.startswith("/") else f"/dev/video{stream.url}")
        if device.exists() and not os.access(device, os.R_OK | os.W_OK):
            return Finding(name, "fault", f"{device} may not be opened by this user", _into_video())
    began, first, count, shape = time.monotonic(), 0.0, 0, (0, 0)
    stop = threading.Event()
    source = shots(stream.url, open_timeout=stream.open_timeout, read_timeout=stream.read_timeout, fps=stream.fps,
                   loop=False, stop=stop)
    try:
        for shot in source:
            picture = shot.look()
            if picture is None:
                continue
            if count == 0:
                first, shape = time.monotonic() - began, picture.shape[:2]
            count += 1
            if time.monotonic() - began - first > 1.5 or (not is_live(stream.url) and count >= 5):
                break
    except CaptureError as error:
        # Not by the words of the URL, which may have a `password=` in it whatever is the matter.
        return Finding(name, "fault", str(error), _camera_advice(str(error).removeprefix(masked(stream.url))))
    finally:
        stop.set()
        source.close()  # type: ignore[attr-defined]  # a generator; its `with` blocks end now
    if not count:
        return Finding(name, "fault", f"{masked(stream.url)} gives no pictures", "try it in a player, such as ffplay")
    rate = (count - 1) / max(time.monotonic() - began - first, 1e-3)
    pace = f", {rate:{'.0f' if rate > 2 else '.1g'}} a second" if is_live(stream.url) else ""
    return Finding(name, "ok", f"pictures of {shape[1]}x{shape[0]}{pace}, the first after {first:.1f} s",
                   picture=(shape[1], shape[0]))


def _camera_advice(trouble: str) -> str:
    for word, advice in (
        ("another program", "end the other program (sudo fuser -v /dev/video* names it; onelook's own service holds "
                            "its camera as well: sudo systemctl stop onelook), or try the next /dev/video number"),
        ("plugged in", "plug it in; see the cameras with v4l2-ctl --list-devices"),
        ("no host", "check the spelling, or use the camera's address"),
        ("nothing listens", "check the port, usually 554 for RTSP, and that the camera has started"),
        ("no answer", "check that the camera has power, and that this machine is in its network: ping it"),
        ("may not", _into_video()),
        ("password", "check user and password; in a password write @ / : # ? % as %40 %2F %3A %23 %3F %25; of a camera "
                     "that can choose, ask for Basic or for Digest with MD5, and not with SHA-256"),
        ("no such file", "check the path; recordings belong in /srv, /media or /var/lib/onelook"),
    ):
        if word in trouble.lower():
            return advice
    return "check the URL in a player, such as ffplay"


def _into_video() -> str:
    """How this user comes to be one that may open cameras."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in a container that is given a number alone
        user = "USER"
    if user == SERVICE:
        return f"sudo usermod --append --groups video {user}, then restart the service"
    return AS_SERVICE if _has_service() else f"sudo usermod --append --groups video {user}, then log in anew"


# --- the broker ------------------------------------------------------------------------------


def _broker(mqtt: config.Mqtt, device: str) -> Iterator[Finding]:
    place = f"{mqtt.host}:{mqtt.port}"
    try:
        socket.create_connection((mqtt.host, mqtt.port), timeout=5).close()
    except (socket.gaierror, UnicodeError):  # the latter: no name can be so
        yield Finding("broker", "fault", f"no host is known by the name {mqtt.host}", "check mqtt.host")
        return
    except OSError as error:
        yield Finding("broker", "fault", f"{place} does not answer: {error.strerror or error}",
                      "start it (sudo systemctl start mosquitto), or check mqtt.host, mqtt.port and its firewall")
        return
    if mqtt.tls is not None:
        certificate = _certificate(mqtt.host, mqtt.port, mqtt.tls)
        yield certificate
        if certificate.state == "fault":
            return
    yield _greeting(mqtt, device, place)


_TLS_PORT = "check that mqtt.port is the broker's TLS port, often 8883"


def _certificate(host: str, port: int, tls: config.Tls) -> Finding:
    name = "certificate"
    try:
        context = tls_context(tls)
        with (
            socket.create_connection((host, port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            shown = secure.getpeercert() or {}
    except OwnerError as error:
        return Finding(name, "fault", str(error), "mend the files under mqtt.tls")
    except ssl.SSLCertVerificationError as error:
        return Finding(name, "fault", f"the broker's is not trusted: {error.verify_message}",
                       "check mqtt.tls.ca_file, mqtt.host and this machine's clock")
    except ssl.SSLError as error:
        return Finding(name, "fault", f"no TLS: {error.reason}", _TLS_PORT)
    except OSError as error:
        return Finding(name, "fault", f"no TLS: {error}", _TLS_PORT)
    ends = str(shown.get("notAfter", ""))
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    if days < SOON:
        return Finding(name, "warning", f"the broker's ends in {days:.0f} days", "renew it on the broker")
    return Finding(name, "ok", f"the broker's is trusted, for {days:.0f} days more")


def _greeting(mqtt: config.Mqtt, device: str, place: str) -> Finding:
    """What the broker says to this user and password."""
    answered, answer = threading.Event(), ""

    def on_connect(_client: Client, _data: object, _flags: object, code: Any, _properties: object) -> None:
        nonlocal answer
        answer = code.getName()
        answered.set()

    # Not the daemon's own client id: the broker would end that one's connection.
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"{mqtt.prefix}-{device}-doctor",
                    protocol=MQTTv5 if mqtt.protocol == "5" else MQTTv311)
    if mqtt.username is not None or mqtt.password is not None:
        secret = mqtt.password.get_secret_value() if mqtt.password is not None else None
        client.username_pw_set(mqtt.username or device, secret)
    if mqtt.tls is not None:
        client.tls_set_context(tls_context(mqtt.tls))
    client.on_connect = on_connect
    try:
        client.connect(mqtt.host, mqtt.port, keepalive=10)
    except OSError as error:
        return Finding("broker", "fault", f"{place} hangs up: {error}", "check that mqtt.port is the broker's")
    client.loop_start()
    answered.wait(5)
    client.disconnect()
    client.loop_stop()
    if answer == "Success":
        return Finding("broker", "ok", f"{place} lets us in")
    if not answer:
        return Finding("broker", "fault", f"{place} takes the connection and says nothing",
                       "check that mqtt.port is an MQTT port, and set mqtt.tls if it is the one for TLS")
    advice = {"Unsupported protocol version": "set mqtt.protocol to the other one"}
    return Finding("broker", "fault", f"{place} refuses us: {answer}",
                   advice.get(answer, "check mqtt.username and its password"))


# --- speed -----------------------------------------------------------------------------------


def measure(model: config.Model, *, seconds: float = 10.0) -> list[Measured]:
    """Run the network with several threads and input sizes for about so long in all.

    Each gets an equal share. On a picture with faces, so that describing them counts as well.
    """
    cores = len(os.sched_getaffinity(0))
    choices = sorted({n for n in (1, 2, 4, cores) if n <= cores})
    pairs = [(threads, size) for size in SIZES for threads in choices]
    picture = _crowd()
    rows = []
    for threads, (width, height) in pairs:
        began = time.monotonic()
        network = FaceModel(model.path, threads=threads, size=(width, height), score=model.score, most=model.max_faces)
        left = seconds / len(pairs) - (time.monotonic() - began)  # loading is part of the share
        rows.append(Measured(threads, width, height, _median(network, picture, left) * 1000))
    return rows


def suggest(rows: Sequence[Measured], streams: int, picture: tuple[float, float] = (inf, inf)) -> Suggestion:
    """The largest input at which every stream gets WISHED_FPS; of its threads the fewest that are nearly as fast.

    LEAST_SIZE where none is fast enough. picture: the greatest width and height that a stream has; an input that is
    larger than what holds it shows no more.
    """
    def fps(row: Measured) -> float:
        return SPARE * 1000 / row.milliseconds / max(streams, 1)

    large = [row for row in rows if (row.width, row.height) >= LEAST_SIZE]
    enough = min((r.width * r.height for r in large if r.width >= picture[0] and r.height >= picture[1]), default=inf)
    large = [row for row in large if row.width * row.height <= enough]
    fast = [row for row in large if fps(row) >= WISHED_FPS]
    area = max((r.width * r.height for r in fast), default=min(r.width * r.height for r in large))
    same = [row for row in rows if row.width * row.height == area]
    best = min(row.milliseconds for row in same)
    chosen = min((row for row in same if row.milliseconds <= 1.15 * best), key=lambda row: row.threads)
    return Suggestion(chosen.threads, chosen.width, chosen.height, fps(chosen))


def smallest(width: int, height: int, camera: tuple[int, int] = (1920, 1080)) -> float:
    """Side of the smallest faces that an input of that size finds, in pixels of a camera's picture."""
    return LEAST_FACE / min(1, width / camera[0], height / camera[1])


def _median(model: Callable[[Image], object], picture: Image, seconds: float) -> float:
    model(picture)  # the first call also sets up
    times: list[float] = []
    began = time.monotonic()
    while len(times) < 3 or time.monotonic() - began < seconds:
        start = time.perf_counter()
        model(picture)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@functools.cache
def _crowd() -> Image:
    """Eight faces on a frame of 1280x720, from the two portraits that come with onelook."""
    folder = Path(__file__).parent / "portraits"
    canvas = np.full((720, 1280, 3), 110, np.uint8)
    portraits = [read_picture(path) for path in sorted(folder.glob("*.jpg"))]
    for place in range(8):
        portrait = portraits[place % len(portraits)]
        step = max(1, portrait.shape[0] // 340)
        small = portrait[::step, ::step][:350, :310]
        top, left = place // 4 * 360, place % 4 * 320
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"

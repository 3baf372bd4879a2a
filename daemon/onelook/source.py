"""Source: the pictures behind one URL, as a generator that runs until it ends or fails.

Moving pictures are read with PyAV and not with OpenCV, because OpenCV says only that an open
failed, never why; takes its FFmpeg options from one environment variable for all threads; prints
FFmpeg's complaints on stderr; and gives a stream up at a broken packet.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from pathlib import Path
from typing import IO, Final, NamedTuple, cast

import av
import av.error
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from onelook.config import may_exist
from onelook.errors import OwnerError
from onelook.picture import Image, PictureError, is_picture, pictures_in, read_picture

log = logging.getLogger(__name__)

RESTARTED = 1.0
"""Seconds by which a recording's time must go back to be that of another, joined to it."""
SQUARE = 0.02
"""Part by which a pixel may be wider or narrower than high and is taken for square: scaling takes time."""
JUMP = 3.0
"""Seconds between two pictures of an HLS stream from which on the later has another clock: no camera is so slow."""
PICTURE_SECONDS = 1.0
"""How long each picture of a folder stands for."""

CSI_SIZE = (1280, 720)
"""Width and height asked of a ribbon-cable camera; a multiple of 64 wide, so its rows have no padding."""


class CaptureError(OwnerError):
    """A source cannot be opened or read; the sentence says which (password masked) and why."""


def masked(url: str) -> str:
    """`url` as it may be shown: without the password, wherever cameras let it be written.

    What is a token of the path nobody can tell from the name of a camera: it stays.
    """
    url = re.sub(r"(://[^/?#:]*):.*@", r"\1:***@", url)  # greedy: a password may hold an unescaped @ or /
    url = re.sub(r"://[^/?#:]+@", "://***@", url)  # a user alone is a token more often than a name
    return re.sub(
        r"(?i)((?:pass|passwd|password|pas|psw|pwd|pw|token|secret|auth|key|jwt|sig|signature|session|sid)=)[^&#\s]*",
        r"\1***", url,
    )


class Shot(NamedTuple):
    """One picture that a source offers, not yet converted: that is paid only for those looked at."""

    position: float | None
    """Seconds since the beginning of a file or folder; none: just now, from a camera."""
    look: Callable[[], Image | None]
    """Converts it; none: it came broken, as pictures of USB cameras do at times."""


_NAMES: Final = "replace"
"""Titles in some other code than UTF-8, as cameras have them, are nothing to fail at."""


def is_live(url: str) -> bool:
    """Whether `url` names a camera, which goes on while nobody looks, and not a file or folder."""
    return re.match(r"(?!file:)[a-zA-Z]+://|/dev/|\d+$", url) is not None


def exists(url: str) -> bool:
    """Whether there is a file or folder, or may be one where nobody may look."""
    try:
        return may_exist(Path(url.removeprefix("file://")).expanduser())
    except RuntimeError:
        return True  # opening it will tell


def length(url: str) -> int | None:
    """How many pictures there are in a file or folder, as far as it says; none: nobody knows."""
    if is_live(url):
        return None
    try:
        path = Path(url.removeprefix("file://")).expanduser()
        if path.is_dir():
            return len(pictures_in(path))
        with av.open(f"file:{path}", metadata_errors=_NAMES) as container:
            return container.streams.video[0].frames or None
    except (OSError, RuntimeError, av.FFmpegError, IndexError):
        return None  # reading it will tell why


def shots(
    url: str,
    *,
    open_timeout: float,
    read_timeout: float,
    fps: float | None,
    loop: bool,
    stop: threading.Event,
) -> Iterator[Shot]:
    """What the source named by `url` offers, until it ends, fails (CaptureError) or `stop` is set."""
    source: Iterator[Shot]
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in {"rtsp", "rtsps", "http", "https"}:
        source = _network(url, _OPTIONS[scheme[:4]], open_timeout, read_timeout, stop)
    elif scheme == "csi":
        source = _csi(url, fps, open_timeout, read_timeout, stop)
    elif url.isdecimal() or url.startswith("/dev/"):
        source = _device(f"/dev/video{url}" if url.isdecimal() else url)
    elif scheme in {"", "file"}:
        source = _laps(url.removeprefix("file://"), loop)
    else:
        raise CaptureError(
            f"{masked(url)} is of an unknown kind: "
            "it may be rtsp://, http://, csi://0, /dev/video0, a video file or a folder of pictures"
        )
    for shot in source:
        if stop.is_set():
            return
        yield shot


# RTSP: the server describes the stream, so nothing needs to be collected before the first picture; what
# is collected would stay in the way as backlog, 5 s of it by default.
_OPTIONS = {
    "rtsp": {
        "rtsp_flags": "prefer_tcp",
        "allowed_media_types": "video",
        "fflags": "nobuffer",
        "analyzeduration": "0",
        "probesize": "32",
    },
    "http": {"fflags": "nobuffer"},
}


def _network(
    url: str, options: dict[str, str], open_timeout: float, read_timeout: float, stop: threading.Event
) -> Iterator[Shot]:
    began = time.monotonic()
    try:
        container = av.open(
            url, options=dict(options), timeout=(open_timeout, read_timeout), metadata_errors=_NAMES
        )
    except av.FFmpegError as error:
        silent = time.monotonic() - began >= open_timeout  # whatever FFmpeg then calls it
        why = f"has given no answer for {open_timeout:g} s" if silent else _why(error, url)
        raise CaptureError(f"{masked(url)} {why}") from None
    with container:
        if not container.streams.video:
            raise CaptureError(f"{masked(url)} has no video in it")
        video, converter, count = container.streams.video[0], VideoReformatter(), 0
        pictures = _decoded(container, url, read_timeout)
        if container.format.name == "hls":
            pictures = _spread(pictures, stop)
        try:
            for count, picture in enumerate(pictures, 1):  # noqa: B007 - how many there were
                yield Shot(None, partial(_upright, picture, video, converter))
        except av.error.ExitError:
            raise CaptureError(f"{masked(url)} {_NO_PICTURE.format(read_timeout)}") from None
        except av.FFmpegError:
            pass  # a broken connection, or its end: the same to whoever waits for pictures
        if count <= 1 and container.format.name.endswith(("image2", "_pipe")):  # FFmpeg's for JPEG and the like
            raise CaptureError(f"{masked(url)} is one picture and no video: give the address of the camera's video")
        raise CaptureError(f"{masked(url)} has hung up")


def _spread(pictures: Iterator[av.VideoFrame], stop: threading.Event) -> Iterator[av.VideoFrame]:
    """Each picture when it is due by its own time: HLS delivers some seconds of them at once, then none for as long."""
    start = -inf
    for picture in pictures:
        if picture.pts is not None:
            wait = start + picture.time - time.monotonic()
            if 0 <= wait < JUMP:
                stop.wait(wait)
            else:  # the first, one that came too late, or another clock
                start = time.monotonic() - picture.time
        yield picture


def _laps(name: str, loop: bool) -> Iterator[Shot]:
    """A file or folder once, or again and again, its positions counting on."""
    begin = 0.0
    told: set[Path] = set()
    while True:
        end = None
        try:
            path = Path(name).expanduser()
            lap = _pictures(path, told) if path.is_dir() or is_picture(path) else _video(path)
        except OSError as error:  # a folder that is not ours, a name that is too long
            raise CaptureError(f"{name} cannot be read: {error.strerror}") from None
        except RuntimeError:
            raise CaptureError(f"{name} is not there: no user has that name") from None
        for shot, seconds in lap:
            position = begin + cast(float, shot.position)
            end = position + seconds
            yield shot._replace(position=position)
        if end is None:
            raise CaptureError(f"{path} has no picture in it that can be read")
        if not loop:
            return
        begin = end


def _video(path: Path) -> Iterator[tuple[Shot, float]]:
    """The shots of a video file, each with the seconds that it lasts."""
    try:
        with av.open(f"file:{path}", metadata_errors=_NAMES) as container:  # file: or a colon would be a protocol
            if not container.streams.video:
                raise CaptureError(f"{path} has no video in it")
            video = container.streams.video[0]
            video.thread_type = "AUTO"  # nobody waits for the newest: decode several frames at once
            seconds = float(1 / (video.average_rate or video.guessed_rate or 25))
            begin = float((video.start_time or 0) * (video.time_base or 0))
            position = -seconds
            converter = VideoReformatter()
            for picture in _decoded(container, str(path), None):
                after = position + seconds  # where files do not say, and never backwards
                if picture.pts is not None and picture.time - begin < position - RESTARTED:
                    begin = picture.time - after  # recordings that were joined: each has its own clock
                position = max(after if picture.pts is None else picture.time - begin, position, 0.0)
                yield Shot(position, partial(_upright, picture, video, converter)), seconds
    except av.FFmpegError as error:
        raise CaptureError(f"{path} {_why(error, str(path))}") from None


def _pictures(path: Path, told: set[Path]) -> Iterator[tuple[Shot, float]]:
    """The pictures of a folder (or a single one), 2 before 10; the unreadable are told once and skipped."""

    try:
        files = pictures_in(path) if path.is_dir() else [path]
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}") from None
    for place, file in enumerate(files):
        try:
            image = read_picture(file)
        except PictureError as error:
            if file not in told:
                log.warning("skipped: %s", error)
            told.add(file)
            continue
        yield Shot(place * PICTURE_SECONDS, partial(np.asarray, image)), PICTURE_SECONDS


def _decoded(container: InputContainer, where: str, read_timeout: float | None) -> Iterator[av.VideoFrame]:
    """What can be decoded; CaptureError if packets come, but no picture out of them for too long."""
    last = time.monotonic()
    for packet in container.demux(container.streams.video[0]):
        try:
            for picture in packet.decode():
                yield picture
                last = time.monotonic()  # only now: what the reader takes is not the camera's silence
        except av.error.InvalidDataError:
            pass  # a broken packet costs its picture, not the stream
        if read_timeout and time.monotonic() - last > read_timeout:
            raise CaptureError(f"{masked(where)} {_NO_PICTURE.format(read_timeout)}")


def _upright(picture: av.VideoFrame, video: av.VideoStream, converter: VideoReformatter) -> Image:
    """The picture as it is to be seen. A converter that is kept saves making its tables for each picture."""
    # Recorders of analogue cameras squeeze 1920 pixels into 960, and no face would be known.
    ratio = float(video.sample_aspect_ratio or video.codec_context.sample_aspect_ratio or 1)
    if abs(ratio - 1) < SQUARE or not 1 / 4 <= ratio <= 4:  # the latter: nonsense
        ratio = 1.0
    width = round(picture.width * ratio)
    image = cast(Image, converter.reformat(picture, width, format="rgb24", threads=1).to_ndarray())
    if picture.rotation % 360:  # telephones film lying down, and some in a mirror
        image = image[::-1] if _mirrored(picture) else image
        image = np.ascontiguousarray(np.rot90(image, picture.rotation // 90))
    return image


def _mirrored(picture: av.VideoFrame) -> bool:
    try:
        matrix = np.frombuffer(cast(bytes, picture.side_data.get("DISPLAYMATRIX")), np.int32).astype(float)
    except ValueError:  # PyAV does not know all that FFmpeg puts beside a picture, such as EXIF
        return False
    return bool(matrix[0] * matrix[4] < matrix[1] * matrix[3])


_NO_PICTURE = "has given no picture for {:g} s"
_FAULTS: dict[tuple[type[av.FFmpegError], ...], str] = {
    (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError): "refuses the user name or password",
    (av.error.HTTPNotFoundError,): "is not there: the address answers, but has nothing at that path",
    (av.error.ConnectionRefusedError,): "cannot be reached: nothing listens at that address and port",
    (av.error.InvalidDataError,): "is not a video that can be read",
    (av.error.FileNotFoundError,): "is not there: no such file",
}


def _why(error: av.FFmpegError, where: str) -> str:
    """The second half of a sentence that begins with the source's name."""
    for kinds, sentence in _FAULTS.items():
        if isinstance(error, kinds):
            return sentence
    host = re.search(r"://(?:[^/]*@)?(\[[^]]*\]|[^/:?#]+)", masked(where))
    if host:
        try:  # FFmpeg does not tell an unknown name from a broken connection
            socket.getaddrinfo(host[1].strip("[]"), None)
        except (socket.gaierror, UnicodeError):
            return f"cannot be reached: no host is known by the name {host[1]}"
    return f"cannot be read: {error.strerror}"


_VIDIOC_QUERYCAP = 0x80685600  # what are you? Every V4L2 device answers, nothing else does


def _device(path: str) -> Iterator[Shot]:
    """A V4L2 camera; by OpenCV, which bounds each read by 10 s where FFmpeg would wait for ever."""
    try:
        camera_file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(camera_file, _VIDIOC_QUERYCAP, bytes(104))
        finally:
            os.close(camera_file)
    except FileNotFoundError:
        raise CaptureError(f"{path} is not there: no camera is plugged in under that name") from None
    except PermissionError:
        raise CaptureError(f"{path} may not be opened: the user must be in the group video") from None
    except OSError as error:
        why = "is not a camera" if error.errno == errno.ENOTTY else f"cannot be opened: {error.strerror}"
        raise CaptureError(f"{path} {why}") from None
    # Else it says on stderr, at every try, what the errors here say in a sentence.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(path, cv2.CAP_V4L2)
    try:
        if not camera.isOpened():
            raise CaptureError(
                f"{path} gives no pictures: another program holds it, or it is not the camera's picture node"
            )
        while camera.grab():
            yield Shot(None, partial(_retrieved, camera))
        raise CaptureError(f"{path} has stopped giving pictures")
    finally:
        camera.release()


def _retrieved(camera: cv2.VideoCapture) -> Image | None:
    whole, image = camera.retrieve()
    if not whole or image is None or not image.size:  # a torn JPEG: OpenCV says so in any of these ways
        return None
    return cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _csi(
    url: str, fps: float | None, open_timeout: float, read_timeout: float, stop: threading.Event
) -> Iterator[Shot]:
    """A ribbon-cable camera, as raw pictures out of the pipe of the board's own program."""
    number = url.partition("://")[2]
    if not number.isdecimal():
        raise CaptureError(f"{url} names no camera: the first one is csi://0")
    width, height = CSI_SIZE
    command = _csi_command(url, number, fps=min(max(fps or 30, 5), 30))
    picture = bytearray(width * height * 3 // 2)  # planes Y, U and V, the latter two at half size
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:  # noqa: S603 - fixed words
        complaints, said = cast(IO[bytes], program.stderr).fileno(), b""
        os.set_blocking(complaints, False)
        try:
            timeout = open_timeout
            while _fill(picture, cast(IO[bytes], program.stdout).fileno(), timeout, stop):
                planes = np.frombuffer(picture, np.uint8).reshape(height * 3 // 2, width)
                yield Shot(None, partial(_from_planes, planes))
                timeout = read_timeout
                said = _heard(complaints, said)
        finally:
            program.kill()
        said = _heard(complaints, said)
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise CaptureError(f"{url} gives no pictures: {command[0]} says: {last or 'nothing'}")


def _heard(pipe: int, before: bytes) -> bytes:
    """The end of what a program has said, `before` and now: it may talk for weeks, and stops if nobody listens."""
    try:
        while more := os.read(pipe, 1 << 16):
            before = (before + more)[-4096:]
    except BlockingIOError:
        pass
    return before


def _from_planes(planes: Image) -> Image:
    return cast(Image, cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420))


def _csi_command(url: str, number: str, *, fps: float) -> list[str]:
    width, height = CSI_SIZE
    for program in ("rpicam-vid", "libcamera-vid"):
        if shutil.which(program):
            return (
                f"{program} --camera {number} --timeout 0 --nopreview --verbose 0 --flush --codec yuv420"
                f" --width {width} --height {height} --framerate {fps:g} --output -"
            ).split()
    jetson = ["gst-inspect-1.0", "--exists", "nvarguscamerasrc"]
    if shutil.which(jetson[0]) and subprocess.run(jetson, check=False).returncode == 0:  # noqa: S603 - fixed words
        return (
            f"gst-launch-1.0 -q nvarguscamerasrc sensor-id={number}"
            f" ! video/x-raw(memory:NVMM),width={width},height={height}"
            " ! nvvidconv ! video/x-raw,format=I420 ! fdsink fd=1"
        ).split()
    raise CaptureError(
        f"{url} cannot be read: this machine has neither rpicam-vid (Raspberry Pi) "
        "nor GStreamer's nvarguscamerasrc (Jetson)"
    )


def _fill(picture: bytearray, pipe: int, timeout: float, stop: threading.Event) -> bool:
    """Read one whole picture; False if the pipe closed, nothing came for `timeout` s, or `stop` is set."""
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    rest = memoryview(picture)
    last = time.monotonic()
    while rest and not stop.is_set() and time.monotonic() - last < timeout:
        if ready.poll(200):
            got = os.readv(pipe, [rest])
            if not got:
                return False
            rest = rest[got:]
            last = time.monotonic()
    return not rest

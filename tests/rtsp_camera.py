"""The RTSP server of rtsp_server.py as a process of its own, to be killed, hung and started again."""

from __future__ import annotations

import functools
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker import PATIENCE, free_port, wait_until
from onelook.capture import CaptureError, frames

HERE = Path(__file__).parent
SYSTEM_PYTHON = "/usr/bin/python3"
"""The one that may have GStreamer's bindings: Debian's."""


class Camera:
    """The server; by the time that it is there it shows pictures at `url`."""

    def __init__(self, *options: str | Path, path: str = "h264", login: str = "") -> None:
        self._port, self._options = free_port(), options
        self.url = self.at(path, login)
        self.start()

    def start(self) -> None:
        for _ in range(3):
            self.process = subprocess.Popen([SYSTEM_PYTHON, HERE / "rtsp_server.py", str(self._port), *self._options])
            # The first start of all scans GStreamer's plugins.
            wait_until(self._listens, "the RTSP server to listen", PATIENCE)
            if _shows_pictures(self.url):
                return
            self.kill()
        pytest.fail("the RTSP server shows nothing")

    def _listens(self) -> bool:
        assert self.process.poll() is None, "the RTSP server ended by itself"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def at(self, path: str, login: str = "") -> str:
        """The URL of another of its pictures, or for somebody else (`login`: joe:secret@)."""
        return f"rtsp://{login}127.0.0.1:{self._port}/{path}"


@contextmanager
def camera(clip: Path) -> Iterator[Camera]:
    """A camera that sees the clip round and round, in H.264."""
    needs_gstreamer("multifilesrc", "h264parse", "rtph264pay")
    one = Camera("--clip", clip, path="clip")
    try:
        yield one
    finally:
        one.kill()


def needs_gstreamer(*elements: str) -> None:
    """Skip the test where any of these elements is missing."""
    for element in elements:
        if not _has(element):
            pytest.skip(
                f"no {element}: needs python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good -bad -ugly"
            )


@functools.cache
def _has(element: str) -> bool:
    program = (
        "import gi; gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import GstRtspServer, Gst; Gst.init(None)\n"
        f"assert Gst.ElementFactory.find('{element}')"
    )
    command = [SYSTEM_PYTHON, "-c", program]
    return Path(SYSTEM_PYTHON).exists() and subprocess.run(command, stderr=-3, check=False).returncode == 0


def _shows_pictures(url: str) -> bool:
    """Whether the server does; a busy GStreamer's, newly started, is at times stuck for good."""
    source = frames(url, open_timeout=15, read_timeout=15)
    try:
        next(source)
    except CaptureError:
        return False
    finally:
        source.close()  # type: ignore[attr-defined]  # a generator
    return True

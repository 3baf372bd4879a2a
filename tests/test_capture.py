"""Frames from real sources: an RTSP server, a web server, files, folders, pipes; and their failures."""

import http.server
import io
import itertools
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import inf
from pathlib import Path

import av
import cv2
import numpy as np
import PIL.Image
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import broker
from broker import PATIENCE, free_port
from onelook.capture import Capture, CaptureError, LatestFrames, frames, length, masked
from onelook.config import Stream
from onelook.frame import Frame
from onelook.source import Shot
from rtsp_camera import Camera, needs_gstreamer

HERE = Path(__file__).resolve().parent
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# --- a camera to test with ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_camera() -> Iterator[Camera]:
    """A camera that no test may hurt."""
    needs_gstreamer("x264enc")
    camera = Camera()
    yield camera
    camera.kill()


@pytest.fixture
def camera() -> Iterator[Camera]:
    """A camera to be hurt."""
    needs_gstreamer("x264enc")
    camera = Camera()
    yield camera
    camera.kill()


@pytest.fixture(scope="module")
def locked_camera() -> Iterator[Camera]:
    needs_gstreamer("x264enc")
    camera = Camera("--user", "joe", "--password", "s3cr3t", login="joe:s3cr3t@")
    yield camera
    camera.kill()


class Changes(list[tuple[str, bool, str | None]]):
    """What on_change was told."""

    def __call__(self, stream: str, up: bool, reason: str | None) -> None:
        self.append((stream, up, reason))

    @property
    def states(self) -> list[bool]:
        return [up for _, up, _ in self]


def stream(url: str | Path, name: str = "door", **more: object) -> Stream:
    defaults = {"open_timeout": 20, "read_timeout": PATIENCE, "retry_min": 0.1, "retry_max": 0.5}
    return Stream.model_validate({"name": name, "url": str(url), **defaults, **more})


def wait_until(happened: Callable[[], object]) -> None:
    broker.wait_until(happened, "what is waited for")


def take(inbox: LatestFrames) -> Frame:
    frame = inbox.take(timeout=PATIENCE)
    assert frame is not None, f"no frame came in {PATIENCE} s"
    return frame


def true_age(frame: Frame) -> float:
    """Seconds since the test camera drew this picture, as written in it; see rtsp_server.py."""
    bits = [frame.image[10 + 20 * (i // 16), 10 + 20 * (i % 16)].mean() > 128 for i in range(32)]
    drawn = sum(int(bit) << (31 - i) for i, bit in enumerate(bits))
    return ((int(time.monotonic() * 1000) - drawn) % 2**32) / 1000


def assert_no_backlog(inbox: LatestFrames) -> None:
    """There are fresh frames. What is in the way once, stays: FFmpeg's own choice of options leaves 5 s of it."""
    ages: list[float] = []
    end = time.monotonic() + PATIENCE
    while not ages or ages[-1] > 0.5:
        assert time.monotonic() < end, f"there is a backlog: {ages}"
        ages.append(true_age(take(inbox)))


def assert_red_green_blue(frame: Frame) -> None:
    assert frame.image.shape == (240, 320, 3)
    assert frame.image.dtype == np.uint8
    for x, bright in ((50, 0), (160, 1), (270, 2)):
        colour = frame.image[150, x].astype(int)
        assert colour[bright] > 200, f"{colour} at x={x}"
        assert np.delete(colour, bright).max() < 50, f"{colour} at x={x}"


# --- live cameras ------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_a_camera_gives_fresh_rgb_frames(shared_camera: Camera, codec: str) -> None:
    needs_gstreamer({"h264": "x264enc", "h265": "x265enc"}[codec])
    inbox, changes = LatestFrames(), Changes()
    with Capture(stream(shared_camera.at(codec)), inbox, changes):
        seen = [take(inbox) for _ in range(120)]
        now, today = time.monotonic(), datetime.now(UTC)
        assert_no_backlog(inbox)
    last = seen[-1]
    assert_red_green_blue(last)
    assert [f.index for f in seen] == sorted({f.index for f in seen})
    assert all(a.time < b.time for a, b in itertools.pairwise(seen))
    assert abs(now - last.time) < 2
    assert abs(today - last.utc) < timedelta(seconds=2)
    assert changes == [("door", True, None)]


def test_a_camera_that_is_killed_comes_back_by_itself_and_says_so_once_each_way(camera: Camera) -> None:
    inbox, changes = LatestFrames(), Changes()
    with Capture(stream(camera.url, retry_max=0.2), inbox, changes):
        before = take(inbox)
        camera.kill()
        wait_until(lambda: changes.states == [True, False])
        time.sleep(0.5)  # several retries, none of which may be told
        assert changes.states == [True, False]
        camera.start()
        wait_until(lambda: changes.states == [True, False, True])
        after = next(f for f in iter(lambda: take(inbox), None) if f.time > before.time + 1)
        assert_red_green_blue(after)
        assert after.index > before.index
        assert_no_backlog(inbox)
    assert changes.states == [True, False, True]
    assert changes[1][2] == f"{camera.url} has hung up"


def test_a_camera_that_hangs_is_noticed_after_the_read_timeout_and_comes_back(camera: Camera) -> None:
    inbox, changes = LatestFrames(), Changes()
    with Capture(stream(camera.url, read_timeout=2), inbox, changes):
        take(inbox)
        camera.process.send_signal(signal.SIGSTOP)
        hung = time.monotonic()
        wait_until(lambda: changes.states == [True, False])
        assert time.monotonic() - hung > 1.5
        assert changes[1][2] == f"{camera.url} has given no picture for 2 s"
        camera.process.send_signal(signal.SIGCONT)
        wait_until(lambda: changes.states == [True, False, True])
    assert changes.states == [True, False, True]


def test_a_slow_reader_sees_fresh_frames_and_the_others_are_counted_as_dropped(shared_camera: Camera) -> None:
    inbox, seen = LatestFrames(), list[Frame]()
    with Capture(stream(shared_camera.at("fast")), inbox, Changes()):
        take(inbox)
        while not seen or seen[-1].index - seen[0].index < 40:
            time.sleep(0.25)  # a reader of 4 fps at a camera of 50, which it does not slow down
            seen.append(take(inbox))
        passed, dropped = seen[-1].index - seen[0].index, inbox.dropped("door")
        time.sleep(0.25)
        assert_no_backlog(inbox)
    assert dropped >= passed - len(seen)
    assert dropped > len(seen)


def test_a_fast_camera_does_not_starve_a_slow_one(shared_camera: Camera) -> None:
    inbox, seen = LatestFrames(), Counter[str]()
    with ExitStack() as cameras:
        for path in ("fast", "slow"):
            cameras.enter_context(Capture(stream(shared_camera.at(path), name=path), inbox, Changes()))
        for _ in range(8):
            before = {path: inbox.dropped(path) for path in ("fast", "slow")}
            # A frame was replaced, so one waits, of either: now it is a matter of turns.
            wait_until(lambda: all(inbox.dropped(path) > count for path, count in before.items()))  # noqa: B023
            seen[take(inbox).stream] += 1
    assert seen == {"fast": 4, "slow": 4}


def test_fps_limits_how_many_frames_are_looked_at(shared_camera: Camera) -> None:
    inbox = LatestFrames()
    with Capture(stream(shared_camera.at("fast"), fps=2), inbox, Changes()):
        first = take(inbox)
        seen = [take(inbox) for _ in range(5)]
    rate = (seen[-1].index - first.index) / (seen[-1].time - first.time)
    assert rate == pytest.approx(2, rel=0.2)
    assert inbox.dropped("door") == 0, "frames that nobody wants are not drops"


def test_the_right_password_opens_a_locked_camera(locked_camera: Camera) -> None:
    assert_red_green_blue(next(frames(locked_camera.url, read_timeout=PATIENCE)))


@contextmanager
def web_server(
    answer: Callable[[http.server.BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the reader has left
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def bars() -> np.ndarray:
    """Red, green and blue, as assert_red_green_blue wants them."""
    picture = np.zeros((240, 320, 3), np.uint8)
    for i, edge in enumerate((0, 107, 213)):
        picture[:, edge : edge + 107, i] = 224
    return picture


def own_certificate(folder: Path) -> ssl.SSLContext:
    """As cameras have them: signed by nobody but themselves."""
    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera")])
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), today, today + timedelta(days=1)
    ).sign(key, hashes.SHA256())
    (folder / "pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "pem")
    return tls


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_mjpeg_gives_rgb_frames_and_comes_back_when_the_server_hangs_up(
    encrypted: bool, tmp_path: Path
) -> None:
    jpeg = cv2.imencode(".jpg", bars()[..., ::-1])[1].tobytes()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        request.end_headers()
        for _ in range(10):
            head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            request.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(0.03)

    inbox, changes = LatestFrames(), Changes()
    with (
        web_server(answer, own_certificate(tmp_path) if encrypted else None) as url,
        Capture(stream(f"{url}/video?pwd=s3cr3t"), inbox, changes),
    ):
        assert_red_green_blue(take(inbox))
        wait_until(lambda: changes.states[:3] == [True, False, True])
        assert_red_green_blue(take(inbox))
    assert changes[1][2] == f"{url}/video?pwd=*** has hung up"


def test_hls_is_seen_as_it_happened_though_it_comes_in_pieces() -> None:
    """Its pictures come some seconds at once, then none for as long: all would be new people, every time."""
    pieces = io.BytesIO()
    with av.open(pieces, "w", format="mpegts") as out:
        video = out.add_stream("mpeg4", rate=200)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for picture in [*(av.VideoFrame(64, 64, "yuv420p") for _ in range(120)), None]:
            out.mux(video.encode(picture))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.6,\npiece.ts\n#EXT-X-ENDLIST\n"

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        body = playlist.encode() if request.path.endswith(".m3u8") else pieces.getvalue()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    times = []
    with web_server(answer) as url, pytest.raises(CaptureError, match="has hung up"):
        times.extend(frame.time for frame in frames(f"{url}/live.m3u8"))
    assert len(times) > 50
    assert times[-1] - times[0] == pytest.approx((len(times) - 1) / 200, abs=0.1)


# --- what goes wrong, in one sentence ----------------------------------------------------------


def reason_for(url: str, **more: object) -> str:
    """What the daemon says about a stream that does not come up."""
    changes = Changes()
    with Capture(stream(url, retry_min=0.02, retry_max=0.04, **more), LatestFrames(), changes):
        wait_until(lambda: changes)
        time.sleep(0.15)  # room for another try
    assert changes.states == [False], "told once, however often it is tried"
    reason = changes[0][2]
    assert reason is not None
    assert "\n" not in reason
    return reason


def test_a_wrong_password_is_said_and_shown_nowhere(
    locked_camera: Camera, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = reason_for(locked_camera.at("h264", "joe:hunter2@"))
    assert reason == f"{locked_camera.at('h264', 'joe:***@')} refuses the user name or password"
    assert caplog.messages == [f"stream door is down: {reason}"]
    told = caplog.text + "".join(capfd.readouterr())
    assert "hunter2" not in told


def test_a_reason_that_has_become_another_is_told_and_not_the_first_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = itertools.chain(["no network yet"] * 3, itertools.repeat("refuses the password"))

    def shots(_url: str, **_: object) -> Iterator[Shot]:
        raise CaptureError(next(reasons))
        yield

    monkeypatch.setattr("onelook.capture.shots", shots)
    monkeypatch.setattr("onelook.capture.RETOLD", 0.0)
    changes = Changes()
    with Capture(stream("rtsp://cam/x", retry_min=0.01, retry_max=0.01), LatestFrames(), changes):
        wait_until(lambda: len(changes) > 1)
        time.sleep(0.1)
    assert changes == [("door", False, "no network yet"), ("door", False, "refuses the password")]


def test_an_unknown_host_is_said() -> None:
    url = "rtsp://joe:hunter2@no-such-host.invalid/x"
    assert reason_for(url) == (
        "rtsp://joe:***@no-such-host.invalid/x cannot be reached: "
        "no host is known by the name no-such-host.invalid"
    )


def test_a_port_where_nothing_listens_is_said() -> None:
    assert "nothing listens at that address and port" in reason_for(f"rtsp://127.0.0.1:{free_port()}/x")


def test_a_wrong_path_of_a_camera_is_said(shared_camera: Camera) -> None:
    assert "has nothing at that path" in reason_for(shared_camera.at("no-such-path"))


def test_a_server_that_never_answers_is_said_after_the_open_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        began = time.monotonic()
        assert reason_for(url, open_timeout=0.5) == f"{url} has given no answer for 0.5 s"
        assert time.monotonic() - began < PATIENCE / 2


def test_one_picture_is_not_a_video() -> None:
    """As cameras have it beside their video."""
    jpeg = cv2.imencode(".jpg", bars()[..., ::-1])[1].tobytes()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "image/jpeg")
        request.end_headers()
        request.wfile.write(jpeg)

    with web_server(answer) as url:
        for path in ("snapshot.jpg", "snapshot.cgi"):
            said = f"{url}/{path} is one picture and no video: give the address of the camera's video"
            with pytest.raises(CaptureError, match=f"^{re.escape(said)}$"):
                list(frames(f"{url}/{path}"))


def test_a_web_page_is_not_a_video() -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        page = b"<html>It works!</html>" * 200
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        request.wfile.write(page)

    with web_server(answer) as url:
        assert reason_for(url) == f"{url} is not a video that can be read"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("missing.mp4", "missing.mp4 is not there: no such file"),
        ("a-*.mp4", "a-*.mp4 is not there: no such file"),
        ("words.mp4", "words.mp4 is not a video that can be read"),
        ("empty.mp4", "empty.mp4 is not a video that can be read"),
        ("sound.wav", "sound.wav has no video in it"),
        ("folder", "folder has no picture in it that can be read"),
        ("gopher://joe:hunter2@host/x", "gopher://joe:***@host/x is of an unknown kind: it may be rtsp://"),
        ("/dev/video99", "/dev/video99 is not there: no camera is plugged in under that name"),
        ("99", "/dev/video99 is not there: no camera is plugged in under that name"),
        ("/dev/null", "/dev/null is not a camera"),
        ("x" * 300, f"{'x' * 300} cannot be read: File name too long"),
        ("~nobody-of-that-name/film.mp4", "~nobody-of-that-name/film.mp4 is not there: no user has that name"),
        ("csi://front", "csi://front names no camera: the first one is csi://0"),
    ],
)
def test_a_source_that_cannot_be_is_said(
    url: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.mp4").write_text("hello " * 1000)
    Path("empty.mp4").touch()
    Path("folder").mkdir()
    Path("folder/readme.txt").write_text("not a picture")
    with wave.open("sound.wav", "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(CaptureError, match="^" + re.escape(sentence)):
        next(frames(url))
    assert capfd.readouterr() == ("", ""), "nothing but the sentence is printed"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://joe:secret@10.0.0.5:554/main", "rtsp://joe:***@10.0.0.5:554/main"),
        ("rtsp://joe:p@ss/word?@10.0.0.5/main", "rtsp://joe:***@10.0.0.5/main"),
        ("rtsp://:secret@10.0.0.5/main", "rtsp://:***@10.0.0.5/main"),
        ("http://cam/mjpg?user=joe&password=secret&size=1", "http://cam/mjpg?user=joe&password=***&size=1"),
        ("rtsp://cam/user=joe&PWD=secret&channel=1", "rtsp://cam/user=joe&PWD=***&channel=1"),
        ("http://cam/?access_token=secret", "http://cam/?access_token=***"),
        ("http://cam/v.cgi?loginuse=joe&loginpas=secret&s=1", "http://cam/v.cgi?loginuse=joe&loginpas=***&s=1"),
        ("http://cam/mjpg?password=sec/ret&size=1", "http://cam/mjpg?password=***&size=1"),
        ("rtsp://secret@10.0.0.5:554/main", "rtsp://***@10.0.0.5:554/main"),
        ("rtsp://joe@home.net:secret@10.0.0.5/main", "rtsp://***@home.net:***@10.0.0.5/main"),
        ("http://cam/live?channel=1&sig=secret%3D", "http://cam/live?channel=1&sig=***"),
        ("http://cam/live/ann@home?size=1", "http://cam/live/ann@home?size=1"),
        ("rtsp://10.0.0.5:554/main", "rtsp://10.0.0.5:554/main"),
        ("/home/joe/film.mp4", "/home/joe/film.mp4"),
    ],
)
def test_a_password_is_masked_wherever_it_stands(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_retries_come_ever_more_slowly_and_never_in_step() -> None:
    pauses, tries = list[float](), list[float]()

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            pauses.append(timeout)
            return super().wait(timeout)

    with socket.create_server(("127.0.0.1", 0)) as server:  # a camera that hangs up on everybody
        server.settimeout(PATIENCE)
        url = f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"
        capture = Capture(stream(url, retry_min=0.01, retry_max=0.08), LatestFrames(), Changes())
        capture._stop = Stop()
        with capture:
            for _ in range(20):
                server.accept()[0].close()
                tries.append(time.monotonic())
    assert min(pauses) >= 0.01
    assert max(pauses) <= 0.08
    assert pauses[0] <= 0.02
    assert np.mean(pauses[3:19]) > 0.04, pauses
    assert tries[-1] - tries[0] > 0.9 * sum(pauses[:19])
    assert np.ptp(pauses[3:19]) > 0.005, f"no jitter: {pauses}"


# --- leaving -----------------------------------------------------------------------------------


def test_a_bug_in_the_thread_is_raised_in_the_loop() -> None:
    def broken(stream: str, up: bool, reason: str | None) -> None:
        raise ZeroDivisionError("a bug")

    inbox = LatestFrames()
    with Capture(stream("missing.mp4"), inbox, broken), pytest.raises(ZeroDivisionError, match="a bug"):
        inbox.take(timeout=PATIENCE)


@pytest.mark.parametrize("state", ["healthy", "hung"])
def test_a_process_told_to_stop_does_so_at_once_and_in_order(camera: Camera, state: str) -> None:
    program = textwrap.dedent("""
        import logging, signal, sys, threading
        from onelook.capture import Capture, LatestFrames
        from onelook.config import Stream
        logging.disable()
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        inbox = LatestFrames()
        say = lambda name, up, reason: print(up, flush=True)
        with Capture(Stream(name="door", url=sys.argv[1], open_timeout=20, read_timeout=90), inbox, say):
            while not stop.is_set():
                inbox.take(timeout=0.2)
        print("in order", flush=True)
    """)
    daemon = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, camera.url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with daemon:
        assert daemon.stdout
        while daemon.stdout.readline() == "False\n":
            pass  # at times GStreamer's server does not answer whom it serves first
        if state == "hung":
            camera.process.send_signal(signal.SIGSTOP)
            time.sleep(0.3)
        told = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        out, err = daemon.communicate(timeout=PATIENCE)
    assert time.monotonic() - told < PATIENCE / 2, "it waited for a timeout"
    assert (out, err, daemon.returncode) == ("in order\n", "", 0)


def test_a_picture_that_was_under_way_when_it_was_stopped_brings_no_stream_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a large one's conversion takes longer than it is waited for."""
    looking, go_on = threading.Event(), threading.Event()

    def look() -> np.ndarray:
        looking.set()
        go_on.wait(PATIENCE)
        return bars()

    monkeypatch.setattr("onelook.capture.shots", lambda *_, **__: iter([Shot(None, look)]))
    changes = Changes()
    with Capture(stream("/dev/video9"), LatestFrames(), changes) as capture:
        assert looking.wait(PATIENCE)
    go_on.set()
    capture._thread.join(PATIENCE)

    assert not capture._thread.is_alive()
    assert changes == []


def test_cameras_that_hang_are_left_together_and_not_one_after_the_other(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onelook.capture.JOIN_SECONDS", 2.0)
    inbox, changes = LatestFrames(), Changes()
    with ExitStack() as house:
        captures = [
            house.enter_context(Capture(stream(camera.at("slow"), f"door-{i}"), inbox, changes)) for i in range(6)
        ]
        wait_until(lambda: changes.states.count(True) == 6)
        camera.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)  # what was on its way
        told = time.monotonic()
        for capture in captures:
            capture.stop()
        assert time.monotonic() - told < 2
    assert time.monotonic() - told < 6, "each was waited for in its turn"
    assert not [reason for _, up, reason in changes if not up]


# --- the hand-over -----------------------------------------------------------------------------


def made_frame(stream: str, index: int) -> Frame:
    return Frame(stream, index, np.zeros((2, 2, 3), np.uint8), float(index), START)


def inbox_for(*streams: str) -> LatestFrames:
    inbox = LatestFrames()
    for name in streams:
        inbox.register(name)
    return inbox


def test_the_newest_frame_wins_and_the_replaced_are_counted() -> None:
    inbox = inbox_for("a", "b")
    for index in range(5):
        inbox.put(made_frame("a", index))
    assert take(inbox).index == 4
    assert (inbox.dropped("a"), inbox.dropped("b")) == (4, 0)
    assert inbox.take(timeout=0.01) is None


def test_streams_take_turns_however_fast_one_is() -> None:
    inbox = inbox_for("a", "b", "c")
    inbox.put(made_frame("b", 0))
    inbox.put(made_frame("c", 0))
    turns = []
    for index in range(6):
        inbox.put(made_frame("a", index))
        turns.append(take(inbox).stream)
    assert turns[:3] == ["a", "b", "c"]
    assert turns[3:] == ["a"] * 3


def test_a_lossless_put_waits_until_its_frame_is_taken_or_the_stream_ends() -> None:
    inbox, done = inbox_for("a"), threading.Event()

    def put_three() -> None:
        for index in range(3):
            inbox.put(made_frame("a", index), wait=True)
        done.set()

    thread = threading.Thread(target=put_three)
    thread.start()
    assert take(inbox).index == 0
    assert not done.wait(0.1), "two frames found room for one"
    inbox.end("a")
    assert done.wait(PATIENCE)
    thread.join()
    assert inbox.dropped("a") == 0


def test_all_is_finished_when_every_stream_has_ended_and_nothing_waits() -> None:
    inbox = LatestFrames()
    assert not inbox.finished, "nothing has even begun"
    inbox = inbox_for("a", "b")
    inbox.put(made_frame("a", 0))
    inbox.end("a")
    assert not inbox.finished
    inbox.end("b")
    assert not inbox.finished
    assert take(inbox).index == 0
    assert inbox.finished
    began = time.monotonic()
    assert inbox.take(timeout=PATIENCE) is None
    assert time.monotonic() - began < PATIENCE / 2, "waits for frames that cannot come"


# --- files -------------------------------------------------------------------------------------


def write_video(path: Path, count: int = 30, fps: int = 10, size: tuple[int, int] = (320, 240)) -> Path:
    """Red, green and blue bars; squares in the top strip tell the frame's number."""
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    picture = cv2.resize(bars(), size)
    for index in range(count):
        draw_number(picture, index)
        film.write(picture[..., ::-1])
    film.release()
    return path


def draw_number(picture: np.ndarray, number: int) -> None:
    """Five black or white squares along the top."""
    for bit in range(5):
        picture[:40, 64 * bit : 64 * bit + 64] = 255 * (number >> bit & 1)


def number_in(frame: Frame) -> int:
    return sum(int(frame.image[20, 64 * bit + 32].mean() > 128) << bit for bit in range(5))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, 3 seconds."""
    return write_video(tmp_path_factory.mktemp("film") / "a:film.mp4")


def read_all(inbox: LatestFrames, pause: float = 0) -> list[Frame]:
    seen = []
    while not inbox.finished:
        frame = inbox.take(timeout=PATIENCE)
        if frame:
            seen.append(frame)
            time.sleep(pause)
    return seen


def test_a_file_as_fast_as_possible_loses_no_frame_to_a_slow_reader(tmp_path: Path) -> None:
    film = write_video(tmp_path / "half a minute.mp4", fps=1)
    inbox, changes = LatestFrames(), Changes()
    began = time.monotonic()
    with Capture(stream(film, paced=False), inbox, changes):
        seen = read_all(inbox, pause=0.005)
    ended = time.monotonic()
    assert ended - began < 15, "as fast as possible, not at the file's own speed"
    assert all(began < f.captured < ended for f in seen), "no picture is older or younger for its place in the film"
    assert [number_in(f) for f in seen] == list(range(30))
    assert [f.index for f in seen] == list(range(30))
    assert [f.time - seen[0].time for f in seen] == pytest.approx(range(30))
    assert [(f.utc - seen[0].utc).total_seconds() for f in seen] == pytest.approx(range(30))
    assert inbox.dropped("door") == 0
    assert changes == [("door", True, None), ("door", False, f"{film} has come to its end")]
    assert_red_green_blue(seen[-1])


def test_a_paced_file_plays_at_its_own_speed(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", count=15)
    inbox = LatestFrames()
    began = time.monotonic()
    with Capture(stream(film), inbox, Changes()):
        seen = read_all(inbox)
        age = time.monotonic() - seen[-1].time
    assert time.monotonic() - began > 1.3
    assert len(seen) + inbox.dropped("door") == 15
    assert age < 2


def test_recordings_that_were_joined_are_one_film(tmp_path: Path) -> None:
    """Each with a clock of its own, as where pieces of an MPEG transport stream are put behind each other."""
    piece, joined = tmp_path / "piece.ts", tmp_path / "joined.ts"
    with av.open(str(piece), "w") as out:
        video = out.add_stream("mpeg2video", rate=10)
        video.width, video.height = 320, 240
        for packet in (*(p for _ in range(30) for p in video.encode(av.VideoFrame(320, 240))), *video.encode()):
            out.mux(packet)
    joined.write_bytes(piece.read_bytes() * 2)

    times = [frame.time for frame in frames(str(joined))]

    assert len(times) == 60
    assert times == pytest.approx([i / 10 for i in range(60)], abs=0.15)


def test_time_goes_on_where_a_file_was_faster_than_the_clock(tmp_path: Path) -> None:
    film = write_video(tmp_path / "half a minute.mp4", fps=1)
    before = -inf
    for first in (0, 30):
        inbox = LatestFrames()
        with Capture(stream(film, paced=False), inbox, Changes(), first=first, after=before) as capture:
            seen = read_all(inbox)
        assert seen[0].time > before - 1e-6
        assert [frame.index for frame in seen] == list(range(first, first + 30))
        before = capture.newest
        assert before == seen[-1].time > time.monotonic() + 20


def test_a_looped_file_goes_on_in_time_and_number(film: Path) -> None:
    inbox, changes = LatestFrames(), Changes()
    with Capture(stream(film, paced=False, loop=True), inbox, changes):
        seen = [take(inbox) for _ in range(70)]
    assert [number_in(f) for f in seen] == [i % 30 for i in range(70)]
    assert [f.index for f in seen] == list(range(70))
    assert [f.time - seen[0].time for f in seen] == pytest.approx([i / 10 for i in range(70)])
    assert changes == [("door", True, None)]


def test_a_blocked_file_is_left_at_once(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onelook.capture.JOIN_SECONDS", PATIENCE)
    inbox = LatestFrames()
    with Capture(stream(film, paced=False, loop=True), inbox, Changes()) as capture:
        wait_until(lambda: capture.delivered == 2)  # one waits in the inbox, one for its room
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE / 2


def test_a_replay_is_exact(film: Path) -> None:
    def played() -> list[tuple[int, float, datetime, bytes]]:
        return [(f.index, f.time, f.utc, f.image.tobytes()) for f in frames(str(film), start=START)]

    first = played()
    assert first == played()
    assert [round(time, 6) for _, time, _, _ in first] == [round(i / 10, 6) for i in range(30)]
    assert first[15][2] == START + timedelta(seconds=1.5)


@pytest.mark.parametrize(
    ("fps", "numbers"), [(10, range(30)), (5, range(0, 30, 2)), (4, [0, 2, 5, 7, 10]), (100, range(30))]
)
def test_fps_thins_a_file_by_its_own_time(film: Path, fps: float, numbers: list[int]) -> None:
    seen = [number_in(f) for f in frames(str(film), fps=fps)]
    assert seen[: len(numbers)] == list(numbers)
    assert len(seen) == pytest.approx(3 * min(fps, 10), abs=1)


@pytest.mark.parametrize(("matrix", "seen"), [
    ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    ((0, -1, 1, 0), np.rot90),
    ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    ((-1, 0, 0, 1), np.fliplr),  # as in a mirror
    ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
])  # fmt: skip
def test_a_film_taken_lying_down_or_in_a_mirror_is_seen_upright(
    matrix: tuple[int, int, int, int], seen: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    film = write_video(tmp_path / "film.mp4", count=1)
    (plain,) = frames(str(film))
    data = bytearray(film.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the display matrix in the track's header
    a, b, c, d = (each * 0x10000 for each in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    film.write_bytes(data)
    (frame,) = frames(str(film))
    assert (frame.image == seen(plain.image)).all()
    if matrix == (0, 1, -1, 0):
        _, oracle = cv2.VideoCapture(str(film)).read()
        assert np.abs(frame.image.astype(int) - oracle[..., ::-1]).mean() < 3


def test_what_a_telephone_says_beside_its_jpegs_harms_nothing(tmp_path: Path) -> None:
    """Newer FFmpegs turn a picture as its EXIF says, and put the EXIF beside it, of which PyAV does not know."""
    lying = PIL.Image.Exif()
    lying[0x0112] = 6
    PIL.Image.new("RGB", (320, 240)).save(tmp_path / "film.mjpeg", format="JPEG", exif=lying)
    (frame,) = frames(str(tmp_path / "film.mjpeg"))
    assert sorted(frame.image.shape) == [3, 240, 320]


@pytest.mark.parametrize(("pixel", "width"), [("2/1", 320), ("8/9", 142), ("100/99", 160), ("255/1", 160)])
def test_a_film_that_was_squeezed_is_seen_as_wide_as_it_is(tmp_path: Path, pixel: str, width: int) -> None:
    """As recorders of analogue cameras do; not where a pixel is square but for a trifle, or cannot be so."""
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.codec_context.sample_aspect_ratio = 160, 240, Fraction(pixel)
        for packet in (*video.encode(av.VideoFrame(160, 240)), *video.encode()):
            out.mux(packet)
    (frame,) = frames(str(path))
    assert frame.image.shape == (240, width, 3)


def test_a_broken_picture_in_a_film_costs_that_picture_and_not_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as film:
        track = film.add_stream("libx264", rate=10, width=320, height=240, options={"g": "1", "bf": "0"})
        for _ in range(10):
            film.mux(track.encode(av.VideoFrame.from_ndarray(bars(), format="rgb24")))
        film.mux(track.encode())
    with av.open(str(path)) as film:
        fifth = [packet.pos for packet in film.demux(video=0)][4]
    data = bytearray(path.read_bytes())
    data[fifth : fifth + 4] = b"\xff\xff\xff\xff"  # a length that cannot be
    path.write_bytes(data)
    seen = list(frames(str(path)))
    assert [round(f.time, 3) for f in seen] == [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert_red_green_blue(seen[-1])


def test_a_film_may_be_named_by_any_path(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(film.parent)
    assert ":" in film.name
    assert len(list(frames(film.name))) == 30
    assert len(list(frames(f"file://{film}"))) == 30


def test_a_title_in_another_code_than_utf_8_is_nothing_to_fail_at(tmp_path: Path) -> None:
    """As cameras and recorders have them; such a one once ended the daemon."""
    path, title = tmp_path / "film.mkv", b"camera-title"
    with av.open(str(path), "w") as film:
        film.metadata["title"] = title.decode()
        video = film.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        for _ in range(5):
            film.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        film.mux(video.encode(None))
    written = path.read_bytes()
    assert title in written
    path.write_bytes(written.replace(title, "摄像机摄像机".encode("gbk")))

    assert len(list(frames(str(path)))) == 5
    assert length(str(path)) is None  # Matroska does not say


def test_a_folder_of_pictures_is_shown_in_order_and_the_unreadable_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2, 10, 11):
        picture = np.full((40 + number, 60, 3), 99, np.uint8)
        cv2.imwrite(str(tmp_path / f"shot{number}.png"), picture)
    (tmp_path / "shot3.jpg").write_bytes(b"\xff\xd8 broken")
    (tmp_path / "notes.txt").write_text("not looked at")
    seen = list(frames(str(tmp_path), start=START))
    assert [f.image.shape[0] - 40 for f in seen] == [1, 2, 10, 11]
    assert [f.index for f in seen] == [0, 1, 2, 3]
    assert [f.time for f in seen] == [0, 1, 3, 4]
    assert seen[-1].utc == START + timedelta(seconds=4)
    (told,) = caplog.messages
    assert told.startswith(f"skipped: {tmp_path}/shot3.jpg is not a picture that can be read here")


def test_what_can_be_counted_is_counted_before_it_is_looked_at(film: Path, tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    for name in ("1.png", "2.jpg", "note.txt"):
        (tmp_path / "day" / name).touch()
    assert length(str(film)) == len(list(frames(str(film))))
    assert length(f"{tmp_path / 'day'}/") == 2
    for url in ("rtsp://127.0.0.1/1", "0", "missing.mp4", "~nobody-of-that-name/x", f"{tmp_path}/day/note.txt"):
        assert length(url) is None


def test_one_picture_is_a_source_too(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), bars()[..., ::-1])
    (frame,) = frames(str(tmp_path / "photo.png"))
    assert_red_green_blue(frame)


def test_a_looped_folder_tells_of_an_unreadable_picture_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), bars())
    (tmp_path / "2.jpg").touch()
    inbox = LatestFrames()
    with Capture(stream(tmp_path, paced=False, loop=True), inbox, Changes()):
        seen = [take(inbox) for _ in range(4)]
    assert [round(f.time - seen[0].time, 3) for f in seen] == [0, 1, 2, 3]
    assert [m for m in caplog.messages if "skipped" in m] == [f"skipped: {tmp_path}/2.jpg is empty"]


def test_an_empty_folder_is_looked_at_again_until_a_picture_comes(tmp_path: Path) -> None:
    inbox, changes = LatestFrames(), Changes()
    with Capture(stream(tmp_path, paced=False), inbox, changes):
        wait_until(lambda: changes.states == [False])
        cv2.imwrite(str(tmp_path / "new.png"), bars()[..., ::-1])
        assert_red_green_blue(take(inbox))
    assert changes.states[:2] == [False, True]


def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)  # root, as whom tests may run, is refused nothing
    with pytest.raises(CaptureError, match=f"{tmp_path} cannot be read: Permission denied"):
        next(frames(f"{tmp_path}/"))


# --- a camera on the USB; tests/proofs/v4l2.sh has real drivers ------------------------------------


def test_a_camera_that_is_in_use_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)  # it says that it is a camera, and OpenCV cannot read it

    with pytest.raises(CaptureError, match="/dev/null gives no pictures: another program holds it"):
        next(frames("/dev/null"))

    assert capfd.readouterr() == ("", "")


def test_a_torn_picture_of_a_usb_camera_costs_that_picture_and_not_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn:
        """OpenCV's end of a camera, of which every other picture is torn, in each of the ways it says so."""

        def __init__(self, *_: object) -> None:
            self.grabbed = 0

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return True

        def grab(self) -> bool:
            self.grabbed += 1
            return self.grabbed <= 6

        def retrieve(self) -> tuple[bool, np.ndarray | None]:
            whole = np.full((2, 2, 3), (self.grabbed, 0, 0), np.uint8)
            torn = {2: (False, None), 4: (True, None), 6: (True, np.empty((0, 0, 3), np.uint8))}
            return torn.get(self.grabbed, (True, whole))  # type: ignore[return-value]

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Torn)
    monkeypatch.setattr("fcntl.ioctl", lambda *_: 0)
    seen: list[Frame] = []

    def look() -> None:
        for frame in frames("/dev/null"):
            seen.append(frame)

    with pytest.raises(CaptureError, match="/dev/null has stopped giving pictures"):
        look()
    assert [(frame.index, int(frame.image[0, 0, 2])) for frame in seen] == [(0, 1), (1, 3), (2, 5)]


# --- a ribbon-cable camera ---------------------------------------------------------------------


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the place of the Raspberry Pi's own: what flows through the pipe is real."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def place(script: str) -> None:
        (tmp_path / "rpicam-vid").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "rpicam-vid").chmod(0o755)

    return place


def test_without_a_boards_program_csi_says_what_is_missing() -> None:
    with pytest.raises(CaptureError, match="csi://0 cannot be read: this machine has neither rpicam-vid"):
        next(frames("csi://0"))


def test_csi_reads_raw_pictures_from_the_boards_program(
    board: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onelook.capture.JOIN_SECONDS", PATIENCE)
    picture = cv2.resize(bars(), (1280, 720), interpolation=cv2.INTER_NEAREST)
    raw = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes()
    board('echo "$@" > "$0.told"; while cat "$0.raw"; do sleep 0.05; done')
    # the script reads these beside itself
    folder = Path(os.environ["PATH"].partition(":")[0])
    (folder / "rpicam-vid.raw").write_bytes(raw)
    inbox, changes = LatestFrames(), Changes()
    with Capture(stream("csi://1", fps=10), inbox, changes):
        seen = [take(inbox) for _ in range(5)]
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE / 2
    assert seen[-1].image.shape == (720, 1280, 3)
    assert np.abs(seen[-1].image.astype(int) - picture).mean() < 3
    told = (folder / "rpicam-vid.told").read_text()
    assert "--camera 1 " in told
    assert "--framerate 10 " in told
    assert changes == [("door", True, None)]


def test_csi_hands_on_what_the_boards_program_complains_about(board: Callable[[str], None]) -> None:
    board('echo "starting" >&2; echo "ERROR: *** no cameras available ***" >&2; exit 255')
    assert reason_for("csi://0").endswith("says: ERROR: *** no cameras available ***")


def test_csi_lets_the_boards_program_talk_for_weeks(board: Callable[[str], None]) -> None:
    """More than a pipe holds, in all; of it the end is kept."""
    board('for n in 1 2 3 4; do head -c 30000 /dev/zero | tr "\\0" "x" >&2; head -c 1382400 /dev/zero; done; '
          'echo >&2; echo "ERROR: the sensor is gone" >&2')
    camera = frames("csi://0")
    assert [next(camera).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(CaptureError, match=r"says: ERROR: the sensor is gone$"):
        next(camera)


def test_csi_notices_a_board_that_hangs(board: Callable[[str], None]) -> None:
    board(f"exec sleep {PATIENCE:.0f}")
    began = time.monotonic()
    assert "gives no pictures" in reason_for("csi://0", open_timeout=0.3)
    assert time.monotonic() - began < PATIENCE / 2

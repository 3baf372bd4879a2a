"""Metrics: what the daemon measures of itself, and the page where Prometheus reads it.

Every metric is there from the start, at zero, so that a rate or an alert never meets a
series that does not exist yet. No label names a person.
"""

from __future__ import annotations

import logging
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from onelook.errors import BusyError, OwnerError
from onelook.event import KINDS, Event

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

Clock = Callable[[], float]

STAGES: Mapping[str, Clock] = {
    "preprocess": time.thread_time,
    "frame": time.process_time,  # the interpreter computes in threads of its own
    "decode": time.thread_time,
    "faces": time.process_time,
    "track": time.thread_time,
    "report": time.thread_time,
    "publish": time.thread_time,
}
"""Stage of a frame -> the clock that counts its CPU seconds.

The process's clock also counts what captures decode meanwhile; the thread's does not count
threads that the stage itself puts to work. Each stage has the one that lies less.
"""

AGES = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds: 5 ms is a fast desktop, 35 ms a camera's frame, 1 s no longer live, 10 s a backlog."""

CLIENTS = 32
"""Connections that the page has at once."""

IP_FREEBIND = 15
"""Of ip(7); it goes for IPv6 too."""

DURATIONS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1, 2.5)


@dataclass(slots=True)
class _Span:
    """Around one stage of one frame."""

    clock: Clock
    seconds: Histogram
    cpu: Counter
    began: float = 0.0
    cpu_began: float = 0.0

    def __enter__(self) -> None:
        self.began, self.cpu_began = time.perf_counter(), self.clock()

    def __exit__(self, *error: object) -> None:
        cpu, seconds = self.clock() - self.cpu_began, time.perf_counter() - self.began
        self.seconds.observe(seconds)
        self.cpu.inc(cpu)


class MetricsError(OwnerError):
    """The page cannot be served where the owner wants it."""


class NameServiceError(MetricsError, BusyError):
    """Nobody answers who could know the name, as at boot before the network is there."""


class Metrics:
    """Every metric of the daemon, in one registry.

    Its methods are what may be told, so that nothing else needs to know Prometheus. All may
    be called from any thread.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        streams: Iterable[str] = (),
        *,
        stages: Mapping[str, Clock] = STAGES,
        drop_reasons: Iterable[str] = (),
        broker: bool = True,
    ) -> None:
        """Register everything in `registry`; `streams`, `stages` and `drop_reasons` start at zero.

        broker: whether there is to be one; without, nothing says that it is away.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # doubles the page, and nobody asks when a counter was made
        self._registry = registry
        clocks = {"total": time.process_time, **stages}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"onelook_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"onelook_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"onelook_{name}", text, labels, registry=registry, buckets=buckets)

        # Kept by their labels, as to find one takes prometheus_client longer than to count.
        self._frames = cache(counter("frames", "Frames looked at.", "stream").labels)
        self._dropped = cache(counter(
            "frames_dropped", "Frames that a newer one replaced before they were looked at.", "stream"
        ).labels)
        self._age = histogram(
            "frame_age_seconds", "From a frame's capture until its events were handed to the publisher.", AGES
        )
        self._event_age = histogram(
            "event_age_seconds", "From a frame's capture until the broker had its event.", AGES
        )
        stage_seconds = histogram("stage_seconds", "Time that a stage of a frame took.", DURATIONS, "stage")
        stage_cpu = counter("stage_cpu_seconds", "CPU time that a stage of all frames took.", "stage")
        self._faces = cache(gauge("faces", "Faces in the newest frame.", "stream").labels)
        self._tracks = cache(gauge("tracks", "Confirmed tracks in the newest frame.", "stream").labels)
        self._events = cache(counter("events", "Events that the broker took.", "type").labels)
        self._up = cache(gauge("stream_up", "1 while the stream delivers frames.", "stream").labels)
        self._paused = cache(gauge("stream_paused", "1 while the stream is paused by command.", "stream").labels)
        self._ended = cache(gauge("stream_ended", "1 once a file or folder has come to its end.", "stream").labels)
        self._connected = Gauge(
            "onelook_mqtt_connected", "1 while the broker is connected.", registry=registry if broker else None
        )
        self._waiting = gauge("outbox_messages", "Events that wait for the broker.")
        self._disk_failing = gauge("outbox_disk_failing", "1 while events wait in memory only, as the disk fails.")
        self._disk_failures = counter("outbox_disk_failures", "Tries to write the outbox to the disk that failed.")
        self._outbox_dropped = cache(counter("outbox_dropped", "Events that were never delivered.", "reason").labels)
        self._model = Info("onelook_model", "The network in use.", registry=registry)
        # A scraper compares it with its own: a board without a clock of its own may be years off.
        gauge("time_seconds", "This machine's clock, since the epoch.").set_function(time.time)

        for stream in streams:
            for metric in (self._frames, self._dropped, self._faces, self._tracks, self._up, self._paused, self._ended):
                metric(stream)
        self._stages = {
            name: partial(_Span, clock, stage_seconds.labels(name), stage_cpu.labels(name))
            for name, clock in clocks.items()
        }
        for kind in KINDS:
            self._events(kind)
        for reason in drop_reasons:
            self._outbox_dropped(reason)
        registry.register(MemoryCollector())
        registry.register(BoardCollector())
        ProcessCollector(registry=registry)

    @contextmanager
    def frame(self, stream: str, captured: float | None = None) -> Iterator[None]:
        """Around all that is done with one frame, until its events are handed to the publisher.

        `captured` is the monotonic time at which it was; with it, the frame's age at the end is counted.
        The time goes to stage `total`.
        """
        with self.stage("total"):
            yield
        self._frames(stream).inc()
        if captured is not None:
            self._age.observe(time.monotonic() - captured)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Around one stage of a frame: its seconds, and its CPU seconds by the clock of STAGES."""
        return self._stages[name]()

    def dropped(self, stream: str, count: int = 1) -> None:
        """`count` frames were replaced by newer ones before they were looked at."""
        self._dropped(stream).inc(count)

    def seen(self, stream: str, *, faces: int, tracks: int) -> None:
        """The newest frame shows `faces` faces, which belong to `tracks` confirmed tracks."""
        self._faces(stream).set(faces)
        self._tracks(stream).set(tracks)

    def stream_up(self, stream: str, up: bool, *, paused: bool = False, ended: bool = False) -> None:
        """The stream delivers frames, or no longer, or shall not, or has no more; a lost stream shows no faces."""
        self._up(stream).set(up)
        self._paused(stream).set(paused)
        self._ended(stream).set(ended)
        if not up:
            self.seen(stream, faces=0, tracks=0)

    def published(self, event: Event, age: float | None = None) -> None:
        """The broker (or stdout) has the event, `age` seconds after its frame was captured."""
        self._events(event.kind).inc()
        if age is not None:
            self._event_age.observe(age)

    def mqtt_connected(self, connected: bool) -> None:
        """The broker took us, or is gone."""
        self._connected.set(connected)

    def outbox(self, count: Callable[[], int], failing: Callable[[], bool]) -> None:
        """Ask how many events wait, and whether they should be on disk and are not, whenever the page is read."""
        self._waiting.set_function(count)
        self._disk_failing.set_function(failing)

    def outbox_failed(self, count: int = 1) -> None:
        """`count` tries to write the outbox to the disk failed."""
        self._disk_failures.inc(count)

    def outbox_dropped(self, reason: str, count: int = 1) -> None:
        """`count` events will never be delivered."""
        self._outbox_dropped(reason).inc(count)

    def model(self, **labels: str) -> None:
        """Which network is in use: its version, runtime and whatever else tells two apart."""
        self._model.info(labels)

    @contextmanager
    def serve(
        self, host: str, port: int, *, healthy: Callable[[], bool], ready: Callable[[], bool]
    ) -> Iterator[str]:
        """Serve /metrics, /healthz and /readyz while the context lasts; gives the page's address.

        `healthy` says that the loop turns, `ready` that there is something to look with and at;
        both are asked from the server's threads. Port 0 takes any free one. An address that this machine
        has not got is waited for, by the kernel. Raises MetricsError where that host and port cannot be had,
        NameServiceError where they may be later.
        """
        server = _listening(host, port)
        server.set_app(_pages(make_wsgi_app(self._registry), healthy, ready))
        thread = Thread(target=server.serve_forever, args=(0.2,), name="metrics", daemon=True)
        thread.start()
        try:
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


# --- collectors, read when the page is -----------------------------------------------------------


class MemoryCollector(Collector):
    """Memory of this process as Linux counts it, in bytes.

    `rss` is all that is resident; `pss` counts a page shared with others by its share, which
    is what this daemon costs the board; `peak` is the highest rss so far.
    """

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        """`process` is the process's folder in /proc."""
        self._process = process

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the kinds that this kernel tells."""
        family = GaugeMetricFamily("onelook_memory_bytes", "Memory in use.", labels=["kind"])
        rollup, status = self._sizes("smaps_rollup"), self._sizes("status")
        sizes = {
            "rss": rollup.get("Rss", status.get("VmRSS")),
            "pss": rollup.get("Pss"),
            "peak": status.get("VmHWM"),
        }
        for kind, size in sizes.items():
            if size is not None:
                family.add_metric([kind], size)
        yield family

    def _sizes(self, name: str) -> dict[str, int]:
        """The lines of the form `Key:  123 kB`, in bytes; none where the file cannot be read."""
        text = _read(self._process / name) or ""
        return {key: int(kilobytes) * 1024 for key, kilobytes in re.findall(r"(?m)^(\w+):\s+(\d+) kB$", text)}


class BoardCollector(Collector):
    """Temperature and throttling, of boards that tell."""

    _THROTTLED: Mapping[str, int] = {
        "under_voltage": 0,
        "frequency_capped": 1,
        "throttled": 2,
        "soft_temperature_limit": 3,
    }
    """Reason -> bit of the Raspberry Pi firmware's word; 16 further up: at some time since boot."""

    def __init__(self, sys_folder: Path = Path("/sys")) -> None:
        """`sys_folder` is where sysfs is mounted."""
        self._sys = sys_folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give what there is; a board that tells nothing has no such metric."""
        celsius = GaugeMetricFamily(
            "onelook_board_temperature_celsius", "Temperature of the board.", labels=["zone", "type"]
        )
        for zone in sorted(self._sys.glob("class/thermal/thermal_zone*")):
            value = _read(zone / "temp")  # in thousandths; some zones refuse to be read
            if value is not None and re.fullmatch(r"-?\d+", value):
                celsius.add_metric([zone.name, _read(zone / "type") or ""], int(value) / 1000)
        if celsius.samples:
            yield celsius

        now = GaugeMetricFamily(
            "onelook_board_throttled", "1 while the board holds itself back.", labels=["reason"]
        )
        ever = GaugeMetricFamily(
            "onelook_board_throttled_since_boot", "1 if the board ever held itself back.", labels=["reason"]
        )
        for firmware in self._sys.glob("devices/platform/soc*/*firmware/get_throttled"):
            word = _read(firmware)
            if word is None or not re.fullmatch(r"(0x)?[0-9a-f]+", word):
                continue
            for reason, bit in self._THROTTLED.items():
                now.add_metric([reason], int(word, 16) >> bit & 1)
                ever.add_metric([reason], int(word, 16) >> bit + 16 & 1)
            yield now
            yield ever
            break


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


# --- the page ------------------------------------------------------------------------------------

_FRONT = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>onelook</title>
<h1>onelook</h1><ul>
<li><a href="/metrics">/metrics</a>: what Prometheus reads</li>
<li><a href="/healthz">/healthz</a>: does the loop turn?</li>
<li><a href="/readyz">/readyz</a>: is the model loaded and a stream up?</li>
</ul></html>
"""


_Answer = tuple[HTTPStatus, bytes]


def _pages(
    metrics: WSGIApplication, healthy: Callable[[], bool], ready: Callable[[], bool]
) -> WSGIApplication:
    def health() -> _Answer:
        if healthy():
            return HTTPStatus.OK, b"ok\n"
        return HTTPStatus.SERVICE_UNAVAILABLE, b"the loop does not turn\n"

    def readiness() -> _Answer:
        if ready():
            return HTTPStatus.OK, b"ready\n"
        return HTTPStatus.SERVICE_UNAVAILABLE, b"not ready: no model yet, or no stream is up\n"

    def absent() -> _Answer:
        return HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n"

    def exposed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return metrics(environ, start_response)
        except (TypeError, ValueError):  # the client library trips over versions in Accept that are none
            environ["HTTP_ACCEPT"] = ""
            return metrics(environ, start_response)

    def exposed_head(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As to GET, without the body: the client library knows no HEAD."""
        told: dict[str, list[tuple[str, str]]] = {}

        def begin(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
            told[status] = headers
            return bytes

        length = sum(map(len, exposed(environ | {"REQUEST_METHOD": "GET"}, begin)))
        for status, headers in told.items():
            start_response(status, [*headers, ("Content-Length", str(length))])
        return [b""]

    pages = {"/": lambda: (HTTPStatus.OK, _FRONT), "/healthz": health, "/readyz": readiness}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/metrics":
            return (exposed_head if method == "HEAD" else exposed)(environ, start_response)
        if method in ("GET", "HEAD"):
            status, body = pages.get(path, absent)()
        else:
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"this page can only be read\n"
        kind = "text/html" if body is _FRONT else "text/plain"
        start_response(
            f"{status.value} {status.phrase}",
            [
                ("Content-Type", f"{kind}; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
            ],
        )
        return [b"" if method == "HEAD" else body]

    return app


class _Handler(WSGIRequestHandler):
    timeout = 10  # a client that says nothing does not hold its thread for ever

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a slow reader does not hold up the end
    request_queue_size = 128  # whom the kernel turns away tries again a second later

    def __init__(self, host: str, port: int, *, early: bool = True) -> None:
        """early: on an address that this machine has not got yet, too; at boot we may be there before the network."""
        self._early = early
        self._clients: dict[Any, None] = {}  # in the order in which they came
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's asks the name service who we are: seconds, on a board that is offline.
        try:
            TCPServer.server_bind(self)
        except OSError as error:
            if error.errno != EADDRNOTAVAIL or not self._early:
                raise
            self.socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            TCPServer.server_bind(self)
            log.warning("metrics.host: this machine has no address %s yet; the page is there once it has.",
                        self.server_address[0])
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        # Whoever has held on for longest gives way: clients that never end would take all that we may have open, and
        # no camera and no disk could be had any more.
        request, address = super().get_request()
        for oldest in list(self._clients)[: max(0, len(self._clients) + 1 - CLIENTS)]:
            self._clients.pop(oldest, None)
            with suppress(OSError):  # it has ended meanwhile
                oldest.shutdown(socket.SHUT_RDWR)
        self._clients[request] = None
        return request, address

    def close_request(self, request: Any) -> None:
        self._clients.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its caller's signature
        if isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            log.debug("%s went away", client_address)
        else:
            log.exception("answering %s failed", client_address)


def try_out(host: str, port: int) -> None:
    """Raises MetricsError where no page can be served; a port in use may be so by the daemon that runs."""
    try:
        _Server(host, port, early=False).server_close()
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) != EADDRINUSE:
            raise _told(host, port, error) from None


def _listening(host: str, port: int) -> _Server:
    try:
        return _Server(host, port)
    except (OSError, UnicodeError) as error:
        raise _told(host, port, error) from None


def _told(host: str, port: int, error: OSError | UnicodeError) -> MetricsError:
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return NameServiceError(f"metrics.host: no name service answers that may know {host}.")
    if isinstance(error, socket.gaierror | UnicodeError):  # the latter: no name can be so
        return MetricsError(f"metrics.host: {host} is not a name that this machine knows.")
    advice = {
        EADDRINUSE: f"port {port} of {host} is in use; end what uses it, or choose another metrics.port",
        EACCES: f"port {port} is only for root; choose a metrics.port above 1023",
        EADDRNOTAVAIL: f"this machine has no address {host}; choose 127.0.0.1 or 0.0.0.0 as metrics.host",
    }.get(error.errno or 0, f"cannot listen on {host}, port {port}: {error.strerror}")
    return MetricsError(f"metrics: {advice}.")

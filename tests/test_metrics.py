"""The metrics page: read over real HTTP, as Prometheus does."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from mmap import mmap
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from broker import wait_until
from onelook.event import KINDS, Crowd, Event
from onelook.metrics import (
    CLIENTS,
    STAGES,
    BoardCollector,
    MemoryCollector,
    Metrics,
    MetricsError,
    NameServiceError,
    try_out,
)
from stopwatch import Stopwatch

Labels = frozenset[tuple[str, str]]


def labels(**values: str) -> Labels:
    return frozenset(values.items())


def get(url: str, method: str = "GET") -> tuple[int, str]:
    try:
        request = urllib.request.Request(url, method=method)  # noqa: S310 - our own page
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextmanager
def page(metrics: Metrics, *, healthy: bool = True, ready: bool = True) -> Iterator[str]:
    with metrics.serve("127.0.0.1", 0, healthy=lambda: healthy, ready=lambda: ready) as url:
        yield url


def scrape(metrics: Metrics) -> dict[str, dict[Labels, float]]:
    """Sample name -> labels -> value, as a scraper has them."""
    with page(metrics) as url:
        status, text = get(url + "metrics")
    assert status == 200
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), ["door", "hall"], drop_reasons=["expired", "full"])


# --- what is there -------------------------------------------------------------------------------


def test_every_metric_is_zero_before_anything_has_happened(metrics: Metrics) -> None:
    samples = scrape(metrics)

    streams = {labels(stream="door"), labels(stream="hall")}
    stages = {labels(stage=stage) for stage in ("total", *STAGES)}
    expected = {
        "onelook_frames_total": streams,
        "onelook_frames_dropped_total": streams,
        "onelook_faces": streams,
        "onelook_tracks": streams,
        "onelook_stream_up": streams,
        "onelook_stream_paused": streams,
        "onelook_stream_ended": streams,
        "onelook_frame_age_seconds_count": {labels()},
        "onelook_event_age_seconds_count": {labels()},
        "onelook_stage_seconds_count": stages,
        "onelook_stage_cpu_seconds_total": stages,
        "onelook_events_total": {labels(type=kind) for kind in KINDS},
        "onelook_mqtt_connected": {labels()},
        "onelook_outbox_messages": {labels()},
        "onelook_outbox_disk_failing": {labels()},
        "onelook_outbox_disk_failures_total": {labels()},
        "onelook_outbox_dropped_total": {labels(reason="expired"), labels(reason="full")},
    }
    for name, series in expected.items():
        assert samples[name] == dict.fromkeys(series, 0.0), name
    assert "process_cpu_seconds_total" in samples
    assert not [name for name in samples if name.endswith("_created")]


def test_what_happens_is_counted(metrics: Metrics) -> None:
    with metrics.frame("door", captured=time.monotonic() - 0.3), metrics.stage("frame"):
        pass
    metrics.dropped("door", 2)
    metrics.seen("door", faces=7, tracks=5)
    metrics.stream_up("door", True)
    metrics.mqtt_connected(True)
    waiting = [1, 2, 3]
    metrics.outbox(lambda: len(waiting), lambda: True)
    metrics.outbox_failed(2)
    metrics.outbox_dropped("full", 4)
    metrics.model(version="3", runtime="ai-edge-litert")
    crowd = Event(stream="door", time=datetime.now(UTC), data=Crowd(count=7, known=1, unknown=6))
    metrics.published(crowd, 0.4)
    metrics.published(crowd)  # one that waited for the broker: its age says nothing of frames

    samples = scrape(metrics)

    door = labels(stream="door")
    assert samples["onelook_frames_total"][door] == 1
    assert samples["onelook_frames_total"][labels(stream="hall")] == 0
    assert samples["onelook_frames_dropped_total"][door] == 2
    assert (samples["onelook_faces"][door], samples["onelook_tracks"][door]) == (7, 5)
    assert samples["onelook_stream_up"][door] == 1
    assert samples["onelook_mqtt_connected"][labels()] == 1
    assert samples["onelook_outbox_messages"][labels()] == 3
    assert samples["onelook_outbox_disk_failing"][labels()] == 1
    assert samples["onelook_outbox_disk_failures_total"][labels()] == 2
    assert samples["onelook_outbox_dropped_total"][labels(reason="full")] == 4
    assert samples["onelook_model_info"] == {labels(version="3", runtime="ai-edge-litert"): 1}
    assert samples["onelook_events_total"][labels(type="crowd")] == 2
    assert samples["onelook_event_age_seconds_count"][labels()] == 1
    assert 0.3 <= samples["onelook_frame_age_seconds_sum"][labels()] < 5
    assert samples["onelook_frame_age_seconds_bucket"][labels(le="0.25")] == 0
    assert samples["onelook_frame_age_seconds_bucket"][labels(le="10.0")] == 1
    assert samples["onelook_stage_seconds_count"][labels(stage="frame")] == 1
    assert samples["onelook_stage_seconds_count"][labels(stage="total")] == 1


def test_a_lost_stream_shows_nobody(metrics: Metrics) -> None:
    metrics.stream_up("door", True)
    metrics.seen("door", faces=3, tracks=3)

    metrics.stream_up("door", False)

    samples = scrape(metrics)
    door = labels(stream="door")
    for name in ("onelook_stream_up", "onelook_faces", "onelook_tracks"):
        assert samples[name][door] == 0


def test_a_stream_that_is_paused_is_not_merely_down(metrics: Metrics) -> None:
    door = labels(stream="door")

    metrics.stream_up("door", False, paused=True)
    samples = scrape(metrics)
    assert (samples["onelook_stream_up"][door], samples["onelook_stream_paused"][door]) == (0, 1)
    assert samples["onelook_stream_ended"][door] == 0

    metrics.stream_up("door", False)  # resumed, and not there yet
    assert scrape(metrics)["onelook_stream_paused"][door] == 0

    metrics.stream_up("door", False, ended=True)
    assert scrape(metrics)["onelook_stream_ended"][door] == 1


def test_a_broker_that_there_is_not_to_be_is_not_told_as_away() -> None:
    metrics = Metrics(CollectorRegistry(), ["door"], broker=False)

    metrics.mqtt_connected(False)

    assert "onelook_mqtt_connected" not in scrape(metrics)


def work(seconds: float, clock: object = time.thread_time) -> None:
    assert callable(clock)
    began = clock()
    while clock() - began < seconds:
        sum(range(1000))


def test_a_stages_cpu_seconds_are_what_it_worked_and_not_what_it_waited(metrics: Metrics) -> None:
    with metrics.stage("track"):
        time.sleep(0.1)
        work(0.02)

    samples = scrape(metrics)
    stage = labels(stage="track")
    assert samples["onelook_stage_seconds_sum"][stage] >= 0.12
    assert 0.02 <= samples["onelook_stage_cpu_seconds_total"][stage] < 0.08


def test_the_models_cpu_seconds_are_those_of_the_threads_it_puts_to_work(metrics: Metrics) -> None:
    def beside(stage: str) -> None:
        helper = threading.Thread(target=work, args=(0.05,))
        with metrics.stage(stage):
            helper.start()
            helper.join(10)

    beside("frame")
    beside("track")

    cpu = scrape(metrics)["onelook_stage_cpu_seconds_total"]
    assert cpu[labels(stage="frame")] >= 0.05
    assert cpu[labels(stage="track")] < 0.04


def test_a_stage_that_fails_is_still_timed_and_its_frame_not_counted(metrics: Metrics) -> None:
    with pytest.raises(ZeroDivisionError), metrics.frame("door", captured=0.0), metrics.stage("report"):
        _ = 1 / 0

    samples = scrape(metrics)
    assert samples["onelook_stage_seconds_count"][labels(stage="report")] == 1
    assert samples["onelook_frames_total"][labels(stream="door")] == 0


# --- memory and board ----------------------------------------------------------------------------


def memory() -> dict[str, float]:
    [family] = MemoryCollector().collect()
    return {sample.labels["kind"]: sample.value for sample in family.samples}


def test_memory_is_this_processs_own_in_bytes() -> None:
    before = memory()
    assert set(before) == {"rss", "pss", "peak"}
    assert 0 < before["pss"] <= before["rss"] <= before["peak"] * 1.01

    with mmap(-1, 64 << 20) as block:  # from the kernel itself: an allocator may have some left from other tests
        block.write(bytes(64 << 20))
        during = memory()
    after = memory()

    mebibyte = 1 << 20
    assert during["rss"] - before["rss"] > 60 * mebibyte
    assert during["pss"] - before["pss"] > 60 * mebibyte
    assert after["rss"] < during["rss"] - 30 * mebibyte
    assert after["peak"] >= during["rss"] * 0.99


def test_an_old_kernel_tells_less_memory(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tonelook\nVmHWM:\t2048 kB\nVmRSS:\t1024 kB\nThreads:\t4\n")

    [family] = MemoryCollector(tmp_path).collect()

    assert {s.labels["kind"]: s.value for s in family.samples} == {"rss": 1024 * 1024, "peak": 2048 * 1024}


def board(folder: Path) -> dict[str, dict[Labels, float]]:
    return {
        family.name: {frozenset(sample.labels.items()): sample.value for sample in family.samples}
        for family in BoardCollector(folder).collect()
    }


def test_a_board_tells_its_temperature_and_why_it_is_slow(tmp_path: Path) -> None:
    for zone, kind, temp in (("0", "cpu-thermal", "61816"), ("1", "ambient", "-5000")):
        folder = tmp_path / f"class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(kind + "\n")
        (folder / "temp").write_text(temp + "\n")
    broken = tmp_path / "class/thermal/thermal_zone2"
    broken.mkdir()
    (broken / "type").write_text("modem\n")  # its temp cannot be read
    firmware = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    firmware.parent.mkdir(parents=True)
    firmware.write_text("50005\n")  # under voltage and throttled, now and before

    told = board(tmp_path)

    assert told["onelook_board_temperature_celsius"] == {
        labels(zone="thermal_zone0", type="cpu-thermal"): pytest.approx(61.816),
        labels(zone="thermal_zone1", type="ambient"): pytest.approx(-5.0),
    }
    reasons = {"under_voltage": 1, "frequency_capped": 0, "throttled": 1, "soft_temperature_limit": 0}
    expected = {labels(reason=reason): value for reason, value in reasons.items()}
    assert told["onelook_board_throttled"] == expected
    assert told["onelook_board_throttled_since_boot"] == expected

    firmware.write_text("80000\n")  # only once it was too warm
    told = board(tmp_path)
    assert set(told["onelook_board_throttled"].values()) == {0}
    assert told["onelook_board_throttled_since_boot"][labels(reason="soft_temperature_limit")] == 1


def test_a_board_that_tells_nothing_has_no_such_metric(tmp_path: Path) -> None:
    assert board(tmp_path) == {}


# --- the page ------------------------------------------------------------------------------------


def test_health_and_readiness_answer_as_a_probe_wants_it(metrics: Metrics) -> None:
    with page(metrics, healthy=True, ready=False) as url:
        assert get(url + "healthz") == (200, "ok\n")
        status, text = get(url + "readyz")
        assert status == 503
        assert text.startswith("not ready")
        assert text.count("\n") == 1
    with page(metrics, healthy=False, ready=True) as url:
        assert get(url + "healthz") == (503, "the loop does not turn\n")
        assert get(url + "readyz") == (200, "ready\n")


def test_a_person_finds_their_way(metrics: Metrics) -> None:
    with page(metrics) as url:
        status, text = get(url)
        assert status == 200
        for path in ("/metrics", "/healthz", "/readyz"):
            assert f'href="{path}"' in text
        assert get(url + "nothing")[0] == 404
        assert get(url + "metrics/")[0] == 404


def test_the_page_can_only_be_read(metrics: Metrics) -> None:
    with page(metrics) as url:
        for path in ("", "healthz", "metrics"):
            assert get(url + path, "POST")[0] == 405
        assert get(url + "healthz", "HEAD") == get(url + "metrics", "HEAD") == (200, "")
        asked = urllib.request.Request(url + "metrics", method="HEAD")  # noqa: S310 - our own page
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
            assert int(answer.headers["Content-Length"]) > 1000


def test_it_listens_where_it_is_told_and_nowhere_else(metrics: Metrics) -> None:
    with page(metrics) as url:
        port = int(url.split(":")[2].strip("/"))
        assert url == f"http://127.0.0.1:{port}/"
        # 127.0.0.2 reaches whatever listens on all addresses
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=2)


def test_ipv6_is_served(metrics: Metrics) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with metrics.serve("::1", 0, healthy=lambda: True, ready=lambda: True) as url:
        assert url.startswith("http://[::1]:")
        assert get(url + "healthz") == (200, "ok\n")


def test_a_port_in_use_is_told_in_a_sentence(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(MetricsError, match=rf"port {port} of 127\.0\.0\.1 is in use.*metrics\.port"),
            metrics.serve("127.0.0.1", port, healthy=lambda: True, ready=lambda: True),
        ):
            pass


def test_what_will_be_in_the_way_of_the_page_is_told_beforehand() -> None:
    with pytest.raises(MetricsError, match=r"this machine has no address 192\.0\.2\.1"):
        try_out("192.0.2.1", 0)
    with pytest.raises(MetricsError, match=r"nobody\.invalid is not a name"):
        try_out("nobody.invalid", 0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        try_out("127.0.0.1", other.getsockname()[1])  # as a daemon does that runs while its config is checked
    try_out("127.0.0.1", 0)


@pytest.mark.parametrize(("host", "sentence"), [
    ("nobody.invalid", r"metrics\.host: nobody\.invalid is not a name that this machine knows"),
    ("a..b", r"metrics\.host: a\.\.b is not a name that this machine knows"),
])  # fmt: skip
def test_a_host_that_is_not_ours_is_told_in_a_sentence(metrics: Metrics, host: str, sentence: str) -> None:
    with (
        pytest.raises(MetricsError, match=sentence),
        metrics.serve(host, 0, healthy=lambda: True, ready=lambda: True),
    ):
        pass


def test_a_name_that_nobody_can_be_asked_for_may_be_known_later(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    with (
        pytest.raises(NameServiceError, match=r"^metrics\.host: no name service answers that may know board\.lan\.$"),
        metrics.serve("board.lan", 0, healthy=lambda: True, ready=lambda: True),
    ):
        pass


def test_an_address_that_is_not_there_yet_is_listened_on_once_it_is(tmp_path: Path) -> None:
    """As at boot, before the network is; in a network of its own, which begins without any address."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare and ip are not installed (Debian: util-linux, iproute2)")
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*alone, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    script = """
import subprocess
from prometheus_client import CollectorRegistry
from onelook.metrics import Metrics
from test_metrics import get
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with Metrics(CollectorRegistry()).serve("192.0.2.1", 0, healthy=lambda: True, ready=lambda: True) as url:
    subprocess.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    print(url, *get(url + "healthz"))
"""
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*alone, sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | paths)
    assert re.fullmatch(r"http://192\.0\.2\.1:[1-9]\d*/ 200 ok\n\n", done.stdout), done.stderr
    assert done.stderr == "metrics.host: this machine has no address 192.0.2.1 yet; the page is there once it has.\n"


def test_it_ends_promptly_while_clients_hang_on_and_the_port_is_free_at_once(metrics: Metrics) -> None:
    with page(metrics) as url:
        port = int(url.split(":")[2].strip("/"))
        silent = socket.create_connection(("127.0.0.1", port))
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(b"GET /metrics HTT")
        assert get(url + "healthz")[0] == 200, "others are served meanwhile"
        watch = Stopwatch()
    assert watch.seconds < 1.0
    with silent, half, metrics.serve("127.0.0.1", port, healthy=lambda: True, ready=lambda: True) as again:
        assert get(again + "healthz")[0] == 200


def test_clients_that_hold_on_take_no_file_from_the_cameras_and_no_page_from_others(metrics: Metrics) -> None:
    with page(metrics) as url, ExitStack() as house:
        port = int(url.split(":")[2].strip("/"))
        threads = threading.active_count()
        for _ in range(CLIENTS + 2):
            client = house.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert get(url + "healthz")[0] == 200
        wait_until(lambda: threading.active_count() - threads <= CLIENTS, "the oldest to be let go", seconds=5)


def test_clients_that_go_away_or_talk_nonsense_say_nothing_on_stderr(
    metrics: Metrics, capfd: pytest.CaptureFixture[str]
) -> None:
    with page(metrics) as url:
        port = int(url.split(":")[2].strip("/"))
        for words in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # gone by a reset
                client.sendall(words)
        assert get(url + "metrics")[0] == 200
    assert capfd.readouterr().err == ""


def test_many_scrapers_at_once_get_whole_pages(metrics: Metrics) -> None:
    pages: list[tuple[int, str]] = []
    with page(metrics) as url:
        scrapers = [threading.Thread(target=lambda: pages.append(get(url + "metrics"))) for _ in range(8)]
        for scraper in scrapers:
            scraper.start()
        for scraper in scrapers:
            scraper.join(60)
    assert len(pages) == 8
    assert all(status == 200 and "onelook_mqtt_connected 0.0" in text for status, text in pages)


def test_two_daemons_in_one_process_do_not_share_numbers() -> None:
    one, other = Metrics(CollectorRegistry(), ["door"]), Metrics(CollectorRegistry(), ["door"])
    one.dropped("door")

    assert scrape(other)["onelook_frames_dropped_total"][labels(stream="door")] == 0


def test_a_scraper_can_tell_whether_the_clock_is_right(metrics: Metrics) -> None:
    assert abs(scrape(metrics)["onelook_time_seconds"][labels()] - time.time()) < 5


def test_a_reader_that_asks_for_a_version_which_is_none_gets_the_page(
    metrics: Metrics, capfd: pytest.CaptureFixture[str]
) -> None:
    with page(metrics) as url:
        accept = {"Accept": "application/openmetrics-text;version=1.x"}
        with urllib.request.urlopen(urllib.request.Request(url + "metrics", headers=accept), timeout=60) as answer:  # noqa: S310
            text = answer.read().decode()

    assert "onelook_frames_total" in text
    assert "Traceback" not in capfd.readouterr().err

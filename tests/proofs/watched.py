"""Proves that Prometheus sees onelook: the wiring of deploy/compose.yaml with the real programs side by side.

    PYTHONPATH=daemon:tests python tests/proofs/watched.py [--seconds 90] [--pictures FOLDER]

A mosquitto, a daemon on the test clip, and Prometheus with deploy/prometheus.yaml and deploy/alerts.yaml, on free ports
of 127.0.0.1. Every query of deploy/dashboard.json is run; every alert rule has to be in good health. With --pictures,
Chromium takes pictures of Prometheus's own pages there, and matplotlib draws the dashboard from what Prometheus has.
Needs Debian's mosquitto and prometheus.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import urlopen

import yaml

from broker import Broker, free_port, wait_until
from clip import write_mp4
from daemon_process import Daemon, write_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PACES = {"door": 10, "hall": 4}
"""Streams, and the frames of each that are looked at in a second."""
BOARD = ("onelook_board_",)
"""Metrics that only some machines have."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=90, help="let Prometheus watch so long before it is asked")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    with ExitStack() as house:
        folder = Path(house.enter_context(tempfile.TemporaryDirectory(prefix="onelook-watched-")))
        broker = house.enter_context(Broker(folder / "broker"))
        clip = write_mp4(folder / "clip.mp4")
        streams = [{"name": name, "url": str(clip), "loop": True, "fps": fps} for name, fps in PACES.items()]
        daemon = house.enter_context(Daemon(write_config(folder, *streams, broker=broker)))
        daemon.wait_until_ready()
        url = house.enter_context(prometheus(folder, daemon.port))
        wait_until(lambda: result(url, 'up{job="onelook"} == 1'), "the first scrape", 60)
        time.sleep(options.seconds)

        instance = f"127.0.0.1:{daemon.port}"
        empty = [text for text in queries(instance) if not result(url, text) and not any(b in text for b in BOARD)]
        rules = ask(url, "rules")["groups"][0]["rules"]
        sick = [rule["name"] for rule in rules if rule["health"] != "ok"]
        firing = [rule["name"] for rule in rules if rule["state"] == "firing"]
        print(f"{len(list(queries(instance)))} queries of the dashboard, {len(empty)} without an answer")
        print(f"{len(rules)} alert rules, {len(sick)} of them sick, firing: {', '.join(firing) or 'none'}")
        for text in empty:
            print("no answer:", text)
        if options.pictures:
            take_pictures(url, options.pictures)
            draw_dashboard(url, instance, options.seconds, options.pictures / "dashboard.png")
        sys.exit(bool(empty or sick or firing))


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """deploy/prometheus.yaml as it is, but for the target's port and a quicker pace; gives its address."""
    config = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "5s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "alerts.yaml", folder)
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb",
               f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def queries(instance: str) -> Iterator[str]:
    """Every query of the dashboard, its variables filled in."""
    for panel in json.loads((DEPLOY / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield filled(target["expr"], instance)


def filled(text: str, instance: str) -> str:
    """A query or a title with values for its variables, and with a shorter view back."""
    for name, value in (("$__rate_interval", "30s"), ("$stage", "frame"), ("$instance", instance), ("[5m]", "[30s]")):
        text = text.replace(name, value)
    return text


def ask(url: str, what: str, **query: str) -> Any:
    try:
        with urlopen(f"{url}/api/v1/{what}?{urlencode(query)}", timeout=10) as answer:  # noqa: S310 - our own
            told = json.load(answer)
    except ConnectionError:
        return {"result": []}
    assert told["status"] == "success", told
    return told["data"]


def result(url: str, query: str) -> list[Any]:
    """What the query gives, without what is not a number."""
    try:
        found = ask(url, "query", query=query)["result"]
    except OSError:
        return []
    return [row for row in found if row["value"][1] != "NaN"]


def take_pictures(url: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    age = "histogram_quantile(0.95, sum by (le) (rate(onelook_frame_age_seconds_bucket[30s])))"
    stages = "histogram_quantile(0.5, sum by (stage, le) (rate(onelook_stage_seconds_bucket[30s])))"
    faces = "onelook_faces"
    graph = "&".join(
        f"g{i}.expr={quote(text)}&g{i}.tab=0&g{i}.range_input=2m" for i, text in enumerate((age, stages, faces))
    )
    for name, page, size in (
        ("alerts", f"{url}/classic/alerts", "1200,900"), ("targets", f"{url}/classic/targets", "1200,500"),
        ("graphs", f"{url}/graph?{graph}", "1200,2300"),
    ):
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   "--virtual-time-budget=8000", f"--window-size={size}",
                   f"--screenshot={folder / f'prometheus-{name}.png'}", page]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def draw_dashboard(url: str, instance: str, seconds: float, file: Path) -> None:
    from drawn import draw  # noqa: PLC0415 - it needs matplotlib

    now = time.time()

    def ranged(query: str) -> list[dict[str, Any]]:
        found = ask(url, "query_range", query=query, start=str(now - seconds), end=str(now), step="2")["result"]
        finite = [row | {"values": [pair for pair in row["values"] if pair[1] != "NaN"]} for row in found]
        return [row for row in finite if row["values"]]

    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    draw(dashboard, lambda text: filled(text, instance), ranged, file)


if __name__ == "__main__":
    main()

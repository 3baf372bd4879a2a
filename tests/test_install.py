"""deploy/install.sh from end to end, in a mount namespace of its own: what it writes to (/etc, /opt, ...) are copies.

pip, useradd and systemd are stand-ins that note how they are called; that of systemd reads the unit in which the config
is tried, and does with secrets what systemd does; `onelook check` is the real one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onelook.gallery import Gallery

REPOSITORY = Path(__file__).resolve().parent.parent
UNSHARE = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
STREAM = "device: hall\nstreams:\n  - name: door\n    url: {url}\n"
COMMANDS = "mqtt:\n  commands: [ping]\n"

INSIDE = """
set -eu
umask "$1"
for place in etc opt run var/lib usr/local/bin usr/local/sbin; do mount --bind "$2/$place" "/$place"; done
shift 2
exec sh "$@"
"""
PYTHON = """#!/bin/sh
[ "$1 $2" != "-m pip" ] || printf '%s\\n' "$@" >> "$NOTES/pip"
case "$1 $2" in
  "-m venv")
    for folder; do :; done
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    cp "$NOTES/onelook" "$folder/bin/onelook" ;;
esac
"""
SYSTEMD = """
import json, os, shlex, sys
from pathlib import Path
notes = Path(os.environ["NOTES"])
unit = Path("/run/systemd/system/onelook-check.service")
files = [unit, *sorted(Path(f"{unit}.d").iterdir())]
print(json.dumps([file.stat().st_mode & 0o777 for file in files]), file=(notes / "modes").open("w"))
settings = {}
for line in "\\n".join(file.read_text() for file in files).replace("\\\\\\n", " ").splitlines():
    key, _, value = (word.strip() for word in line.partition("="))
    if line[:1] not in ("", "#", "["):
        settings[key] = [*settings.get(key, []), value] if value else []
print(json.dumps(settings), file=(notes / "trial").open("w"))
given, loaded = {}, {}
words = shlex.split(" ".join(settings.get("Environment", [])))
for name in settings["EnvironmentFile"]:
    file = Path(name.removeprefix("-"))
    if name.startswith("/") or file.exists():
        words += [word for line in file.read_text().splitlines() for word in shlex.split(line)]
given |= dict(word.split("=", 1) for word in words)
for key in ("LoadCredential", *["LoadCredentialEncrypted"][:int(sys.argv[1]) >= 250]):
    loaded |= dict(each.split(":", 1) for each in settings.get(key, []))
default = dict(each.split(":", 1) for each in settings["SetCredential"])
folder = notes / "credentials"
folder.mkdir(exist_ok=True)
given["CREDENTIALS_DIRECTORY"] = str(folder)
for key in loaded | default:
    if (file := Path(loaded.get(key, "/none"))).exists():
        (folder / key).write_bytes(file.read_bytes())
    elif key in default:
        (folder / key).write_text(default[key].encode().decode("unicode_escape"))
    else:
        sys.exit(243)
for number, key in ((1, "StandardOutput"), (2, "StandardError")):
    os.dup2(os.open(settings[key][-1].removeprefix("file:"), os.O_CREAT | os.O_WRONLY), number)
(command,) = settings["ExecStart"]
program, *_ = arguments = shlex.split(command)
os.execve(program, arguments, {"PATH": "/usr/bin:/bin", "NOTES": str(notes)} | given)
"""


class Machine:
    """A machine on which install.sh may do what it likes."""

    def __init__(self, place: Path, *, systemd: int = 252, booted: bool = True) -> None:
        self.place, self.notes = place / "machine", place / "notes"
        for folder in ("opt", "run", "var/lib", "usr/local/bin", "usr/local/sbin"):
            (self.place / folder).mkdir(parents=True)
        subprocess.run(["cp", "-a", "/etc", self.place / "etc"], capture_output=True, check=False)  # what may be read
        for python in Path("/usr/local/bin").glob("python*"):
            shutil.copy(python, self.place / "usr/local/bin", follow_symlinks=False)
        self.notes.mkdir()
        self.bin = place / "bin"
        self.bin.mkdir()
        for name in ("useradd", "usermod", "userdel", "groupdel", "apt-get", "journalctl"):
            self.stand_in(name, f'echo "$@" >> "$NOTES/{name}"\n')
        # Of the same number as root, which is all that a namespace knows.
        with (self.place / "etc/passwd").open("a") as users, (self.place / "etc/group").open("a") as groups:
            users.write("onelook:x:0:0::/var/lib/onelook:/usr/sbin/nologin\n")
            groups.write("onelook:x:0:\n")
        self.stand_in("setpriv", 'echo "$@" >> "$NOTES/setpriv"\nshift 3\nexec "$@"\n')
        self.stand_in("systemctl", f"""echo "$@" >> "$NOTES/systemctl"
case "$*" in
  --version) echo "systemd {systemd} (stand-in)" ;;
  *ActiveState*) echo active ;;
  *StatusText*) echo "0 of 1 streams are up" ;;
  *ExecMainStatus*) cat "$NOTES/status" ;;
  is-enabled*) cat "$NOTES/enabled" ;;
  try-restart*) [ ! -s "$NOTES/failed" ] ;;
  list-units*--state=failed*) cat "$NOTES/failed" ;;
  start*) {sys.executable} "$NOTES/systemd.py" {systemd} || {{ echo $? > "$NOTES/status"; exit 1; }} ;;
esac
""")
        (self.notes / "enabled").write_text("enabled\n")
        (self.notes / "failed").touch()
        self.stand_in("systemd-creds", 'for last; do :; done\ncp "$3" "$last"\n')
        (self.notes / "systemd.py").write_text(SYSTEMD)
        self.stand_in("python3.13", PYTHON.removeprefix("#!/bin/sh\n"))
        onelook = self.notes / "onelook"
        onelook.write_text(
            f'#!/bin/sh\nPYTHONPATH={REPOSITORY / "daemon"} exec {sys.executable} -m onelook "$@"\n')
        onelook.chmod(0o755)
        if booted:
            (self.place / "run/systemd/system").mkdir(parents=True)

    def stand_in(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}")
        (self.bin / name).chmod(0o755)

    def config(self, text: str) -> None:
        folder = self.place / "etc/onelook"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(text)

    def install(self, *options: str | Path, umask: str = "022") -> subprocess.CompletedProcess[str]:
        return self.run("install.sh", *options, umask=umask)

    def run(
        self, script: str, *options: str | Path, umask: str = "022", path: str = os.environ["PATH"]
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.bin}:{path}", "NOTES": str(self.notes), "HOME": "/nowhere"}
        command = [*UNSHARE, "sh", "-c", INSIDE, "sh", umask, self.place,
                   REPOSITORY / "deploy" / script, *options]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=180, check=False,
                              env=environment, cwd=REPOSITORY)

    def noted(self, name: str) -> str:
        file = self.notes / name
        return file.read_text() if file.exists() else ""


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (Debian: util-linux)")
    if subprocess.run([*UNSHARE, "mount", "--bind", "/opt", "/opt"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("another lock file, and Debian's packages")
    if any(path.startswith(("/opt/", "/run/", "/var/lib/")) for path in (sys.base_prefix, str(REPOSITORY))):
        pytest.skip("Python or this tree lies where the copies do")
    return tmp_path_factory.mktemp("machine")


@pytest.fixture
def machine(place: Path) -> Machine:
    return Machine(place)


def test_it_installs_and_starts(machine: Machine) -> None:
    done = machine.install()

    assert done.returncode == 0, done.stderr
    assert "the service is ready" in done.stdout
    assert "onelook@" not in done.stderr
    assert (machine.place / "opt/onelook").is_symlink()
    assert "restart onelook.service" in machine.noted("systemctl")
    assert not Path("/opt/onelook.d").exists()


@pytest.mark.parametrize("booted", [True, False])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing is changed: this was a dry run"),
        (["--no-start"], "nothing is changed: this was a dry run"),
        (["--uninstall"], "nothing is removed: this was a dry run"),
        (["--uninstall", "--purge"], "nothing is removed: this was a dry run"),
    ],
)
def test_a_dry_run_does_nothing_and_says_so(place: Path, options: list[str], said: str, *, booted: bool) -> None:
    machine = Machine(place, booted=booted)

    done = machine.install("--dry-run", *options)

    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[-1] == f"onelook: {said}"
    assert [line for line in told if "installed" in line or "gone" in line or "removed;" in line] == []
    assert list((machine.place / "opt").iterdir()) == []


def test_a_folder_of_wheels_that_is_not_there_is_told(machine: Machine) -> None:
    done = machine.install("--wheels", "/nope")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "onelook: there is no folder /nope to read wheels from\n"


def test_wheels_may_lie_in_a_folder_whose_name_has_spaces(machine: Machine, tmp_path: Path) -> None:
    stick = tmp_path / "USB STICK"
    stick.mkdir()

    done = machine.install("--wheels", stick)

    assert done.returncode == 0, done.stderr
    arguments = machine.noted("pip").splitlines()
    assert arguments.count(f"--find-links={stick}") == 2  # what runs, and what builds
    assert arguments.count("--no-index") == 4


def test_a_config_is_tried_with_the_variables_of_the_service(machine: Machine) -> None:
    machine.config(STREAM.format(url="rtsp://me:${DOOR_PASSWORD}@192.0.2.1/"))
    (machine.place / "etc/onelook/environment").write_text("DOOR_PASSWORD=opensesame\n")

    done = machine.install()

    assert done.returncode == 0, done.stderr
    assert "the service is ready" in done.stdout
    trial = json.loads(machine.noted("trial"))
    assert (trial["User"], trial["Type"][-1], trial["Restart"][-1]) == (["onelook"], "oneshot", "no")
    assert "opensesame" not in machine.noted("systemctl") + done.stdout + done.stderr
    assert list((machine.place / "run/systemd/system").iterdir()) == []


@pytest.mark.parametrize("systemd", [249, 252])
def test_a_config_is_tried_with_the_credentials_of_the_service(place: Path, tmp_path: Path, systemd: int) -> None:
    machine = Machine(place, systemd=systemd)
    machine.config(STREAM.format(url="rtsp://192.0.2.1/") + COMMANDS)
    word = tmp_path / "word"
    word.write_text("opensesame\n")

    done = machine.install("--mqtt-password-file", word)

    assert done.returncode == 0, done.stderr
    assert "opensesame" not in machine.noted("systemctl")


@pytest.mark.parametrize("lines", [
    'Environment="DOOR_PASSWORD=open sesame"\nEnvironmentFile=/etc/door',
    "Environment='DOOR_PASSWORD=open sesame'\nEnvironmentFile=/etc/door",
    'Environment = DOOR_USER=me "DOOR_PASSWORD=open sesame" OTHER=1',
    "Environment=DOOR_USER=me \\\n 'DOOR_PASSWORD=open sesame'",
    "EnvironmentFile=\nEnvironmentFile = /etc/all",
])
def test_a_config_is_tried_with_what_the_owners_drop_ins_add(machine: Machine, lines: str) -> None:
    machine.config(STREAM.format(url="rtsp://${DOOR_USER}:${DOOR_PASSWORD}@192.0.2.1/"))
    folder = machine.place / "etc/systemd/system/onelook.service.d"
    folder.mkdir(parents=True)
    before = "ExecStartPre=/bin/false\nType=exec\nRestart=always\nMemoryMax=2G\n"
    (folder / "override.conf").write_text(f"[Unit]\nOnFailure=mail.service\n[Service]\n{before}{lines}\n")
    (machine.place / "etc/door").write_text("DOOR_USER=me\n")
    (machine.place / "etc/all").write_text("DOOR_USER=me\nDOOR_PASSWORD='open sesame'\n")

    done = machine.install()

    assert done.returncode == 0, done.stderr
    trial = json.loads(machine.noted("trial"))
    assert len(trial["ExecStart"]) == 1
    assert trial["ExecStartPre"] == []
    assert "OnFailure" not in trial
    assert set(json.loads(machine.noted("modes"))) == {0o600}
    assert "sesame" not in machine.noted("systemctl")


def test_what_root_keeps_for_itself_does_not_keep_the_service_from_its_program(machine: Machine) -> None:
    done = machine.install(umask="077")

    assert done.returncode == 0, done.stderr
    (release,) = (machine.place / "opt/onelook.d").iterdir()
    assert (release / "bin").stat().st_mode & 0o777 == 0o755
    assert (release / "README.md").stat().st_mode & 0o777 == 0o644


def test_it_finds_its_tools_after_su_and_no_python_that_the_service_could_not_see(machine: Machine) -> None:
    (machine.bin / "usermod").rename(machine.place / "usr/local/sbin/usermod")
    (machine.bin / "python3.13").rename(machine.bin / "python3.12")
    machine.stand_in("python3.13", f'''exec "{sys.executable}" "$1" "import sys; sys.base_prefix = '/home/me/conda'
$2"\n''')

    done = machine.run("install.sh", path="/usr/local/bin:/usr/bin:/bin")

    assert done.returncode == 0, done.stderr
    assert "onelook" in machine.noted("usermod")
    assert f"with {machine.bin}/python3.12 in " in done.stdout


def test_an_upgrade_does_not_enable_a_service_that_its_owner_disabled(machine: Machine) -> None:
    assert machine.install().returncode == 0
    assert "enable --quiet onelook.service" in machine.noted("systemctl")
    (machine.notes / "enabled").write_text("disabled\n")
    (machine.notes / "systemctl").unlink()

    done = machine.install()

    assert done.returncode == 0, done.stderr
    assert "installed, not started, as it was disabled before: systemctl enable --now onelook" in done.stdout
    told = machine.noted("systemctl").splitlines()
    assert [line for line in told if line.endswith("onelook.service") and line.startswith(("enable", "restart"))] == []


def test_instances_that_run_leave_the_release_that_goes_and_those_that_cannot_are_named(machine: Machine) -> None:
    machine.config(STREAM.format(url="rtsp://192.0.2.1/"))
    old = machine.place / "opt/onelook.d/0.0.1-before"
    old.mkdir(parents=True)
    (machine.notes / "failed").write_text("onelook@yard-2.service loaded failed failed onelook yard-2: faces\n")

    done = machine.install()

    assert done.returncode == 0, done.stderr
    assert "try-restart onelook@*.service" in machine.noted("systemctl")
    assert not old.exists()
    assert "onelook@yard-2 is down: journalctl -u onelook@yard-2 says why." in done.stderr
    assert "onelook gallery migrate --config /etc/onelook/yard-2.yaml FOLDER" in done.stderr


def test_a_release_that_still_runs_stays(machine: Machine) -> None:
    machine.config(STREAM.format(url="rtsp://192.0.2.1/"))
    old, running = (machine.place / "opt/onelook.d" / name for name in ("0.0.1-before", "0.0.2-runs"))
    old.mkdir(parents=True)
    running.mkdir()

    with subprocess.Popen(["/opt/onelook.d/0.0.2-runs/bin/python", "60"], executable="/bin/sleep") as service:
        try:
            done = machine.install("--no-start")
        finally:
            service.kill()

    assert done.returncode == 0, done.stderr
    assert "installed, not started" in done.stdout
    assert running.exists()
    assert not old.exists()


def test_a_mistake_in_the_config_is_told_and_all_is_taken_back(machine: Machine) -> None:
    machine.config(STREAM.format(url="rtsp://me:${DOOR_PASSWORD}@192.0.2.1/"))

    done = machine.install()

    assert done.returncode == 1
    assert "DOOR_PASSWORD, which is not set" in done.stderr
    assert "mend /etc/onelook/config.yaml and run this again; nothing is changed" in done.stderr
    assert list((machine.place / "opt").iterdir()) == []
    assert not (machine.place / "var/lib/onelook").exists()
    assert list((machine.place / "run/systemd/system").iterdir()) == []
    assert "restart" not in machine.noted("systemctl")


def test_what_can_migrate_the_gallery_of_another_network_stays(machine: Machine) -> None:
    """The command of before has the network of before: by it alone no owner could ever upgrade."""
    state = machine.place / "var/lib/onelook"
    with Gallery.open(state / "gallery.db", state / "gallery.key", "0" * 64) as gallery:
        gallery.add("Ann Lee", np.ones(4, np.float32), 1.0, "ann.jpg")
    machine.config(STREAM.format(url="rtsp://192.0.2.1/"))

    done = machine.install()

    assert done.returncode == 1
    (release,) = (machine.place / "opt/onelook.d").iterdir()
    assert (release / "complete").exists()
    assert "holds templates of another model" in done.stderr
    command = f"/opt/onelook.d/{release.name}/bin/onelook gallery migrate --config /etc/onelook/config.yaml FOLDER"
    assert command in done.stderr
    assert not (machine.place / "opt/onelook").exists()
    assert "restart" not in machine.noted("systemctl")


def test_that_the_config_could_not_be_tried_is_not_told_as_a_mistake_in_it(machine: Machine) -> None:
    machine.config(STREAM.format(url="rtsp://192.0.2.1/"))
    (machine.notes / "systemd.py").write_text("exit(243)")  # systemd's own: a credential it cannot decrypt

    done = machine.install()

    assert done.returncode == 1
    assert "could not be tried (exit status 243" in done.stderr
    assert "mend" not in done.stderr
    assert list((machine.place / "opt").iterdir()) == []


def test_where_systemd_does_not_run_the_config_is_tried_as_the_services_user(place: Path) -> None:
    machine = Machine(place, booted=False)
    machine.config(STREAM.format(url="rtsp://192.0.2.1/"))

    done = machine.install()

    assert done.returncode == 0, done.stderr
    assert "installed, not started" in done.stdout
    assert "--reuid=onelook" in machine.noted("setpriv")
    assert machine.noted("trial") == ""


@pytest.mark.parametrize("again", [True, False])
def test_to_purge_the_package_takes_nothing_from_an_installation_that_came_after_it(
    machine: Machine, *, again: bool
) -> None:
    kept = [machine.place / name for name in (
        "var/lib/onelook/gallery.db", "etc/onelook/environment", "etc/credstore/onelook.gallery-key",
        "etc/systemd/system/onelook.service.d/mine.conf",
    )]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    if again:
        (machine.place / "opt/onelook").symlink_to("/opt/onelook.d/0.1.0-later")

    done = machine.run("debian/postrm", "purge")

    assert done.returncode == 0, done.stderr
    assert [file.exists() for file in kept] == [again] * len(kept)
    assert ("onelook" in machine.noted("userdel")) != again


def test_the_config_is_no_more_a_packages_that_was_removed(machine: Machine) -> None:
    """To purge that later would delete it: dpkg does so itself, before it asks any script."""
    machine.config(STREAM.format(url="rtsp://192.0.2.1/"))
    info = machine.place / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    shutil.copy(REPOSITORY / "deploy/debian/postrm", info / "onelook.postrm")
    machine.stand_in("dpkg-query", "printf 'deinstall ok config-files'\n")
    machine.stand_in("dpkg", 'echo "$@" >> "$NOTES/dpkg"\nrm /etc/onelook/config.yaml\n')

    done = machine.install()

    assert done.returncode == 0, done.stderr
    assert machine.noted("dpkg") == "--purge onelook\n"
    assert [file.name for file in (machine.place / "etc/onelook").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("there", [True, False])
def test_the_package_is_configured_whether_or_not_its_config_is_there(machine: Machine, *, there: bool) -> None:
    (machine.place / "etc/onelook").mkdir()
    config = machine.place / "etc/onelook/config.yaml"
    if there:
        machine.config("streams: []\n")
        config.chmod(0o644)

    done = machine.run("debian/postinst", "configure", "")

    assert done.returncode == 0, done.stderr
    assert config.exists() == there
    assert not there or config.stat().st_mode & 0o777 == 0o640

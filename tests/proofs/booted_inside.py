"""What booted.sh proves, from inside the booted tree: inside.py SECONDS [--slow TIMES], at most so long.

Python's library alone; ends at the first thing that fails. On an emulated machine everything takes TIMES as long.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

BEGAN = time.monotonic()
parser = argparse.ArgumentParser()
parser.add_argument("seconds", type=int)
parser.add_argument("--slow", type=int, default=1)
arguments = parser.parse_args()
SLOW: int = arguments.slow
PROOF = Path("/proof")
CONFIG = Path("/etc/onelook/config.yaml")
WORD = PROOF / "word"
STATE = Path("/var/lib/onelook")
DROP_IN = Path("/run/systemd/system/onelook.service.d")
LINK = Path("/opt/onelook")
SYSTEMD = int(re.match(r"systemd (\d+)", subprocess.run(
    ["systemctl", "--version"], capture_output=True, text=True, check=True).stdout)[1])
STORES = tuple(map(Path, ("/etc/credstore", "/etc/credstore.encrypted") if SYSTEMD >= 250 else ("/etc/credstore",)))
"""Where credentials lie: plain, and encrypted where systemd can."""
STORED = STORES[-1] / "onelook.mqtt-password"
"""Where install.sh keeps the broker's password."""
STREAM = f"""
device: hall
streams:
  - name: door
    url: http://127.0.0.1:8080/
    read_timeout: {2 * SLOW}
    retry_max: 2
""" + ("model: {input_width: 320, input_height: 256, threads: 1}\n" if SLOW > 1 else "")
"""With a network that an emulated processor, too, can run more than once a second."""
YARD = STREAM.replace("hall", "yard") + "metrics:\n  port: 9465\nmqtt:\n  outbox: /var/lib/onelook/yard/outbox.db\n"
"""That of a second instance."""
HANG = """
import sys
from pathlib import Path
from onelook import capture
take = capture.LatestFrames.take
def hangs(self, timeout):
    while Path("/run/onelook-hangs").exists():
        pass  # the loop stands still, with the interpreter's lock in use: no signal of a polite kind helps
    return take(self, timeout)
capture.LatestFrames.take = hangs
from onelook.__main__ import main
sys.exit(main())
"""


def run(*command: str, ok: bool = True, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment | {
        "DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    if ok and done.returncode:
        sys.exit(f"FAILED: {' '.join(command)}\n{done.stdout}{done.stderr}\n{journal()}")
    return done.stdout + done.stderr


def restart(*, ok: bool = True) -> None:
    """As somebody who waits between two tries: newer ones of systemd count these against StartLimitBurst as well."""
    run("systemctl", "reset-failed", "onelook", ok=False)
    run("systemctl", "restart", "onelook", ok=ok)


def journal() -> str:
    return run("journalctl", "--unit=onelook", "--no-pager", "--lines=60", ok=False)


def show(name: str, unit: str = "onelook.service") -> str:
    return run("systemctl", "show", f"--property={name}", "--value", unit).strip()


def page(path: str, port: int = 9464) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5 * SLOW) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def metric(line: str) -> float:
    for text in page("/metrics")[1].splitlines():
        if text.startswith(line + " "):
            return float(text.rpartition(" ")[2])
    return float("nan")


def until(true: Callable[[], object], what: str, seconds: float) -> float:
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds * SLOW:
            sys.exit(f"FAILED: not within {seconds * SLOW} s: {what}\n{journal()}")
        time.sleep(0.1)
    return time.monotonic() - began


def held(what: str) -> None:
    print(f"held, {time.monotonic() - BEGAN:.0f} s: {what}", flush=True)


def expect(true: object, what: str) -> None:
    if not true:
        sys.exit(f"FAILED: {what}\n{journal()}")
    held(what)


def start(name: str, *command: str) -> None:
    def gone() -> bool:  # an earlier one of that name is collected a moment after it has ended
        return show("LoadState", f"{name}.service") == "not-found"

    until(gone, f"{name} to be gone", 30)
    run("systemd-run", f"--unit={name}", "--collect", *command)


def camera() -> None:
    start("camera", "/usr/bin/python3", "/proof/mjpeg_camera.py", "8080", "/proof/eileen_collins.jpg")


def main() -> None:
    system = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    print(f"{system['PRETTY_NAME'].strip(chr(34))} on {platform.machine()}, systemd {SYSTEMD}, Python "
          f"{sys.version.split()[0]}, no network", flush=True)
    if (PROOF / "source").exists():
        from_source()
    run("dpkg", "--install", "/proof/onelook.deb")
    expect(show("ActiveState") == "active" and show("Type") == "notify",
           "installed from the .deb it starts and is ready")
    expect(show("UnitFileState") == "enabled", "it is enabled at boot")
    expect(show("User") == "onelook" and page("/healthz")[0] == 200, "it runs as its own user, and /healthz says 200")
    expect(page("/readyz")[0] == 503, "with no camera /readyz says 503, and the service stays")
    expect(run("dpkg", "--verify", "onelook").strip() in ("", "??5??????   /etc/onelook/config.yaml"), "dpkg --verify")
    expect(run("onelook", "--version").startswith("onelook "), "the command is on the path")
    exposure = run("systemd-analyze", "security", "--no-pager", "onelook.service", ok=False).splitlines()[-1]
    expect(float(re.findall(r"\d+\.\d", exposure)[-1]) <= 2.0, exposure.strip("→ "))

    CONFIG.write_text(STREAM)
    restart()
    held("with its camera not yet there it is ready all the same")
    camera()
    until(lambda: metric('onelook_frames_total{stream="door"}') > 5, "frames", 60)
    until(lambda: metric("onelook_outbox_messages") >= 1, "events in the outbox", 20)
    expect(page("/readyz")[0] == 200 and metric("onelook_mqtt_connected") == 0,
           "with no broker since boot it watches, and events wait in the outbox")
    run("systemctl", "start", "mosquitto")
    until(lambda: metric("onelook_mqtt_connected") == 1 and metric("onelook_outbox_messages") == 0, "the broker", 60)
    state = run("mosquitto_sub", "-h", "127.0.0.1", "-t", "onelook/hall/status", "-C", "1", "-W", str(10 * SLOW))
    expect(json.loads(state)["data"]["state"] == "online", "the broker comes, and the outbox is emptied into it")

    for round_ in (1, 2):
        run("systemctl", "stop", "camera")
        until(lambda: metric('onelook_stream_up{stream="door"}') == 0, "the stream to be down", 20)
        frames = metric('onelook_frames_total{stream="door"}')
        camera()
        seconds = until(lambda: metric('onelook_frames_total{stream="door"}') > frames + 3, "frames again", 20)  # noqa: B023
        held(f"camera unplugged and back, {round_}: frames again after {seconds:.1f} s")

    restarts = int(show("NRestarts"))
    whom = "--kill-whom" if SYSTEMD >= 252 else "--kill-who"
    run("systemctl", "kill", "--signal=KILL", f"{whom}=main", "onelook")
    seconds = until(lambda: int(show("NRestarts")) == restarts + 1 and page("/readyz")[0] == 200, "ready again", 60)
    held(f"after SIGKILL it is started again; ready after {seconds:.1f} s")

    doctor()
    watchdog()
    mistakes()
    secrets()
    key()
    instances()
    replay()
    upgrade()
    purge()
    print("all of it held")


def doctor() -> None:
    """As the service's user, beside the service."""
    said = run("runuser", "-u", "onelook", "--", "onelook", "doctor", "--quick", "--json", "--config", str(CONFIG))
    found = {row["check"]: f"{row['state']}: {row['message']}" for row in json.loads(said.splitlines()[0])["findings"]}
    wanted = ("runtime", "codecs", "camera door", "broker", f"disk {STATE}")
    if not all(found.get(name, "").startswith("ok: ") for name in wanted):
        sys.exit(f"FAILED: onelook doctor\n{said}")
    for name, message in found.items():
        held(f"onelook doctor: {name} {message}")


def replay() -> None:
    """The test clip gives the same events as on the machine that made this one."""
    run("systemctl", "stop", "onelook")
    run("sh", "-c", "onelook replay /proof/clip/ > /proof/there.jsonl")
    said = run("python3", "/proof/same-events.py", "/proof/here.jsonl", "/proof/there.jsonl")
    held(f"replay of the test clip: {said.strip()}")
    restart()


def watchdog() -> None:
    """The loop hangs: by a drop-in that starts it through a hook, with a shorter watchdog to save time."""
    hook = Path("/usr/local/lib/hang.py")
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(HANG)
    DROP_IN.mkdir(parents=True, exist_ok=True)
    (DROP_IN / "hang.conf").write_text(
        f"[Service]\nWatchdogSec={4 * SLOW}\nExecStart=\n"
        f"ExecStart=/usr/lib/onelook/bin/python {hook} run --config {CONFIG}\n")
    run("systemctl", "daemon-reload")
    restart()
    until(lambda: page("/readyz")[0] == 200, "ready with the hook", 30)
    time.sleep(6 * SLOW)
    expect(int(show("NRestarts")) == 0 and show("ActiveState") == "active",
           "the watchdog is fed for longer than it waits")
    first = show("MainPID")
    Path("/run/onelook-hangs").touch()
    until(lambda: show("MainPID") not in (first, "0"), "the watchdog to kill it and a new one to start", 30)
    Path("/run/onelook-hangs").unlink()
    until(lambda: page("/readyz")[0] == 200, "ready after the hang", 60)
    log = run("journalctl", "--unit=onelook", "--no-pager", ok=False)
    expect("Watchdog timeout" in log, "a hung loop is killed by the watchdog, and started again")
    shutil.rmtree(DROP_IN)
    run("systemctl", "daemon-reload")
    restart()


def mistakes() -> None:
    good = CONFIG.read_text()
    CONFIG.write_text(good + "nonsense: 1\n")
    restart(ok=False)
    time.sleep(4)
    expect(show("ActiveState") == "failed" and show("ExecMainStatus") == "78" and show("NRestarts") == "0",
           "a mistake in the config ends it with 78, once")
    records = run("journalctl", "--unit=onelook", "--priority=err", "--output=cat", "--no-pager", "--lines=5")
    expect("nonsense" in records, "and stands in the journal as an error")
    CONFIG.write_text(good)
    restart()


def keep(store: Path, name: str, word: str, unit: str = "onelook") -> Path:
    """A credential of that name for a unit, as the README says."""
    file = store / f"{unit}.{name}"
    store.mkdir(mode=0o700, exist_ok=True)
    WORD.write_text(word)
    if store == STORES[0]:
        run("install", "-m", "600", str(WORD), str(file))
    else:
        run("systemd-creds", "encrypt", f"--name={name}", str(WORD), str(file))
        expect(word.strip().encode() not in file.read_bytes(), f"{file} is encrypted")
    return file


def secrets() -> None:
    """A password as a credential, plain or encrypted where systemd can, reaches a broker that asks for one."""
    run("mosquitto_passwd", "-b", "-c", "/etc/mosquitto/words", "hall", "opensesame")
    run("mosquitto_passwd", "-b", "/etc/mosquitto/words", "yard", "opensesame")
    shutil.chown("/etc/mosquitto/words", "mosquitto")
    Path("/etc/mosquitto/mosquitto.conf").write_text(
        "per_listener_settings true\nlistener 1884 127.0.0.1\nallow_anonymous false\n"
        "password_file /etc/mosquitto/words\nlistener 1883 127.0.0.1\nallow_anonymous true\n")
    run("systemctl", "restart", "mosquitto")
    CONFIG.write_text(STREAM + "mqtt:\n  port: 1884\n  username: hall\n")

    def let_in(what: str) -> None:
        restart()
        until(lambda: metric("onelook_mqtt_connected") == 1, f"the connection with {what}", 20)
        held(f"{what} gives the broker's password")

    for store in STORES:
        file = keep(store, "mqtt-password", "opensesame\n")
        let_in(f"a credential in {store}")
        file.unlink()
    if len(STORES) > 1:
        files = [keep(store, "mqtt-password", word)
                 for store, word in zip(STORES, ("of yesterday\n", "opensesame\n"), strict=True)]
        let_in("of a plain and an encrypted one, the encrypted")
        for file in files:
            file.unlink()
    DROP_IN.mkdir(parents=True, exist_ok=True)
    (DROP_IN / "password.conf").write_text(f"[Service]\nLoadCredential=mqtt-password:{WORD}\n")
    WORD.write_text("opensesame\n")
    run("systemctl", "daemon-reload")
    let_in("a file that a drop-in names")
    shutil.rmtree(DROP_IN)
    run("systemctl", "daemon-reload")
    restart()
    time.sleep(2 * SLOW)
    expect(show("ActiveState") == "active" and metric("onelook_mqtt_connected") == 0,
           "with none it starts all the same")
    environment = Path("/etc/onelook/environment")
    environment.write_text("ONELOOK_MQTT_PASSWORD=opensesame\n")
    let_in("a variable of /etc/onelook/environment")
    said = run("systemd-run", "--quiet", "--wait", "--pipe", f"--property=EnvironmentFile={environment}",
               "onelook", "doctor", "--quick", "--json", ok=False)
    expect("127.0.0.1:1884 lets us in" in said, "and onelook doctor, by systemd-run")
    environment.unlink()
    expect("opensesame" not in run("journalctl", "--no-pager"), "which the journal never shows")
    CONFIG.write_text(STREAM)
    restart()


def key() -> None:
    """The gallery's key as a credential."""
    said = run("onelook", "enroll", "Eileen Collins", "/proof/eileen_collins.jpg").splitlines()[0]
    expect("Eileen" in run("onelook", "gallery", "list"), f"a person is enrolled ({said})")
    own = STATE / "gallery.key"
    word = own.read_text()
    own.rename(PROOF / "gallery.key")
    restart(ok=False)
    expect(show("ExecMainStatus") == "78" and show("ActiveState") == "failed",
           "without the gallery's key it does not run")
    for store in STORES:
        file = keep(store, "gallery-key", word)
        restart()
        expect(show("ActiveState") == "active" and not own.exists(), f"a credential in {store} gives the gallery's key")
        load = "LoadCredential" if store == STORES[0] else "LoadCredentialEncrypted"
        said = run("systemd-run", "--quiet", "--wait", "--pipe", f"--property={load}=gallery-key:{file}",
                   "onelook", "gallery", "list")
        expect("Eileen" in said, "and onelook gallery, by systemd-run")
        file.unlink()
    shutil.move(PROOF / "gallery.key", own)
    restart()


def instances() -> None:
    yard = Path("/etc/onelook/yard.yaml")
    yard.write_text(YARD)
    run("systemctl", "start", "onelook@yard")
    expect(run("systemctl", "is-active", "onelook", "onelook@yard").split() == ["active", "active"],
           "a second instance runs beside the first")
    yard.write_text(YARD + "  port: 1884\n")
    for store in STORES:
        file = keep(store, "mqtt-password", "opensesame\n", "onelook.yard")
        run("systemctl", "restart", "onelook@yard")
        until(lambda: "connected 1" in page("/metrics", 9465)[1], f"the second instance's connection by {store}", 20)
        held(f"with its own password in {store}")
        file.unlink()


def upgrade() -> None:
    before = CONFIG.read_text()
    pid, yard = show("MainPID"), show("MainPID", "onelook@yard")
    run("dpkg", "--force-confdef", "--force-confold", "--install", "/proof/next.deb")
    expect(CONFIG.read_text() == before, "an upgrade keeps the owner's config")
    expect("a remark" in Path("/etc/onelook/config.yaml.dpkg-dist").read_text(), "and lays the new default beside it")
    expect("Eileen" in run("onelook", "gallery", "list"), "and keeps the gallery")
    expect(show("ActiveState") == "active" and show("MainPID") != pid, "and the new version runs")
    expect(show("ActiveState", "onelook@yard") == "active" and show("MainPID", "onelook@yard") != yard,
           "as the second instance does")
    until(lambda: page("/readyz")[0] == 200, "ready after the upgrade", 60)


def purge() -> None:
    run("dpkg", "--remove", "onelook")
    expect(CONFIG.exists() and (STATE / "gallery.db").exists(), "removed, it leaves config and gallery")
    expect(page("/healthz")[0] == page("/healthz", 9465)[0] == 0 and show("MainPID", "onelook@yard") == "0",
           "and nothing runs")
    run("dpkg", "--purge", "onelook")
    left = run("find", "/", "-xdev", "(", "-path", "/proof", "-o", "-path", "/proc", "-o", "-path", "/sys", "-o",
               "-path", "/run/systemd", "-o", "-path", "/var/log", ")", "-prune", "-o", "-iname", "*onelook*", "-print")
    expect(left.strip() == "", "purged, nothing of that name is left on the disk")
    expect("onelook" not in Path("/etc/passwd").read_text() + Path("/etc/group").read_text(), "nor its user")


def from_source() -> None:
    """deploy/install.sh, with wheels from a folder."""
    script, wheels = "/proof/source/deploy/install.sh", "/proof/wheels"
    plan = run("sh", script, "--dry-run", "--wheels", wheels)
    expect("would run: systemctl restart onelook.service" in plan and not Path("/opt/onelook").exists(),
           "install.sh --dry-run says what it would do, and does nothing")
    WORD.write_text("opensesame\n")
    said = run("sh", script, "--wheels", wheels, "--mqtt-password-file", str(WORD))
    expect("the service is ready" in said and show("ActiveState") == "active",
           "install.sh installs, and sees it ready")
    expect(STORED.stat().st_mode & 0o77 == 0 and STORED.stat().st_uid == 0,
           f"with the password as a credential that is root's: {STORED}")
    said = run("dpkg", "--install", "/proof/onelook.deb", ok=False)
    expect("sudo deploy/install.sh --uninstall" in said, "beside it the .deb is refused")

    CONFIG.write_text(STREAM.replace("http://", "http://me:${DOOR_PASSWORD}@"))
    said = run("sh", script, "--wheels", wheels, ok=False)
    expect("DOOR_PASSWORD, which is not set" in said and show("ActiveState") == "active",
           "an upgrade does not switch over where a mistake in the config is told, and what runs runs on")
    Path("/etc/onelook/environment").write_text("DOOR_PASSWORD=opensesame\n")
    Path("/etc/onelook/yard.yaml").write_text(YARD)
    run("systemctl", "enable", "--now", "onelook@yard")
    pid, yard = show("MainPID"), show("MainPID", "onelook@yard")
    said = run("sh", script, "--wheels", wheels)
    expect("is built already" in said and show("ActiveState") == "active" and show("MainPID") != pid,
           "and again, with a variable of /etc/onelook/environment")
    expect(show("ActiveState", "onelook@yard") == "active" and show("MainPID", "onelook@yard") not in ("0", yard),
           "a second instance that runs is started anew")

    Path("/etc/onelook/environment").unlink()
    own = Path("/etc/systemd/system/onelook.service.d/own.conf")
    own.parent.mkdir(exist_ok=True)
    own.write_text("[Service]\nEnvironment = OTHER=1 'DOOR_PASSWORD=open sesame'\n")
    run("systemctl", "disable", "onelook")
    pid = show("MainPID")
    said = run("sh", script, "--wheels", wheels)
    expect("as it was disabled before" in said and show("UnitFileState") == "disabled" and show("MainPID") == pid,
           "and again, with one that a drop-in holds; the service, which was disabled, stays so")
    expect(show("LoadState", "onelook-check.service") == "not-found", "and of the trial nothing is left")
    run("systemctl", "enable", "onelook")

    release = LINK.readlink()
    package = Path("/proof/source/daemon/onelook/service.py")
    whole = package.read_text()
    package.write_text(whole.replace('systemd.notify(f"READY=1', 'raise ValueError("a bad release")  # (f"READY=1'))
    # Nothing is compiled, to save time: it shall not start.
    said = run("sh", script, "--wheels", wheels, ok=False, PIP_NO_COMPILE="1")
    package.write_text(whole)
    expect("taking back" in said and LINK.readlink() == release,
           "a release that does not start is taken back")
    until(lambda: show("ActiveState") == "active" and page("/healthz")[0] == 200, "the earlier one to run again", 60)
    held("and the earlier one runs again")
    expect(len(list(Path("/opt/onelook.d").iterdir())) == 1, "and nothing of it is left")

    run("sh", script, "--uninstall")
    expect(not Path("/opt/onelook").is_symlink() and CONFIG.exists(), "--uninstall leaves config and state")
    expect(show("MainPID", "onelook@yard") == "0", "and nothing runs")
    run("sh", script, "--uninstall", "--purge")
    left = [p for p in ("/opt/onelook", "/opt/onelook.d", "/etc/onelook", STATE, "/usr/local/bin/onelook",
                        "/etc/systemd/system/onelook.service", "/etc/systemd/system/onelook.service.d", STORED)
            if Path(p).exists()]
    expect(left == [] and "onelook" not in Path("/etc/passwd").read_text(), "--uninstall --purge leaves nothing")


signal.alarm(arguments.seconds)  # everything is bounded; this is for a machine that is busy with other things
main()

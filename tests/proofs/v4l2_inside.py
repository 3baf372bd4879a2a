"""What v4l2.sh proves, from inside the booted machine. Python's library alone; ends at the first thing that fails."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

PROOF = Path("/proof")
CONFIG = Path("/etc/onelook/config.yaml")
HEARD = Path("/root/heard")
PYTHON = "/usr/lib/onelook/bin/python"
VIVID, LOOPBACK = "/dev/video0", "/dev/video9"
DRIVER = Path("/sys/bus/platform/drivers/vivid")
SMALL = "model: {input_width: 320, input_height: 256, threads: 1}\n"
"""A network that an emulated processor can run more than once a second."""
PLUGGED = f"""
device: hall
streams:
  - name: test
    url: {VIVID}
    fps: 1
    retry_max: 2
"""
FACES = f"  - name: door\n    url: {LOOPBACK}\n    fps: 5\n"


def run(*command: str, ok: bool = True, seconds: float = 300) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds, env=os.environ | {
        "DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    if ok and done.returncode:
        sys.exit(f"FAILED: {' '.join(command)}\n{done.stdout}{done.stderr}\n{journal()}")
    return done.stdout + done.stderr


def journal() -> str:
    return run("journalctl", "--unit=onelook", "--unit=camera", "--no-pager", "--lines=60", ok=False)


def page(path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:9464{path}", timeout=30) as answer:
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


def seen(stream: str) -> float:
    return metric(f'onelook_frames_total{{stream="{stream}"}}')


def until(true: Callable[[], object], what: str, seconds: float = 300) -> float:
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            sys.exit(f"FAILED: not within {seconds} s: {what}\n{journal()}")
        time.sleep(0.5)
    return time.monotonic() - began


def held(what: str) -> None:
    print(f"held: {what}", flush=True)


def expect(true: object, what: str, said: object = "") -> None:
    if not true:
        sys.exit(f"FAILED: {what}\n{said}\n{journal()}")
    held(what)


def doctor() -> dict[str, str]:
    """Each camera's finding, as the service's user gets it: state and message."""
    command = ["runuser", "-u", "onelook", "--", "onelook", "doctor", "--quick", "--json", "--config", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if "WARN" in done.stderr or not done.stdout.startswith("{"):  # OpenCV would speak there
        sys.exit(f"FAILED: doctor tells in its own words alone\n{done.stdout}{done.stderr}")
    return {row["check"].removeprefix("camera "): f"{row['state']}: {row['message']}"
            for row in json.loads(done.stdout)["findings"] if row["check"].startswith("camera ")}


def camera(fourcc: str) -> None:
    """v4l2loopback shows the clip in that pixel format."""
    run("systemctl", "stop", "camera", ok=False)
    run("systemd-run", "--unit=camera", "--collect", PYTHON, str(PROOF / "v4l2_camera.py"), LOOPBACK, fourcc)
    word = f"shows the clip in {fourcc}"
    until(lambda: word in run("journalctl", "--unit=camera", "--no-pager"), word)


def service(config: str) -> None:
    CONFIG.write_text(config + SMALL)
    run("systemctl", "restart", "onelook")


def main() -> None:
    print(f"Linux {platform.release()}, systemd {run('systemctl', '--version').split()[1]}, Python "
          f"{sys.version.split()[0]}, V4L2 from vivid and v4l2loopback", flush=True)
    run("modprobe", "vivid", "n_devs=1", "node_types=0x1", "num_inputs=1", "input_types=0")
    run("modprobe", "v4l2loopback", "video_nr=9", "exclusive_caps=1", "card_label=door")
    until(Path(VIVID).exists, VIVID)
    until(Path(LOOPBACK).exists, LOOPBACK)
    run("udevadm", "settle")
    told = run("v4l2-ctl", "--device", VIVID, "--all")
    expect("Driver name      : vivid" in told, f"v4l2-ctl --all: {VIVID} is of the kernel's driver vivid", told)
    pictures()
    watched()
    unplugged()
    print("all of it held", flush=True)


def pictures() -> None:
    """What the commands say and see of a camera, in every pixel format."""
    CONFIG.write_text(PLUGGED + SMALL)
    said = doctor()["test"]
    expect(re.match(r"ok: pictures of 640x480, \d+ a second", said), f"doctor as the service's user: {said}", said)
    said = run("runuser", "-u", "nobody", "--", "onelook", "replay", VIVID, ok=False)
    expect(f"{VIVID} may not be opened: the user must be in the group video" in said,
           "who is not in the group video is told so", said)
    holder = subprocess.Popen(["v4l2-ctl", "--device", VIVID, "--stream-mmap", "--stream-to=/dev/null"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(5)
    said = doctor()["test"]
    holder.kill()
    holder.wait()
    expect("another program holds it" in said, f"while another program reads it: {said}", said)

    for line in run(PYTHON, str(PROOF / "v4l2_camera.py"), LOOPBACK, seconds=900).splitlines():
        told = json.loads(line)
        if told["format"] == "GREY":
            right = all(max(colour) - min(colour) < 12 for colour in told["colours"])
        else:
            right = all(colour[place] > 190 and sorted(colour)[1] < 60 for place, colour in enumerate(told["colours"]))
        expect(told["driver"] and told["size"] == [640, 480] and right,
               f"{told['format']}: red, green and blue are {told['colours']}", line)

    camera("MJPG")
    lines = run("timeout", "--signal=INT", "100", "onelook", "replay", LOOPBACK, ok=False)
    kinds = sorted(set(re.findall(r'"type":"onelook\.(\w+)"', lines)))
    expect({"presence", "crowd", "attributes"} <= set(kinds),
           f"onelook replay {LOOPBACK}: events of {', '.join(kinds)}", lines)


def watched() -> None:
    """The service, within all that its unit forbids, with both cameras."""
    run("systemctl", "restart", "mosquitto")
    said = run("onelook", "demo", LOOPBACK, "--broker", "127.0.0.1", "--seconds", "60")
    expect("appeared" in said and "Annotated picture" in said,
           f"onelook demo {LOOPBACK}: {(re.search('.* frames; events: .*', said) or ['?'])[0]}", said)
    run("systemd-run", "--unit=listener", "--property=StandardOutput=append:/root/heard",
        "mosquitto_sub", "-h", "127.0.0.1", "-t", "onelook/#", "-v")
    said = run("onelook", "enroll", "Eileen Collins", str(PROOF / "eileen_collins.jpg"))
    expect("is enrolled" in said, f"a person is enrolled ({said.splitlines()[0]})", said)
    run("chown", "--recursive", "onelook:onelook", "/var/lib/onelook")
    camera("YUYV")
    service(PLUGGED + FACES + "report: {far: 0.01}\n")
    until(lambda: seen("test") > 3 and seen("door") > 10, "frames of both cameras")
    held(f"the service reads both: {seen('test'):.0f} and {seen('door'):.0f} frames so far")
    expect(page("/readyz")[0] == 200 and metric('onelook_stream_up{stream="test"}') == 1
           and metric('onelook_stream_up{stream="door"}') == 1, "/readyz says 200, and both streams are up")
    until(lambda: '"state":"known"' in HEARD.read_text(), "the enrolled to be known")
    [line, *_] = [line for line in HEARD.read_text().splitlines() if '"state":"known"' in line]
    topic, _, payload = line.partition(" ")
    expect(json.loads(payload)["data"]["name"] == "Eileen Collins",
           f"a face before a V4L2 camera is an event: {topic} {json.loads(payload)['data']['name']}", line)
    until(lambda: "onelook/hall/door/presence" in HEARD.read_text(), "somebody to be present")
    run("systemctl", "kill", "--signal=STOP", "camera")
    seconds = until(lambda: metric('onelook_stream_up{stream="door"}') == 0, "the stream to be down")
    held(f"a camera that hangs is missed after {seconds:.0f} s")
    before = seen("door")
    run("systemctl", "kill", "--signal=CONT", "camera")
    until(lambda: seen("door") > before + 2, "frames again")
    held("and is seen again when it goes on")
    run("systemctl", "stop", "camera")


def unplugged() -> None:
    """vivid's camera is taken away while it is read, and given back."""
    service(PLUGGED)
    until(lambda: seen("test") > 2, "frames")
    for round_ in (1, 2):
        HEARD.write_text("")
        (DRIVER / "unbind").write_text("vivid.0")
        until(lambda: metric('onelook_stream_up{stream="test"}') == 0, "the stream to be down")
        until(lambda: '"state":"offline"' in HEARD.read_text(), "it to be told")
        [line, *_] = [line for line in HEARD.read_text().splitlines() if '"state":"offline"' in line]
        reason = json.loads(line.partition(" ")[2])["data"]["reason"]
        expect(not Path(VIVID).exists() and page("/healthz")[0] == 200, f"unplugged, {round_}: {reason}", reason)
        before = seen("test")
        (DRIVER / "bind").write_text("vivid.0")
        seconds = until(lambda: seen("test") > before + 2, "frames again")  # noqa: B023
        held(f"plugged in again, {round_}: frames after {seconds:.1f} s")
    run("systemctl", "stop", "onelook")
    log = run("journalctl", "--unit=onelook", "--no-pager")
    expect("Traceback" not in log and run("systemctl", "is-failed", "onelook", ok=False).strip() == "inactive",
           "it ends in order", log)


signal.alarm(3400)  # everything is bounded; this is for a machine that is busy with other things
main()

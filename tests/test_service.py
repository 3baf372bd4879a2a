"""The loop's own word on how it is."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Flag
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from broker import PATIENCE, free_port
from daemon_process import Daemon, onelook, write_config
from onelook import config, service
from onelook.errors import BusyError, OwnerError
from onelook.event import Event, Identity, Status
from onelook.face import Floats
from onelook.gallery import Gallery, Note, Stranger
from onelook.metrics import Metrics
from onelook.model import shipped
from onelook.outbox import Outbox
from onelook.pipeline import Pipeline
from onelook.publish import LinesPublisher
from onelook.spec import load as load_spec
from onelook.strangers import Guestbook

PICTURES = {"name": "door", "url": f"{Path(service.__file__).parent}/portraits/"}
"""Two, and then the end."""


def test_a_slow_start_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a board that is busy installing packages the network may take longer to load than a turn may last."""
    load, serve, said = service._model, Metrics.serve, []

    def slowly(*arguments: Any) -> Any:
        time.sleep(service.STUCK * 1.1)
        return load(*arguments)

    def watched(metrics: Metrics, *arguments: Any, **options: Any) -> Any:
        said.append(options["healthy"]())
        return serve(metrics, *arguments, **options)

    monkeypatch.setattr(service, "STUCK", 1.0)
    monkeypatch.setattr(service, "_model", slowly)
    monkeypatch.setattr(Metrics, "serve", watched)

    service.run(config.load(write_config(tmp_path, PICTURES)))

    assert said == [True]


def test_a_gallery_that_is_being_replaced_ends_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gallery.db"
    with Gallery.open(path, tmp_path / "gallery.key", "a1" * 32) as gallery:
        gallery.add("Ada", np.eye(1, 256, dtype=np.float32)[0], 0.9, "ada.jpg")
    whole = path.read_bytes()
    with Gallery.open(path, tmp_path / "gallery.key", "a1" * 32) as gallery:
        refresh = service._refresher(gallery)
        refresh(0.0)
        path.write_bytes(whole[: len(whole) // 2])  # as `cp` does, for a moment
        with caplog.at_level(logging.INFO, "onelook.service"):
            refresh(1.0)
            refresh(2.0)
            assert [person.name for person in gallery.people()] == ["Ada"]
            path.write_bytes(whole)
            refresh(3.0)
    first, second = (record.message for record in caplog.records if record.name == "onelook.service")
    assert first.endswith("Who was known before stays known, trying again.")
    assert second == "The gallery can be read again."


def test_who_is_forgotten_while_every_camera_is_away_is_forgotten_at_once(tmp_path: Path) -> None:
    file = write_config(
        tmp_path, {"name": "door", "url": str(tmp_path / "none.mp4"), "retry_min": 0.1},
        publish="mqtt", mqtt={"port": free_port(), "outbox": "outbox.db", "paused": None},
    )
    settings = config.load(file)
    with Gallery.open(settings.gallery.path, settings.gallery.key_file, load_spec(shipped())[0].stamp) as gallery:
        gallery.add("Ada Lovelace", np.eye(1, 256, dtype=np.float32)[0], 0.9, "ada.jpg")
    who = Identity(track=1, box=(0, 0, 9, 9), frame=0, state="known", name="Ada Lovelace", similarity=1, confidence=1)
    with Outbox(tmp_path / "outbox.db") as outbox:
        for each in (who, who.model_copy(update={"name": "Alan Turing"})):
            outbox.put((Event(stream="door", time=datetime.now(UTC), data=each), 600))

    def about(name: bytes) -> int:
        return sum(name in part.read_bytes() for part in tmp_path.glob("outbox.db*"))

    assert about(b"Turing")

    with Daemon(file) as daemon:
        daemon.wait(lambda: daemon.page("/healthz")[0] == 200, "it to look")
        daemon.wait(lambda: not about(b"Turing"), "who was forgotten before to be gone")
        assert about(b"Lovelace")
        assert onelook("gallery", "forget", "Ada Lovelace", "--config", file).returncode == 0
        daemon.wait(lambda: not about(b"Lovelace"), "her to be forgotten")


def test_a_network_with_the_same_embeddings_takes_the_gallery_over_and_another_does_not(tmp_path: Path) -> None:
    folder, (spec, network) = tmp_path / "model", load_spec(shipped())
    shutil.copytree(shipped(), folder)
    (folder / "model.tflite").write_bytes(network + b"another")  # behind the end, where nothing reads
    photo = Path(service.__file__).parent / "portraits" / "grace_hopper.jpg"

    def described(embeddings: str) -> None:
        sha256 = hashlib.sha256((folder / "model.tflite").read_bytes()).hexdigest()
        told = spec.model_copy(update={"sha256": sha256, "embeddings": embeddings})
        (folder / "model.json").write_text(told.model_dump_json())

    assert service.enroll(config.load(write_config(tmp_path, PICTURES)), {"Grace Hopper": [photo]})
    described(spec.stamp)
    settings = config.load(write_config(tmp_path, PICTURES, model={"path": str(folder)}))
    with service._gallery(settings, service._model(settings)) as gallery:
        assert gallery is not None
        assert [person.name for person in gallery.people()] == ["Grace Hopper"]
    described("")
    with pytest.raises(OwnerError, match="holds templates of another model"), \
         service._gallery(settings, service._model(settings)):
        pass


@pytest.mark.parametrize("level", ["on", "off"])
def test_what_is_kept_does_not_outlive_its_time_though_nobody_is_recognised(tmp_path: Path, level: str) -> None:
    file = write_config(
        tmp_path, PICTURES, policy={"identity": level}, gallery={
            "path": "gallery.db", "key_file": "gallery.key", "keep_days": 9, "unknown_days": 1},
        # Without a broker nobody could have a stream looked at that stays paused.
        mqtt={"commands": ["resume"], "username": "me", "password": "secret", "paused": "paused.json"})
    (tmp_path / "paused.json").write_text(json.dumps([PICTURES["name"]]))
    settings, now = config.load(file), datetime.now(UTC)
    look: Floats = np.eye(1, 256, dtype=np.float32)[0]
    with Gallery.open(settings.gallery.path, settings.gallery.key_file, load_spec(shipped())[0].stamp) as gallery:
        for name, days in (("Ada", -1), ("Grace", 1)):
            gallery.add(name, look, 0.9, "photo.jpg")
            gallery.annotate(name, Note(until=now + timedelta(days=days)))
        for days in (2, 0):
            gallery.keep_stranger(Stranger("door", now - timedelta(days=days), now - timedelta(days=days), look, 0.5))

    service.run(settings)

    with Gallery.open(settings.gallery.path, settings.gallery.key_file) as gallery:
        assert [person.name for person in gallery.people()] == ["Grace"]
        assert len(gallery.strangers()) == 1


def test_who_is_enrolled_again_after_their_time_stays(tmp_path: Path) -> None:
    settings = config.load(write_config(tmp_path, PICTURES))
    now, look = datetime.now(UTC), np.eye(1, 256, dtype=np.float32)[0]
    files = settings.gallery.path, settings.gallery.key_file, load_spec(shipped())[0].stamp
    with Gallery.open(*files) as gallery:
        gallery.add("Ada", look, 0.9, "photo.jpg")
        gallery.annotate("Ada", Note(until=now - timedelta(days=1)))
        gallery.keep_stranger(Stranger("door", now, now, look, 0.5))

    assert service.name_unknown(settings, "u1", "Ada") == 1

    with Gallery.open(*files) as gallery:
        gallery.expire()
        [ada] = gallery.people()
        assert (len(ada.templates), ada.note) == (1, Note())


def test_a_gallery_that_cannot_be_opened_is_told_and_no_hindrance_where_nobody_is_recognised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config.load(write_config(tmp_path, PICTURES, policy={"identity": "off"}))
    with Gallery.open(settings.gallery.path, settings.gallery.key_file, "a1" * 32) as gallery:
        gallery.add("Ada", np.eye(1, 256, dtype=np.float32)[0], 0.9, "ada.jpg")
    settings.gallery.key_file.unlink()

    assert service.run(settings) == 0
    assert len([each for each in caplog.messages if "old templates not destroyed" in each]) == 1
    with pytest.raises(OwnerError, match=r"The key .*gallery\.key of the gallery .* is missing"):
        service.check(settings)


@pytest.mark.parametrize(("level", "kept"), [("on", True), ("aggregate", False)])
def test_where_people_are_only_counted_nothing_is_kept_to_know_them_by(
    tmp_path: Path, level: str, *, kept: bool
) -> None:
    file = write_config(
        tmp_path, PICTURES, policy={"identity": level}, report={"visitors": True},
        gallery={"path": "gallery.db", "key_file": "gallery.key", "unknown_days": 1},
    )
    settings = config.load(file)
    model = service._model(settings)
    with service._gallery(settings, model) as gallery:
        [door] = service._pipelines(settings, model, gallery, lambda _: nullcontext()).values()

    assert (door._lookout is not None) is kept
    assert (service._visitors(settings, model) is not None) is kept
    assert service._idle(settings) == ([] if kept else [
        "gallery.unknown_days does nothing, because the policy has identity aggregate.",
        "report.visitors does nothing, because the policy has identity aggregate.",
    ])
    spoken = {"publish": "stdout", "mqtt": config.Mqtt(commands=["ping"], home_assistant=True)}
    assert service._idle(settings.model_copy(update=spoken))[-2:] == [
        "mqtt.commands does nothing, because publish is stdout.",
        "mqtt.home_assistant does nothing, because publish is stdout.",
    ]


def test_a_daemon_that_is_told_to_stop_looks_at_no_more_photos() -> None:
    stop, photos = Flag(), [Path("1.jpg"), Path("2.jpg")]
    looked_at = service._without_alarm(photos, stop)
    assert next(looked_at) == photos[0]
    stop.set()
    with pytest.raises(OwnerError, match="told to stop, and has taken no photo"):
        next(looked_at)


def test_a_loop_that_stood_still_says_so_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step, write, steps, excused = Pipeline.step, Guestbook.write, [], []

    def writes_slowly(book: Guestbook, *strangers: Any) -> None:
        if not excused:
            time.sleep(service.NOTICED)
        write(book, *strangers)

    def hangs_once(pipeline: Pipeline, frame: Any) -> Any:
        steps.append(frame)
        if len(steps) == 1:
            time.sleep(service.STUCK * 1.1)
        return step(pipeline, frame)

    monkeypatch.setattr(service, "STUCK", 1.0)
    monkeypatch.setattr(Pipeline, "step", hangs_once)
    monkeypatch.setattr(Pipeline, "excuse", lambda _, seconds: excused.append(seconds))
    monkeypatch.setattr(Guestbook, "write", writes_slowly)

    with caplog.at_level(logging.WARNING, "onelook.service"):
        service.run(config.load(write_config(tmp_path, PICTURES)))

    assert "the loop stood still for" in caplog.text
    assert excused  # of not having been seen, by a slow disk
    assert min(excused) >= service.NOTICED


def test_an_outbox_that_cannot_be_opened_is_not_left_to_a_daemon(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery.db", tmp_path / "gallery.key", load_spec(shipped())[0].stamp) as gallery:
        gallery.add("Ada", np.eye(1, 256, dtype=np.float32)[0], 0.9, "ada.jpg")
    chosen = config.load(write_config(tmp_path, PICTURES, publish="mqtt", mqtt={"outbox": "outbox.db"}))
    (tmp_path / "outbox.db").symlink_to("outbox.db")

    with pytest.raises(OwnerError, match=r"The outbox .* cannot be opened: Too many levels of symbolic links"):
        service.forget(chosen, "Ada")


def test_the_reason_of_a_status_can_be_sent_whatever_a_path_is_written_in() -> None:
    told = service._status("door", "offline", os.fsdecode(b"/srv/T\xfcr.mp4 has come to its end")).data
    assert isinstance(told, Status)
    assert told.reason == r"/srv/T\udcfcr.mp4 has come to its end"


HOLDS = """
import sqlite3, sys, time
disk = sqlite3.connect(sys.argv[1], isolation_level=None)
disk.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("file", ["gallery.db", "outbox.db"])
def test_a_file_that_another_process_holds_at_the_start_is_waited_for(
    tmp_path: Path, file: str
) -> None:
    """As `onelook gallery forget` does."""
    with Gallery.open(tmp_path / "gallery.db", tmp_path / "gallery.key", load_spec(shipped())[0].stamp) as gallery:
        gallery.add("Ada", np.eye(1, 256, dtype=np.float32)[0], 0.9, "ada.jpg")
    with Outbox(tmp_path / "outbox.db"):
        pass
    config_file = write_config(
        tmp_path, PICTURES, publish="mqtt", mqtt={"port": free_port(), "outbox": "outbox.db", "paused": None})
    command = [sys.executable, "-c", HOLDS, str(tmp_path / file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with Daemon(config_file) as daemon:
            daemon.wait(lambda: "Waiting for it" in daemon.log, "it to wait")
            assert f"{tmp_path / file}" in daemon.log
            if file == "outbox.db":
                assert daemon.page("/healthz")[0] == 200
            holder.stdin.close()
            holder.wait()
            assert daemon.process.wait(PATIENCE) == 0  # both pictures seen
            assert daemon.log.count("Waiting for it") == 1


def test_a_file_that_is_held_for_long_is_told_and_who_says_stop_meanwhile_is_heard(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def held() -> None:
        raise BusyError("It is held.")

    monkeypatch.setattr(service, "BUSY", 0.3)
    stop = Flag()
    with pytest.raises(BusyError):
        service._once_there(held, stop)
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        service._once_there(held, stop)


def test_what_was_told_to_go_on_when_the_terminal_closes_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with service._signals(Flag()) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wait(0.1)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(5)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_a_camera_that_is_away_nobody_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, ["door"])
    metrics.stream_up("door", up=False)
    metrics.seen("door", faces=2, tracks=2)  # a frame that was on its way
    away: Any = SimpleNamespace(wait=lambda *_: [], strangers=[])
    service._wait({"door": away}, 9.0, LinesPublisher(io.StringIO()), lambda *_: None, metrics)
    assert registry.get_sample_value("onelook_faces", {"stream": "door"}) == 0
    assert registry.get_sample_value("onelook_tracks", {"stream": "door"}) == 0


@pytest.mark.parametrize(("seconds", "excused"), [(0.0, False), (0.3, True)])
def test_only_a_loop_that_stood_still_is_an_excuse_for_not_seeing_anybody(seconds: float, excused: bool) -> None:
    told: list[float] = []
    commands: Any = SimpleNamespace(work=lambda *_: time.sleep(seconds))
    control: Any = SimpleNamespace(handlers={})
    pipeline: Any = SimpleNamespace(excuse=told.append)
    service._obey(commands, control, [pipeline], LinesPublisher(io.StringIO()))
    assert [each >= 0.3 for each in told] == [True] * excused

"""Service: the composition root. Builds everything, turns the loop, ends it in order."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from pathlib import Path
from threading import Event as Flag
from typing import Literal, TextIO, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry
from tqdm import tqdm

from onelook import __version__, systemd
from onelook import enroll as enrolment
from onelook.capture import ENDED, LatestFrames, frames, length, masked
from onelook.cohort import Cohort
from onelook.commands import Commands
from onelook.config import Config, Policy, Stream, may_exist, stream_of
from onelook.control import PAUSED, Control
from onelook.doctor import Finding, examine, unwritable
from onelook.draw import Captions, drawn, labelled
from onelook.errors import BusyError, GalleryError, OwnerError
from onelook.event import Event, Status
from onelook.face import Floats
from onelook.frame import Frame
from onelook.gallery import Gallery, Note, Stranger, Template, clean_name
from onelook.home_assistant import HomeAssistant
from onelook.leftovers import Leftovers
from onelook.match import Match
from onelook.metrics import Metrics, try_out
from onelook.model import FaceModel, shipped
from onelook.outbox import REASONS, Outbox
from onelook.picture import PictureError, is_picture, read_picture, write_picture
from onelook.pipeline import Matcher, Pipeline
from onelook.publish import LinesPublisher, MqttPublisher, Publisher
from onelook.reporter import Reporter
from onelook.sight import Eye, Sight
from onelook.source import exists, is_live
from onelook.spec import load
from onelook.strangers import Cluster, Guestbook, Lookout, clusters, name_cluster
from onelook.track import Track, Tracker
from onelook.video import VideoWriter
from onelook.visitor import Visitors
from onelook.zone import Places

log = logging.getLogger(__name__)

Watch = Callable[[Frame, Sequence[Track], Sequence[Event]], None]
StageMaker = Callable[[str], AbstractContextManager[object]]

NOWHERE: dict[str, object] = {"zones": [], "lines": []}
STILL = 5
"""Seconds for which a single picture is replayed, ten times a second: nobody is counted or known at first sight."""
WHOLE = 1280
"""Pixels, at least, of the network's input, either way, where a still picture is larger than that."""
MOST = 200
"""Faces, at least, that are told of a still picture."""
LIKELY = 1e-2
"""False accept rate at which two faces are taken for one person's where nobody is named by it."""
MAYBE = 5e-2
"""And where it is better to let go of one too many."""
STUCK = 10.0
"""Seconds without a turn of the loop after which /healthz says so."""
NOTICED = 0.2
"""Seconds of the loop's standing still from which tracks are excused for not having been seen."""
BUSY = 30.0
"""Seconds at the start for which is waited for what is not to be had just then."""

Opened = TypeVar("Opened")


def run(config: Config, *, stop: Flag | None = None, watch: Watch | None = None) -> int:
    """Watch the streams until told to stop, or until every finite one has ended; gives the exit code.

    stop: set from elsewhere, ends the loop as SIGTERM does. watch: shown every frame that was
    looked at, with its tracks and events. Raises OwnerError for what the owner has to mend.
    """
    names = [stream.name for stream in config.streams]
    metrics = Metrics(CollectorRegistry(), names, drop_reasons=REASONS, broker=config.publish == "mqtt")
    up: set[str] = set()
    with ExitStack() as house:  # closed in reverse, whatever happens
        stop = house.enter_context(_signals(stop or Flag()))
        model = _model(config, metrics.stage)
        gallery = house.enter_context(_gallery(config, model, stop))
        pipelines = _pipelines(config, model, gallery, metrics.stage)
        metrics.model(version=model.spec.version, sha256=model.spec.sha256[:12],
                      input=f"{model.size[0]}x{model.size[1]}", onelook=__version__)
        refresh = _refresher(gallery)
        turned = inf  # until the loop turns: a slow start is no hang
        page = _once_there(lambda: house.enter_context(metrics.serve(
            config.metrics.host, config.metrics.port,
            healthy=lambda: time.monotonic() - turned < STUCK, ready=lambda: bool(up),
        )), stop)
        commands = Commands(
            config.device, config.mqtt.commands, prefix=config.mqtt.prefix,
            forbidden=[f"{config.mqtt.discovery_prefix}/"],
        )
        publisher = house.enter_context(_publisher(config, metrics, stop, commands, gallery))
        inbox = LatestFrames()

        def on_change(stream: str, is_up: bool, reason: str | None) -> None:
            (up.add if is_up else up.discard)(stream)
            metrics.stream_up(stream, is_up, paused=reason == PAUSED, ended=(reason or "").endswith(ENDED))
            publisher.publish(_status(stream, "online" if is_up else "offline", reason))

        control = house.enter_context(Control(
            config.streams, inbox, on_change, pipelines,
            enroll=partial(_enroll_one, config, model, gallery, stop),
            forget=partial(_forget_one, config, model, gallery),
            unknown=partial(_unknown_in, model, gallery), name=partial(_name_one, config, model, gallery),
            # Only while somebody can say so: or nobody could have it looked at again.
            paused=_kept(config).get("mqtt.paused"),
        ))
        note_down = house.enter_context(_guestbook(
            config, gallery, pipelines.values(), publisher, control, model.spec.threshold(MAYBE)))
        log.info("onelook %s looks at %s; metrics at %smetrics", __version__,
                 ", ".join(f"{s.name} ({masked(s.url)})" for s in config.streams), page)
        systemd.notify(f"READY=1\nSTATUS=Looking at {', '.join(names)}")
        house.callback(systemd.notify, "STOPPING=1")
        gc.freeze()  # what is there by now stays, and need not be gone through again in the middle of a frame
        pulse, turned, fed = systemd.watchdog_interval(), time.monotonic(), 0.0
        told = dict.fromkeys(names, 0)
        while not stop.is_set() and not inbox.finished:
            turned = _turn(turned)
            fed = _fed(pulse, turned, fed)
            _count_dropped(inbox, metrics, told)
            refresh(turned)  # at every turn: who is forgotten while no camera is up is forgotten too
            _obey(commands, control, pipelines.values(), publisher)
            _wait({name: pipelines[name] for name in pipelines.keys() - up}, turned, publisher, note_down, metrics)
            frame = inbox.take(timeout=0.5)  # and nothing comes between it and what it shows
            if frame is None or control.is_paused(frame.stream):
                continue
            pipeline = pipelines[frame.stream]
            with metrics.frame(frame.stream, frame.captured):
                events = pipeline.step(frame)
                with metrics.stage("publish"), _excused(pipelines.values()):
                    publisher.publish(*events)
            note_down(pipeline.strangers, turned)
            control.hear(frame.stream, events)
            metrics.seen(frame.stream, faces=len(pipeline.faces), tracks=pipeline.tracks.in_view)
            if watch is not None:
                watch(frame, pipeline.tracks, events)
        log.info("told to stop" if stop.is_set() else "every stream has come to its end")
    log.info("ended in order")
    return 0


def _obey(commands: Commands, control: Control, pipelines: Iterable[Pipeline], publisher: Publisher) -> None:
    """Do what was asked over MQTT."""
    with _excused(pipelines):
        commands.work(control.handlers, publisher.send)


@contextmanager
def _excused(pipelines: Iterable[Pipeline]) -> Iterator[None]:
    """Around what keeps frames waiting, such as a write to a slow disk: whoever was in view has not left for that."""
    began = time.monotonic()
    yield
    stood = time.monotonic() - began
    if stood >= NOTICED:  # mostly there is nothing to do, and an excuse holds for a while
        for pipeline in pipelines:
            pipeline.excuse(stood)


def _turn(before: float) -> float:
    """Now; says so where the loop has stood still since `before`."""
    now = time.monotonic()
    if now - before >= STUCK:
        log.warning("the loop stood still for %.0f s: is the disk slow, or the machine busy?", now - before)
    return now


def _fed(pulse: float | None, now: float, before: float) -> float:
    """Tell systemd's watchdog that the loop turns, where it asks; when it was told last."""
    if pulse is None or now - before < min(pulse, 1.0):
        return before
    systemd.notify("WATCHDOG=1")
    return now


def _count_dropped(inbox: LatestFrames, metrics: Metrics, told: dict[str, int]) -> None:
    """Tell the metrics of the frames that were dropped since the last time; `told` is how many they know of."""
    for name, known in told.items():
        told[name] = inbox.dropped(name)
        metrics.dropped(name, told[name] - known)


def check(config: Config) -> list[str]:
    """Build what `run` would, without looking at anything.

    Gives what is no fault and may not be meant: recordings that are not there (yet), keys that do nothing. Raises
    OwnerError with every fault, one a line.
    """
    faults: list[str] = []

    def tried(build: Callable[[], Opened]) -> Opened | None:
        try:
            return build()
        except OwnerError as error:
            faults.append(str(error))
            return None

    model = tried(lambda: _model(config))
    with ExitStack() as house:
        if model is not None:
            gallery = tried(lambda: house.enter_context(_gallery(config, model)))
            tried(lambda: _pipeline(config, config.streams[0], model, gallery, None))
        if model is None or config.policy.level("identity") == "off":
            tried(lambda: Gallery.open(config.gallery.path, config.gallery.key_file).close())
    if config.publish == "mqtt":
        tried(lambda: MqttPublisher(config.mqtt, config.device, Outbox()))
    tried(lambda: try_out(config.metrics.host, config.metrics.port))
    for key, file in _kept(config).items():
        if there := unwritable(file):
            faults.append(f"{key}: this user cannot write {file}: {there} does not let it.")
    if faults:
        raise OwnerError("\n".join(faults))
    absent = [stream for stream in config.streams if not is_live(stream.url) and not exists(stream.url)]
    doubts = [f"The stream {stream.name} has nothing to show yet: there is no {stream.url}." for stream in absent]
    return doubts + _idle(config)


def _idle(config: Config) -> list[str]:
    """The keys that do nothing, as it is not found out who is unknown, or as there is no broker."""
    level, mqtt = config.policy.level("identity"), config.mqtt
    idle: list[tuple[str, bool, str]] = []
    if level != "on" or not config.report.identity:
        why = "report.identity is false" if level == "on" else f"the policy has identity {level}"
        idle += [("gallery.unknown_days", config.gallery.unknown_days > 0, why),
                 ("report.visitors", config.report.visitors, why)]
    if config.publish != "mqtt":
        why = f"publish is {config.publish}"
        idle += [("mqtt.commands", bool(mqtt.commands), why), ("mqtt.home_assistant", mqtt.home_assistant, why)]
    return [f"{key} does nothing, because {why}." for key, on, why in idle if on]


def _kept(config: Config) -> dict[str, Path]:
    """What the daemon writes to, by its key."""
    mqtt, files = config.mqtt, {}
    if config.policy.level("identity") != "off" or os.path.exists(config.gallery.path):  # noqa: PTH110 - Path's raises
        files["gallery.path"] = config.gallery.path
    if config.publish == "mqtt" and mqtt.outbox is not None:
        files["mqtt.outbox"] = mqtt.outbox
    if config.publish == "mqtt" and mqtt.paused is not None and "resume" in mqtt.commands:
        files["mqtt.paused"] = mqtt.paused
    return files


def doctor(config: Config) -> Iterator[Finding]:
    """What of this machine keeps that config from working well; a finding as it is found."""
    return examine(
        streams=config.streams, model=config.model, mqtt=config.mqtt if config.publish == "mqtt" else None,
        device=config.device, files=_kept(config).values(),
    )


def replay(source: str, *, config: Config | None, draw: Path | None, out: TextIO) -> None:
    """Print the events of a recording as JSON lines on `out`; to `draw`, write it with the faces drawn in.

    Every frame is looked at, and dated by its place in the file, so that the events of a
    recording are the same on every machine, but for their ids. A single picture is held for a while.
    Without a config: every default, and nobody enrolled. Raises OwnerError where the source cannot be read.
    """
    if draw is not None and (_same_file(source, draw) or (_same_file(source, draw.parent) and is_picture(draw))):
        raise OwnerError(f"{draw} is of the recording itself, and would be written over: give --draw another file.")
    if draw is not None and is_picture(draw):
        raise OwnerError(f"{draw} is called like a picture, and a video is written: give --draw another name.")
    chosen = config or Config(streams=[stream_of(source)])
    model = _model(chosen)
    started = datetime.fromtimestamp(0, UTC)  # a recording does not say when it was made
    closed = Flag()
    # A recording from one of the config's streams has its zones and lines, if there is no doubt which.
    stream = chosen.streams[0].model_copy(update={"name": "replay"} | ({} if len(chosen.streams) == 1 else NOWHERE))
    if len(chosen.streams) > 1 and any(each.zones or each.lines for each in chosen.streams):
        log.warning("No zones and lines are told of: the config has %d streams, and it is not known of which the "
                    "recording is.", len(chosen.streams))
    with ExitStack() as house:
        publisher = house.enter_context(LinesPublisher(out, chosen.device, closed.set))
        if config is None:
            pipeline = _pipeline(chosen, stream, model, None, None)
        else:
            gallery = house.enter_context(_gallery(config, model))
            if gallery is not None:
                _tidy(config, gallery)
            pipeline = _pipeline(chosen, stream, model, gallery, _visitors(config, model))
        writer = house.enter_context(VideoWriter(draw)) if draw else None
        captions = Captions()
        shown = tqdm(frames(source, start=started), total=length(source), unit="frame", disable=None)
        for frame in _held(shown):
            events = pipeline.step(frame)
            publisher.publish(*events)
            if writer:
                captions.hear(events)
                writer.write(drawn(frame.image, pipeline.tracks, captions), frame.time)
            if closed.is_set():
                break


def look(
    pictures: Collection[Path], *, config: Config | None, draw: Path | None
) -> Iterator[tuple[Path, list[Sight] | PictureError]]:
    """What is seen on each of the still pictures, or why it cannot be read, or be drawn.

    draw: a folder that they are written to, with it drawn in; where pictures come from, nothing is written over.
    Without a config: every default, and nobody enrolled.
    Raises OwnerError where the config cannot be followed, or `draw` not be written to.
    """
    known, config = config is not None, _for_stills(config or Config(streams=[stream_of(".")]))
    near = _model(config)
    width, height = (max(side, WHOLE) for side in near.size)
    whole = _model(_with_model(config, input_width=width, input_height=height))
    theirs = draw is not None and any(_same_file(str(folder), draw) for folder in {file.parent for file in pictures})
    taken: set[Path] = set()
    with _gallery(config, near) if known else nullcontext() as gallery:
        if gallery is not None:
            _tidy(config, gallery)
        match: Matcher = _nobody if gallery is None else gallery.match
        bar = partial(near.spec.similarities, config.report.far)
        eye = Eye(whole, near, near.spec.labels, config.report, config.policy, match, bar)
        for picture in pictures:
            told: list[Sight] | PictureError
            try:
                image = read_picture(picture)
                told = eye.see(image)
                if draw is not None:
                    drawing = _free(draw / f"{picture.stem}.jpg", taken)
                    taken.add(drawing)
                    there = theirs and os.path.exists(drawing)  # noqa: PTH110 - Path's raises
                    if there or _same_file(str(picture), drawing):
                        raise OwnerError(f"{drawing} would be written over: give --draw another folder.")
                    write_picture(drawing, labelled(image, [sight.label() for sight in told]))
            except PictureError as error:
                told = error
            yield picture, told


def _free(file: Path, taken: Collection[Path]) -> Path:
    """The file, called by the first number from 2 on that is free, if it is taken."""
    number, free = 1, file
    while free in taken:
        number += 1
        free = file.with_stem(f"{file.stem}-{number}")
    return free


def _held(shown: Iterable[Frame]) -> Iterator[Frame]:
    """The frames; a single one for STILL seconds, as if the camera saw nothing else."""
    count = 0
    for count, frame in enumerate(shown, 1):  # noqa: B007 - how many there were
        yield frame
    if count == 1:
        for index in range(1, 10 * STILL):
            later = index / 10
            yield replace(frame, index=index, time=frame.time + later, utc=frame.utc + timedelta(seconds=later))


def _same_file(source: str, path: Path) -> bool:
    try:
        return Path(source.removeprefix("file://")).expanduser().samefile(path)
    except (OSError, RuntimeError):  # one of them is not there, or no file
        return False


def enroll(
    config: Config, people: Mapping[str, Sequence[Path]], *, note: Note | None = None, dry_run: bool = False,
) -> dict[str, list[enrolment.Verdict]]:
    """Add the faces on photos to the gallery, by their people's names; a verdict for each photo, by name.

    Raises OwnerError, also where the policy lets nobody be enrolled, or not without a note of their consent.
    """
    _may_enroll(config.policy, note)
    model = _model(_for_stills(config))
    with (
        Gallery.open(config.gallery.path, config.gallery.key_file, model.spec.stamp, model.cohort) as gallery,
        tqdm(total=sum(map(len, people.values())), unit="photo", disable=None, leave=False) as bar,
    ):
        def counted(photos: Iterable[Path]) -> Iterator[Path]:
            for photo in photos:
                yield photo
                bar.update()

        if not dry_run:
            _tidy(config, gallery)
        return enrolment.enroll_all(
            people, model, gallery, threshold=_alike(config, model, gallery, people), unlike=_unlike(model),
            note=note, dry_run=dry_run, progress=counted,
        )


def _lifetime(config: Config) -> timedelta | None:
    """The most that a template is kept; none: for ever."""
    return None if config.gallery.keep_days is None else timedelta(days=config.gallery.keep_days)


def _tidy(config: Config, gallery: Gallery) -> None:
    """Destroy what has outlived its time: nobody is named by it where no daemon runs, and one that runs later would
    destroy what is added together with its person."""
    gallery.on_forgotten.append(partial(_forget_name, partial(_forget_waiting, config)))
    gallery.expire(_lifetime(config))


def _may_enroll(policy: Policy, note: Note | None) -> None:
    if policy.level("identity") == "off":
        raise OwnerError("The policy has identity off: nobody is enrolled, as nobody is to be recognised.")
    if policy.needs_consent and not (note and note.consent and note.consent.strip()):
        raise OwnerError(
            "The policy's preset written_consent lets nobody be enrolled without a note of how they agreed: "
            "give one, with --consent TEXT or, over MQTT, as `consent`."
        )


def _enroll_one(
    config: Config, model: FaceModel, gallery: Gallery | None, stop: Flag, name: str, photos: Sequence[Path],
    note: Note,
) -> list[enrolment.Verdict]:
    """As `enroll`, in a daemon that runs."""
    _may_enroll(config.policy, note)
    if gallery is None:
        raise OwnerError("Nobody is recognised here, and so nobody enrolled.")
    gallery.expire(_lifetime(config))  # see `_tidy`
    return enrolment.enroll(
        name, _without_alarm(photos, stop), model, gallery, threshold=_alike(config, model, gallery, [name]),
        unlike=_unlike(model), note=note,
    )


def _without_alarm(photos: Iterable[Path], stop: Flag) -> Iterator[Path]:
    """The photos, each of which may take seconds on a small board while the loop waits: that is no hang.

    Raises OwnerError between two once `stop` is set: systemd waits no longer than for a few.
    """
    for photo in photos:
        if stop.is_set():
            raise OwnerError("The daemon is told to stop, and has taken no photo; ask again once it is up.")
        systemd.notify("WATCHDOG=1")
        yield photo


def _forget_one(config: Config, model: FaceModel, gallery: Gallery | None, name: str) -> int:
    """As `forget`, in a daemon that runs."""
    alike = model.spec.threshold(MAYBE)
    if gallery is not None:
        return gallery.forget(name, alike=alike)
    # Where nobody is recognised nothing is told of anybody: nothing else here knows the name.
    with Gallery.open(config.gallery.path, config.gallery.key_file) as closed:
        return closed.forget(name, alike=alike)


def _alike(config: Config, model: FaceModel, gallery: Gallery, names: Iterable[str]) -> float:
    """The similarity from which two faces are one person, once these too are enrolled."""
    enrolled = len({person.name for person in gallery.people()} | set(names))
    return float(model.spec.similarities(config.report.far, np.array([enrolment.SIZE], np.float32), enrolled)[0])


def _unlike(model: FaceModel) -> float:
    """The similarity under which two photos are hardly one person's."""
    return enrolment.UNLIKE * model.spec.threshold(1e-2, enrolment.SIZE)


def forget(config: Config, name: str) -> tuple[int, bool]:
    """Destroy all that is kept of a person; how many templates, and whether the outbox is done with too.

    Where it is not, a daemon is using it, and sees to it within a second. Raises OwnerError; also where the
    gallery has forgotten them and the outbox cannot be opened.
    """
    alike = load(config.model.path or shipped())[0].threshold(MAYBE)
    with Gallery.open(config.gallery.path, config.gallery.key_file) as gallery:
        removed = gallery.forget(name, alike=alike)
        enrolled = ", ".join(person.name for person in gallery.people()) or "nobody"
    # Even where nobody of that name is enrolled (any more): an earlier try may have failed half-way.
    done = _forget_waiting(config, clean_name(name))
    if not removed:
        raise OwnerError(f"Nobody named {name} is enrolled; enrolled: {enrolled}.")
    return removed, done


def _forget_waiting(config: Config, name: str) -> bool:
    """Destroy what waits for the broker about a person; false where a daemon has it in use, and must."""
    path = config.mqtt.outbox
    if config.publish != "mqtt" or path is None or not may_exist(path):
        return True
    try:
        with Outbox(path) as outbox:
            outbox.forget(name)
    except BusyError:
        return False
    return True


def unknown(config: Config) -> list[Cluster]:
    """The people whom nobody knows, the most often seen first."""
    spec, _ = load(config.model.path or shipped())
    cohort = Cohort.read(config.model.path or shipped(), spec)
    with Gallery.open(config.gallery.path, config.gallery.key_file, spec.stamp) as gallery:
        mine = [each for each in gallery.strangers() if each.model == spec.stamp]
        return clusters(mine, spec.threshold(LIKELY), cohort)


def _unknown_in(model: FaceModel, gallery: Gallery | None) -> list[Cluster]:
    """As `unknown`, in a daemon that runs."""
    strangers = [] if gallery is None else gallery.strangers()
    mine = [each for each in strangers if each.model == model.spec.stamp]
    return clusters(mine, model.spec.threshold(LIKELY), model.cohort)


def _name_one(
    config: Config, model: FaceModel, gallery: Gallery | None, cluster: str, name: str, note: Note
) -> int:
    """As `name_unknown`, in a daemon that runs."""
    _may_enroll(config.policy, note)
    if gallery is None:
        raise OwnerError("Nobody is recognised here, and so nobody enrolled.")
    gallery.expire(_lifetime(config))  # see `_tidy`
    return name_cluster(gallery, cluster, name, model.spec.threshold(LIKELY), note, cohort=model.cohort)


def name_unknown(config: Config, cluster: str, name: str, *, note: Note | None = None) -> int:
    """Enrol a cluster of unknown tracks; how many templates that makes. Raises OwnerError as `enroll` does."""
    _may_enroll(config.policy, note)
    spec, _ = load(config.model.path or shipped())
    cohort = Cohort.read(config.model.path or shipped(), spec)
    with Gallery.open(config.gallery.path, config.gallery.key_file, spec.stamp, cohort) as gallery:
        _tidy(config, gallery)
        return name_cluster(gallery, cluster, name, spec.threshold(LIKELY), note, cohort=cohort)


def migrate(config: Config, folder: Path, *, again: bool = False) -> list[enrolment.Migrated]:
    """Enrol everybody anew with the model of now, from the photos in `folder`; what came of each.

    again: who is enrolled with it already, too.
    """
    model = _model(_for_stills(config))
    with Gallery.open(config.gallery.path, config.gallery.key_file) as gallery:
        return enrolment.migrate(folder, model, gallery, model.spec.stamp, again=again)


def _nobody(embeddings: Floats) -> list[Match]:
    """An empty gallery's answer."""
    return [Match(None, -1.0, inf, enrolled=0)] * len(embeddings)


def _with_model(config: Config, **keys: int) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=keys)})


def _for_stills(config: Config) -> Config:
    """`max_faces` bounds a camera's frame: of a photo all is asked for, and one face is seen in ten looks at once."""
    return _with_model(config, max_faces=max(config.model.max_faces, MOST))


def _model(config: Config, stage: StageMaker = lambda name: nullcontext()) -> FaceModel:  # noqa: ARG005
    model = config.model
    levels = {config.policy.level(what) for what in ("identity", "attributes", "emotion")}
    return FaceModel(
        model.path, threads=model.threads, size=(model.input_width, model.input_height), score=model.score,
        most=model.max_faces, describe=levels != {"off"}, stage=stage,
    )


def _once_there(opened: Callable[[], Opened], stop: Flag | None) -> Opened:
    """What `opened` opens, waited for where it is not to be had just now: while the machine boots, `gallery forget` may
    hold a file, or no name service answers yet.

    It ends as if interrupted when `stop` is set. none: it is not waited for.
    """
    end, told = time.monotonic() + BUSY, False
    while True:
        try:
            return opened()
        except BusyError as error:
            if stop is None or time.monotonic() >= end:
                raise
            if not told:
                log.warning("%s Waiting for it, %.0f s at most.", error, BUSY)
            told = True
        if stop.wait(0.2):
            raise KeyboardInterrupt


@contextmanager
def _gallery(config: Config, model: FaceModel, stop: Flag | None = None) -> Iterator[Gallery | None]:
    """The gallery; none where the policy says that nobody is recognised. stop: see `_once_there`."""
    if config.policy.level("identity") == "off":
        yield None
        return
    files = config.gallery.path, config.gallery.key_file
    with _once_there(lambda: Gallery.open(*files, model.spec.stamp, model.cohort), stop) as gallery:
        people, far, strictest = len(gallery.people()), config.report.far, model.spec.strictest
        if people * strictest > far * 1.01:
            log.warning(
                "With %d people enrolled, the model cannot hold report.far: about %.1g of the strangers may be taken "
                "for somebody, not %g. Enrol fewer, or use a better model; or say so in report.far.",
                people, min(people * strictest, 1), far,
            )
        yield gallery


def _refresher(gallery: Gallery | None) -> Callable[[float], None]:
    """Picks up what others change in the gallery, told the time; a file that is being replaced ends no daemon.

    Then those known before stay known, until it can be read again.
    """
    trouble, failed = "", -inf

    def refresh(now: float) -> None:
        nonlocal trouble, failed
        if gallery is None:
            return
        try:
            gallery.refresh(now)
        except GalleryError as error:
            if str(error) != trouble:
                log.warning("%s Who was known before stays known, trying again.", error)
            trouble, failed = str(error), now
            return
        if trouble and now - failed >= 1:  # so it has looked again
            log.info("The gallery can be read again.")
            trouble = ""

    return refresh


def _pipeline(
    config: Config, stream: Stream, model: FaceModel, gallery: Gallery | None, visitors: Visitors | None,
    stage: StageMaker = lambda name: nullcontext(),  # noqa: ARG005
) -> Pipeline:
    match: Matcher = _nobody if gallery is None else gallery.match
    bar = partial(model.spec.similarities, config.report.far)
    reporter = Reporter(stream.name, config.report, model.spec.labels, match, bar, config.policy,
                        places=Places(stream.zones, stream.lines), visitors=visitors)
    tracking = config.tracking
    tracker = Tracker(confirm=tracking.confirm, lost=tracking.lost, iou=tracking.iou, strong=model.score,
                      alike=model.spec.threshold(LIKELY), describe=tracking.describe, smooth=reporter.needs)
    # Where the policy has people counted and no more, nothing is kept by which they could be known again.
    keeps = gallery is not None and config.gallery.unknown_days > 0 and config.policy.level("identity") == "on"
    lookout = Lookout(stream.name, crops=config.gallery.unknown_crops) if keeps else None
    if gallery is not None and lookout is not None:
        gallery.on_forgotten.append(partial(_forget_alike, lookout, model.spec.threshold(MAYBE)))
    return Pipeline(model, tracker, reporter, stage=stage, lookout=lookout)


def _visitors(config: Config, model: FaceModel) -> Visitors | None:
    if not config.report.visitors or config.policy.level("identity") != "on":
        return None
    return Visitors(partial(model.spec.similarities, config.report.far), model.cohort)


def _pipelines(
    config: Config, model: FaceModel, gallery: Gallery | None, stage: StageMaker
) -> dict[str, Pipeline]:
    """By their streams' names; they share the model and know each other's visitors."""
    visitors = _visitors(config, model)
    if visitors is not None and gallery is not None:
        gallery.on_forgotten.append(partial(_forget_alike, visitors, model.spec.threshold(MAYBE)))
    pipelines = {stream.name: _pipeline(config, stream, model, gallery, visitors, stage) for stream in config.streams}
    if gallery is not None:
        for pipeline in pipelines.values():
            gallery.on_forgotten.append(partial(_forget_name, pipeline.forget))
    return pipelines


def _forget_name(forget: Callable[[str], object], name: str, _templates: Sequence[Template]) -> None:
    forget(name)


def _forget_alike(
    strangers: Visitors | Guestbook | Lookout, alike: float, _name: str, templates: Sequence[Template]
) -> None:
    """Who was enrolled and is no more may have been taken for a stranger at times."""
    strangers.forget(np.stack([template.embedding for template in templates]), alike)


@contextmanager
def _guestbook(
    config: Config, gallery: Gallery | None, pipelines: Collection[Pipeline], publisher: Publisher, control: Control,
    alike: float,
) -> Iterator[Callable[[Sequence[Stranger], float], None]]:
    """What is to be told of strangers, and the time; whom the gallery forgets, the others forget. alike: the similarity
    from which a stranger may be one of them. At the end whoever waits is stored, and who is in view to the last."""
    # Where nobody is recognised, what is kept has its time all the same.
    kept = Gallery(config.gallery.path, config.gallery.key_file) if gallery is None else gallery
    for other in (publisher.forget, control.forgotten):
        kept.on_forgotten.append(partial(_forget_name, other))
    book = Guestbook(
        kept, days=config.gallery.unknown_days, most=config.gallery.unknown_most,
        lifetime=_lifetime(config), streams=[stream.name for stream in config.streams],
    )
    kept.on_forgotten.append(partial(_forget_alike, book, alike))

    def write(strangers: Sequence[Stranger], now: float) -> None:
        with _excused(pipelines):  # it may have to wait for whoever changes the gallery
            book.write(strangers, now)

    def tidy(_strangers: Sequence[Stranger], now: float) -> None:
        write((), now)
        kept.close()  # it was opened for this alone

    if gallery is None:
        yield tidy
        return
    try:
        yield write
    finally:
        book.write([stranger for pipeline in pipelines for stranger in pipeline.end()], inf)


def _published(config: Config) -> set[str]:
    """The kinds of event that the report asks for and the policy allows."""
    report, level = config.report, config.policy.level
    return {kind for kind, on in {
        "status": True,
        "presence": report.presence,
        "crowd": report.crowd,
        "identity": report.identity and level("identity") == "on",
        "emotion": report.emotion and level("emotion") == "on",
        "mood": level("emotion") != "off" and (report.mood or (report.emotion and level("emotion") == "aggregate")),
    }.items() if on}


@contextmanager
def _publisher(
    config: Config, metrics: Metrics, stop: Flag, commands: Commands, gallery: Gallery | None
) -> Iterator[Publisher]:
    """The publisher that the config names, wired to the metrics."""
    if config.publish == "stdout":
        with LinesPublisher(sys.stdout, config.device, stop.set, on_published=metrics.published) as lines:
            yield lines
        return
    streams, kinds = [stream.name for stream in config.streams], _published(config)
    leftovers = Leftovers(config.device, streams, kinds, prefix=config.mqtt.prefix)
    home_assistant = HomeAssistant(
        config.device, streams, kinds,
        version=__version__, enabled=config.mqtt.home_assistant, prefix=config.mqtt.prefix,
        discovery=config.mqtt.discovery_prefix,
    )
    most = {kind: bounds["bytes"] for kind, bounds in config.mqtt.waiting.model_dump().items()}
    with _once_there(lambda: Outbox(
        config.mqtt.outbox, most=most, on_dropped=metrics.outbox_dropped, on_failed=metrics.outbox_failed
    ), stop) as outbox:
        # What an earlier config let be found out, and this one does not, is not told any more; nor of whom the gallery
        # has forgotten meanwhile: whoever said so may have had another outbox, or been killed half-way.
        outbox.forbid(
            {kind for kind in ("identity", "attributes", "emotion") if config.policy.level(kind) != "on"},
            None if gallery is None else {person.name for person in gallery.people()},
        )
        metrics.outbox(lambda: len(outbox), lambda: outbox.failing)
        with MqttPublisher(
            config.mqtt, config.device, outbox, streams=streams, on_connected=metrics.mqtt_connected,
            on_published=metrics.published,
            correspondents=[home_assistant, leftovers, commands],  # entities go before the states that they read
        ) as publisher:
            yield publisher


def _wait(
    away: Mapping[str, Pipeline], now: float, publisher: Publisher,
    note_down: Callable[[Sequence[Stranger], float], None], metrics: Metrics,
) -> None:
    """Whoever was before a camera that is away leaves in good time, and is counted no longer."""
    for stream, pipeline in away.items():
        publisher.publish(*pipeline.wait(now, datetime.now(UTC)))
        note_down(pipeline.strangers, now)
        metrics.seen(stream, faces=0, tracks=0)  # a frame may have been on its way when the camera went


def _status(stream: str, state: Literal["online", "offline"], reason: str | None) -> Event:
    if reason is not None:  # a path in it may be in an older encoding than events are
        reason = reason.encode(errors="backslashreplace").decode()
    return Event(stream=stream, time=datetime.now(UTC), data=Status(state=state, reason=reason))


@contextmanager
def _signals(stop: Flag) -> Iterator[Flag]:
    """SIGTERM, SIGINT and SIGHUP (a terminal that closes) set `stop` while the context lasts; what is ignored stays so
    (`nohup`, and what a script has in the background)."""
    def on_signal(_number: int, _frame: object) -> None:
        stop.set()  # and no word: the log may be in the middle of another

    before = {
        number: signal.signal(number, on_signal)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

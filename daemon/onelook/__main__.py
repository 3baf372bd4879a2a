"""The door: `onelook COMMAND`, the same as `python -m onelook COMMAND`.

Exit codes: 0 ended as asked; 130 interrupted before that; 78 something that the owner can mend, said on stderr; 75 the
same, but it may pass by itself: the same call works later; 2 the command line itself; 1 our bug, with its traceback.
"""
# ruff: noqa: PLC0415 - each command imports what it needs: `schema` must not wait for the runtime
# ruff: noqa: E402 - and before all else an interrupt is seen to

from __future__ import annotations

import os
import signal

INTERRUPTED = 130

_before = signal.getsignal(signal.SIGINT)
if _before is signal.default_int_handler:  # and it is not ignored, as of what a script has in the background
    # Until `main` can end in order: in the middle of an import Python shows where, or even goes on.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from math import inf, nan
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from onelook import __version__
from onelook.errors import BusyError, OwnerError

if TYPE_CHECKING:
    from onelook.config import Config
    from onelook.gallery import Note
    from onelook.strangers import Cluster

log = logging.getLogger("onelook")

OWNER = 78  # EX_CONFIG of sysexits.h; the systemd unit knows that starting again will not help
BUSY = 75  # EX_TEMPFAIL; starting again may
SYSTEM_CONFIG = Path("/etc/onelook/config.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code. Only bugs of ours come out as exceptions."""
    # Whatever is under way ends as with Ctrl-C; `run` puts its own, orderly end in place.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Read when numpy is loaded, which is later. Our products of matrices are small: BLAS's threads would mostly spin,
    # waiting for each other, on cores that the network needs (tracking 100 faces took 16 ms of CPU in place of 1.4).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _any_text()
    arguments = _arguments(argv)
    _log_to_stderr(logging.DEBUG if arguments.verbose else arguments.level, arguments.log)
    try:
        signal.signal(signal.SIGINT, _before)
        return int(arguments.command(arguments) or 0)
    except OwnerError as error:
        if arguments.log == "json":
            log.error("%s", error)  # noqa: TRY400 - whose mistake it is needs no traceback
        else:
            sys.stderr.write(_with_priority(logging.ERROR, str(error)) + "\n")
        return BUSY if isinstance(error, BusyError) else OWNER
    except KeyboardInterrupt:
        # Asked to end are a daemon and a demo; of all else half is not done, and `onelook check && …` must not go on.
        return 0 if arguments.command in (_run, _demo) else INTERRUPTED


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends with exit code 2 where it is wrong."""
    parser = _parser()
    arguments, left = parser.parse_known_args(argv)
    if left and arguments.command is _enroll and not any(word.startswith("-") for word in left):
        arguments.photos += map(Path, left)  # argparse takes those behind an option for nobody's
    elif left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return arguments


class _Parser(argparse.ArgumentParser):
    """Takes options by their full names only, so that a new one breaks nobody's script."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="onelook",
        description="Watch camera streams and publish who and what is seen, with one network pass per frame.",
    )
    parser.set_defaults(level=logging.WARNING)
    parser.add_argument("--version", action="version", version=f"onelook {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    parser.add_argument("--log", choices=("text", "json"), default="text", help="form of a line on stderr")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    everywhere = _Parser(add_help=False)
    everywhere.add_argument(
        "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="say more on stderr"
    )
    everywhere.add_argument(
        "--log", choices=("text", "json"), default=argparse.SUPPRESS, help="form of a line on stderr; default: text"
    )
    config = _Parser(add_help=False)
    config.add_argument(
        "--config", type=Path, metavar="FILE", help=f"default: config.yaml here, else {SYSTEM_CONFIG}"
    )
    as_json = _Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    note = _Parser(add_help=False)
    note.add_argument("--purpose", metavar="TEXT", help='what it is for; kept with the person; "" takes it back')
    note.add_argument(
        "--consent", metavar="TEXT", help='how and when the person agreed; kept with the person; "" takes it back'
    )
    note.add_argument(
        "--keep-days", type=_days, metavar="N", help="forget the person after so many days; never: take that back"
    )

    run = commands.add_parser("run", parents=[config, everywhere], help="watch until told to stop")
    run.set_defaults(command=_run, level=logging.INFO)

    check = commands.add_parser(
        "check", parents=[config, as_json, everywhere], help="tell every fault of the config and the model"
    )
    check.set_defaults(command=_check)

    doctor = commands.add_parser(
        "doctor", parents=[config, as_json, everywhere], help="tell what of this machine is in the way, and what to do"
    )
    doctor.add_argument("--quick", action="store_true", help="leave out the measurement of ten seconds")
    doctor.set_defaults(command=_doctor)

    replay = commands.add_parser(
        "replay", parents=[everywhere], help="print what a recording would have published, as JSON lines"
    )
    replay.add_argument(
        "source", metavar="SOURCE",
        help="video file, folder of pictures (a film of one camera, a second each), one picture (held for five), or a "
        "stream's URL",
    )
    replay.add_argument("--draw", type=Path, metavar="OUT.mp4", help="write it with the faces drawn in")
    replay.add_argument("--config", type=Path, metavar="FILE", help="default: every default, nobody enrolled")
    replay.set_defaults(command=_replay)

    _look_parser(commands, everywhere)

    enroll = commands.add_parser(
        "enroll", parents=[config, note, as_json, everywhere], help="teach the gallery a person's face"
    )
    enroll.add_argument("name", metavar="NAME", nargs="?", help="as it shall stand in events")
    enroll.add_argument("photos", type=Path, nargs="*", metavar="PHOTO", help="pictures of that person alone")
    enroll.add_argument("--folder", type=Path, metavar="DIR", help="in their place: one folder per person, named so")
    enroll.add_argument("--dry-run", action="store_true", help="tell what would come of it, and store nothing")
    enroll.set_defaults(command=_enroll, error=enroll.error)

    _gallery_parser(commands, config, note, as_json, everywhere)

    demo = commands.add_parser("demo", parents=[everywhere], help="see it work, within a minute or two")
    demo.add_argument("source", metavar="SOURCE", nargs="?", help="a stream's URL; default: a made-up crowd")
    demo.add_argument("--broker", metavar="[USER[:PASSWORD]@]HOST[:PORT]", help="default: one of its own")
    demo.add_argument("--seconds", type=_seconds, default=60.0, metavar="N", help="at most so long; default: 60")
    demo.set_defaults(command=_demo, level=logging.INFO)

    schema = commands.add_parser("schema", parents=[everywhere], help="print the JSON Schema of the events")
    forms = schema.add_mutually_exclusive_group()
    forms.add_argument("--commands", action="store_true", help="of the commands over MQTT, in their place")
    forms.add_argument("--asyncapi", action="store_true", help="the AsyncAPI 3 document: topics, events and commands")
    schema.set_defaults(command=_schema)
    return parser


def _look_parser(commands: argparse._SubParsersAction[_Parser], everywhere: _Parser) -> None:
    look = commands.add_parser(
        "look", parents=[everywhere], help="tell of each face on still pictures who it is and what it looks like"
    )
    look.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="or a folder of them")
    look.add_argument("--draw", type=Path, metavar="DIR", help="write them there with the faces drawn in")
    look.add_argument(
        "--config", type=Path, metavar="FILE",
        help=f"default: config.yaml here, else {SYSTEM_CONFIG}, else every default, and nobody enrolled",
    )
    forms = look.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON, a line for each picture")
    forms.add_argument("--csv", action="store_true", help="print CSV, a line for each face")
    look.set_defaults(command=_look)


def _gallery_parser(
    commands: argparse._SubParsersAction[_Parser], config: _Parser, note: _Parser, as_json: _Parser,
    everywhere: _Parser,
) -> None:
    gallery = commands.add_parser("gallery", help="see or forget who is enrolled")
    actions = gallery.add_subparsers(title="actions", metavar="ACTION", required=True)
    people = actions.add_parser("list", parents=[config, as_json, everywhere], help="who is enrolled")
    people.set_defaults(command=_gallery_list)
    forget = actions.add_parser(
        "forget", parents=[config, as_json, everywhere], help="destroy all that is kept of a person"
    )
    forget.add_argument("name", metavar="NAME")
    forget.set_defaults(command=_gallery_forget)
    export = actions.add_parser("export", parents=[config, everywhere], help="print all that is kept of a person")
    export.add_argument("name", metavar="NAME")
    export.set_defaults(command=_gallery_export)
    unknown = actions.add_parser(
        "unknown", parents=[config, as_json, everywhere], help="people whom nobody knows, if the config keeps them"
    )
    unknown.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write one of each there, as u17.jpg, where the config keeps them"
    )
    unknown.set_defaults(command=_gallery_unknown)
    noted = actions.add_parser(
        "note", parents=[config, note, as_json, everywhere], help="tell on what ground somebody is enrolled; change it"
    )
    noted.add_argument("name", metavar="NAME")
    noted.set_defaults(command=_gallery_note)
    name = actions.add_parser("name", parents=[config, note, as_json, everywhere], help="enroll one of them")
    name.add_argument("cluster", metavar="CLUSTER", help="as `gallery unknown` tells it, such as u17")
    name.add_argument("name", metavar="NAME", help="as it shall stand in events")
    name.set_defaults(command=_gallery_name)
    migrate = actions.add_parser(
        "migrate", parents=[config, as_json, everywhere], help="enroll everybody anew for another model"
    )
    migrate.add_argument("folder", type=Path, metavar="FOLDER", help="where the photos are kept, under any names")
    migrate.add_argument("--again", action="store_true", help="also who is enrolled with this model already")
    migrate.set_defaults(command=_gallery_migrate)
    rotate = actions.add_parser("rotate-key", parents=[config, everywhere], help="seal the gallery under a new key")
    rotate.add_argument("--new-key", type=Path, metavar="FILE", help="default: one is made and put in its place")
    rotate.set_defaults(command=_gallery_rotate_key)


# --- commands ------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    config = _config(arguments.config)
    from onelook import service

    return service.run(config)


def _check(arguments: argparse.Namespace) -> int:
    from onelook.config import ConfigError

    try:
        file = _config_file(arguments.config)
        config = _config(file)
        from onelook import service

        for doubt in service.check(config):
            log.warning("%s", doubt)
    except OwnerError as error:
        if not arguments.json:
            raise
        if isinstance(error, ConfigError):
            faults = [{"path": f.path, "line": f.line, "message": f.message} for f in error.faults]
        else:
            faults = [{"path": "", "line": None, "message": line} for line in str(error).splitlines()]
        _print_json({"ok": False, "faults": faults})
        return OWNER
    # Which was looked at is known to whoever named it.
    _print(json.dumps({"ok": True, "faults": []}) if arguments.json else "ok" if arguments.config else f"ok: {file}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    try:
        config = _config(arguments.config)
    except OwnerError as error:
        if not arguments.json:
            raise
        findings = [{"check": "config", "state": "fault", "message": line, "advice": "mend it first", "picture": None}
                    for line in str(error).splitlines()]
        _print_json({"ok": False, "findings": findings, "measured": [], "suggestion": None})
        return OWNER
    return _examine(arguments, config)


def _examine(arguments: argparse.Namespace, config: Config) -> int:
    from dataclasses import asdict
    from math import inf

    from onelook import service
    from onelook.doctor import WISHED_FPS, measure, smallest, suggest

    marks, findings = {"ok": "ok", "warning": "!", "fault": "FAULT"}, []
    for finding in service.doctor(config):
        findings.append(finding)
        if not arguments.json:
            _print(f"{marks[finding.state]:5}  {finding.check}: {finding.message}")
            if finding.advice:
                _print(f"       -> {finding.advice}")
            sys.stdout.flush()
    try:
        rows = [] if arguments.quick else measure(config.model)
    except OwnerError:  # a finding has said why the network cannot be run
        rows = []
    widths, heights = zip(*(f.picture or (inf, inf) for f in findings if f.check.startswith("camera ")), strict=True)
    suggestion = suggest(rows, len(config.streams), (max(widths), max(heights))) if rows else None
    ok = all(finding.state != "fault" for finding in findings)
    if arguments.json:
        told = {"ok": ok, "findings": [asdict(f) for f in findings], "measured": [asdict(row) for row in rows],
                "suggestion": suggestion and asdict(suggestion)}
        _print_json(told)
    elif suggestion is not None:
        _print("\nthreads      input  ms a frame of 8 faces  smallest face found, px of a 1920x1080 picture")
        for row in rows:
            size = f"{row.width}x{row.height}"
            _print(f"{row.threads:7}  {size:>9}  {row.milliseconds:21.1f}  {smallest(row.width, row.height):6.0f}")
        _print(f"\nfor {suggestion.fps:.0f} frames a second of each stream:\nmodel:\n  threads: {suggestion.threads}\n"
               f"  input_width: {suggestion.input_width}\n  input_height: {suggestion.input_height}")
        if suggestion.fps < WISHED_FPS:
            _print(f"That is little: from {WISHED_FPS:.0f} on, nobody who walks by is missed. Give this machine fewer "
                   "streams, or, where people come near, a smaller input.")
    return 0 if ok else OWNER


def _replay(arguments: argparse.Namespace) -> None:
    from onelook.config import stream_of

    source = stream_of(arguments.source).url
    config = None if arguments.config is None else _config(arguments.config)
    if arguments.draw is not None and arguments.config is not None \
            and os.path.exists(arguments.draw) and arguments.draw.samefile(arguments.config):  # noqa: PTH110 - as below
        raise OwnerError(f"{arguments.draw} is the config, and would be written over: give --draw another file.")
    from onelook import service

    service.replay(source, config=config, draw=arguments.draw, out=sys.stdout)


def _look(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict
    from itertools import chain

    from onelook.config import may_exist
    from onelook.picture import pictures_in

    there = arguments.config or may_exist(Path("config.yaml")) or may_exist(SYSTEM_CONFIG)
    config = _config(arguments.config) if there else None
    try:
        given = [pictures_in(path) if path.is_dir() else [path] for path in arguments.pictures]
    except OSError as error:
        raise OwnerError(f"{error.filename} cannot be read: {error.strerror}.") from None
    pictures = list(chain.from_iterable(given))
    if not pictures:
        raise OwnerError(f"There are no pictures in {', '.join(map(str, arguments.pictures))}.")
    from onelook import service

    failed: list[str] = []
    attributes = [] if config is None else config.report.attributes
    if arguments.csv:
        _print(_csv(["picture", "x1", "y1", "x2", "y2", *_COLUMNS, *attributes]))
    for picture, told in service.look(pictures, config=config, draw=arguments.draw):
        if isinstance(told, OwnerError):
            failed.append(str(told))
        elif arguments.json:
            _print_json({"picture": str(picture), "faces": [asdict(sight) for sight in told]})
        elif arguments.csv:
            for sight in told:
                told_of = [getattr(sight, column) for column in _COLUMNS]
                _print(_csv([str(picture), *sight.box, *told_of, *(sight.attributes.get(name) for name in attributes)]))
        else:
            _print(f"{picture}: {len(told) or 'no'} face{'s' * (len(told) != 1)}")
            for sight in told:
                x1, y1, x2, y2 = map(round, sight.box)
                _print((f"  {x1},{y1} {x2 - x1}x{y2 - y1}".ljust(22) + "  ".join(sight.words())).rstrip())
    if failed:
        raise OwnerError("\n".join(failed))


_COLUMNS = (
    "score", "quality", "state", "name", "similarity", "age", "gender", "gender_confidence", "ethnicity",
    "ethnicity_confidence", "emotion", "emotion_confidence",
)
"""Of `look --csv`, beside the picture, the box and the attributes asked for."""


def _csv(cells: Sequence[object]) -> str:
    """A line of CSV; none is an empty cell."""
    import csv
    from io import StringIO

    line = StringIO()
    csv.writer(line).writerow(cells)  # with its own end of a line, or it quotes none within a cell
    return line.getvalue().rstrip("\r\n")


def _enroll(arguments: argparse.Namespace) -> None:
    if arguments.folder is not None and arguments.name is not None:
        arguments.error("--folder names the people itself: leave NAME and PHOTO out")
    if arguments.folder is None and not arguments.photos:
        arguments.error("NAME and at least one PHOTO are needed, or --folder DIR")
    if arguments.name is not None and Path(arguments.name).suffix and os.path.isfile(arguments.name):  # noqa: PTH113
        arguments.error(f"{arguments.name} is a file: NAME, as it shall stand in events, comes before the photos")
    config = _config(arguments.config)
    from onelook import service
    from onelook.enroll import folder_people
    from onelook.gallery import clean_name

    folder = arguments.folder
    people = {clean_name(arguments.name): arguments.photos} if folder is None else folder_people(folder)
    told = service.enroll(config, people, note=_note(arguments), dry_run=arguments.dry_run)
    if arguments.json:
        rows = [
            {"name": name, "photo": str(verdict.photo), "accepted": verdict.accepted, "reason": verdict.reason}
            for name, verdicts in told.items()
            for verdict in verdicts
        ]
        _print_json(rows)
    else:
        for name, verdicts in told.items():
            for verdict in verdicts:
                _print(f"{verdict.photo} {verdict.reason}")
            if arguments.folder is not None:
                _print(f"{name}: {sum(verdict.accepted for verdict in verdicts)} of {len(verdicts)} photos")
    failed = [name for name, verdicts in told.items() if not any(verdict.accepted for verdict in verdicts)]
    if failed:
        be = "is" if len(failed) == 1 else "are"
        raise OwnerError(f"{', '.join(failed)} {be} not enrolled: none of the photos can be used.")


def _demo(arguments: argparse.Namespace) -> None:
    from onelook.config import stream_of

    source = None if arguments.source is None else stream_of(arguments.source).url
    from onelook.demo import demo

    demo(source, broker=arguments.broker, seconds=arguments.seconds)


def _schema(arguments: argparse.Namespace) -> None:
    from onelook import schema

    make = schema.asyncapi if arguments.asyncapi else schema.commands if arguments.commands else schema.events
    _print(json.dumps(make(), indent=2))


def _gallery_list(arguments: argparse.Namespace) -> None:
    section = _config(arguments.config).gallery
    from onelook.gallery import Gallery

    with Gallery.open(section.path, section.key_file) as gallery:
        people = gallery.people()
    if arguments.json:
        rows = [
            {
                "name": person.name,
                "templates": len(person.templates),
                "enrolled": person.first.isoformat(),
                "changed": person.last.isoformat(),
            }
            for person in people
        ]
        _print_json(rows)
    elif not people:
        _print("nobody is enrolled")
    else:
        width = max(len("name"), *(len(person.name) for person in people))
        _print(f"{'name':{width}}  templates  enrolled")
        for person in people:
            _print(f"{person.name:{width}}  {len(person.templates):9}  {person.first.astimezone():%Y-%m-%d}")


def _gallery_forget(arguments: argparse.Namespace) -> None:
    config = _config(arguments.config)
    from onelook import service
    from onelook.gallery import clean_name

    name = clean_name(arguments.name)
    removed, done = service.forget(config, name)
    if arguments.json:
        _print_json({"name": name, "templates": removed, "outbox": done})
        return
    _print(f"{name} is forgotten, and {removed} template{'s' * (removed > 1)} destroyed")
    if not done:
        _print("the daemon that runs here destroys what waits for its broker within a second")


def _gallery_export(arguments: argparse.Namespace) -> None:
    section = _config(arguments.config).gallery
    from onelook.gallery import Gallery

    with Gallery.open(section.path, section.key_file) as gallery:
        _print_json(gallery.export(arguments.name), indent=2)


def _gallery_note(arguments: argparse.Namespace) -> None:
    config, note = _config(arguments.config), _note(arguments)
    from onelook.gallery import Gallery

    if note is not None and note.consent is not None and not note.consent.strip() and config.policy.needs_consent:
        raise OwnerError(
            f"The policy's preset written_consent keeps nobody who does not agree: run `onelook gallery forget "
            f"{shlex.quote(arguments.name)}`, or say in --consent how they agreed."
        )
    with Gallery.open(config.gallery.path, config.gallery.key_file) as gallery:
        kept = gallery.export(arguments.name)
        if note is not None:
            gallery.annotate(arguments.name, note)
            kept = gallery.export(arguments.name)
    told = {what: kept[what] for what in ("name", "purpose", "consent", "until")}
    if arguments.json:
        _print_json(told)
    else:
        for what, text in told.items():
            _print(f"{what + ':':9} {'-' if text is None else text}")


def _gallery_unknown(arguments: argparse.Namespace) -> None:
    config = _config(arguments.config)
    from onelook import service

    found = service.unknown(config)
    if arguments.pictures is not None:
        _write_pictures(arguments.pictures, found)
    if arguments.json:
        rows = [
            {
                "cluster": cluster.id,
                "times": len(cluster.strangers),
                "first": cluster.first.isoformat(),
                "last": cluster.last.isoformat(),
                "streams": cluster.streams,
            }
            for cluster in found
        ]
        _print_json(rows)
    elif not found:
        off = "" if config.gallery.unknown_days else "; to keep unknown people, set gallery.unknown_days"
        _print(f"nobody unknown is kept{off}")
    else:
        _print("cluster  times  first             last              streams")
        for cluster in found:
            first, last = cluster.first.astimezone(), cluster.last.astimezone()  # as clocks here have it
            times = f"{len(cluster.strangers):5}  {first:%Y-%m-%d %H:%M}  {last:%Y-%m-%d %H:%M}"
            _print(f"{cluster.id:7}  {times}  {', '.join(cluster.streams)}")


def _write_pictures(folder: Path, found: Sequence[Cluster]) -> None:
    """The best picture of each cluster, where one is kept, for this user's eyes alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for cluster in found:
            pictures = [(each.quality, each.crop) for each in cluster.strangers if each.crop]
            if pictures:
                file = folder / f"{cluster.id}.jpg"
                file.touch(mode=0o600)
                file.write_bytes(max(pictures)[1])
    except OSError as error:
        raise OwnerError(f"The pictures cannot be written to {folder}: {error.strerror}.") from None


def _gallery_name(arguments: argparse.Namespace) -> None:
    config = _config(arguments.config)
    from onelook import service
    from onelook.gallery import clean_name

    name = clean_name(arguments.name)
    count = service.name_unknown(config, arguments.cluster, name, note=_note(arguments))
    if arguments.json:
        _print_json({"name": name, "templates": count})
    else:
        _print(f"{name} is enrolled from {count} track{'s' * (count > 1)}")


def _gallery_migrate(arguments: argparse.Namespace) -> None:
    config = _config(arguments.config)
    from onelook import service

    told = service.migrate(config, arguments.folder, again=arguments.again)
    if arguments.json:
        rows = [{"name": each.name, "photos": each.photos, "missing": each.missing} for each in told]
        _print_json(rows)
    elif not told:
        _print("nobody is enrolled")
    else:
        for each in told:
            photos = f"{each.photos} photo{'s' if each.photos > 1 else ''}"
            done = f"enrolled anew from {photos}" if each.photos else "as before"
            missing = f", {each.missing} not found or of no more use" if each.missing else ""
            _print(f"{each.name}: {done}{missing}")
    left = [each.name for each in told if each.missing and not each.photos and not each.kept]
    if left:
        raise OwnerError(
            f"No photo of {', '.join(left)} was found: give another folder, or run `onelook gallery forget NAME`."
        )


def _gallery_rotate_key(arguments: argparse.Namespace) -> None:
    section = _config(arguments.config).gallery
    from onelook.gallery import Gallery

    with Gallery.open(section.path, section.key_file) as gallery:
        count = gallery.rotate(arguments.new_key)
    _print(f"{count} entries are sealed under the new key")
    if arguments.new_key is None:
        _print(f"the old one is {gallery.key.old}: delete it, unless another gallery has it too")
    if arguments.new_key is not None:
        _print(f"put {arguments.new_key} in the place of the old key now: nothing else opens the gallery any more")


# --- what commands share -------------------------------------------------------------------------


def _config_file(given: Path | None) -> Path:
    if given is not None:
        return given
    if os.path.exists("config.yaml"):  # noqa: PTH110 - Path's own raises where this user may not look
        return Path("config.yaml")
    from onelook.config import may_exist

    if not may_exist(SYSTEM_CONFIG):
        raise OwnerError(f"There is no config.yaml here and no {SYSTEM_CONFIG}; give --config FILE.")
    return SYSTEM_CONFIG


def _config(given: Path | None) -> Config:
    from onelook.config import load

    return load(_config_file(given))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan


def _days(text: str) -> float:
    """A number of days, of a century at most; infinite: never."""
    if text == "never":
        return inf
    if not 0 < (days := _number(text)) <= 36525:
        raise argparse.ArgumentTypeError(f"give a number of days from more than 0 to 36525, or never, not {text}")
    return days


def _seconds(text: str) -> float:
    """A number of seconds, of a day at most."""
    if not 0 < (seconds := _number(text)) <= 86400:
        raise argparse.ArgumentTypeError(f"give a number of seconds from more than 0 to 86400, not {text}")
    return seconds


def _note(arguments: argparse.Namespace) -> Note | None:
    """On what ground somebody is enrolled; none: as before."""
    days = arguments.keep_days
    if arguments.purpose is None and arguments.consent is None and days is None:
        return None
    from onelook.gallery import NEVER, Note

    until = None if days is None else NEVER if days == inf else datetime.now(UTC) + timedelta(days=days)
    return Note(arguments.purpose, arguments.consent, until)


def _print(text: str) -> None:
    # Before the first line: into a pipe that closes early (`| head`) we end quietly, as other tools do.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        from onelook.publish import lead_nowhere

        lead_nowhere(sys.stdout)
        raise OwnerError(f"What there is to say cannot be written: {error.strerror}.") from None


def _print_json(told: object, indent: int | None = None) -> None:
    utf8 = sys.stdout.encoding.lower() == "utf-8"  # else every other letter as JSON's own escape
    _print(json.dumps(told, ensure_ascii=not utf8, indent=indent))


def _any_text() -> None:
    """Names may hold what the terminal's encoding lacks, and a shell may have closed our outputs."""
    # Of what is closed, the next file that is opened would have the number, and get what the runtime says on it.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(spare)
    for number, name in enumerate(("stdout", "stderr"), 1):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 - for as long as we run
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# --- logging -------------------------------------------------------------------------------------


def _log_to_stderr(level: int, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_JsonFormatter())
    elif _in_journal():
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    if form == "json" or _in_journal():
        sys.excepthook = _log_bug
    logging.basicConfig(handlers=[handler], level=logging.WARNING)  # of the libraries
    logging.getLogger("onelook").setLevel(level)


def _in_journal() -> bool:
    """Whether stderr itself, and not only that of whoever started us, is read by systemd's journal."""
    try:
        stderr = os.fstat(sys.stderr.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


def _with_priority(level: int, text: str) -> str:
    """The text with syslog's priority before each line, where the journal reads it."""
    if not _in_journal():
        return text
    priorities = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}
    return "\n".join(f"<{priorities.get(level, 7)}>{line}" for line in text.splitlines())


class _JournalFormatter(logging.Formatter):
    """The journal has the time and, by the prefix, the priority."""

    def format(self, record: logging.LogRecord) -> str:
        return _with_priority(record.levelno, super().format(record))


class _JsonFormatter(logging.Formatter):
    """A record a line: time, level, logger, message, and where a bug came from."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return _with_priority(record.levelno, json.dumps(told, ensure_ascii=False))


def _log_bug(kind: type[BaseException], bug: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("a bug of onelook's", exc_info=(kind, bug, trace))


if __name__ == "__main__":
    sys.exit(main())

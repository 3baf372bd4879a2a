"""The config: its manual is true, and every mistake in a file is told at once in plain words."""
# ruff: noqa: E501 - a sentence that an owner will read is judged best on one line

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from onelook.config import Config, ConfigError, Line, Section, Tls, Zone, load, may_exist, stream_of

MANUAL = Path(__file__).resolve().parent.parent / "config.yaml"
STREAM = "streams: [{name: door, url: rtsp://cam/1}]\n"


@pytest.fixture(autouse=True)
def _no_secrets_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONELOOK_MQTT_PASSWORD", raising=False)


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def faults(folder: Path, text: str | bytes) -> list[str]:
    """What the owner is told of a file, without the folder that pytest made up."""
    file = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value).replace(str(file), "config.yaml").splitlines()


# --- the manual ----------------------------------------------------------------------------------


def section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((kind for inner in get_args(annotation) if (kind := section_in(inner))), None)


def written_sections(kind: type[Section], data: dict[str, Any]) -> list[tuple[type[Section], dict[str, Any]]]:
    """Every section of the schema with what the manual has of it."""
    pairs = [(kind, data)]
    for name, field in kind.model_fields.items():
        if inner := section_in(field.annotation):
            value = data[name]
            pairs += written_sections(inner, value[0] if isinstance(value, list) else value)
    return pairs


def manual_with_tls() -> dict[str, Any]:
    """The manual, the keys of `tls`, zones and lines that it shows as comments standing where they say."""
    text = MANUAL.read_text()
    text = re.sub(r"(?m)^  tls: null.*\n", "", text)
    text, shown = re.subn(r"(?m)^  # (tls:|  \w+_file:)", r"  \1", text)
    assert shown == 1 + len(Tls.model_fields)
    text = re.sub(r"(?m)^    (zones|lines): \[\].*\n", "", text)
    text, shown = re.subn(r"(?m)^    # (zones:|lines:|  - name:|    (?:polygon|start|end):)", r"    \1", text)
    assert shown == 2 + len(Zone.model_fields) + len(Line.model_fields)
    data = yaml.safe_load(text)
    assert isinstance(data, dict)
    return data


def test_the_manual_loads_and_changes_no_default() -> None:
    config = load(MANUAL)

    by_hand = Config.model_validate({"streams": [{"name": "door", "url": "/dev/video0"}]})
    assert config == by_hand


def test_the_manual_lists_every_key_and_no_other() -> None:
    sections = written_sections(Config, manual_with_tls())

    assert {kind for kind, _ in sections} == {Config, *Section.__subclasses__()} - {Section}
    for kind, data in sections:
        assert list(data) == list(kind.model_fields), f"the keys of {kind.__name__}, in the schema's order"


def test_every_key_of_the_manual_is_explained() -> None:
    above = ""
    for line in MANUAL.read_text().splitlines():
        if re.match(r" +(# |- )* *[a-z_]+: +[^ #]", line):
            assert " # " in line.split(":", 1)[1] or above.startswith("#"), f"nothing says what this is: {line}"
        above = line.strip()


# --- good files ----------------------------------------------------------------------------------


def test_one_stream_is_all_that_must_be_written(tmp_path: Path) -> None:
    config = load(write(tmp_path, STREAM))

    assert config.streams[0].url == "rtsp://cam/1"
    assert config.mqtt.port == 1883


def test_what_people_write_without_quotes_is_understood(tmp_path: Path) -> None:
    config = load(write(tmp_path, """
        device: 2026-11-23
        streams:
          - &camera {name: usb, url: 0, fps: 5, loop: yes}
          - {<<: *camera, name: other, url: /dev/video1}
        mqtt: {protocol: 5, keepalive: 60, host: "[::1]"}
        report: {far: 1e-2}
        tracking:
        """))

    assert config.device == "2026-11-23"
    assert [(s.name, s.url, s.fps, s.loop) for s in config.streams] == [
        ("usb", "0", 5.0, True), ("other", "/dev/video1", 5.0, True)
    ]
    assert (config.mqtt.protocol, config.mqtt.host) == ("5", "::1")
    assert config.report.far == 0.01
    assert config.tracking.lost == 2.0, "a section whose keys are all commented out means its defaults"


@pytest.mark.parametrize("url", [
    "rtsp://cam/1", "rtsps://cam/1", "rtsp://me:p%40ss@192.168.1.20:554/live?x=1", "rtsp://[fe80::1]/x",
    "http://cam/mjpeg", "https://cam/mjpeg", "/dev/video0", "/dev/v4l/by-id/usb-cam", "0", "csi://0",
])  # fmt: skip
def test_every_form_of_address_is_kept_as_it_is(tmp_path: Path, url: str) -> None:
    assert load(write(tmp_path, f"streams: [{{name: a, url: '{url}'}}]")).streams[0].url == url


def test_what_lies_where_this_user_may_not_look_may_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_exist(tmp_path)
    for name in ("nothing", "config.yaml/below", "no\0name"):
        assert not may_exist(write(tmp_path, STREAM).parent / name)

    def shut(_path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", shut)  # no mode stops root
    assert may_exist(tmp_path / "films")


def test_paths_start_from_the_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    folder = tmp_path / "etc"
    for made in (home, folder, folder / "recordings"):
        made.mkdir()
    (folder / "secret").write_text("x")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)

    config = load(write(folder, """
        streams:
          - {name: a, url: clips/a.mp4}
          - {name: b, url: pictures/}
          - {name: c, url: recordings}
          - {name: d, url: ~/d.mp4}
          - {name: e, url: file:///srv/e.mp4}
        model: {path: ../model}
        gallery: {path: gallery.db}
        mqtt: {password_file: secret, outbox: waiting/outbox.db}
        """))

    assert [stream.url for stream in config.streams] == [
        f"{folder}/clips/a.mp4", f"{folder}/pictures/", f"{folder}/recordings", f"{home}/d.mp4", "/srv/e.mp4"
    ]
    assert config.model.path == folder / "../model"
    assert config.gallery.path == folder / "gallery.db"
    assert config.gallery.key_file == Path("/var/lib/onelook/gallery.key")
    assert config.mqtt.password_file == folder / "secret"
    assert config.mqtt.outbox == folder / "waiting/outbox.db"


def test_a_source_on_the_command_line_is_what_it_would_be_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "hunter2")

    assert stream_of("clips/a.mp4").url == "clips/a.mp4"
    assert stream_of("rtsp://me:${DOOR_PASSWORD}@cam/1").url == "rtsp://me:hunter2@cam/1"
    with pytest.raises(ConfigError, match=r"^SOURCE: rstp:// is not a kind of stream; did you mean rtsp://\?$"):
        stream_of("rstp://me:hunter2@cam/1")


# --- secrets -------------------------------------------------------------------------------------


def test_the_environment_has_the_last_word_on_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("of the file")
    monkeypatch.setenv("ONELOOK_MQTT_PASSWORD", "of the environment")

    mqtt = load(write(tmp_path, STREAM + "mqtt: {password_file: secret}")).mqtt

    assert mqtt.password is not None
    assert mqtt.password.get_secret_value() == "of the environment"
    assert mqtt.password_file is None

    monkeypatch.setenv("ONELOOK_MQTT_PASSWORD", "")  # as where a line `ONELOOK_MQTT_PASSWORD=` waits to be filled in
    mqtt = load(write(tmp_path, STREAM + "mqtt: {password_file: secret}")).mqtt
    assert mqtt.password is not None
    assert mqtt.password.get_secret_value() == "of the file"


def test_a_password_of_its_own_file_or_a_credential_is_taken_without_the_line_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("of the file \n")
    (tmp_path / "mqtt-password").write_text("of systemd\r\n", encoding="utf-8-sig")  # as Windows writes it
    monkeypatch.delenv("ONELOOK_MQTT_PASSWORD", raising=False)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    for section, password in (("{password_file: secret}", "of the file "), ("{username: joe}", "of systemd")):
        mqtt = load(write(tmp_path, STREAM + f"mqtt: {section}")).mqtt
        assert mqtt.password is not None
        assert mqtt.password.get_secret_value() == password


def test_a_password_that_is_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match=r"mqtt.password_file: .*secret is not text in UTF-8"):
        load(write(tmp_path, STREAM + "mqtt: {password_file: secret}"))

    monkeypatch.setenv("ONELOOK_MQTT_PASSWORD", os.fsdecode(b"w\xf6rd"))
    with pytest.raises(ConfigError, match="ONELOOK_MQTT_PASSWORD: is not text in UTF-8"):
        load(write(tmp_path, STREAM))


def test_a_password_in_the_file_works_and_is_advised_against(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = load(write(tmp_path, STREAM + "mqtt: {password: hunter2}"))

    assert config.mqtt.password is not None
    assert config.mqtt.password.get_secret_value() == "hunter2"
    assert "better kept out of the file" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_cameras_password_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "hunter2")

    config = load(write(tmp_path, "streams: [{name: a, url: 'rtsp://me:${DOOR_PASSWORD}@cam/1'}]"))

    assert config.streams[0].url == "rtsp://me:hunter2@cam/1"


def test_no_secret_is_seen_when_a_config_is_shown(tmp_path: Path) -> None:
    config = load(write(tmp_path, "streams: [{name: a, url: 'rtsp://me:hunter2@cam/1'}]\nmqtt: {password: hunter2}"))

    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(config)


@pytest.mark.parametrize("text", [
    "streams: 'rtsp://me:hunter2@cam/1'",
    "streams: ['rtsp://me:hunter2@cam/1']",
    "streams: [{name: 'rtsp://me:hunter2@cam/1', url: 'rtps://me:hunter2@cam/1'}]",
    "streams: [{name: a, url: 'rtsp://me:hunter2@cam:99999/1'}]",
    "streams: [{name: a, url: 'me:hunter2@cam/1'}]",
    STREAM + "mqtt: {passwort: hunter2}",
    STREAM + "mqtt: {password: [hunter2]}",
    STREAM + "mqtt: {host: 'mqtt://me:hunter2@broker'}",
    STREAM + "publish: 'mqtt://me:hunter2@broker'",
    "mqtt: {password: 'hunter2",
    "mqtt: {password: !!str hunter2}",
])  # fmt: skip
def test_no_fault_tells_a_secret(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in "\n".join(faults(tmp_path, text))


# --- bad files -----------------------------------------------------------------------------------

BAD: list[tuple[str, str | bytes, list[str]]] = [
    ("empty", "", ["config.yaml: is empty; it must be keys with values, and at least `streams`"]),
    ("only comments", "# later\n", ["config.yaml: is empty; it must be keys with values, and at least `streams`"]),
    ("a list", "- a\n", ["config.yaml: holds a list alone; it must be keys with values, and at least `streams`"]),
    ("a word", "hello", ["config.yaml: holds `hello` alone; it must be keys with values, and at least `streams`"]),
    ("latin-1", b"device: caf\xe9\n", ["config.yaml: is not text in UTF-8 (byte 11)"]),
    ("binary", b"device: \0", ["config.yaml: holds the character #x00, which no text has"]),
    ("colon in text", STREAM + "device: a: b\n", [
        "config.yaml:2: a `:` that does not belong here; check the indentation, or put text that holds `: ` in quotes"]),
    ("tab", "mqtt:\n\tport: 1\n", ["config.yaml:2: a tab where YAML wants spaces"]),
    ("indentation", "mqtt:\n    host: a\n  port: 3\n", ["config.yaml:3: the indentation does not fit the lines above"]),
    ("open quote", 'device: "hall\nmqtt: {}\n', ["config.yaml:3: a quote that is not closed"]),
    ("open bracket", "streams: [a\nmqtt: {}\n", ["config.yaml:2: a `[` that is not closed, or a comma missing"]),
    ("open brace", "mqtt: {port: 1\nstreams: []\n", ["config.yaml:2: a `{` that is not closed, or a comma missing"]),
    ("stray character", "device: @hall\n", ["config.yaml:1: is not YAML: found character '@' that cannot start any token"]),
    ("a tag", STREAM + "mqtt: {password: !secret mqtt}", [
        "config.yaml:2: the tag !secret is not understood here; write plain values"]),
    ("two documents", STREAM + "---\n" + STREAM, ["config.yaml:2: a second document begins here; take the `---` out"]),
    ("unknown anchor", "streams: *cameras\n", [
        "config.yaml:1: found undefined alias 'cameras'; an `&name` must stand before its `*name`"]),
    ("anchor in itself", "streams: &a [*a]\n", ["config.yaml: holds a number or a nesting that no setting can have"]),
    ("endless number", STREAM + f"mqtt: {{port: {'9' * 5000}}}", [
        "config.yaml: holds a number or a nesting that no setting can have"]),
    ("endless nesting", "streams: " + "[" * 5000, ["config.yaml: holds a number or a nesting that no setting can have"]),
    ("lists of lists that would fill the memory", "".join(
        f"{here}: &{here} [{', '.join([f'*{before}'] * 10) if before else ''}]\n"
        for before, here in zip(["", *"abcdefghijklmnop"], "abcdefghijklmnopq", strict=True)
    ) + "streams: *q\n", ["config.yaml: holds a number or a nesting that no setting can have"]),
    ("list as a key", "? [a]\n: 1\n", ["config.yaml:1: is not YAML: found unhashable key"]),
    ("key twice", STREAM + "mqtt:\n  port: 1\n  host: a\n  port: 2\n", [
        "config.yaml:5: mqtt.port: stands here again, after line 3; keep one"]),
    ("key twice in a stream", "streams:\n- name: a\n  url: '0'\n  url: '1'\n", [
        "config.yaml:4: streams[0].url: stands here again, after line 3; keep one"]),
    ("no streams", "device: hall\n", ["config.yaml: streams: is missing; it has no default"]),
    ("streams empty", "streams: []\n", ["config.yaml:1: streams: must have at least one entry"]),
    ("streams without value", "streams:\n", [
        "config.yaml:1: streams: has no value; write one, or take the key out for its default"]),
    ("streams as a section", "streams: {door: {url: '0'}}\n", [
        "config.yaml:1: streams: must be a list, each entry on a line of its own after `- `, not a section"]),
    ("stream is text", "streams:\n- door\n", [
        "config.yaml:2: streams[0]: must be a section of keys with values, not `door`"]),
    ("stream without url", "streams:\n- name: door\n", ["config.yaml:2: streams[0].url: is missing; it has no default"]),
    ("stream name", "streams: [{name: Front Door, url: '0'}]\n", [
        "config.yaml:1: streams[0].name: must be of a-z, 0-9 and -, beginning with a letter or digit, "
        "such as `front-door`"]),
    ("stream name of commands", "streams: [{name: reply, url: '0'}]\nmqtt: {commands: [ping]}\n", [
        "config.yaml:2: mqtt: commands: requests and answers go where a stream called reply would publish its events; "
        "give that stream another name"]),
    ("stream name too long", f"streams: [{{name: {'a' * 64}, url: '0'}}]\n", [
        "config.yaml:1: streams[0].name: must be at most 63 characters long"]),
    ("two streams of one name", "streams:\n- {name: a, url: '0'}\n- {name: a, url: '1'}\n", [
        "config.yaml:3: streams[1].name: `a` is the name of streams[0] too"]),
    ("typing error", STREAM + "publsh: mqtt\n", ["config.yaml:2: publsh: unknown key; did you mean `publish`?"]),
    ("dash for underscore", "streams: [{name: a, url: '0', open-timeout: 3}]", [
        "config.yaml:1: streams[0].open-timeout: unknown key; did you mean `open_timeout`?"]),
    ("in the wrong section", STREAM + "metrics: {username: me}\nkeepalive: 3\n", [
        "config.yaml:2: metrics.username: unknown key here; it belongs in mqtt",
        "config.yaml:3: keepalive: unknown key here; it belongs in mqtt"]),
    ("without its indentation", STREAM + "model:\nthreads: 2\n", [
        "config.yaml:3: threads: unknown key here; it belongs in model"]),
    ("of another program", STREAM + "tracking: {mqtt_topic: 3}\n", [
        "config.yaml:2: tracking.mqtt_topic: unknown key; the keys here are confirm, lost, iou, describe"]),
    ("key that YAML takes for true", STREAM + "on: 1\n", [
        "config.yaml:2: on: unknown key; the keys here are device, publish, model, streams, tracking, report, "
        "policy, gallery, mqtt, metrics"]),
    ("no, for Norway", "device: no\nstreams: [{name: off, url: '0'}]\n", [
        'config.yaml:1: device: `no` without quotes means false in YAML; put it in quotes, "no"',
        'config.yaml:2: streams[0].name: `off` without quotes means false in YAML; put it in quotes, "off"']),
    ("no file", STREAM + "mqtt: {outbox: off}\n", [
        "config.yaml:2: mqtt.outbox: `off` without quotes means false in YAML; null means none"]),
    ("yes is not one thread", STREAM + "model: {threads: yes}\n", [
        "config.yaml:2: model.threads: must be a whole number, not `yes`"]),
    ("a brace in what the parser says", STREAM + "mqtt: {tls: !x{}}\n", [
        "config.yaml:2: is not YAML: expected ' ', but found '{'",
    ]),
    ("number for text", STREAM + "mqtt: {username: 0042, password: 1234}\n", [
        'config.yaml:2: mqtt.username: must be text; put it in quotes, "0042"',
        "config.yaml:2: mqtt.password: must be text; put it in quotes"]),
    ("list for text", STREAM + "mqtt: {username: [me]}\n", ["config.yaml:2: mqtt.username: must be text, not a list"]),
    ("text for a number", STREAM + "model: {threads: many}\nmqtt: {port: '1883', replay_rate: soon}\n", [
        "config.yaml:2: model.threads: must be a whole number, not `many`",
        "config.yaml:3: mqtt.port: must be a whole number, without quotes",
        "config.yaml:3: mqtt.replay_rate: must be a number, not `soon`"]),
    ("eight is no octal digit", STREAM + "mqtt: {port: 01883}\n", [
        "config.yaml:2: mqtt.port: must be a whole number, not `01883`"]),
    ("fraction for a whole", STREAM + "model: {threads: 1.5}\n", [
        "config.yaml:2: model.threads: must be a whole number, not `1.5`"]),
    ("number for a switch", STREAM + "report: {emotion: 2}\n", [
        "config.yaml:2: report.emotion: must be true or false, not `2`"]),
    ("text for a list", STREAM + "report: {attributes: Smiling}\n", [
        "config.yaml:2: report.attributes: must be a list, each entry on a line of its own after `- `, not `Smiling`"]),
    ("text for a section", STREAM + "mqtt: broker\n", [
        "config.yaml:2: mqtt: must be a section of keys with values, not `broker`"]),
    ("no value", STREAM + "mqtt:\n  port:\n", [
        "config.yaml:3: mqtt.port: has no value; write one, or take the key out for its default"]),
    ("port too high", STREAM + "mqtt: {port: 70000}\nmetrics: {port: -1}\n", [
        "config.yaml:2: mqtt.port: must be at most 65535, not `70000`",
        "config.yaml:3: metrics.port: must be at least 0, not `-1`"]),
    ("nobody described", STREAM + "tracking: {describe: 0}\n", [
        "config.yaml:2: tracking.describe: must be at least 1, not `0`"]),
    ("no time at all", STREAM + "tracking: {lost: 0, confirm: .inf}\n", [
        "config.yaml:2: tracking.confirm: must be a number that can be counted to, not `.inf`",
        "config.yaml:2: tracking.lost: must be more than 0, not `0`"]),
    ("odd size", STREAM + "model: {input_width: 650}\n", [
        "config.yaml:2: model.input_width: must be a multiple of 32, not `650`; the nearest is 640"]),
    ("waiting for centuries",
     "streams: [{name: door, url: '0', retry_min: 1e10, retry_max: 1e10}]\n",
     ["config.yaml:1: streams[0].retry_min: must be at most 86400, not `1e10`",
      "config.yaml:1: streams[0].retry_max: must be at most 86400, not `1e10`"]),
    ("ratio in percent", STREAM + "model: {score: 50}\n", ["config.yaml:2: model.score: must be at most 1, not `50`"]),
    ("one of two", STREAM + "publish: kafka\nmqtt: {protocol: 4}\n", [
        "config.yaml:2: publish: must be mqtt or stdout, not `kafka`",
        "config.yaml:3: mqtt.protocol: must be 5 or 3.1.1, not `4`"]),
    ("false accept rate", STREAM + "report: {far: 0.02}\n", [
        "config.yaml:2: report.far: must be 0.01, 0.001, 0.0001 or 0.00001, the rates that models are calibrated to"]),
    ("against a preset", STREAM + "policy: {presets: [forbid_emotion_at_work], emotion: on}\n", [
        "config.yaml:2: policy.emotion: the preset forbid_emotion_at_work allows `off` at most "
        "(Regulation (EU) 2024/1689, article 5(1)(f)); take one of the two out"]),
    ("no such preset", STREAM + "policy: {presets: [anything_goes]}\n", [
        "config.yaml:2: policy.presets[0]: must be forbid_emotion_at_work, forbid_emotion_in_education, public_place "
        "or written_consent, not `anything_goes`"]),
    ("consent without an end", STREAM + "policy: {presets: [written_consent]}\ngallery: {path: a.db}\n", [
        "config.yaml:3: gallery: set keep_days: the preset written_consent needs a retention time "
        "(740 ILCS 14/15(a))"]),
    ("strangers without consent", STREAM + "policy: {presets: [written_consent]}\n"
     "gallery: {keep_days: 9, unknown_days: 1}\n", [
        "config.yaml:3: gallery: unknown_days must be 0: the preset written_consent keeps nobody who has not agreed"]),
    ("one file for two", STREAM + "gallery: {path: a.db}\nmqtt: {outbox: a.db}\n", [
        "config.yaml:3: mqtt: outbox is the gallery's file: it needs one of its own"]),
    ("the outbox where the key is", STREAM + "gallery: {key_file: a.key}\nmqtt: {outbox: a.key}\n", [
        "config.yaml:3: mqtt: outbox is the gallery's file: it needs one of its own"]),
    ("the outbox where the key is, in other words", STREAM + "gallery: {key_file: a.key}\nmqtt: {outbox: ./b/../a.key}\n", [
        "config.yaml:3: mqtt: outbox is the gallery's file: it needs one of its own"]),
    ("who is paused where the people are", STREAM + "gallery: {path: a.db}\nmqtt: {paused: a.db}\n", [
        "config.yaml:3: mqtt: paused is the gallery's file: it needs one of its own"]),
    ("who is paused where events wait", STREAM + "mqtt: {outbox: a.db, paused: a.db}\n", [
        "config.yaml:2: mqtt: paused is the outbox's file: it needs one of its own"]),
    ("events in a folder", STREAM + "mqtt: {outbox: /dev}\n", [
        "config.yaml:2: mqtt: outbox is the folder /dev, and must be a file"]),
    ("who is paused in a folder", STREAM + "mqtt: {paused: /dev/}\n", [
        "config.yaml:2: mqtt: paused is the folder /dev, and must be a file"]),
    ("a gallery in its key", STREAM + "gallery: {path: a.db, key_file: a.db}\n", [
        "config.yaml:2: gallery: key_file is the gallery's file: it needs one of its own"]),
    ("a gallery in its config", STREAM + "gallery: {path: config.yaml}\n", [
        "config.yaml:2: gallery.path: is this config itself: it would be written over"]),
    ("a name that no file can have", STREAM + 'gallery: {path: "a\\0b"}\n', [
        "config.yaml:2: gallery.path: holds a character that no file's name can have"]),
    ("zones and lines of one name", "streams:\n- name: a\n  url: '0'\n  zones:\n"
     "  - {name: till, polygon: [[0, 0], [1, 0], [1, 1]]}\n  - {name: till, polygon: [[0, 0], [1, 0], [0, 1]]}\n"
     "  lines:\n  - {name: till, start: [0, 0], end: [1, 1]}\n  - {name: till, start: [0, 1], end: [1, 0]}\n", [
        "config.yaml:6: streams[0].zones[1].name: `till` is the name of streams[0].zones[0] too",
        "config.yaml:9: streams[0].lines[1].name: `till` is the name of streams[0].lines[0] too"]),
    ("sizes next to the least and the most", STREAM + "model: {input_width: 3900, input_height: 100}\n", [
        "config.yaml:2: model.input_width: must be a multiple of 32, not `3900`; the nearest is 3840",
        "config.yaml:2: model.input_height: must be a multiple of 32, not `100`; the nearest is 128"]),
    ("a port behind an address", STREAM + "mqtt: {host: '[::1]:1883'}\n", [
        "config.yaml:2: mqtt.host: must be a host name or address alone; the port goes into `port`"]),
    ("kept for a thousand years", STREAM + "gallery: {keep_days: .inf}\n", [
        "config.yaml:2: gallery.keep_days: must be at most 36500, not `.inf`"]),
    ("consent for ever, by default", STREAM + "policy: {presets: [written_consent]}\n", [
        "config.yaml: gallery: set keep_days: the preset written_consent needs a retention time "
        "(740 ILCS 14/15(a))"]),
    ("retry", "streams: [{name: a, url: '0', retry_min: 5, retry_max: 1}]\n", [
        "config.yaml:1: streams[0].retry_max: must not be less than retry_min"]),
    ("broker as an address", STREAM + "mqtt: {host: 'mqtt://broker:1883'}\n", [
        "config.yaml:2: mqtt.host: must be a host name or address alone, such as 192.168.1.10; no mqtt://, no path"]),
    ("broker with port", STREAM + "mqtt: {host: 'broker:1883'}\n", [
        "config.yaml:2: mqtt.host: must be a host name or address alone; the port goes into `port`"]),
    ("two passwords", STREAM + "mqtt:\n  password: x\n  password_file: /dev/null\n", [
        "config.yaml:4: mqtt.password_file: password is set as well; keep one of the two, better the file"]),
    ("no password as a password", STREAM + "mqtt: {password: ''}\n", [
        "config.yaml:2: mqtt.password: is empty; take the key out where the broker asks for none"]),
    ("no password in the password's file", STREAM + "mqtt: {password_file: /dev/null}\n", [
        "config.yaml: mqtt.password_file: /dev/null is empty"]),
    ("password file is not there", STREAM + "mqtt: {password_file: /nowhere/secret}\n", [
        "config.yaml:2: mqtt.password_file: cannot read /nowhere/secret: no such file or directory"]),
    ("authority is not there", STREAM + "mqtt: {tls: {ca_file: /nowhere/ca.crt}}\n", [
        "config.yaml:2: mqtt.tls.ca_file: cannot read /nowhere/ca.crt: no such file or directory"]),
    ("key without certificate", STREAM + "mqtt: {tls: {key_file: /dev/null}}\n", [
        "config.yaml:2: mqtt.tls.key_file: needs the certificate that it belongs to; set cert_file as well"]),
    ("variable that is not set", "streams: [{name: a, url: 'rtsp://me:${NOT_SET_ANYWHERE}@cam/'}]\n", [
        "config.yaml:1: streams[0].url: names the environment variable NOT_SET_ANYWHERE, which is not set"]),
    ("scheme misspelt", "streams: [{name: a, url: 'rstp://cam/'}]\n", [
        "config.yaml:1: streams[0].url: rstp:// is not a kind of stream; did you mean rtsp://?"]),
    ("scheme unknown", "streams: [{name: a, url: 'srt://cam/'}]\n", [
        "config.yaml:1: streams[0].url: srt:// is not a kind of stream; use rtsp://, http:// or csi://"]),
    ("no host", "streams: [{name: a, url: 'rtsp:///live'}]\n", [
        "config.yaml:1: streams[0].url: rtsp:// must be followed by a host, such as rtsp://192.168.1.20/stream"]),
    ("port of a camera", "streams: [{name: a, url: 'rtsp://cam:99999/'}]\n", [
        "config.yaml:1: streams[0].url: rtsp:// must be followed by a host and, if need be, a port of 0 to 65535; "
        "in a password write @ / : # ? as %40 %2F %3A %23 %3F"]),
    ("ribbon-cable camera", "streams: [{name: a, url: 'csi://main'}]\n", [
        "config.yaml:1: streams[0].url: a camera on the board's own connector is csi:// and its number, such as csi://0"]),
    ("zones that nobody can be in", "streams:\n- name: a\n  url: '0'\n  zones:\n"
     "  - {name: two, polygon: [[0, 0], [1, 1]]}\n"
     "  - {name: flat, polygon: [[0.1, 0.1], [0.3, 0.3], [0.7, 0.7], [0.3, 0.3]]}\n"
     "  - {name: deep, polygon: [[0, 0], [0.5, 0.5, 1], [1]]}\n"
     "  - {name: bow-tie, polygon: [[0.2, 0.2], [0.8, 0.8], [0.8, 0.2], [0.2, 0.8]]}\n", [
        "config.yaml:5: streams[0].zones[0].polygon: must have at least 3 entries",
        "config.yaml:6: streams[0].zones[1].polygon: must not have all its corners on one line, for nobody can be within",
        "config.yaml:7: streams[0].zones[2].polygon[1]: must have at most 2 entries, not 3",
        "config.yaml:7: streams[0].zones[2].polygon[2]: must have at least 2 entries",
        "config.yaml:8: streams[0].zones[3].polygon: must not cross itself: give the corners in their order around the zone"]),
    ("neither address nor file", "streams:\n- {name: a, url: 192.168.1.20}\n- {name: b, url: ''}\n- {name: c, url: cam}\n", [
        "config.yaml:2: streams[0].url: is neither an address (rtsp://…, http://…, csi://0), a camera "
        "(/dev/video0, 0), nor a file or folder that exists",
        "config.yaml:3: streams[1].url: is neither an address (rtsp://…, http://…, csi://0), a camera "
        "(/dev/video0, 0), nor a file or folder that exists",
        "config.yaml:4: streams[2].url: is neither an address (rtsp://…, http://…, csi://0), a camera "
        "(/dev/video0, 0), nor a file or folder that exists"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_fault_is_told_in_a_plain_sentence(tmp_path: Path, text: str | bytes, told: list[str]) -> None:
    assert faults(tmp_path, text) == told


def test_every_fault_of_a_file_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    told = faults(tmp_path, """\
devise: hall
streams:
  - {name: Front, url: rstp://cam/}
  - {name: b, url: '0', fps: -1}
  - {name: b, url: '1'}
mqtt:
  port: 1
  port: 70000
  password: x
  password_file: /dev/null
""")

    assert [line.split(": ")[:2] for line in told] == [
        ["config.yaml:1", "devise"],
        ["config.yaml:3", "streams[0].name"],
        ["config.yaml:3", "streams[0].url"],
        ["config.yaml:4", "streams[1].fps"],
        ["config.yaml:5", "streams[2].name"],
        ["config.yaml:8", "mqtt.port"],
        ["config.yaml:8", "mqtt.port"],
        ["config.yaml:10", "mqtt.password_file"],
    ]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: no such file or directory$"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: is a directory$"):
        load(tmp_path)


def test_a_fault_is_there_for_programs_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, STREAM + "mqtt: {port: 0}"))

    [fault] = caught.value.faults
    assert (fault.path, fault.line, fault.message) == ("mqtt.port", 2, "must be at least 1, not `0`")

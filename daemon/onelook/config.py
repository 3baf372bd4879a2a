"""Config: the owner's choices, one frozen tree; config.yaml is its manual.

`load` reads the file and tells every fault of it at once, in plain sentences.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from onelook.errors import OwnerError
from onelook.systemd import credential

log = logging.getLogger(__name__)

PASSWORD_VARIABLE = "ONELOOK_MQTT_PASSWORD"  # noqa: S105 - the name of a variable, not a password
CREDENTIAL = "mqtt-password"
"""Name of the systemd credential that holds the broker's password."""
MOST = 100_000
"""Values that a config may hold, those that an alias repeats among them: a thousand streams have fewer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to mend in a config file."""

    path: str
    """Where in the tree, as `streams[0].url`; empty: the file as a whole."""
    message: str
    """What is wrong and what would be right, one sentence."""
    line: int | None = None
    """Line of the file, from 1; none where it has no place in the text."""


class ConfigError(OwnerError):
    """A config that cannot be used; its text has every fault, one a line."""

    def __init__(self, source: Path, faults: Sequence[Fault]) -> None:
        """Take the faults of the file `source`, in the order to be told."""
        self.faults = tuple(faults)
        super().__init__("\n".join(_told(source, fault) for fault in faults))


def _told(source: Path, fault: Fault) -> str:
    place = str(source) if fault.line is None else f"{source}:{fault.line}"
    return ": ".join(part for part in (place, fault.path, fault.message) if part)


# --- values ---------------------------------------------------------------------------------


def _beside_config(path: Path, info: ValidationInfo) -> Path:
    """Paths are the owner's, who thinks from where the config file lies."""
    folder = (info.context or {}).get("folder", Path())
    if "\0" in str(path):
        raise ValueError("holds a character that no file's name can have")
    return Path(folder, os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises without a home


def _real(path: Path) -> str:
    """The file, however it is spelt."""
    return os.path.realpath(path)


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {_reason(error)}") from None
    return path


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _host(value: str) -> str:
    if not value or re.search(r"[\s/]", value):
        raise ValueError("must be a host name or address alone, such as 192.168.1.10; no mqtt://, no path")
    if re.fullmatch(r"(\[.*\]|[^:]+):\d+", value):
        raise ValueError("must be a host name or address alone; the port goes into `port`")
    return re.sub(r"^\[(.+)\]$", r"\1", value)  # the brackets of an IPv6 address are a URL's


def _not_empty(value: SecretStr) -> SecretStr:
    """No password is a password: to the broker, and to whoever relies on its asking for one."""
    if not value.get_secret_value():
        raise ValueError("is empty; take the key out where the broker asks for none")
    return value


def _number_is_text(value: object) -> object:
    """`url: 0` and `protocol: 5` are what people write; no need to teach them quotes."""
    return str(value) if type(value) is int else value


def _calibrated(value: float) -> float:
    if value not in (1e-2, 1e-3, 1e-4, 1e-5):
        raise ValueError("must be 0.01, 0.001, 0.0001 or 0.00001, the rates that models are calibrated to")
    return value


def _switch(value: object) -> object:
    """YAML takes on and off for true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def _source(url: str, info: ValidationInfo) -> str:
    """Check the form of a stream's URL, put secrets in, and resolve a path."""
    url = _with_environment(url).removeprefix("file://")
    scheme, is_address, rest = url.partition("://")
    if is_address:
        _check_address(scheme.lower(), url, rest)
        return url
    if url.isdecimal() or url.startswith("/dev/"):
        return url
    path = _beside_config(Path(url), info)
    # A file may lie on a disk that is mounted later; but it must look like one, as 192.168.1.20 does not.
    if not url or not (re.search(r"/$|\.[A-Za-z]\w*$", url) or may_exist(path)):
        raise ValueError(
            "is neither an address (rtsp://…, http://…, csi://0), a camera (/dev/video0, 0), "
            "nor a file or folder that exists"
        )
    return f"{path}/" if url.endswith("/") else str(path)


def may_exist(path: Path) -> bool:
    """Whether it is there, or may be where this user may not look: opening it will tell."""
    try:
        path.stat()
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    except ValueError:  # no name can be so
        return False
    return True


def _with_environment(url: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(f"names the environment variable {match[1]}, which is not set")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, url)


def _check_address(scheme: str, url: str, rest: str) -> None:
    if scheme == "csi":
        if not rest.isdecimal():
            raise ValueError("a camera on the board's own connector is csi:// and its number, such as csi://0")
        return
    known = ("rtsp", "rtsps", "http", "https")
    if scheme not in known:
        meant = get_close_matches(scheme, known, n=1)
        hint = f"did you mean {meant[0]}://?" if meant else "use rtsp://, http:// or csi://"
        raise ValueError(f"{scheme}:// is not a kind of stream; {hint}")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text may hold the password
        raise ValueError(
            f"{scheme}:// must be followed by a host and, if need be, a port of 0 to 65535; "
            "in a password write @ / : # ? as %40 %2F %3A %23 %3F"
        ) from None
    if not parts.hostname:
        raise ValueError(f"{scheme}:// must be followed by a host, such as {scheme}://192.168.1.20/stream")


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=63)]
Host = Annotated[str, AfterValidator(_host)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]  # who waits for more than a day waits for ever
Ratio = Annotated[float, Field(ge=0, le=1)]
OwnPath = Annotated[Path, AfterValidator(_beside_config)]
ReadableFile = Annotated[OwnPath, AfterValidator(_readable)]


# --- sections -------------------------------------------------------------------------------


class Section(BaseModel):
    """What every section obeys: frozen, and no key that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        """A section whose every key is commented out is null in YAML; it means the defaults."""
        return {} if value is None else value


class Model(Section):
    """The network."""

    path: OwnPath | None = None  # folder with model.tflite and model.json; none: the shipped one
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    input_width: Annotated[int, Field(ge=160, le=3840, multiple_of=32)] = 640
    input_height: Annotated[int, Field(ge=128, le=2176, multiple_of=32)] = 480
    score: Ratio | None = None  # none: the threshold the model was calibrated to
    max_faces: Annotated[int, Field(ge=1, le=1000)] = 200


Fraction = Annotated[float, Field(ge=0, le=1)]
Point = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


def _cross(a: list[float], b: list[float], c: list[float], d: list[float]) -> bool:
    """Whether the way from a to b crosses that from c to d, and does not only touch it."""
    def side(p: list[float], q: list[float], r: list[float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


class Zone(Section):
    """A part of the picture that people enter and leave."""

    name: Name
    polygon: Annotated[list[Point], Field(min_length=3)]  # corners, x and y as fractions of width and height

    @field_validator("polygon")
    @classmethod
    def _has_an_inside(cls, value: list[list[float]]) -> list[list[float]]:
        sides = [(x - value[0][0], y - value[0][1]) for x, y in value]
        if all(abs(a * d - b * c) < 1e-9 for (a, b), (c, d) in combinations(sides, 2)):
            raise ValueError("must not have all its corners on one line, for nobody can be within")
        edges = list(zip(value, [*value[1:], value[0]], strict=True))
        if any(_cross(*one, *other) for one, other in combinations(edges, 2)):
            raise ValueError("must not cross itself: give the corners in their order around the zone")
        return value


class Line(Section):
    """A line in the picture that people cross."""

    name: Name
    start: Point
    end: Point

    @field_validator("end")
    @classmethod
    def _somewhere_else(cls, value: list[float], info: ValidationInfo) -> list[float]:
        if value == info.data.get("start"):
            raise ValueError("must not be where the line starts")
        return value


class Stream(Section):
    """One source of pictures; its kind is told by the URL's form."""

    name: Name
    # Not in the repr: it may hold the camera's password.
    url: Annotated[str, BeforeValidator(_number_is_text), AfterValidator(_source), Field(repr=False)]
    fps: Annotated[float, Field(gt=0, le=240)] | None = None  # most frames a second to look at
    paced: bool = True  # video files: at their own speed, or as fast as possible
    loop: bool = False  # files and folders: start again at the end
    open_timeout: Seconds = 10.0
    read_timeout: Seconds = 10.0
    retry_min: Seconds = 0.5
    retry_max: Seconds = 30.0
    zones: list[Zone] = []
    lines: list[Line] = []

    @field_validator("retry_max")
    @classmethod
    def _not_under_retry_min(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("retry_min", 0):
            raise ValueError("must not be less than retry_min")
        return value


class Tracking(Section):
    """How faces become tracks."""

    confirm: Seconds = 0.3
    lost: Seconds = 2.0
    iou: Ratio = 0.2
    describe: Annotated[int, Field(ge=1)] | None = 16  # faces of a frame; null: all


class Report(Section):
    """What is published."""

    presence: bool = True
    identity: bool = True
    attributes: list[str] = []  # CelebA names; empty: none
    age: bool = True
    gender: bool = True
    ethnicity: bool = False
    emotion: bool = True
    crowd: bool = True
    visitors: bool = False  # tell of an unknown person which other tracks were the same one
    mood: bool = False  # how they all look together; also without this where the policy aggregates emotion
    settle: Seconds = 1.0  # an attribute or emotion must last this long before it is published
    far: Annotated[float, AfterValidator(_calibrated)] = 1e-3


Level = Annotated[Literal["off", "aggregate", "on"], BeforeValidator(_switch)]
LEVELS = ("off", "aggregate", "on")
Preset = Literal["forbid_emotion_at_work", "forbid_emotion_in_education", "public_place", "written_consent"]
PRESETS: dict[str, dict[str, tuple[str, str]]] = {
    "forbid_emotion_at_work": {"emotion": ("off", "Regulation (EU) 2024/1689, article 5(1)(f)")},
    "forbid_emotion_in_education": {"emotion": ("off", "Regulation (EU) 2024/1689, article 5(1)(f)")},
    "public_place": {
        "identity": ("off", "nobody in a public place has agreed to be recognised"),
        "attributes": ("aggregate", "nobody in a public place has agreed to be described"),
        "emotion": ("aggregate", "nobody in a public place has agreed to be described"),
    },
    "written_consent": {},  # its demands are on enrolment: 740 ILCS 14/15
}
"""Preset -> what it limits, to which level, and why."""


class Purposes(Section):
    """What is declared to those who are watched; written into every event of its kind."""

    presence: str | None = None  # of presence and crowd
    identity: str | None = None
    attributes: str | None = None
    emotion: str | None = None  # of emotion and mood


class Policy(Section):
    """What may be found out about people at all."""

    presets: list[Preset] = []
    identity: Level | None = None  # none: on, or as far as the presets allow
    attributes: Level | None = None
    emotion: Level | None = None
    purpose: Purposes = Purposes()

    @field_validator("identity", "attributes", "emotion")
    @classmethod
    def _within_the_presets(cls, value: str | None, info: ValidationInfo) -> str | None:
        for preset in info.data.get("presets", []):
            most, why = PRESETS[preset].get(info.field_name or "", ("on", ""))
            if value is not None and LEVELS.index(value) > LEVELS.index(most):
                raise ValueError(f"the preset {preset} allows `{most}` at most ({why}); take one of the two out")
        return value

    def level(self, what: Literal["identity", "attributes", "emotion"]) -> str:
        """`off`, `aggregate` or `on`."""
        said: str | None = getattr(self, what)
        limits = [PRESETS[preset].get(what, ("on", ""))[0] for preset in self.presets]
        return min([said or "on", *limits], key=LEVELS.index)

    @property
    def needs_consent(self) -> bool:
        """Whether nobody is enrolled without a note of how they agreed."""
        return "written_consent" in self.presets


class Gallery(Section):
    """Where enrolled people are kept."""

    path: OwnPath = Path("/var/lib/onelook/gallery.db")
    key_file: OwnPath = Path("/var/lib/onelook/gallery.key")
    # Older templates are destroyed; none: kept until forgotten.
    keep_days: Annotated[float, Field(gt=0, le=36500)] | None = None
    unknown_days: Annotated[float, Field(ge=0, le=30)] = 0  # for which strangers' tracks are kept; 0: not at all
    unknown_most: Annotated[int, Field(ge=1, le=2000)] = 500
    unknown_crops: bool = False


class Tls(Section):
    """Encryption of the broker connection."""

    ca_file: ReadableFile | None = None  # none: the system's authorities
    cert_file: ReadableFile | None = None
    key_file: ReadableFile | None = None

    @field_validator("key_file")
    @classmethod
    def _with_its_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and "cert_file" in info.data and info.data["cert_file"] is None:
            raise ValueError("needs the certificate that it belongs to; set cert_file as well")
        return value


class Bounds(Section):
    """How an event waits for a broker that is away."""

    # MQTT counts in whole seconds, and the last one is not delivered
    expiry: Annotated[float, Field(ge=2, allow_inf_nan=False)] = 60.0
    bytes: Annotated[int, Field(ge=10_000, le=1_000_000_000)] = 4_000_000


class Waiting(Section):
    """The bounds of each kind of event; states do not wait, only the newest counts."""

    presence: Bounds = Bounds()
    identity: Bounds = Bounds()
    attributes: Bounds = Bounds()
    emotion: Bounds = Bounds()
    zone: Bounds = Bounds()
    line: Bounds = Bounds()


Command = Literal["ping", "snapshot", "pause", "resume", "enroll", "forget", "unknown", "name"]


class Mqtt(Section):
    """The broker."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    protocol: Annotated[Literal["5", "3.1.1"], BeforeValidator(_number_is_text)] = "5"
    prefix: Name = "onelook"
    username: str | None = None
    password: Annotated[SecretStr, AfterValidator(_not_empty)] | None = None
    password_file: ReadableFile | None = None  # none: systemd's credential mqtt-password, where there is one
    tls: Tls | None = None
    keepalive: Annotated[int, Field(ge=5, le=3600)] = 30
    outbox: OwnPath | None = Path("/var/lib/onelook/outbox.db")  # where events wait; none: in memory
    waiting: Waiting = Waiting()
    replay_rate: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] = 200.0  # events a second
    home_assistant: bool = False  # announce the streams to Home Assistant
    discovery_prefix: Name = "homeassistant"
    commands: list[Command] = []
    paused: OwnPath | None = Path("/var/lib/onelook/paused.json")  # who is, over a restart; none: nobody

    @field_validator("password_file")
    @classmethod
    def _instead_of_password(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("password") is not None:
            raise ValueError("password is set as well; keep one of the two, better the file")
        return value

    @field_validator("commands")
    @classmethod
    def _with_mqtt_5(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if value and info.data.get("protocol") == "3.1.1":
            raise ValueError("needs protocol 5, which says where an answer is to go")
        return value


class Metrics(Section):
    """The page for Prometheus."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9464


class Config(Section):
    """The whole tree. Only service.py sees it."""

    device: Name = "onelook"
    publish: Literal["mqtt", "stdout"] = "mqtt"
    model: Model = Model()
    streams: Annotated[list[Stream], Field(min_length=1)]
    tracking: Tracking = Tracking()
    report: Report = Report()
    policy: Policy = Policy()
    gallery: Annotated[Gallery, Field(validate_default=True)] = Gallery()
    mqtt: Mqtt = Mqtt()
    metrics: Metrics = Metrics()

    @field_validator("gallery")
    @classmethod
    def _kept_for_a_stated_time(cls, value: Gallery, info: ValidationInfo) -> Gallery:
        policy = info.data.get("policy")
        if _real(value.path) == _real(value.key_file):
            raise ValueError("key_file is the gallery's file: it needs one of its own")
        if policy is not None and policy.needs_consent and value.keep_days is None:
            raise ValueError("set keep_days: the preset written_consent needs a retention time (740 ILCS 14/15(a))")
        if policy is not None and policy.needs_consent and value.unknown_days:
            raise ValueError("unknown_days must be 0: the preset written_consent keeps nobody who has not agreed")
        return value

    @field_validator("mqtt")
    @classmethod
    def _beside_no_stream(cls, value: Mqtt, info: ValidationInfo) -> Mqtt:
        taken = {stream.name for stream in info.data.get("streams", ())} & {"command", "reply"}
        if value.commands and taken:
            raise ValueError(f"commands: requests and answers go where a stream called {min(taken)} would publish its"
                             " events; give that stream another name")
        return value

    @field_validator("mqtt")
    @classmethod
    def _in_a_file_of_its_own(cls, value: Mqtt, info: ValidationInfo) -> Mqtt:
        gallery = info.data.get("gallery")
        taken = {} if gallery is None else dict.fromkeys(map(_real, (gallery.path, gallery.key_file)), "gallery")
        for key, file in (("outbox", value.outbox), ("paused", value.paused)):
            if file is None:
                continue
            if whose := taken.get(_real(file)):
                raise ValueError(f"{key} is the {whose}'s file: it needs one of its own")
            if os.path.isdir(file):  # noqa: PTH112 - Path's raises where it may not look
                raise ValueError(f"{key} is the folder {file}, and must be a file")
            taken[_real(file)] = key
        return value


# --- reading --------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Config:
    """Read the config file at `path`; relative paths in it start from its folder.

    The broker's password comes from the environment variable ONELOOK_MQTT_PASSWORD, else from
    `mqtt.password`, `mqtt.password_file` or systemd's credential mqtt-password, and is in
    `mqtt.password` of what this returns.

    Raises ConfigError with every fault of the file.
    """
    path = Path(path)
    text = _read(path)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if _unfolded(root, {}) > MOST:
            raise ValueError  # noqa: TRY301 - as of all that no setting can have
        faults = list(_repeated_keys(root))  # before `<<` is unfolded, which may override on purpose
        data = loader.construct_document(root) if root is not None else None
        as_json = json.dumps(data)
    except yaml.YAMLError as error:
        raise ConfigError(path, [_syntax_fault(error)]) from None
    except (ValueError, RecursionError):  # a number of 5000 digits; an anchor that holds itself
        raise ConfigError(path, [Fault("", "holds a number or a nesting that no setting can have")]) from None
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"holds {_shown(data)} alone"
        raise ConfigError(path, [Fault("", f"{what}; it must be keys with values, and at least `streams`")])

    faults += _repeated_names(data, root)
    try:
        # By way of JSON, because there strict means what an owner means: a path is text, 25 is a
        # fine number of seconds, but true is not 1 and "2" is not 2.
        config = Config.model_validate_json(as_json, strict=True, context={"folder": path.parent.absolute()})
    except ValidationError as error:
        faults += (_fault(details, root) for details in error.errors(include_url=False))
    else:
        kept = {"gallery.path": config.gallery.path, "gallery.key_file": config.gallery.key_file,
                "mqtt.outbox": config.mqtt.outbox, "mqtt.paused": config.mqtt.paused}
        faults += (
            Fault(key, "is this config itself: it would be written over", _found(root, key.split("."))[0])
            for key, file in kept.items() if file is not None and _real(file) == _real(path)
        )
    if faults:
        raise ConfigError(path, sorted(faults, key=lambda fault: fault.line or 0))
    return _with_password(config, path)


def stream_of(url: str) -> Stream:
    """The stream that `url` names on a command line, all else by default.

    Raises ConfigError where it names none.
    """
    try:
        return Stream(name="stream", url=url)
    except ValidationError as error:
        [details] = error.errors(include_url=False)
        raise ConfigError(Path("SOURCE"), [Fault("", _sentence(details, ("url",), None))]) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(path, [Fault("", f"cannot be read: {_reason(error)}")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, [Fault("", f"is not text in UTF-8 (byte {error.start})")]) from None


def _with_password(config: Config, path: Path) -> Config:
    if word := os.environ.get(PASSWORD_VARIABLE):  # set to nothing is not set, as in an environment file's `NAME=`
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # what is no UTF-8, to Python
            raise ConfigError(path, [Fault(PASSWORD_VARIABLE, "is not text in UTF-8")])
        mqtt = config.mqtt.model_copy(update={"password": SecretStr(word), "password_file": None})
        return config.model_copy(update={"mqtt": mqtt})
    if config.mqtt.password is not None:
        log.warning(
            "%s: mqtt.password is better kept out of the file: set %s or mqtt.password_file",
            path, PASSWORD_VARIABLE,
        )
        return config
    file = config.mqtt.password_file or credential(CREDENTIAL)
    if file is None:
        return config
    try:
        word = password_in(file)
    except OSError as error:
        raise ConfigError(path, [Fault("mqtt.password_file", f"cannot read {file}: {_reason(error)}")]) from None
    except UnicodeDecodeError:
        raise ConfigError(path, [Fault("mqtt.password_file", f"{file} is not text in UTF-8")]) from None
    if not word:
        raise ConfigError(path, [Fault("mqtt.password_file", f"{file} is empty")])
    mqtt = config.mqtt.model_copy(update={"password": SecretStr(word)})
    return config.model_copy(update={"mqtt": mqtt})


def password_in(file: Path) -> str:
    """The password that a file holds, without the line's end. Raises OSError, or UnicodeDecodeError for no text."""
    return file.read_text(encoding="utf-8-sig").removesuffix("\n").removesuffix("\r")


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: no tags, no repeated keys, no dates, and 1e-3 is a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way of saying it
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        try:
            super().__init__(text)
        except yaml.reader.ReaderError as error:
            message = f"holds the character #x{error.character:02x}, which no text has"
            raise yaml.YAMLError(message) from None

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, f"the tag {event.tag}", event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                key.tag = "tag:yaml.org,2002:str"  # every key is a name, `on` and `1` too
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _syntax_fault(error: yaml.YAMLError) -> Fault:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault("", str(error))
    problem = error.problem or "it ends too soon"
    said = f"{error.context}; {problem}"
    message = next((hint for part, hint in _SYNTAX.items() if part in said), "is not YAML: {problem}")
    mark = error.problem_mark or error.context_mark
    return Fault("", message.format(problem=problem), mark.line + 1 if mark else None)


_SYNTAX = {
    "the tag": "{problem} is not understood here; write plain values",
    "mapping values are not allowed": "a `:` that does not belong here; check the indentation, "
    "or put text that holds `: ` in quotes",
    "found character '\\t'": "a tab where YAML wants spaces",
    "could not find expected ':'": "a key without its `:`, here or just above",
    "expected a single document": "a second document begins here; take the `---` out",
    "while scanning a quoted": "a quote that is not closed",
    "flow mapping": "a `{{` that is not closed, or a comma missing",
    "flow sequence": "a `[` that is not closed, or a comma missing",
    "<block end>": "the indentation does not fit the lines above",
    "found undefined alias": "{problem}; an `&name` must stand before its `*name`",
}


def _unfolded(node: yaml.Node | None, sizes: dict[int, int]) -> int:
    """How many values there are once each alias stands for what it names; `sizes` are those of the nodes gone through.

    A few lines of lists of ten aliases each can stand for more than any memory holds.
    """
    if id(node) not in sizes:
        sizes[id(node)] = 1  # an anchor may hold itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for each in inner for part in (each if isinstance(each, tuple) else (each,)))
        sizes[id(node)] += sum(_unfolded(part, sizes) for part in parts)
    return sizes[id(node)]


def _repeated_keys(node: yaml.Node | None, path: str = "", above: tuple[int, ...] = ()) -> Iterator[Fault]:
    """Keys that stand twice in one section, of which YAML would take the last without a word."""
    inner: list[tuple[str, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            inner.append((f"{path}.{name}".removeprefix("."), value))
            if name in lines:
                yield Fault(inner[-1][0], f"stands here again, after line {lines[name]}; keep one", line)
            lines.setdefault(name, line)
    elif isinstance(node, yaml.SequenceNode):
        inner = [(f"{path}[{index}]", value) for index, value in enumerate(node.value)]
    for place, value in inner:
        if id(value) not in above:  # an anchor may hold itself
            yield from _repeated_keys(value, place, (*above, id(node)))


def _repeated_names(data: dict[str, Any], root: yaml.Node | None) -> Iterator[Fault]:
    """Streams that share a name, and zones or lines of one stream; looked for in the raw data, so that other faults do
    not hide it."""

    def among(place: tuple[str | int, ...], entries: object) -> Iterator[Fault]:
        names: dict[str, int] = {}
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str):
                continue
            if name in names:
                line, _ = _found(root, (*place, index, "name"))
                yield Fault(f"{path}[{index}].name", f"`{name}` is the name of {path}[{names[name]}] too", line)
            names.setdefault(name, index)

    streams = data.get("streams")
    yield from among(("streams",), streams)
    for index, stream in enumerate(streams if isinstance(streams, list) else ()):
        for places in ("zones", "lines"):
            yield from among(("streams", index, places), stream.get(places) if isinstance(stream, dict) else None)


# --- faults in plain sentences ----------------------------------------------------------------


def _fault(details: Any, root: yaml.Node | None) -> Fault:
    """One of pydantic's errors as the owner's."""
    location: tuple[str | int, ...] = details["loc"]
    line, node = _found(root, location)
    written = node.value if isinstance(node, yaml.ScalarNode) else None
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return Fault(path.removeprefix("."), _sentence(details, location, written), line)


def _found(root: yaml.Node | None, location: Sequence[str | int]) -> tuple[int | None, yaml.Node | None]:
    """The line of the key at `location`, or of the nearest section above; and the value there, if any."""
    node, line = root, None
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == part]
            if not pairs:
                return line, None
            key, node = pairs[-1]
            line = key.start_mark.line + 1
    return line, node


def _sentence(details: Any, location: Sequence[str | int], written: str | None) -> str:  # noqa: PLR0911
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        return "is missing; it has no default"
    if kind == "extra_forbidden":
        return _unknown_key(location)
    if kind == "value_error":
        return str(context["error"])
    if value is None:
        return "has no value; write one, or take the key out for its default"
    shown = _shown(value, written)
    if kind == "string_type":
        if location[-1] == "password":
            return "must be text; put it in quotes"
        if isinstance(value, bool):
            hint = "null means none" if location[-1] in ("outbox", "paused") else f'put it in quotes, "{written}"'
            return f"{shown} without quotes means {str(value).lower()} in YAML; {hint}"
        if isinstance(value, int | float):
            return f'must be text; put it in quotes, "{written}"'
        return f"must be text, not {shown}"
    if kind in ("int_type", "float_type"):
        noun = "a whole number" if kind == "int_type" else "a number"
        if isinstance(value, str) and re.fullmatch(r"[-+]?(0|[1-9]\d*)(\.\d*)?", value):
            return f"must be {noun}, without quotes"
        return f"must be {noun}, not {shown}"
    if kind == "string_pattern_mismatch":
        fit = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") if "://" not in value else ""
        example = f", such as `{fit}`" if fit else ""
        return f"must be of a-z, 0-9 and -, beginning with a letter or digit{example}"
    if kind == "multiple_of":
        step, bounds = int(context["multiple_of"]), Model.model_fields[str(location[-1])].metadata
        least, most = (next(getattr(each, end) for each in bounds if hasattr(each, end)) for end in ("ge", "le"))
        nearest = min(max(round(int(value) / step) * step, least), most)
        return f"must be a multiple of {step}, not {shown}; the nearest is {nearest}"
    bound = next((context[name] for name in ("ge", "gt", "le") if name in context), 0)
    return {
        "bool_type": f"must be true or false, not {shown}",
        "greater_than_equal": f"must be at least {bound:g}, not {shown}",
        "greater_than": f"must be more than {bound:g}, not {shown}",
        "less_than_equal": f"must be at most {bound:g}, not {shown}",
        "finite_number": f"must be a number that can be counted to, not {shown}",
        "string_too_long": f"must be at most {context.get('max_length')} characters long",
        "literal_error": f"must be {str(context.get('expected')).replace(chr(39), '')}, not {shown}",
        "list_type": f"must be a list, each entry on a line of its own after `- `, not {shown}",
        "too_short": f"must have at least {_entries(context.get('min_length', 1))}",
        "too_long": f"must have at most {_entries(context.get('max_length', 1))}, not {context.get('actual_length')}",
        "model_type": f"must be a section of keys with values, not {shown}",
    }.get(kind, f"cannot be used: {details['msg']}")


def _entries(count: int) -> str:
    return "one entry" if count == 1 else f"{count} entries"


def _shown(value: object, written: str | None = None) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a section"
    text = str(value) if written is None else written
    if "://" in text:  # may hold a password
        return "an address"
    return f"`{text}`" if len(text) <= 40 else f"`{text[:39]}…`"


def _unknown_key(location: Sequence[str | int]) -> str:
    key = str(location[-1])
    section: type[Section] = Config
    for part in location[:-1]:
        if isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) or section
    homes = [path for path, home in _sections(Config) if key in home.model_fields]
    if homes:  # first, for it is the indentation that is wrong more often than a key that happens to be one elsewhere
        return f"unknown key here; it belongs in {' or '.join(home or 'the top level' for home in homes)}"
    near = get_close_matches(key.lower().replace("-", "_"), section.model_fields, n=1)
    if near:
        return f"unknown key; did you mean `{near[0]}`?"
    return f"unknown key; the keys here are {', '.join(section.model_fields)}"


def _sections(section: type[Section], path: str = "") -> Iterator[tuple[str, type[Section]]]:
    yield path, section
    for name, field in section.model_fields.items():
        if inner := _section_in(field.annotation):
            yield from _sections(inner, f"{path}.{name}".removeprefix("."))


def _section_in(annotation: Any) -> type[Section] | None:
    """The section in `Section`, `Section | None` or `list[Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)

"""Config: the owner's choices, one frozen tree; config.yaml is its manual."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=63)]
Seconds = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """What every section obeys: frozen, and no key that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(Section):
    """The network."""

    path: Path | None = None  # folder with model.tflite and model.json; none: the shipped one
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    input_width: Annotated[int, Field(ge=160, le=3840, multiple_of=32)] = 640
    input_height: Annotated[int, Field(ge=128, le=2176, multiple_of=32)] = 480
    score: Ratio | None = None  # none: the threshold the model was calibrated to
    max_faces: Annotated[int, Field(ge=1, le=1000)] = 200


class Stream(Section):
    """One source of pictures; its kind is told by the URL's form."""

    name: Name
    url: str
    fps: Annotated[float, Field(gt=0, le=240)] | None = None  # most frames a second to look at
    paced: bool = True  # video files: at their own speed, or as fast as possible
    loop: bool = False  # files and folders: start again at the end
    open_timeout: Seconds = 10.0
    read_timeout: Seconds = 10.0
    retry_min: Seconds = 0.5
    retry_max: Seconds = 30.0


class Tracking(Section):
    """How faces become tracks."""

    confirm: Seconds = 0.3
    lost: Seconds = 2.0
    iou: Ratio = 0.2


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
    settle: Seconds = 1.0  # an attribute or emotion must last this long before it is published
    far: Literal[1e-2, 1e-3, 1e-4] = 1e-3


class Gallery(Section):
    """Where enrolled people are kept."""

    path: Path = Path("/var/lib/onelook/gallery.db")
    key_file: Path = Path("/var/lib/onelook/gallery.key")


class Tls(Section):
    """Encryption of the broker connection."""

    ca_file: Path | None = None  # none: the system's authorities
    cert_file: Path | None = None
    key_file: Path | None = None


class Mqtt(Section):
    """The broker."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    protocol: Literal["5", "3.1.1"] = "5"
    prefix: Name = "onelook"
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    tls: Tls | None = None
    keepalive: Annotated[int, Field(ge=5, le=3600)] = 30
    expiry: Seconds = 60.0  # an event older than this is not delivered


class Metrics(Section):
    """The page for Prometheus."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9464


class Config(Section):
    """The whole tree. Only service.py sees it."""

    device: Name = "onelook"
    publish: Literal["mqtt", "stdout"] = "mqtt"
    model: Model = Model()
    streams: list[Stream]
    tracking: Tracking = Tracking()
    report: Report = Report()
    gallery: Gallery = Gallery()
    mqtt: Mqtt = Mqtt()
    metrics: Metrics = Metrics()

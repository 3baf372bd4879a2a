"""Commands: what may be asked of a running daemon over MQTT 5, and its answers.

A request goes to <prefix>/<device>/command/<name>, a JSON object as payload (none: {}), with
MQTT 5's response topic and, if the asker likes, correlation data, which comes back with the answer:

    {"ok": true, "command": "ping", "data": {…}}
    {"ok": false, "command": "enroll", "error": "One sentence that says what to mend."}

Off by default; `allowed` names those that are on. Nothing is done but between two frames, in the
frame loop's own thread, by `work`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Base64Bytes, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from onelook.errors import OwnerError
from onelook.event import Attributes, Box, Emotion, Identity
from onelook.publish import Heard, Message

log = logging.getLogger(__name__)

MOST_BYTES = 20_000_000
"""Of a request: ten photographs of a telephone."""
MOST_WAITING = 16
"""Requests that may wait for the frame loop; who asks for more is told to come back."""

Name = Annotated[str, Field(min_length=1, max_length=100)]
Purpose = Annotated[str | None, Field(max_length=1000, description="What the templates are kept for.")]
Consent = Annotated[
    str | None, Field(max_length=1000, description="How and when the person agreed; the policy may ask for it.")
]


def _base64_alone(text: object) -> object:
    """What else stands in it would be passed over, and no picture come of the rest."""
    if isinstance(text, str) and not _BASE64.fullmatch(text):
        raise PydanticCustomError("base64", "should be base64 and nothing else, without data:… before it")
    return text


_BASE64 = re.compile(r"[A-Za-z0-9+/\s]*+(?:=\s*+){0,2}")

Photo = Annotated[Base64Bytes, BeforeValidator(_base64_alone)]


class Part(BaseModel):
    """What every request and answer obeys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )


class Ping(Part):
    """Are you there?"""


class Pong(Part):
    """The frame loop turns."""

    version: str = Field(description="Of onelook.")
    seconds: float = Field(ge=0, description="Since the daemon started.")


class Snapshot(Part):
    """Whom do you see?"""

    stream: str | None = Field(default=None, description="Of which stream; null: of all.")


class TrackNow(Part):
    """A track that is there, and what was said of it last."""

    track: int
    box: Box = Field(description="x1, y1, x2, y2 in pixels of the frame.")
    seconds: float = Field(ge=0, description="How long the track has lasted.")
    identity: Identity | None = None
    attributes: Attributes | None = None
    emotion: Emotion | None = None


class StreamNow(Part):
    """A stream and the confirmed tracks of its newest frame."""

    stream: str
    state: Literal["online", "offline", "paused"]
    tracks: list[TrackNow]


class Scene(Part):
    """Whom the streams show."""

    streams: list[StreamNow]


class Pause(Part):
    """Look no more: the camera is let go of, until `resume` or the next start."""

    stream: str | None = Field(default=None, description="Which stream; null: all.")


class Resume(Part):
    """Look again."""

    stream: str | None = Field(default=None, description="Which stream; null: all.")


class Paused(Part):
    """Which streams are not looked at."""

    paused: list[str]


class Enroll(Part):
    """Remember a person's face."""

    name: Name = Field(description="As it shall stand in events.")
    photos: list[Photo] = Field(
        min_length=1, max_length=10, description="Pictures of that person alone: JPEG, PNG or WebP files in base64."
    )
    purpose: Purpose = None
    consent: Consent = None


class PhotoVerdict(Part):
    """What came of one photo."""

    photo: int = Field(ge=1, description="Which one, from 1.")
    accepted: bool
    reason: str


class Enrolled(Part):
    """What came of the photos; at least one was accepted."""

    name: str
    photos: list[PhotoVerdict]


class Forget(Part):
    """Destroy all that is kept of a person."""

    name: Name


class Forgotten(Part):
    """What was destroyed."""

    name: str
    templates: int = Field(ge=1)


class ListUnknown(Part):
    """List the people whom nobody knows, if the config keeps them."""


class UnknownNow(Part):
    """Tracks that look like one person's."""

    cluster: str = Field(description="By which `name` gives it a name.")
    times: int = Field(ge=1, description="How many tracks.")
    first: AwareDatetime
    last: AwareDatetime
    streams: list[str]


class Unknown(Part):
    """The people whom nobody knows, the most often seen first."""

    clusters: list[UnknownNow]


class GiveName(Part):
    """Enrol one of the people whom nobody knows."""

    cluster: str = Field(max_length=20, description="As `unknown` tells it.")
    name: Name = Field(description="As it shall stand in events.")
    purpose: Purpose = None
    consent: Consent = None


class Named(Part):
    """Who is enrolled now."""

    name: str
    templates: int = Field(ge=1)


COMMANDS: dict[str, tuple[type[Part], type[Part]]] = {
    "ping": (Ping, Pong),
    "snapshot": (Snapshot, Scene),
    "pause": (Pause, Paused),
    "resume": (Resume, Paused),
    "enroll": (Enroll, Enrolled),
    "forget": (Forget, Forgotten),
    "unknown": (ListUnknown, Unknown),
    "name": (GiveName, Named),
}
"""Name of a command -> what is asked, and what is answered when all is well."""

Handler = Callable[[Any], Part]
"""From a request to its answer; raises OwnerError with a sentence for who asked."""


@dataclass(frozen=True, slots=True)
class _Request:
    name: str
    asked: Part
    reply_to: str | None
    correlation: bytes | None


class Commands:
    """Takes requests from the broker and has the frame loop answer them: a correspondent of the publisher."""

    def __init__(
        self,
        device: str,
        allowed: Collection[str],
        *,
        prefix: str = "onelook",
        forbidden: Iterable[str] = (),
    ) -> None:
        """`forbidden`: beginnings of topics that are not to be answered on, besides our own."""
        self._topic = f"{prefix}/{device}/command/"
        self._replies = f"{prefix}/{device}/reply/"
        self._forbidden = (f"{prefix}/", "$", *forbidden)
        self._allowed = frozenset(allowed)
        self._waiting: SimpleQueue[_Request] = SimpleQueue()

    @property
    def topics(self) -> list[str]:
        """What it wants to hear."""
        return [f"{self._topic}+"] if self._allowed else []

    def greet(self) -> list[Message]:
        """Nothing: it speaks when it is spoken to."""
        return []

    def hear(self, heard: Heard) -> list[Message]:
        """Put a request before the frame loop, or answer at once why not."""
        if not self._allowed or not heard.topic.startswith(self._topic):  # others' topics may cover ours
            return []
        name = heard.topic.removeprefix(self._topic)
        if heard.retained:
            log.warning("The command %s is retained, and so not obeyed: it would be at each start.", name)
            return []
        reply_to = heard.response_topic
        if reply_to is not None and not self._may_answer_on(reply_to):
            log.warning("The command %s is not obeyed: its answer is not to go to %s.", name, reply_to)
            return []
        try:
            asked = self._understood(name, heard.payload)
        except OwnerError as error:
            return _answer(name, reply_to, heard.correlation, error=str(error))
        if self._waiting.qsize() >= MOST_WAITING:
            return _answer(name, reply_to, heard.correlation, error="Too much was asked at once; ask again later.")
        self._waiting.put(_Request(name, asked, reply_to, heard.correlation))
        return []

    def work(self, handlers: Mapping[str, Handler], send: Callable[[Message], None]) -> None:
        """Obey what was asked first, if anything was; the answer goes to `send`.

        One a call: ten photographs take seconds on a small board, and frames and the watchdog wait meanwhile.
        """
        try:
            request = self._waiting.get_nowait()
        except Empty:
            return
        log.info("Told over MQTT to %s%s.", request.name, _about(request.asked))
        data, sentence = None, None
        try:
            data = handlers[request.name](request.asked)
        except OwnerError as error:
            sentence = str(error)
        except Exception:  # somebody waits for the answer, and the cameras have nothing to do with it
            log.exception("a bug of onelook's, in the command %s", request.name)
            sentence = "A bug of onelook's kept it from being done: see its log."
        for message in _answer(request.name, request.reply_to, request.correlation, data=data, error=sentence):
            send(message)

    def _may_answer_on(self, topic: str) -> bool:
        """Not where it would be taken for one of our events, or for what we say to others."""
        if not topic or "+" in topic or "#" in topic:
            return False
        return topic.startswith(self._replies) or not topic.startswith(self._forbidden)

    def _understood(self, name: str, payload: bytes) -> Part:
        if name not in COMMANDS:
            raise OwnerError(f"There is no command {name}; there are {', '.join(COMMANDS)}.")
        if name not in self._allowed:
            raise OwnerError(f"The command {name} is off; mqtt.commands says which are on.")
        if len(payload) > MOST_BYTES:
            raise OwnerError(f"The request is too large: at most {MOST_BYTES // 1_000_000} MB.")
        try:
            return COMMANDS[name][0].model_validate_json(payload or b"{}")
        except ValidationError as error:
            faults = "; ".join(_sentence(fault) for fault in error.errors(include_url=False, include_input=False))
            raise OwnerError(f"The request is not understood: {faults}.") from None


def _answer(
    name: str, to: str | None, correlation: bytes | None, *, data: Part | None = None, error: str | None = None
) -> list[Message]:
    if to is None:
        if error is not None:
            log.warning("The command %s failed: %s", name, error)
        return []
    answer: dict[str, Any] = {"ok": error is None, "command": name}
    answer |= {"error": error} if data is None else {"data": data.model_dump(mode="json")}
    payload = json.dumps(answer, ensure_ascii=False).encode()
    return [Message(to, payload, content_type="application/json", correlation=correlation)]


def _sentence(fault: Any) -> str:
    where = ".".join(map(str, fault["loc"]))
    what = str(fault["msg"][:1].lower() + fault["msg"][1:])
    return f"{where}: {what}" if where else what


def _about(asked: Part) -> str:
    """Which stream a request is about; the log needs no names of people."""
    stream = getattr(asked, "stream", None)
    return f" ({stream})" if stream else ""

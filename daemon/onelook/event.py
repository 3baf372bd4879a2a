"""Event: what the daemon says about a stream. The types here are the published contract.

No event has a field for an embedding: templates cannot leave the device by this road.
`onelook schema` prints the JSON Schema made from these types.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Ratio = Annotated[float, Field(ge=0, le=1)]
Box = tuple[float, float, float, float]


def new_id() -> str:
    """A fresh event id, unique everywhere."""
    return str(uuid4())


class Data(BaseModel):
    """What every kind of event's `data` obeys."""

    # JSON knows no NaN: a number that is none must fail here, not at the broker
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )


class Declared(Data):
    """What every event about people carries."""

    purpose: str | None = Field(default=None, description="What it is for, as the owner's policy declares.")


class TrackData(Declared):
    """What every event about one person carries."""

    track: int = Field(description="Number of the track, unique in this stream since the daemon started.")
    box: Box = Field(description="x1, y1, x2, y2 in pixels of the frame.")
    frame: int = Field(description="Index of the frame that decided the event.")


class Presence(TrackData):
    """Somebody came or went."""

    state: Literal["appeared", "left"]
    seconds: float = Field(ge=0, description="How long the track has lasted.")


class Identity(TrackData):
    """Who the track is, whenever that changes."""

    state: Literal["known", "unknown", "uncertain"]
    name: str | None = Field(default=None, description="Name in the gallery; only when known.")
    previous: str | None = Field(default=None, description="The name that this one corrects.")
    similarity: float | None = Field(
        default=None,
        description="To the person enrolled, -1 to 1: the cosine, less what both have in common with many others.",
    )
    confidence: Ratio = Field(description="Share of the votes that agree, weighted by quality.")
    visitor: str | None = Field(
        default=None, description="Somebody unknown: the same as any other track that has it, within an hour."
    )


class Attributes(TrackData):
    """What the person looks like, as averaged over the track."""

    attributes: dict[str, Ratio] = Field(description="Probability of each attribute asked for.")
    age: float | None = Field(default=None, ge=0, description="Years.")
    age_range: tuple[int, int] | None = None
    gender: Literal["female", "male"] | None = None
    gender_confidence: Ratio | None = None
    ethnicity: str | None = None
    ethnicity_confidence: Ratio | None = None


class Emotion(TrackData):
    """The facial expression, whenever the strongest one changes for long enough."""

    emotion: str = Field(description="The one that lasted; at this moment another may be stronger by less than 0.1.")
    confidence: Ratio
    previous: str | None = None
    distribution: dict[str, Ratio]
    valence: float | None = Field(default=None, ge=-1, le=1, description="From displeased to pleased; see Mood.")


class Crowd(Declared):
    """How many people a stream shows; a state, retained."""

    count: int = Field(ge=0)
    known: int = Field(ge=0)
    unknown: int = Field(ge=0)
    ages: dict[str, int] | None = Field(
        default=None, description="How many are of which age, if the policy allows no more; of no fewer than three."
    )
    genders: dict[str, int] | None = Field(default=None, description="The same of genders.")


class Mood(Declared):
    """How the people on a stream look, taken together and nobody alone; a state, retained."""

    people: int = Field(ge=0, description="Of whom it is the mean.")
    distribution: dict[str, Ratio] | None = Field(
        default=None, description="Mean of their emotions; none of fewer than three people."
    )
    valence: float | None = Field(
        default=None, ge=-1, le=1,
        description="Share of happy, less those of angry, disgust, fear and sad; neutral and surprise are neither.",
    )


class Zone(TrackData):
    """Somebody entered or left a part of the picture."""

    zone: str
    state: Literal["entered", "left"]
    seconds: float = Field(ge=0, description="How long they stayed; 0 for who enters.")
    count: int = Field(ge=0, description="How many are in it now.")


class Line(TrackData):
    """Somebody crossed a line in the picture."""

    line: str
    direction: Literal["in", "out"] = Field(
        description="In is from the line's left to its right, as seen from its start towards its end."
    )
    balance: int = Field(description="How many went in since the daemon started, less those who went out.")


class Status(Data):
    """Whether the device, or one stream of it, is working; a state, retained."""

    state: Literal["online", "offline"]
    reason: str | None = None


KINDS: dict[str, type[Data]] = {
    "presence": Presence,
    "identity": Identity,
    "attributes": Attributes,
    "emotion": Emotion,
    "crowd": Crowd,
    "mood": Mood,
    "zone": Zone,
    "line": Line,
    "status": Status,
}
"""Kind of event (the last part of its type and topic) -> type of its data."""

STATES = frozenset({"crowd", "mood", "status"})
"""Kinds that say how things are, not what happened: retained, only the newest counts."""


class Event(BaseModel):
    """One thing that happened, or one state that changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(default_factory=new_id)
    stream: str | None = Field(description="Name of the stream; none for the device's own status.")
    time: AwareDatetime = Field(description="UTC time of the frame that decided it.")
    captured: float | None = Field(
        default=None, exclude=True, description="Monotonic capture time of that frame, for the frame age."
    )
    data: Presence | Identity | Attributes | Emotion | Crowd | Mood | Zone | Line | Status

    @property
    def kind(self) -> str:
        """The key of its data's type in KINDS."""
        return type(self.data).__name__.lower()

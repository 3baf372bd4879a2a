"""People in made-up seconds: what the tests of tracker and reporter let happen before the camera."""

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from onelook.face import Faces

SIZE = 64  # of an embedding; enough for strangers to be nearly orthogonal

ATTRIBUTES = ("Bald", "Bangs", "Eyeglasses", "Male", "Smiling", "Wearing_Hat", "Young")
ETHNICITIES = ("asian", "black", "indian", "other", "white")
EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

Vector = NDArray[np.float64]
T = TypeVar("T")
When: TypeAlias = Callable[[float], T] | T
"""A value, or a function of the story's seconds."""


def at(value: When[T], time: float) -> T:
    """The value at `time`."""
    now: T = value(time) if callable(value) else value
    return now


def unit(vector: Vector) -> Vector:
    """The vector, made unit length."""
    return np.asarray(vector / np.linalg.norm(vector))


@functools.cache
def look_of(name: str) -> Vector:
    """What somebody of this name looks like to a recogniser: always the same unit vector (SIZE,), not to be changed."""
    look = unit(np.random.default_rng(zlib.crc32(name.encode())).normal(size=SIZE))
    look.flags.writeable = False
    return look


def resembling(name: str, similarity: float) -> Vector:
    """Somebody else, whose cosine to `name` is `similarity`."""
    look, other = look_of(name), look_of(f"not {name}")
    across = unit(other - (other @ look) * look)
    return unit(similarity * look + np.sqrt(1 - similarity**2) * across)


def between(*spans: tuple[float, float]) -> Callable[[float], bool]:
    """True within any of the spans of time."""
    return lambda time: any(start <= time < end for start, end in spans)


def walk(start: tuple[float, float], velocity: tuple[float, float]) -> Callable[[float], tuple[float, float]]:
    """A place that moves on straight, in pixels and pixels per second."""
    return lambda time: (start[0] + velocity[0] * time, start[1] + velocity[1] * time)


@dataclass(frozen=True)
class Person:
    """Somebody who may be seen."""

    name: str
    place: When[tuple[float, float]] = (320, 240)
    """Centre of the face, pixels."""
    size: When[float] = 80
    visible: When[bool] = True
    look: When[Vector] | None = None
    """None: that of the name."""
    noise: When[float] = 0.6
    """Length of what is added to the look in each frame; 0.6 gives cosines of about 0.86 to the look."""
    score: When[float] = 0.9
    quality: When[float] = 0.8
    age: When[float] = 40
    male: When[float] = 0.1
    ethnicity: When[str] = "other"
    emotion: When[str] = "neutral"
    attributes: When[dict[str, float]] = field(default_factory=dict)
    """Probabilities; those not named are 0.1."""

    def but(self, **changes: object) -> "Person":
        """The same, with changes."""
        return replace(self, **changes)  # type: ignore[arg-type]


def faces_at(
    people: Sequence[Person], time: float, random: np.random.Generator, jitter: float = 0.02
) -> Faces:
    """What a detector makes of those who are visible; boxes are off by `jitter` sizes or so."""
    seen = [person for person in people if at(person.visible, time)]
    seen.sort(key=lambda person: -at(person.score, time))
    if not seen:
        return Faces.none(SIZE)

    def chances(names: Sequence[str], strongest: str) -> list[float]:
        return [0.7 if name == strongest else 0.3 / (len(names) - 1) for name in names]

    boxes, landmarks, embeddings = [], [], []
    for person in seen:
        size: float = at(person.size, time)
        x, y = np.array(at(person.place, time)) + random.normal(size=2) * jitter * size
        boxes.append((x - size / 2, y - size / 2, x + size / 2, y + size / 2))
        landmarks.append([(x, y)] * 5)
        look = look_of(person.name) if person.look is None else at(person.look, time)
        embeddings.append(unit(look + at(person.noise, time) * unit(random.normal(size=SIZE))))
    looks: list[dict[str, float]] = [at(person.attributes, time) for person in seen]
    values = {
        "boxes": boxes,
        "scores": [at(person.score, time) for person in seen],
        "landmarks": landmarks,
        "embeddings": embeddings,
        "attributes": [[look.get(name, 0.1) for name in ATTRIBUTES] for look in looks],
        "age": [at(person.age, time) for person in seen],
        "gender": [at(person.male, time) for person in seen],
        "ethnicity": [chances(ETHNICITIES, at(person.ethnicity, time)) for person in seen],
        "emotion": [chances(EMOTIONS, at(person.emotion, time)) for person in seen],
        "quality": [at(person.quality, time) for person in seen],
        "sizes": [at(person.size, time) for person in seen],
    }
    return Faces(**{name: np.array(value, np.float32) for name, value in values.items()})


def described(faces: Faces, asked: NDArray[np.bool_]) -> Faces:
    """What the model tells of them where it is asked to describe but some, (N,): of the others the place."""
    places = ("boxes", "scores", "landmarks", "sizes")
    return Faces(**{
        name: values if name in places else np.where(asked.reshape(-1, *[1] * (values.ndim - 1)), values, np.float32(0))
        for name in Faces.__slots__
        for values in [getattr(faces, name)]
    })


def film(
    people: Sequence[Person], seconds: float, fps: float = 10, start: float = 0, seed: int = 0
) -> Iterator[tuple[Faces, float]]:
    """The frames of a story: faces and their time."""
    random = np.random.default_rng(seed)
    for index in range(round(seconds * fps)):
        time = start + index / fps
        yield faces_at(people, time, random), time

"""Sight: what is seen of one face on a still picture, as far as the policy has it found out.

    eye = Eye(FaceModel(size=(1280, 1280)), FaceModel(), report, policy, gallery.match, bar)
    for sight in eye.see(read_picture("party.jpg")):
        print(sight.box, sight.name, sight.age)

A camera's people are seen again and again, and what is said of them is gathered; of a photo there is nothing more to
come. So it is looked at once more with a larger input, that the small faces on it are found too, and at each face from
near, as a photo is by which somebody is enrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from onelook.align import TEMPLATE_SIZE
from onelook.config import Policy, Report
from onelook.draw import Label, colour, doubted, sex_and_age
from onelook.enroll import Model, closely, overlaps
from onelook.face import Faces, Floats
from onelook.match import Match
from onelook.picture import Image
from onelook.reporter import Bar, Labels, allowed, indices, judge

SAME = 0.3
"""Overlap of boxes from which two looks at a picture have found one face."""

Matcher: TypeAlias = Callable[[Floats], Sequence[Match]]


@dataclass(frozen=True, slots=True)
class Sight:
    """One face. What `report` and the policy do not have told is none."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in the picture's pixels."""
    landmarks: tuple[tuple[float, float], ...]
    """Eye, eye, nose, mouth corner, mouth corner; left to right; the same pixels."""
    score: float
    """The detector's confidence, 0 to 1."""
    quality: float
    """0 to 1: how far its identity can be trusted."""
    state: Literal["known", "unknown", "uncertain"] | None = None
    name: str | None = None
    """Of the person enrolled; where it is known."""
    similarity: float | None = None
    """To the nearest person enrolled, -1 to 1."""
    age: float | None = None
    """Years."""
    gender: Literal["female", "male"] | None = None
    gender_confidence: float | None = None
    ethnicity: str | None = None
    ethnicity_confidence: float | None = None
    emotion: str | None = None
    emotion_confidence: float | None = None
    attributes: dict[str, float] = field(default_factory=dict)
    """Probability of each attribute asked for."""

    def words(self) -> list[str]:
        """Who it is and what they look like, a line each; fewer lines where nothing is told."""
        looks = [sex_and_age(self.gender, self.gender_confidence, self.age)]
        looks += [doubted(self.ethnicity, self.ethnicity_confidence), self.emotion or ""]
        looks += [name for name, chance in self.attributes.items() if chance > 0.5]
        return [line for line in (self.name or self.state, ", ".join(filter(None, looks))) if line]

    def label(self) -> Label:
        """As it is drawn."""
        return Label(np.array(self.box), np.array(self.landmarks), self.words(), colour(self.state))


class Eye:
    """Looks at still pictures."""

    def __init__(
        self, whole: Model, near: Model, labels: Labels, report: Report, policy: Policy, match: Matcher, bar: Bar
    ) -> None:
        """whole: the network that finds faces on a whole picture. near: the one that describes each.

        report, policy: what is told of a single face. match, bar: as of Reporter.
        Raises OwnerError if `report` asks for an attribute that the network does not know.
        """
        self._whole, self._near, self._labels = whole, near, labels
        levels = {what: "on" if policy.level(what) == "on" else "off" for what in ("identity", "attributes", "emotion")}
        self._report = allowed(report, levels)
        self._asked = indices(self._report.attributes, labels.attributes)
        self._match, self._bar = match, bar

    def see(self, image: Image) -> list[Sight]:
        """The faces of an RGB picture (height, width, 3), from left to right."""
        found = self._near(image)
        height, width = image.shape[:2]
        if width > self._near.size[0] or height > self._near.size[1]:
            more = self._whole(image)
            new = more.sizes <= TEMPLATE_SIZE  # in what is larger than any that it learnt from, it sees others
            for box in found.boxes:
                new &= overlaps(more.boxes, box) < SAME
            found = found.joined(more.take(new))
        order = np.argsort(found.boxes[:, 0], kind="stable")
        return [self._told(closely(image, found.take([row]), self._near)) for row in order.tolist()]

    def _told(self, face: Faces) -> Sight:
        report = self._report
        told: dict[str, Any] = {}
        if report.identity:
            match = self._match(face.embeddings)[0]
            bar = self._bar(face.sizes, match.enrolled, np.array([match.agreement], np.float32))[0]
            told["state"], told["name"] = judge(match, float(bar))[0]
            told["similarity"] = None if match.name is None else round(match.similarity, 3)
        if report.age:
            told["age"] = round(float(face.age[0]), 1)
        if report.gender:
            male = face.gender[0]
            told["gender"], told["gender_confidence"] = _likeliest(("male", "female"), (male, 1 - male))
        if report.ethnicity:
            told["ethnicity"], told["ethnicity_confidence"] = _likeliest(self._labels.ethnicity, face.ethnicity[0])
        if report.emotion:
            told["emotion"], told["emotion_confidence"] = _likeliest(self._labels.emotion, face.emotion[0])
        told["attributes"] = {
            name: _rounded(face.attributes[0, column])
            for name, column in zip(report.attributes, self._asked, strict=True)
        }
        x1, y1, x2, y2 = (round(float(edge), 1) for edge in face.boxes[0])
        landmarks = tuple((round(float(x), 1), round(float(y), 1)) for x, y in face.landmarks[0])
        return Sight((x1, y1, x2, y2), landmarks, _rounded(face.scores[0]), _rounded(face.quality[0]), **told)


def _likeliest(names: Sequence[str], chances: Sequence[float] | Floats) -> tuple[str, float]:
    best = int(np.argmax(chances))
    return names[best], _rounded(chances[best])


def _rounded(chance: float) -> float:
    return round(float(chance), 3)

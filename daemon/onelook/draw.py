"""Drawing: what the daemon understood, on the picture that it understood it from."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from onelook.event import Attributes, Emotion, Event, Identity
from onelook.track import Track

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

DOUBTFUL = 0.75
"""Confidence under which a gender or ethnicity has a question mark."""
KNOWN, UNKNOWN, UNSURE, INK = (64, 214, 120), (255, 186, 66), (190, 190, 190), (20, 20, 20)


class Captions:
    """What is to stand at each track's box, learnt from the events about it."""

    def __init__(self) -> None:
        """Nothing known yet."""
        self._names: dict[int, Identity] = {}
        self._looks: dict[int, Attributes] = {}
        self._emotions: dict[int, Emotion] = {}

    def hear(self, events: Sequence[Event]) -> None:
        """Take in what was published."""
        for event in events:
            match event.data:
                case Identity() as identity:
                    self._names[identity.track] = identity
                case Attributes() as looks:
                    self._looks[looks.track] = looks
                case Emotion() as emotion:
                    self._emotions[emotion.track] = emotion

    def lines(self, track: int) -> list[str]:
        """Up to two short lines about `track`: who it is, and what it looks like."""
        identity, looks, emotion = self._names.get(track), self._looks.get(track), self._emotions.get(track)
        second = []
        if looks and (who := sex_and_age(looks.gender, looks.gender_confidence, looks.age)):
            second.append(who)
        if emotion:
            second.append(emotion.emotion)
        return [*([identity.name or identity.state] if identity else []), *([", ".join(second)] if second else [])]

    def colour(self, track: int) -> Colour:
        """Green for the known, amber for strangers, grey while unsure."""
        identity = self._names.get(track)
        return colour(identity.state if identity else None)


def colour(state: str | None) -> Colour:
    """Of somebody of this state of identity: green for the known, amber for strangers, grey while unsure."""
    return {"known": KNOWN, "unknown": UNKNOWN}.get(state or "", UNSURE)


def sex_and_age(gender: str | None, confidence: float | None, age: float | None) -> str:
    """In words, with a question mark where the gender is doubtful; empty where neither is told."""
    return " ".join(filter(None, [doubted(gender, confidence), "" if age is None else f"{age:.0f}"]))


def doubted(guess: str | None, confidence: float | None) -> str:
    """The guess, with a question mark where it is doubtful; empty where it is not told."""
    return f"{guess}?" if guess and (confidence or 0) < DOUBTFUL else guess or ""


@dataclass(frozen=True, slots=True)
class Label:
    """What is drawn of one face."""

    box: NDArray[np.floating]
    """(4,) x1, y1, x2, y2 in the picture's pixels."""
    landmarks: NDArray[np.floating]
    """(5, 2)"""
    lines: Sequence[str]
    colour: Colour


def drawn(image: Image, tracks: Sequence[Track], captions: Captions, zoom: int = 1) -> Image:
    """A copy of `image` (H, W, 3) RGB, `zoom` times as large, with the tracks in view: box, landmarks and captions."""
    seen = [track for track in tracks if track.row is not None and track.state != "tentative"]
    return labelled(image, [Label(track.box, track.landmarks, captions.lines(track.id), captions.colour(track.id))
                            for track in seen], zoom)


def labelled(image: Image, labels: Sequence[Label], zoom: int = 1) -> Image:
    """A copy of `image` (H, W, 3) RGB, `zoom` times as large, with what is to be drawn; the nearest lie on top."""
    canvas = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC) if zoom > 1 else image.copy()
    labels = sorted(labels, key=lambda label: float(label.box[3] - label.box[1]))
    for label in labels:
        x1, y1, x2, y2 = (round(float(v) * zoom) for v in label.box)
        thick = min(max(1, round((y2 - y1) / 70)), max(5, round(min(canvas.shape[:2]) / 200)))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), label.colour, thick, cv2.LINE_AA)
        for x, y in label.landmarks * zoom:
            cv2.circle(canvas, (round(float(x)), round(float(y))), thick, label.colour, -1, cv2.LINE_AA)
    paper = PIL.Image.fromarray(canvas)
    pen = ImageDraw.Draw(paper)
    for label in labels:
        if label.lines:
            _label(pen, label.box * zoom, label.lines, label.colour, paper.size)
    return np.array(paper)


def _label(
    pen: ImageDraw.ImageDraw, box: NDArray[np.floating], lines: Sequence[str], colour: Colour, size: tuple[int, int]
) -> None:
    """Dark words on a coloured ground, under the box, or over it where the picture ends; within the picture."""
    x1, y1, x2, y2 = (float(v) for v in box)
    most = max(22.0, min(size) / 50)  # who looks at a large picture sees it made smaller
    font = _font(round(float(np.clip((y2 - y1) / 6, 11, most))))
    words = "\n".join(map(_writable, lines))
    left, top, right, low = pen.multiline_textbbox((0, 0), words, font=font, spacing=2)
    width, height = right - left + 6, low - top + 6
    x = max(0.0, min((x1 + x2 - width) / 2, size[0] - width))
    y = y2 + 2 if y2 + 2 + height <= size[1] else max(0.0, min(y1 - 2 - height, size[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.multiline_text((x + 3 - left, y + 3 - top), words, font=font, spacing=2, fill=INK, align="center")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _writable(text: str) -> str:
    """The text, without accents where the font at hand, Pillow's own, knows none."""
    if text.isascii() or isinstance(getattr(_font(11), "path", None), str):
        return text
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?"

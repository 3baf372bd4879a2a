"""Drawing: what the daemon understood, on the picture that it understood it from."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from onelook.event import Attributes, Emotion, Event, Identity
from onelook.track import Track

Image = NDArray[np.uint8]

KNOWN, UNKNOWN, UNSURE = (40, 200, 90), (240, 170, 30), (170, 170, 170)


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
        """One or two short lines about `track`."""
        identity, looks, emotion = self._names.get(track), self._looks.get(track), self._emotions.get(track)
        first = identity.name or identity.state if identity else "..."
        second = []
        if looks and looks.age is not None:
            second.append(f"{(looks.gender or ' ')[0]}{looks.age:.0f}")
        if emotion:
            second.append(emotion.emotion)
        return [first, " ".join(second)] if second else [first]

    def colour(self, track: int) -> tuple[int, int, int]:
        """Green for the known, amber for strangers, grey while unsure."""
        identity = self._names.get(track)
        return {"known": KNOWN, "unknown": UNKNOWN}.get(identity.state if identity else "", UNSURE)


def drawn(image: Image, tracks: Sequence[Track], captions: Captions) -> Image:
    """A copy of `image` (H, W, 3) RGB with boxes, landmarks and captions of the tracks in view."""
    canvas = image.copy()
    for track in tracks:
        if track.row is None or track.state == "tentative":
            continue
        x1, y1, x2, y2 = (round(float(v)) for v in track.box)
        colour = captions.colour(track.id)
        thick = max(1, round((y2 - y1) / 60))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thick, cv2.LINE_AA)
        for x, y in track.landmarks:
            cv2.circle(canvas, (round(float(x)), round(float(y))), thick, colour, -1, cv2.LINE_AA)
        scale = float(np.clip((y2 - y1) / 160, 0.32, 0.7))
        line = round(24 * scale) + 2
        for i, text in enumerate(captions.lines(track.id)):
            place = (x1, y2 + line * (i + 1) - 2)
            for shade, width in (((0, 0, 0), 3), (colour, 1)):
                cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, shade, width, cv2.LINE_AA)
    return canvas

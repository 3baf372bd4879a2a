"""Pipeline: frames of one stream in, events out. No clock, thread or network: replay is exact.

    for frame in frames:
        for event in pipeline.step(frame):
            print(event)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import numpy as np

from onelook.event import Event
from onelook.face import Faces, Floats
from onelook.frame import Frame
from onelook.gallery import Stranger
from onelook.match import Match
from onelook.model import FaceModel
from onelook.reporter import Reporter
from onelook.strangers import Lookout
from onelook.track import NOBODY, Tracker, Tracks

NOTHING: Final = np.empty((0, 0, 3), np.uint8)
"""What a camera shows that is away."""


class Pipeline:
    """Model, tracker and reporter of one stream; streams may share the model."""

    def __init__(
        self,
        model: FaceModel,
        tracker: Tracker,
        reporter: Reporter,
        *,
        stage: Callable[[str], AbstractContextManager[object]] = lambda name: nullcontext(),  # noqa: ARG005
        lookout: Lookout | None = None,
    ) -> None:
        """stage: entered around each stage, for metrics. lookout: where strangers are to be kept."""
        self._model, self._tracker, self._reporter = model, tracker, reporter
        self._stage = stage
        self.faces: Faces = Faces.none(model.spec.embedding_size)
        """What the newest frame shows."""
        self.tracks: Tracks = NOBODY
        """Whom it belongs to."""
        self.strangers: list[Stranger] = []
        """Who left with it and nobody knew."""
        self._lookout = lookout
        self._newest: Frame | None = None
        self._ahead: float | None = None  # seconds by which its time was; found out when the camera is away
        self._size: tuple[int, int] | None = None  # of its picture, width and height

    def step(self, frame: Frame) -> list[Event]:
        """What this frame changed."""
        height, width = frame.image.shape[:2]
        if self._size not in ((width, height), None):  # a camera was set to another resolution
            self._tracker.rescale(width / self._size[0], height / self._size[1])
        self._size = width, height
        self.faces = self._model(frame.image, partial(self._tracker.asks_for, time=frame.time))
        self._newest, self._ahead = replace(frame, image=NOTHING), None
        return self._follow(frame, self._stage)

    def forget(self, name: str) -> None:
        """Whoever was taken for this person is nobody yet: the name is not told again."""
        self._reporter.forget(name)

    def excuse(self, seconds: float) -> None:
        """No frame was looked at for so long, and it was no camera's fault: whoever was there need not have left."""
        self._tracker.excuse(seconds)

    def wait(self, time: float, utc: datetime) -> list[Event]:
        """What changes while no frame comes, the camera being away: whoever was there leaves in good time.

        time, utc: now, by the clocks of the frames. Before the first frame there is nothing to say.
        """
        if self._newest is None:
            return []
        if self._ahead is None:  # that of a file which nothing paces has run ahead of the clock
            self._ahead = max(self._newest.time - time, 0.0)
        now = replace(
            self._newest, time=time + self._ahead, utc=utc + timedelta(seconds=self._ahead), lag=-self._ahead
        )
        self.faces = Faces.none(self._model.spec.embedding_size)
        return self._follow(now, lambda name: nullcontext())  # noqa: ARG005

    def end(self) -> list[Stranger]:
        """Who is in view to the end and nobody knows."""
        return [] if self._lookout is None else list(self._lookout.end())

    def _follow(self, frame: Frame, stage: Callable[[str], AbstractContextManager[object]]) -> list[Event]:
        with stage("track"):
            self.tracks = self._tracker.update(self.faces, frame.time)
        with stage("report"):
            events = self._reporter.report(self.tracks, self.faces, frame)
            if self._lookout is not None:
                self.strangers = list(self._lookout.look(self.tracks, self.faces, frame, self._reporter.unknown))
        return events


Matcher = Callable[[Floats], Sequence[Match]]
"""Embeddings (N, D) to the nearest enrolled person of each."""

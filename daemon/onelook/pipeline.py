"""Pipeline: frames of one stream in, events out. No clock, thread or network: replay is exact.

    for frame in frames:
        for event in pipeline.step(frame):
            print(event)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from onelook.event import Event
from onelook.face import Faces, Floats
from onelook.frame import Frame
from onelook.match import Match
from onelook.model import FaceModel
from onelook.reporter import Reporter
from onelook.track import Track, Tracker


class Pipeline:
    """Model, tracker and reporter of one stream; streams may share the model."""

    def __init__(
        self,
        model: FaceModel,
        tracker: Tracker,
        reporter: Reporter,
        *,
        refresh: Callable[[float], object] = lambda time: None,  # noqa: ARG005
        stage: Callable[[str], AbstractContextManager[object]] = lambda name: nullcontext(),  # noqa: ARG005
    ) -> None:
        """refresh: told each frame's time, so that the gallery can pick up new people. stage: entered
        around each stage, for metrics."""
        self._model, self._tracker, self._reporter = model, tracker, reporter
        self._refresh, self._stage = refresh, stage
        self.faces: Faces = Faces.none(model.spec.embedding_size)
        """What the newest frame shows."""
        self.tracks: Sequence[Track] = ()
        """Whom it belongs to."""

    def step(self, frame: Frame) -> list[Event]:
        """What this frame changed."""
        self._refresh(frame.time)
        self.faces = self._model(frame.image)
        with self._stage("track"):
            self.tracks = self._tracker.update(self.faces, frame.time)
        with self._stage("report"):
            return self._reporter.report(self.tracks, self.faces, frame)


Matcher = Callable[[Floats], Sequence[Match]]
"""Embeddings (N, D) to the nearest enrolled person of each."""

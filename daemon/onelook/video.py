"""Video: pictures written as an MP4 file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from onelook.errors import OwnerError

CLOCK = Fraction(1, 1000)
"""Seconds a tick: frames keep their own times, so a recording with gaps stays in step."""


class VideoWriter:
    """An H.264 file of the size of its first picture; closed with its context."""

    def __init__(self, path: Path) -> None:
        """Nothing is written before the first picture."""
        self._path = path
        self._file = av.open(str(path), "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._begin = 0.0
        self._last = -1

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        """Write what is still held back, and the index without which no player opens the file."""
        if self._stream is not None:
            with self._sentence():
                self._file.mux(self._stream.encode(None))
                self._file.close()

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Add one RGB picture (H, W, 3), shown `time` seconds after that of the first, to which later ones are fitted.

        Raises OwnerError where the file cannot be written.
        """
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if self._stream is None:
            self._begin = time  # a camera's may be its machine's uptime: days of nothing, for a player
            self._stream = self._file.add_stream("libx264", rate=30, options={"crf": "23", "preset": "veryfast"})
            # 4:2:0 needs even sides.
            self._stream.width, self._stream.height = (max(2, side // 2 * 2) for side in image.shape[1::-1])
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = CLOCK
            with self._sentence():
                self._file.start_encoding()  # writes the head of the file: now or never
        tick = max(self._last + 1, round((time - self._begin) / CLOCK))
        self._last = tick
        fitted = frame.reformat(self._stream.width, self._stream.height, "yuv420p")
        fitted.pts, fitted.time_base = tick, CLOCK
        with self._sentence():
            self._file.mux(self._stream.encode(fitted))

    @contextmanager
    def _sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._stream = None  # there is no end to write, either
            raise OwnerError(f"{self._path} cannot be written: {error.strerror}.") from error

"""Frame: one picture of a stream, with the two clocks that it was taken by."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture.

    Two clocks on purpose: `time` never jumps and is what tracking and ages are counted
    by; `utc` is what people read, and may jump on a board without a battery clock.
    """

    stream: str
    """Name of the stream."""
    index: int
    """Count of frames that the stream has delivered before this one."""
    image: NDArray[np.uint8]
    """RGB, shape (height, width, 3)."""
    time: float
    """Monotonic seconds at capture."""
    utc: datetime
    """Wall clock at capture, timezone UTC."""
    lag: float = 0.0
    """Seconds from `time` until it was read: of a file that nothing paces, and so is seen more slowly or faster (then
    less than 0) than it was filmed."""

    @property
    def captured(self) -> float:
        """Monotonic seconds from which the age of what it shows is counted."""
        return self.time + self.lag

"""Visitor: somebody unknown who is recognised as the same one again, on any stream of the device, for a while.

    visitors = Visitors(bar, cohort)
    visitors.who(embedding, agreement, size, time)  # "v1", and "v1" again when the same person comes back

In memory only, bounded, and forgotten after an hour: it says that two tracks were one person, and not who.
"""

from collections.abc import Callable, Collection
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onelook.cohort import NOBODY, Cohort

Floats: TypeAlias = NDArray[np.float32]
Bar: TypeAlias = Callable[[Floats, int, Floats], Floats]

SESSION = 3600.0  # s: after so long unseen a visitor is somebody new
MOST = 500  # visitors: the longest unseen go first


class Visitors:
    """The unknown people of one session. No clock: times are those of the frames."""

    def __init__(self, bar: Bar, cohort: Cohort = NOBODY) -> None:
        """bar: similarity from which two means are one person's, see `ModelSpec.similarities`. cohort: its model's."""
        self._bar = bar
        self._cohort = cohort
        self._looks: Floats | None = None  # (N, D) unit length
        self._agreement = np.zeros(0, np.float32)
        self._common = np.zeros(0, np.float32)  # what they have in common with many others
        self._last = np.zeros(0)
        self._numbers = np.zeros(0, np.int64)
        self._newest = 0

    def who(
        self, embedding: Floats, agreement: float, size: float, time: float, others: Collection[str] = ()
    ) -> str:
        """A name for the unknown person of a track: the one of before, if it is somebody seen before.

        embedding: (D,) unit length, the mean of the track's faces. agreement: the length that the mean had. size: of
        the face, see `Faces.sizes`. time: seconds of the frame. others: who is beside this person in the picture, and
        so is somebody else.
        """
        self._keep(time - self._last < SESSION)
        common = self._cohort.commonness(embedding[None])
        if self._looks is not None and len(self._looks):
            similarity = self._looks @ embedding - (self._common + common) / 2
            sizes = np.full(len(similarity), size, np.float32)
            ahead = similarity - self._bar(sizes, len(similarity), self._agreement * np.float32(agreement))
            ahead[self._are(others)] = -np.inf
            best = int(ahead.argmax())
            if ahead[best] >= 0:
                self._last[best] = time
                return f"v{self._numbers[best]}"
        self._newest += 1
        looks = embedding[None].astype(np.float32)
        self._looks = looks if self._looks is None else np.concatenate([self._looks, looks])
        self._agreement = np.append(self._agreement, np.float32(agreement))
        self._common = np.append(self._common, common)
        self._last = np.append(self._last, time)
        self._numbers = np.append(self._numbers, self._newest)
        if len(self._numbers) > MOST:
            self._keep(np.arange(len(self._last)) != self._last.argmin())
        return f"v{self._newest}"

    def seen(self, names: Collection[str], time: float) -> None:
        """Those of these names are in view still."""
        self._last[self._are(names)] = time

    def forget(self, embeddings: Floats, alike: float) -> None:
        """Let go of whoever looks like any of `embeddings`, (N, D) of unit length: cosine of at least `alike`."""
        if self._looks is not None and len(self._looks):
            self._keep((self._looks @ embeddings.T).max(1) < alike)

    def _are(self, names: Collection[str]) -> NDArray[np.bool_]:
        """(N,) which of them have one of these names."""
        return np.isin(self._numbers, [int(name.removeprefix("v")) for name in names])

    def _keep(self, rows: NDArray[np.bool_]) -> None:
        if self._looks is None or rows.all():
            return
        self._looks, self._agreement, self._common = self._looks[rows], self._agreement[rows], self._common[rows]
        self._last, self._numbers = self._last[rows], self._numbers[rows]

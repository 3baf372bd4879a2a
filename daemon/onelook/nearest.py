"""Nearest: of many unit vectors with names, the two that are nearest to each of some others.

    nearest = Nearest()
    nearest.put({"Ada": a, "Bob": b})
    rows, cosines, margins = nearest.find(embeddings)
    nearest.names[rows[0]]

To some thousands all are compared, by one product of matrices. Of more, faiss (Douze et al., "The Faiss library",
2024) finds some candidates for each, by codes of half a byte for two numbers that lie in clusters, of which those are
read that are near; then the candidates are compared exactly. What it says is so always a true cosine. It may miss
somebody, and hardly somebody near: `benchmarks/search.py` measures how often a decision is another.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.int64]

MANY: Final = 4000
"""Vectors from which comparing all of them takes longer than a frame can spare: 4 ms for 100 faces on two cores."""
CANDIDATES: Final = 36
"""For each face, compared exactly."""
PARTS: Final = 96
"""Numbers that a vector is turned into for its code, by PCA: 95 % of the variance of the shipped model's 256."""
READ: Final = 0.09
"""Share of the clusters that are read, the nearest ones."""
SAMPLE: Final = 20_000
"""Vectors from which clusters and codes are learnt."""


class Nearest:
    """Vectors (D,) of unit length by their names. Not for several threads at once."""

    def __init__(self, many: int = MANY) -> None:
        """many: from how many vectors on not all of them are compared."""
        self.names: list[str] = []
        """In the order of rows."""
        self._many = many
        self._rows: dict[str, int] = {}
        self._vectors: Floats = np.zeros((0, 0), np.float32)  # more rows than are in use: they grow by half
        self._coarse: Any = None  # faiss index of the first rows
        self._coded = 0  # how many those are
        self._learnt = 0  # vectors there were when its clusters were learnt
        self._scratch: Floats = np.zeros((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self.names)

    def put(self, vectors: Mapping[str, Floats]) -> None:
        """Adds vectors, or puts them in the place of those of the same name."""
        if not vectors:
            return
        new = [name for name in vectors if name not in self._rows]
        count, size = len(self), len(next(iter(vectors.values())))
        if count + len(new) > len(self._vectors) or self._vectors.shape[1] != size:
            grown = np.zeros((max(count + len(new), 3 * count // 2), size), np.float32)
            if count:
                grown[:count] = self._vectors[:count]
            self._vectors = grown
        for row, name in enumerate(new, count):
            self._rows[name] = row
        self.names += new
        rows = [self._rows[name] for name in vectors]
        self._vectors[rows] = np.stack(list(vectors.values()))
        if len(new) < len(vectors):
            self._uncode()

    def drop(self, names: Collection[str]) -> None:
        """Takes vectors away: no number and no code of them is left. (Clusters are means of hundreds.)"""
        if not names:
            return
        gone = np.sort([self._rows.pop(name) for name in names])
        count = len(self) - len(gone)
        gaps = gone[gone < count]
        movers = np.setdiff1d(np.arange(count, len(self)), gone)  # the last ones move into the gaps
        for gap, mover in zip(gaps.tolist(), movers.tolist(), strict=True):
            self.names[gap] = self.names[mover]
            self._rows[self.names[gap]] = gap
        self._vectors[gaps] = self._vectors[movers]
        self._vectors[count : len(self)] = 0
        del self.names[count:]
        self._uncode()

    def find(self, embeddings: Floats) -> tuple[Rows, Floats, Floats]:
        """Of each of `embeddings` (N, D): row of the nearest (N,), its cosine, and its lead over the second nearest.

        The lead is infinite where there is no second. Raises ValueError while there are no vectors.
        """
        if not self.names:
            raise ValueError("there is nothing to compare with")
        if len(self) < self._many or not self._code():
            return _first_two(embeddings @ self._vectors[: len(self)].T)
        embeddings = np.ascontiguousarray(embeddings, np.float32)
        count = len(embeddings)
        _, candidates = self._coarse.search(embeddings, CANDIDATES)
        if self._scratch.shape[0] < candidates.size:  # fresh memory for each frame would cost as much as reading it
            self._scratch = np.empty((candidates.size, self._vectors.shape[1]), np.float32)
        looks = self._scratch[: candidates.size]
        np.take(self._vectors, candidates.ravel(), axis=0, out=looks, mode="clip")
        cosines = np.matmul(looks.reshape(count, CANDIDATES, -1), embeddings[:, :, None])[:, :, 0]
        cosines[candidates < 0] = -np.inf  # fewer were found
        places, cosine, margin = _first_two(cosines)
        rows = candidates[np.arange(count), places]
        for few in np.flatnonzero(np.isinf(margin)).tolist():  # all its clusters were as good as empty
            (rows[few],), (cosine[few],), (margin[few],) = _first_two(
                embeddings[few : few + 1] @ self._vectors[: len(self)].T
            )
        return rows, cosine, margin

    def _uncode(self) -> None:
        """Drops every code: taken out one by one, they would spoil those that are added afterwards (faiss 1.15)."""
        self._scratch = np.zeros((0, 0), np.float32)
        if self._coded:
            self._coarse.reset()
            self._coded = 0

    def _code(self) -> bool:
        """Brings the codes up to the vectors; False where there is no faiss. For 100,000 new ones about a second."""
        count = len(self)
        if not self._learnt / 2 <= count <= self._learnt * 2:
            self._learn()
        if self._coarse is None:
            return False
        if self._coded < count:
            self._coarse.add(self._vectors[self._coded : count])
            self._coded = count
        return True

    def _learn(self) -> None:
        """Learns clusters and codes from the vectors there are; again when these are half or twice as many."""
        count, size = len(self), self._vectors.shape[1]
        first, self._learnt, self._coded = self._learnt == 0, count, 0
        try:
            import faiss  # noqa: PLC0415 - 15 MB that small galleries can do without
        except ImportError:
            if first:
                log.warning(
                    "%d people are compared one by one, which may take longer than a frame, as there is no faiss "
                    "here: pip install onelook[large]", count
                )
            return
        faiss.omp_set_num_threads(1)  # a second one waits more than it helps, and its waiting costs the other streams
        parts, clusters = min(PARTS, size) // 2 * 2, round(0.8 * math.sqrt(count))
        self._coarse = faiss.index_factory(
            size, f"PCAR{parts},IVF{clusters},PQ{parts // 2}x4fs_64", faiss.METRIC_INNER_PRODUCT
        )
        inner = faiss.extract_index_ivf(self._coarse)
        inner.cp.niter = 6
        inner.cp.max_points_per_centroid = 64
        inner.nprobe = max(round(READ * clusters), 8)
        rows = np.random.default_rng(0).permutation(count)[:SAMPLE]
        self._coarse.train(self._vectors[rows])


def _first_two(cosines: Floats) -> tuple[Rows, Floats, Floats]:
    """Of each row: place of the greatest, the greatest, and its lead over the second; writes into `cosines`."""
    rows = np.arange(len(cosines))
    best = cosines.argmax(axis=1)
    nearest = cosines[rows, best]
    cosines[rows, best] = -np.inf
    return best, nearest, nearest - cosines.max(axis=1)

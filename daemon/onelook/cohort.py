"""Cohort: how much a face has in common with many others.

    cohort = Cohort.read(folder, spec)
    cosine - (cohort.commonness(face) + cohort.commonness(photo)) / 2

To a network, two strangers among children, or among people of whom it has seen few, are as alike as two pictures of
one person are elsewhere: one threshold of the cosine that lets one pair of strangers in a thousand pass lets far more
of theirs. So of each similarity is taken off what the two faces have in common with those of a cohort that they are
most like: normalisation by a cohort, on both sides and by the nearest alone, known from speaker recognition
(Auckenthaler, Carey and Lloyd-Thomas 2000; Matějka et al. 2017), which also makes the groups' false match rates alike
(Terhörst et al., "Post-comparison mitigation of demographic bias in face recognition using fair score normalization",
2020). Each of the cohort is the middle of a cluster of training faces, of nine on average and a few of one or two.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from onelook.face import Floats
from onelook.spec import ModelSpec, SpecError

FILE: Final = "cohort.npy"
"""In the model's folder: (M, D) int8, each row a direction."""


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Embeddings that stand for everybody."""

    centres: Floats
    """(M, D) unit length."""
    nearest: int = 1
    """How many of them count, the most like."""
    typical: float = 0.0
    """What a usual face has in common with those."""
    share: float = 1.0
    """How much of that counts: with all of it groups are most alike, with some of it people are told best."""

    @classmethod
    def read(cls, folder: Path, spec: ModelSpec) -> Self:
        """The cohort that belongs to a model; nobody, where it has none.

        Raises SpecError with one sentence when the file is missing or is not the one that model.json means.
        """
        told = spec.cohort
        if told is None:
            return cls(np.zeros((0, spec.embedding_size), np.float32))
        file = folder / FILE
        try:
            stored = file.read_bytes()
        except OSError as error:
            raise SpecError(f"The model cannot be read: {error.filename}: {error.strerror}.") from error
        if hashlib.sha256(stored).hexdigest() != told.sha256:
            raise SpecError(f"{file} is damaged or is not the cohort that model.json describes.")
        centres = np.load(file, allow_pickle=False).astype(np.float32)
        if centres.ndim != 2 or centres.shape[1] != spec.embedding_size or len(centres) < told.nearest:
            raise SpecError(f"{file} does not fit the network beside it.")
        return cls(centres / np.linalg.norm(centres, axis=1, keepdims=True), told.nearest, told.typical, told.share)

    def commonness(self, embeddings: Floats) -> Floats:
        """(N,) how much more faces (N, D), of unit length, have in common with many others than a usual one has.

        Negative: less. Zero where the cohort is nobody.
        """
        if not len(self.centres):
            return np.zeros(len(embeddings), np.float32)
        likeness = embeddings @ self.centres.T
        likeness.partition(len(self.centres) - self.nearest, axis=1)
        common: Floats = likeness[:, -self.nearest :].mean(1) - np.float32(self.typical)
        return common * np.float32(self.share)


NOBODY: Final = Cohort(np.zeros((0, 0), np.float32))
"""With whom nothing is in common."""

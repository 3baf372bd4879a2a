"""Faces: all faces of one frame as one struct of arrays."""

from dataclasses import dataclass, fields
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """N faces of one frame, row i of every array being face i; best score first.

    A struct of arrays because a crowd is handled by numpy in one go: a hundred small
    objects would cost more than the network's head. The order of labels in
    `attributes`, `ethnicity` and `emotion` is the model's (see ModelSpec).
    """

    boxes: Floats
    """(N, 4) x1, y1, x2, y2 in source pixels."""
    scores: Floats
    """(N,) the detector's confidence, 0 to 1."""
    landmarks: Floats
    """(N, 5, 2) x, y in source pixels: eye, eye, nose, mouth corner, mouth corner; left to right."""
    embeddings: Floats
    """(N, D) unit length. Never leaves the device."""
    attributes: Floats
    """(N, 40) probability of each CelebA attribute."""
    age: Floats
    """(N,) years."""
    gender: Floats
    """(N,) probability of male as CelebA and UTKFace label it."""
    ethnicity: Floats
    """(N, 5) probabilities."""
    emotion: Floats
    """(N, 7) probabilities."""
    quality: Floats
    """(N,) 0 to 1: how far the embedding can be trusted; weighs votes. 0: nothing was asked but where it is."""
    sizes: Floats
    """(N,) side, in pixels of the network's input, of the 112 template laid over the face: what it saw of it."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def described(self) -> NDArray[np.bool_]:
        """(N,) whether more is told than the place: of the others embedding and traits are zero."""
        described: NDArray[np.bool_] = self.quality > 0
        return described

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | list[int]) -> Self:
        """The faces at `rows` (indices or a mask), in that order."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def joined(self, others: Self) -> Self:
        """These faces, and then the others."""
        return type(self)(**{
            f.name: np.concatenate([getattr(self, f.name), getattr(others, f.name)]) for f in fields(self)
        })

    def among(self, rows: NDArray[np.intp], boxes: Floats, scores: Floats, landmarks: Floats, sizes: Floats) -> Self:
        """These faces at `rows` of N, of whose others only the place is told: as `described`."""
        places = {"boxes": boxes, "scores": scores, "landmarks": landmarks, "sizes": sizes}
        for name in self.__slots__:
            if name not in places:
                told = getattr(self, name)
                places[name] = np.zeros((len(scores), *told.shape[1:]), told.dtype)
                places[name][rows] = told
        return type(self)(**places)

    @classmethod
    def none(cls, embedding_size: int = 256) -> Self:
        """No face at all: every array has zero rows."""
        def empty(*shape: int) -> Floats:
            return np.zeros((0, *shape), np.float32)

        return cls(
            boxes=empty(4), scores=empty(), landmarks=empty(5, 2), embeddings=empty(embedding_size),
            attributes=empty(40), age=empty(), gender=empty(), ethnicity=empty(5), emotion=empty(7),
            quality=empty(), sizes=empty(),
        )

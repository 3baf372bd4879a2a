"""The one-pass network: a frame is read once; each face then costs a small head.

`OneLook.frame` is fully convolutional and runs at any size that is a multiple of 32.
`OneLook.describe` reads the shared feature map on a grid of 14x14 points laid over each face by
its five landmarks, as a recogniser would align the pixels (`onelook.align`).

Layers are chosen for int8 under XNNPACK on a CPU, where time is not arithmetic: a dense 3x3
convolution does 200 MMAC/ms on one x86 core, a 1x1 150, a depthwise one 20, the first of a
frame 60 (measured; on Arm cores the order is the same). So there is no depthwise layer, the stem
goes to a quarter of the frame's size at once, and what remains is bottlenecks of 1x1, 3x3, 1x1
(He et al. 2016), ReLU, adds and doubling. No PReLU, normalisation or square root inside the graph.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from onelook.errors import OwnerError

MAP_STRIDE = 4
"""Pixels a cell of the shared map."""
GRID = 14
"""Samples a side laid over a face."""
REACH = 1.5
"""Pixels of the template: how far off a sample, along both axes, the four points lie that it is the mean of, where samples lie
further apart than cells. Of 1 to 2.5 it was best on held-out faces: to their teacher's cosine they came .6384 in the place of .6307,
at 80 pixels, and at 48 and less it told nothing."""
STRIDES = (8, 16, 32)
"""Pixels a cell, for each level of the detector."""
EMBEDDING = 256


def conv(inputs: int, outputs: int, size: int = 1, stride: int = 1, act: bool = True, padding: int | None = None
         ) -> nn.Sequential:
    """Convolution, batch norm (folded away at export) and ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2 if padding is None else padding, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.03),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class Whole(nn.Conv2d):
    """A convolution of its map's own size, a dense layer in effect: so it is learnt, as cuDNN takes ten times as long."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size) -> (N, outputs, 1, 1)."""
        if not self.training:
            return super().forward(x)
        return functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


class Bottleneck(nn.Module):
    """Narrow, look around, widen, add (He et al. 2016)."""

    def __init__(self, channels: int, inner: int) -> None:
        """`inner` channels see the 3x3 neighbourhood."""
        super().__init__()
        self.body = nn.Sequential(conv(channels, inner), conv(inner, inner, 3), conv(inner, channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        return functional.relu(x + self.body(x))


class Level(nn.Module):
    """The detector at one level: score, box and landmarks of each cell."""

    def __init__(self, channels: int, bias: float) -> None:
        """`bias`: the score logit to start from, so that early steps are not all false alarms."""
        super().__init__()
        inner = 48
        self.look = conv(channels, inner)
        self.score = nn.Conv2d(inner, 1, 1)
        self.place = nn.Conv2d(inner, 14, 1)
        nn.init.constant_(self.score.bias, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> score logits (N, 1, H, W), box and landmarks (N, 14, H, W)."""
        x = self.look(x)
        return self.score(x), self.place(x)


class OneLook(nn.Module):
    """Backbone, detector and face head."""

    features = 32
    """Channels of the shared map. Its cells are of 4 pixels: read from a map of 8 alone, identity was learnt more slowly
    (a face of 48 px has six cells there, and what they hold turns with where the face happens to lie)."""
    traits: ClassVar = {"attributes": 40, "gender": 1, "age": 1, "ethnicity": 5, "emotion": 7, "quality": 1, "race7": 7}
    """Outputs beside the embedding -> how many numbers, in the order of the `traits` tensor."""

    def __init__(self, deep: int = 5, narrow: int = 64) -> None:
        """Weights start random. deep: bottlenecks in identity's branch (2 until 0.7.0); narrow: channels before its last layer (48)."""
        super().__init__()
        self.quarter = nn.Sequential(conv(3, 32, 4, 4, padding=0), Bottleneck(32, 16))
        wide = 80
        self.eighth = nn.Sequential(conv(32, wide, 2, 2, padding=0), Bottleneck(wide, 32), Bottleneck(wide, 32))
        self.sixteenth = nn.Sequential(conv(wide, 128, 2, 2, padding=0), Bottleneck(128, 64), Bottleneck(128, 64))
        self.thirtysecond = nn.Sequential(conv(128, 192, 2, 2, padding=0), Bottleneck(192, 64), Bottleneck(192, 64))
        self.from_sixteenth = conv(128, wide, act=False)
        self.from_thirtysecond = conv(192, wide)
        self.join_sixteenth = Bottleneck(wide, 32)
        self.join_eighth = Bottleneck(wide, 32)
        self.levels = nn.ModuleList(Level(wide, -math.log((1 - 0.01) / 0.01)) for _ in STRIDES)
        self.share_coarse = conv(wide, self.features, act=False)
        self.share_fine = conv(32, self.features, act=False)

        trunk, inner = 112, 48
        self.trunk = nn.Sequential(conv(self.features, trunk, 2, 2, padding=0), Bottleneck(trunk, inner))
        # A convolution of the map's own size without padding is a dense layer that still resizes with the batch.
        self.identity = nn.Sequential(*(Bottleneck(trunk, inner) for _ in range(deep)), conv(trunk, narrow),
                                      Whole(narrow, EMBEDDING, GRID // 2))
        self.looks = nn.Sequential(
            conv(trunk, 32),
            nn.Sequential(Whole(32, 128, GRID // 2, bias=False), nn.BatchNorm2d(128, momentum=0.03), nn.ReLU(inplace=True)),
            nn.Dropout(0.2),
            nn.Conv2d(128, sum(self.traits.values()), 1)
        )
        # Expressions are told by what is small: they have a reading of their own, which is as free to tell of the rest. It and
        # what reads the embedding start by adding nothing, so that they can be put to a network that was without them.
        self.again = nn.Sequential(
            conv(trunk, 24),
            nn.Sequential(Whole(24, 96, GRID // 2, bias=False), nn.BatchNorm2d(96, momentum=0.03), nn.ReLU(inplace=True)),
            nn.Dropout(0.3),
            nn.Conv2d(96, sum(self.traits.values()), 1)
        )
        # Who it is tells much of age, gender and origin.
        self.from_embedding = nn.Sequential(
            nn.Conv2d(EMBEDDING, 128, 1), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Conv2d(128, sum(self.traits.values()), 1))
        with torch.no_grad():
            self.from_embedding[0].weight /= 6  # an embedding's numbers are about that large
            for start in (*self.from_embedding[3].parameters(), *self.again[3].parameters()):
                start.zero_()

    def frame(self, image: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Look at whole pictures.

        image: (N, 3, H, W), RGB, -1 to 1, H and W multiples of 32.
        Returns per level score logits (N, 1, h, w), per level places (N, 14, h, w), and
        the shared features (N, features, H/4, W/4).
        """
        quarter = self.quarter(image)
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        coarse = self.from_thirtysecond(self.thirtysecond(sixteenth))
        middle = self.join_sixteenth(functional.relu(self.from_sixteenth(sixteenth) + double(coarse)))
        fine = self.join_eighth(functional.relu(eighth + double(middle)))
        shared = functional.relu(self.share_fine(quarter) + double(self.share_coarse(fine)))
        found = [level(x) for level, x in zip(self.levels, (fine, middle, coarse), strict=True)]
        return [score for score, _ in found], [place for _, place in found], shared

    def describe(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Describe faces.

        aligned: (K, features, GRID, GRID), the shared features sampled over each face.
        Returns embeddings (K, EMBEDDING), not normalised, and traits (K, 62) as logits,
        with age as `losses.AGE_STEP` has it.
        """
        return self.told(self.trunk(aligned))

    def told(self, trunk: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what the trunk gives, (K, 112, GRID / 2, GRID / 2).

        The looks read the embedding as it is: it is not bent by what they learn.
        """
        embedding = self.identity(trunk)
        traits = self.looks(trunk) + self.again(trunk) + self.from_embedding(embedding.detach())
        return embedding.flatten(1), traits.flatten(1)

    def load_earlier(self, weights: dict[str, Tensor]) -> None:
        """Weights of this make, or of one whose looks were not read twice yet (until 0.9.2) or did not read the embedding
        (until 0.8.0).

        Raises RuntimeError if anything else is missing or strange.
        """
        new = {name: value for name, value in self.state_dict().items() if name.startswith(("from_embedding.", "again."))}
        self.load_state_dict(new | weights)


def double(x: Tensor) -> Tensor:
    """Twice the height and width, each cell repeated: cheapest in int8 and exact."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def checkpoint(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `train` or `head` kept. Raises OwnerError where `file` is none."""
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, EOFError):
        raise OwnerError(f"{file} is no checkpoint: give the last.pt of a run.") from None

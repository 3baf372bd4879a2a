"""The one-pass network: a frame is read once; each face then costs a small head.

`OneLook.frame` is fully convolutional and runs at any size that is a multiple of 32.
`OneLook.describe` reads the shared feature map on a 14x14 grid laid over each face by
its five landmarks, as a recogniser would align the pixels (`onelook.align`).

Layers are chosen for int8 under XNNPACK: plain and depthwise convolutions, ReLU, adds
and bilinear doubling. No PReLU, no normalisation and no square root inside the graph.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

MAP_STRIDE = 4
"""Pixels a cell of the shared map."""
GRID = 14
"""Samples a side laid over a face."""
STRIDES = (8, 16, 32)
"""Pixels a cell, for each level of the detector."""
EMBEDDING = 256


class Conv(nn.Conv2d):
    """A convolution that is quick to train on a CPU as well.

    oneDNN has no fast backward pass in bfloat16 for depthwise convolutions that stride or are 5x5
    (measured: 50 ms against 5 ms in float32), so these few are done in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) as usual."""
        if x.dtype == torch.bfloat16 and not x.is_cuda and self.groups > 1 and (self.stride[0] > 1 or self.kernel_size[0] > 3):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


def conv(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1, act: bool = True,
         padding: int | None = None) -> nn.Sequential:
    """Convolution, batch norm (folded away at export) and ReLU."""
    layers: list[nn.Module] = [
        Conv(inputs, outputs, size, stride, size // 2 if padding is None else padding, groups=groups,
                  bias=False),
        nn.BatchNorm2d(outputs, momentum=0.03),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class Inverted(nn.Module):
    """Inverted bottleneck (MobileNetV2): widen, look around in each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, widen: int = 3, size: int = 3) -> None:
        """`size` is the depthwise kernel's side."""
        super().__init__()
        inner = inputs * widen
        self.body = nn.Sequential(
            conv(inputs, inner), conv(inner, inner, size, stride, groups=inner), conv(inner, outputs, act=False)
        )
        self.keeps = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
        return x + self.body(x) if self.keeps else self.body(x)


class Level(nn.Module):
    """The detector at one level: score, box and landmarks of each cell."""

    def __init__(self, channels: int, bias: float) -> None:
        """`bias`: the score logit to start from, so that early steps are not all false alarms."""
        super().__init__()
        inner = 48
        self.look = nn.Sequential(conv(channels, channels, 3, groups=channels), conv(channels, inner))
        self.score = nn.Conv2d(inner, 1, 1)
        self.place = nn.Conv2d(inner, 14, 1)
        nn.init.constant_(self.score.bias, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> score logits (N, 1, H, W), box and landmarks (N, 14, H, W)."""
        x = self.look(x)
        return self.score(x), self.place(x)


class OneLook(nn.Module):
    """Backbone, detector and face head."""

    features = 40
    """Channels of the shared map."""
    traits: ClassVar = {"attributes": 40, "gender": 1, "age": 1, "ethnicity": 5, "emotion": 7, "quality": 1, "race7": 7}
    """Outputs beside the embedding -> how many numbers, in the order of the `traits` tensor."""

    def __init__(self) -> None:
        """Weights start random."""
        super().__init__()
        self.stem = conv(3, 16, 3, 2)
        self.quarter = nn.Sequential(conv(16, 24, 3, 2), Inverted(24, 24, widen=2))
        self.eighth = nn.Sequential(Inverted(24, 64, 2), Inverted(64, 64, widen=2), Inverted(64, 64, widen=2))
        self.sixteenth = nn.Sequential(Inverted(64, 96, 2, widen=2), Inverted(96, 96, widen=2),
                                       Inverted(96, 96, widen=2, size=5))
        self.thirtysecond = nn.Sequential(Inverted(96, 128, 2, widen=2), Inverted(128, 128, widen=2, size=5))
        width = 64
        self.from_sixteenth = conv(96, width, act=False)
        self.from_thirtysecond = conv(128, width, act=False)
        self.join_sixteenth = conv(width, width, 3, groups=width)
        self.join_eighth = conv(width, width, 3, groups=width)
        self.levels = nn.ModuleList(Level(width, -math.log((1 - 0.01) / 0.01)) for _ in STRIDES)
        self.share_coarse = conv(width, self.features, act=False)
        self.share_fine = conv(24, self.features, act=False)
        self.share = nn.Sequential(conv(self.features, self.features, 3, groups=self.features), conv(self.features, self.features))

        trunk = 80
        self.trunk = nn.Sequential(conv(self.features, trunk, 2, 2, padding=0), Inverted(trunk, trunk, widen=2))
        # A 7x7 convolution without padding is a dense layer that still resizes with the batch.
        self.identity = nn.Sequential(
            Inverted(trunk, trunk, widen=2), conv(trunk, 40), nn.Conv2d(40, EMBEDDING, 7)
        )
        self.looks = nn.Sequential(
            conv(trunk, 32), conv(32, 128, 7, padding=0), nn.Dropout(0.2), nn.Conv2d(128, sum(self.traits.values()), 1)
        )

    def frame(self, image: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Look at whole pictures.

        image: (N, 3, H, W), RGB, -1 to 1, H and W multiples of 32.
        Returns per level score logits (N, 1, h, w), per level places (N, 14, h, w), and
        the shared features (N, features, H/4, W/4).
        """
        quarter = self.quarter(self.stem(image))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        coarse = self.from_thirtysecond(self.thirtysecond(sixteenth))
        middle = self.join_sixteenth(functional.relu(self.from_sixteenth(sixteenth) + double(coarse)))
        fine = self.join_eighth(functional.relu(eighth + double(middle)))
        shared = functional.relu(self.share_fine(quarter) + double(self.share_coarse(fine)))
        found = [level(x) for level, x in zip(self.levels, (fine, middle, coarse), strict=True)]
        return [score for score, _ in found], [place for _, place in found], self.share(shared)

    def describe(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Describe faces.

        aligned: (K, features, GRID, GRID), the shared features sampled over each face.
        Returns embeddings (K, EMBEDDING), not normalised, and traits (K, 55) as logits,
        with age in centuries.
        """
        trunk = self.trunk(aligned)
        return self.identity(trunk).flatten(1), self.looks(trunk).flatten(1)


def double(x: Tensor) -> Tensor:
    """Twice the height and width, each cell repeated: cheapest in int8 and exact."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")

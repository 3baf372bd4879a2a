"""What int8 holds each number by, learned: what the network computes stays as it is, and less of it is lost to rounding.

A tensor has one scale for all its channels, so that those which are small are told by few of the 256 steps. As every layer
is a convolution, ReLU, an add or a doubling, a channel may be divided by any factor where it is made and multiplied by it
where it is read (Nagel et al. 2019, who set the factors by the weights). And the range that is told need not reach as far as
one number in many thousands does. Both are learned here (as Shao et al. 2024 do for language models) from what comes out at
the end: embeddings, places, scores and traits as they are in float, of a network that rounds every tensor as TFLite does.
So are shifts of the biases, in int8 alone, which take back by how much rounding moves a channel on the mean.
"""

from __future__ import annotations

import operator

import torch
from edge_models.training.network import MAP_STRIDE, STRIDES
from edge_models.training.train import on_grid, sample
from torch import Tensor, fx, nn
from torch.nn import functional
from tqdm import tqdm

LOGITS = torch.tensor([-9.0, 4.0])
"""Range of every level's score logits: few frames hold a very large face, and its level's range might end where sure and
doubtful look alike."""
SMALLEST = 1 / 32
"""Of a tensor's largest channel: one that reaches less far counts as reaching so far, at first."""
LEAST = 1e-12
"""Of what is nothing, a layer's weights or all that it tells: so that its step is not."""
RATE = 0.01
PLACES, TRAITS, SCORES = 15.0, 0.05, 0.1
"""What squared errors weigh beside an embedding's cosine: of landmarks, in distances of the eyes, as many as tell that much
of the embedding; of traits' and scores' logits."""
BOXES = 0.05
"""What a box's middle and the logarithm of its size weigh beside its landmarks, in cells squared."""
SURE, SOUGHT = -0.1, -4.0
"""Score logits of cells that are a face, and of such as are near to being one."""

fx.wrap("sample")  # has branches; what it gives is held anew


class Both(nn.Module):
    """Both signatures at once: a frame, and the faces on it."""

    def __init__(self, frame: nn.Module, faces: nn.Module) -> None:
        """`export.Frame` and `export.Describe` of one network."""
        super().__init__()
        self.frame, self.faces = frame, faces

    def forward(self, image: Tensor, grid: Tensor, owner: Tensor) -> dict[str, Tensor]:
        """image as `frame` takes it; grid and owner of its faces as `train.sample` takes them."""
        told = self.frame(image)
        aligned = sample(told["features"].permute(0, 3, 1, 2), grid, owner)
        return told | self.faces(aligned.permute(0, 2, 3, 1))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, _: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.ReLU, nn.Dropout))


class Scales(nn.Module):
    """A network as int8 holds it. A tensor is called as the step of the traced network that makes it."""

    def __init__(self, frame: nn.Module, faces: nn.Module) -> None:
        """`frame` and `faces`: see `Both`; batch norms folded, in evaluation. Nothing is scaled, and no range known."""
        super().__init__()
        both = Both(frame, faces).requires_grad_(False)
        self._layers = dict(both.named_modules())
        *self._steps, told = _Tracer().trace(both).nodes
        self._outputs = {name: self._made(node).name for name, node in told.args[0].items()}
        self.held: dict[str, str] = {}
        """Tensors that are stored, in the order in which they are made, and for each the one whose scale it has."""
        self._same: dict[str, str] = {}  # a tensor of the same channels, made before; the first: itself
        for node in self._steps:
            alone = len(node.users) == 1 and self._is_relu(next(iter(node.users)))  # the runtime does both at once
            if node.target is functional.interpolate:
                self.held[node.name] = self._made(node).name
            elif node.name == "image" or node.target is sample or self._is_relu(node) or (self._adds_up(node) and not alone):
                self.held[node.name] = node.name
            read = [self._channels(one.name) for one in node.args if isinstance(one, fx.Node)]
            self._same[node.name] = node.name if self._convolution(node) or not read else read[0]
            if node.target is operator.add:
                self._same[read[1]] = read[0]
        fixed = {self._channels(name) for output, name in self._outputs.items() if output != "features"}
        self.factors = nn.ParameterDict()
        """Logarithms of what channels (C,) are divided by, of all tensors that share them."""
        for node in self._steps:
            layer, name = self._convolution(node), self._channels(node.name)
            if layer and name not in fixed:
                self.factors[name] = nn.Parameter(torch.zeros(layer.out_channels))
        self.shifts = nn.ParameterDict(
            {node.name: torch.zeros(layer.out_channels) for node in self._steps if (layer := self._convolution(node))})
        """What is added to the channels (C,) that a convolution makes, in int8."""
        self._reach: dict[str, Tensor] = {}
        """Least and largest number that each tensor was seen to hold: (2, C) of its channels; from `begin` on (2,)."""
        self.ends = nn.ParameterDict()
        """Logarithms of what these are multiplied by (2,)."""

    def forward(self, image: Tensor, grid: Tensor, owner: Tensor, rounded: bool = True) -> dict[str, Tensor]:
        """What `Both` tells; if not `rounded`, in float, and how far every tensor reaches is kept."""
        given, made = iter((image, grid, owner)), {}
        for node in self._steps:
            read = [made[one.name] if isinstance(one, fx.Node) else one for one in node.args]
            if node.op == "placeholder":
                out = next(given)
            elif layer := self._convolution(node):
                weight, bias = self._weights(node, layer)
                if rounded:
                    weight = nearest(weight, weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=LEAST) / 127)
                    bias = bias + self.shifts[node.name]
                out = functional.conv2d(read[0], weight, bias, layer.stride, layer.padding)
            elif node.op == "call_module":
                out = self._layers[node.target](*read)
            elif node.op == "call_method":
                out = getattr(read[0], node.target)(*read[1:], **node.kwargs)
            else:
                out = node.target(*read, **node.kwargs)
            if self.held.get(node.name) == node.name != "image":
                out = within(out, self.range(node.name)) if rounded else self._seen(node.name, out)
            made[node.name] = out
        return {output: made[name] for output, name in self._outputs.items()}

    @torch.no_grad()
    def begin(self) -> None:
        """With the square roots of factors by which all channels would reach equally far: weights are rounded too."""
        most: dict[str, Tensor] = {}
        for name, ends in self._reach.items():
            far, shared = ends.abs().amax(0), self._channels(name)
            most[shared] = torch.maximum(most.get(shared, far), far)
        for name, factor in self.factors.items():
            far = most[name].clamp(min=max(float(most[name].max()) * SMALLEST, LEAST)).log()
            factor.copy_((far - far.mean()) / 2)
        for name, ends in self._reach.items():
            low, high = ends / self._divisor(name)
            self._reach[name] = torch.stack([low.min().clamp(max=0), high.max().clamp(min=LEAST)])
            self.ends[name] = nn.Parameter(torch.zeros(2))

    def range(self, name: str) -> Tensor:
        """(2,) least and largest number that int8 tells of a tensor. The map has the range of what is read off it, so that
        onelook can read it as it is stored."""
        output = next((output for output, one in self._outputs.items() if one == name), "")
        if output.startswith("score"):
            return LOGITS
        if output == "features":
            name = next(node.name for node in self._steps if node.target is sample)
        return self._reach[name] * self.ends[name].exp()

    @torch.no_grad()
    def seen(self, image: Tensor, grid: Tensor, owner: Tensor) -> list[list[float]]:
        """Least and largest number that each of `held` holds of this in float, before `begin`."""
        self(image, grid, owner, rounded=False)
        all_of = {"image": image.flatten()[None].repeat(2, 1)} | self._reach
        return [[float(all_of[name][0].min()), float(all_of[name][1].max())] for name in self.held.values()]

    def ranges(self) -> list[tuple[float, float]]:
        """Of each of `held`, after `begin`; the image's is exact."""
        return [(-1.0, 127 / 128) if name == "image" else tuple(self.range(name).tolist()) for name in self.held.values()]

    @torch.no_grad()
    def bake(self) -> None:
        """Write the factors into the network's weights."""
        for node in self._steps:
            if layer := self._convolution(node):
                weight, bias = self._weights(node, layer)
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        for factor in self.factors.values():
            factor.zero_()

    @torch.no_grad()
    def shift(self) -> None:
        """Write the shifts into the network's biases: of the network that int8 is made of."""
        for node in self._steps:
            if layer := self._convolution(node):
                layer.bias += self.shifts[node.name]

    def _convolution(self, node: fx.Node) -> nn.Conv2d | None:
        layer = self._layers.get(str(node.target))
        return layer if isinstance(layer, nn.Conv2d) else None

    def _adds_up(self, node: fx.Node) -> bool:
        return node.target is operator.add or self._convolution(node) is not None

    def _is_relu(self, node: fx.Node) -> bool:
        return node.target in (torch.relu, functional.relu) or isinstance(self._layers.get(str(node.target)), nn.ReLU)

    def _made(self, node: fx.Node) -> fx.Node:
        """Where the numbers of a step come from that only lays them out otherwise."""
        while node.op == "call_method" or node.target is functional.interpolate:
            node = node.args[0]
        return node

    def _channels(self, name: str) -> str:
        while self._same[name] != name:
            name = self._same[name]
        return name

    def _divisor(self, name: str) -> Tensor:
        """(C,) or (1,) what the channels of a tensor are divided by."""
        shared = self._channels(name)
        return self.factors[shared].exp() if shared in self.factors else torch.ones(1)

    def _weights(self, node: fx.Node, layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Of channels that are multiplied as they are read, and divided as they are made."""
        divisor = self._divisor(node.name)
        read = self._divisor(node.args[0].name)[None, :, None, None]
        return layer.weight * read / divisor[:, None, None, None], layer.bias / divisor

    def _seen(self, name: str, out: Tensor) -> Tensor:
        channels = out.transpose(0, 1).flatten(1)
        now = torch.stack([channels.amin(1), channels.amax(1)])
        was = self._reach.get(name, now)
        self._reach[name] = torch.stack([torch.minimum(was[0], now[0]), torch.maximum(was[1], now[1])])
        return out


def nearest(x: Tensor, step: Tensor | float = 1.0) -> Tensor:
    """The nearest multiple of `step`. It is learnt as if it were x (Bengio et al. 2013)."""
    return x + (torch.round(x / step) * step - x).detach()


def within(x: Tensor, ends: Tensor) -> Tensor:
    """As 256 steps from the first to the second of `ends` tell it, of which one is nothing."""
    step = (ends[1] - ends[0]) / 255
    zero = nearest(-128 - ends[0] / step)
    return ((nearest(x / step) + zero).clamp(-128, 127) - zero) * step


def read_at(image: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """Where `train.sample` reads faces at landmarks (K, 5, 2): its grid and owner. image: as `frame` takes it, of 4 pixels a cell."""
    height = image.shape[1]
    width = image.shape[2] * image.shape[3] // 3
    return on_grid(marks, torch.tensor([width, height]) / MAP_STRIDE), torch.zeros(len(marks), dtype=torch.long)


def learn(scales: Scales, frames: list[tuple[Tensor, Tensor]], steps: int) -> tuple[float, float]:
    """Set what `scales` holds by, on frames: an image as `frame` takes it, and the landmarks (K, 5, 2) of its faces, K at least 1.

    Returns how far int8 lies from float, see `apart`, on each eighth frame, which is not learnt from: at first, and at the end.
    """
    placed = [(image, *read_at(image, marks)) for image, marks in frames]
    with torch.no_grad():
        wanted = [scales(*one, rounded=False) for one in placed]
    clear = [told["embedding"].square().sum((1, 2, 3)) for told in wanted]
    for told, each in zip(wanted, clear, strict=True):
        told["clear"] = each / torch.cat(clear).mean()
    scales.begin()
    held = range(0, len(frames), 8)
    learnt = torch.tensor([i for i in range(len(frames)) if i not in held])

    @torch.no_grad()
    def lost() -> float:
        return float(torch.stack([apart(scales(*placed[i]), wanted[i]) for i in held]).mean())

    first = lost()
    rate = torch.optim.Adam([{"params": [*scales.factors.values(), *scales.ends.values()], "lr": RATE},
                             {"params": scales.shifts.values(), "lr": RATE / 5}])
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(rate, steps)
    order = torch.Generator().manual_seed(7)
    passes = -(-steps // len(learnt))
    shuffled = torch.cat([learnt[torch.randperm(len(learnt), generator=order)] for _ in range(passes)])[:steps].tolist()
    for which in tqdm(shuffled, "scales", disable=None):
        rate.zero_grad()
        apart(scales(*placed[which]), wanted[which]).backward()
        rate.step()
        fall.step()
    return first, lost()


def apart(told: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """How far what int8 tells lies from what is told in float: about one less the cosine that embeddings lose.

    Faces count by the square of their embeddings' length, which is what large clear ones have: they are told apart, the small
    ones are many, and by a range that suits these the others would be cut off.
    """
    lost = 1 - functional.cosine_similarity(told["embedding"], wanted["embedding"]).flatten()
    lost = lost + TRAITS * (told["traits"] - wanted["traits"]).square().mean((1, 2, 3))
    loss = (wanted["clear"] * lost).mean()
    for level in range(len(STRIDES)):
        logits, want = (x[f"score{level}"].flatten() for x in (told, wanted))
        if (near := want > SOUGHT).any():
            loss = loss + SCORES * (logits - want.clamp(*LOGITS.tolist()))[near].square().mean()
        if (sure := want > SURE).any():
            off, there = (x[f"place{level}"].movedim(1, -1).reshape(-1, 14)[sure] for x in (told, wanted))
            eyes = (there[:, 4:6] - there[:, 6:8]).norm(dim=1, keepdim=True).clamp(min=1)
            off = off - there
            loss = loss + PLACES * ((off[:, 4:] / eyes).square().mean() * 2 + BOXES * off[:, :4].square().sum(1).mean())
    return loss

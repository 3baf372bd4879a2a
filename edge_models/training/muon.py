"""Muon: steps whose every direction is of one length, for the matrices inside a network.

Keller Jordan et al. 2024 (kellerjordan.github.io/posts/muon), scaled to AdamW's step as in Liu et al. 2025
(arXiv 2502.16982), so that one learning rate and one weight decay serve both. A convolution's weights
(O, I, H, W) count as the matrix (O, I*H*W); torch's own Muon takes matrices alone.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.cache
def knows_bfloat16() -> bool:
    """Whether the processor has bfloat16's products."""
    return any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal ones of (B, M, N), roughly: singular values end between 0.7 and 1.2.

    Newton-Schulz iteration with the quintic that Jordan tuned.
    """
    wide = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if wide else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.mT if wide else x


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal; parameters of any rank from two on."""

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.02) -> None:
        """`lr` as AdamW would have it."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002
        """One step down; weights of one shape go together."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for shape, weights in alike.items():
                gradients = [weight.grad for weight in weights]
                speeds = [self.state[weight].setdefault("speed", torch.zeros_like(weight)) for weight in weights]
                torch._foreach_lerp_(speeds, gradients, 1 - group["momentum"])
                push = torch.stack(torch._foreach_lerp(gradients, speeds, group["momentum"])).flatten(2)
                # Where a CPU must make bfloat16 up, products take up to thirty times as long; small ones are quicker in float32 anyway.
                brief = push.is_cuda or (push[0].numel() > 50_000 and knows_bfloat16())
                push = orthogonal(push.bfloat16() if brief else push).float()
                length = 0.2 * max(push.shape[1:]) ** 0.5  # AdamW's root mean square
                # One call for all: on a GPU, each costs its launch.
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, list(push.reshape(len(push), *shape)), alpha=-group["lr"] * length)

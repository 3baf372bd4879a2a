"""How hard each task pulls at the layers that all share: what the weights of the losses are chosen by.

    python -m edge_models.training.balance CHECKPOINT OUT.json --faces faces.npz … --scenes scenes/ [--batches 24]

Nothing is learnt: of each batch each task's gradient is taken by itself, weights of the losses included. `pull` is the
root mean square of its length over the batches. `towards` is the cosine between a task's gradient and that of identity,
both summed over the batches: below 0 they want different things (as Yu et al. 2020 look for, arXiv 2001.06782).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from edge_models.training import data, losses
from edge_models.training.door import leave
from edge_models.training.network import OneLook, checkpoint
from edge_models.training.train import off
from torch import Tensor
from torch.nn import functional
from tqdm import trange

PARTS = ("quarter", "eighth", "sixteenth", "thirtysecond", "trunk")
"""Of the network, those that tasks share and that are not like one of these."""


def gradients(network: OneLook, batch: data.Batch, bank: Tensor) -> dict[tuple[str, str], Tensor]:
    """(part, task) -> its gradient on this batch, in one row."""
    terms = off(network, batch, bank)
    weights = [(part, weight) for part in PARTS for weight in getattr(network, part).parameters()]
    out = {}
    for task, names in losses.TASKS.items():
        loss = sum(losses.WEIGHTS[name] * terms[name] for name in names if name in terms)
        found = torch.autograd.grad(loss, [weight for _, weight in weights], retain_graph=True, materialize_grads=True)
        for part in PARTS:
            out[part, task] = torch.cat([g.flatten() for (of, _), g in zip(weights, found, strict=True) if of == part])
    return out


def main() -> None:
    """Measure, write and show."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("checkpoint", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--faces", type=Path, nargs="+", required=True)
    ask.add_argument("--scenes", type=Path, nargs="+", required=True)
    ask.add_argument("--backgrounds", type=Path)
    ask.add_argument("--cache", type=Path, default=Path("runs/cache"))
    ask.add_argument("--plans", choices=tuple(data.PLANS), default="people")
    ask.add_argument("--batches", type=int, default=24)
    options = ask.parse_args()
    torch.manual_seed(0)
    kept = checkpoint(options.checkpoint)
    network = OneLook().to(memory_format=torch.channels_last).eval()
    network.load_state_dict(kept["average"])
    faces = data.Faces(options.faces, options.cache, "train")
    scenes = data.Scenes(options.scenes, options.backgrounds, options.cache)
    bank = faces.teachers()
    batches = iter(data.Batches(faces, scenes, torch.device("cpu"), 0, 1, options.plans, 0))
    squares, sums = defaultdict(float), defaultdict(float)
    for _ in trange(options.batches, disable=None):
        for at, gradient in gradients(network, next(batches), bank).items():
            squares[at] += float(gradient.square().sum())
            sums[at] += gradient
    figures = {part: {task: {
        "pull": round((squares[part, task] / options.batches) ** 0.5, 3),
        "towards": round(float(functional.cosine_similarity(sums[part, task], sums[part, "identity"], dim=0)), 2),
    } for task in losses.TASKS} for part in PARTS}
    record = {"step": kept["step"], "faces_seen": kept["seen"], "batches": options.batches, "weights": losses.WEIGHTS, "parts": figures}
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    leave(main)

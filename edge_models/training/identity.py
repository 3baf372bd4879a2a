"""Learn identity's branch alone, four times as many faces a second as the whole network.

    python -m edge_models.training.identity keep KEPT --weights CHECKPOINT --faces … --scenes … --count 500000 --seed 1
    python -m edge_models.training.identity learn RUN KEPT … --weights CHECKPOINT --faces … --steps 20000

Where a network is to tell people apart better and all else is to stay, most of a step's arithmetic is for nothing. `keep` writes
down once what the trunk gives of so many faces, lit and laid on canvases as `train` does (5.5 kB a face: a byte a number, as the
shipped network has it), and `learn` reads that again and again, with only the layers behind it learning. The norms' figures stay
as they are. RUN/last.pt is a checkpoint like any other, the rest of the network as it was; after a kill it goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from edge_models.training import data, losses
from edge_models.training.log import Log
from edge_models.training.network import GRID, OneLook
from edge_models.training.train import begin, brief, commit, follow, looked, optimise, save, validate
from numpy.lib.format import open_memmap
from torch.nn import functional

STEP = 1 / 16
"""A kept byte's unit: the trunk gives from nothing to 16, and hardly ever more."""
PIECE = 32
"""Faces of neighbouring canvases, read in one go."""
WARM = 100
"""Steps in which the rate rises."""


def maps(kept: Path) -> Path:
    """What the trunk gave: (N, GRID / 2, GRID / 2, channels) uint8."""
    return kept / "maps.npy"


def teachers(kept: Path) -> Path:
    """The embeddings to learn: (N, 256) float16."""
    return kept / "teachers.npy"


@torch.no_grad()
def keep(options: argparse.Namespace, network: OneLook, faces: data.Faces) -> None:
    """Write down what the trunk gives of `options.count` faces."""
    device = torch.device(options.device)
    scenes = data.Scenes(options.scenes, options.backgrounds, options.cache)
    batches = iter(data.Batches(faces, scenes, device, options.seed, options.times, options.plans, workers=options.workers))
    options.kept.mkdir(parents=True, exist_ok=True)
    channels = network.trunk[0][0].out_channels
    out = open_memmap(maps(options.kept), "w+", np.uint8, (options.count, GRID // 2, GRID // 2, channels))
    aims = open_memmap(teachers(options.kept), "w+", np.float16, (options.count, faces.labels["teacher"].shape[1]))
    done, began = 0, time.monotonic()
    while done < options.count:
        batch = next(batches)
        side = batch.image.shape[-1]
        taught = batch.labels["teacher"].abs().sum(1) > 0
        with brief(device):
            read = network.trunk(looked(network, batch, losses.cells(side, side, device))[2][taught])
        stored = (read.float() / STEP).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        part = slice(done, min(done + len(stored), options.count))
        out[part] = stored[: part.stop - done]
        aims[part] = batch.labels["teacher"][taught].cpu().numpy()[: part.stop - done]
        if part.stop // 20_000 > done // 20_000:
            print(part.stop, f"{part.stop / (time.monotonic() - began):.0f} faces a second", flush=True)
        done = part.stop


def kept_batches(folders: list[Path], size: int, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Maps and teachers of `size` faces, for ever; pieces of all folders mixed anew each time all were read."""
    stores = [(np.load(maps(f), mmap_mode="r"), np.load(teachers(f), mmap_mode="r")) for f in folders]
    pieces = [(i, start) for i, (store, _) in enumerate(stores) for start in range(0, len(store) - PIECE + 1, PIECE)]
    together = max(1, min(size // PIECE, len(pieces)))
    while True:
        random.shuffle(pieces)
        for first in range(0, len(pieces) - together + 1, together):
            chosen = pieces[first : first + together]
            yield tuple(np.concatenate([stores[i][k][at : at + PIECE] for i, at in chosen]) for k in (0, 1))


def learn(options: argparse.Namespace, network: OneLook, faces: data.Faces) -> None:
    """Learn from what is kept, the rate falling to nothing in a straight line."""
    device = torch.device(options.device)
    bank, held = faces.teachers().to(device), data.Faces(options.faces, options.cache, "test")
    branch = network.identity
    optimisers = optimise(branch, options.rate, "muon", 0.95)
    average = copy.deepcopy(network)
    last = options.run / "last.pt"
    options.run.mkdir(parents=True, exist_ok=True)
    step, seen = begin(last, options.weights, network, average, optimisers, device)
    (options.run / "run.json").write_text(json.dumps(
        {"weights": str(options.weights), "rate": options.rate, "steps": options.steps, "batch": options.batch, "seed": options.seed,
         "kept": [f.name for f in options.kept], "faces": [f.name for f in options.faces], "commit": commit(),
         "train": len(faces)}, indent=1))
    torch.manual_seed(options.seed + step)
    batches = kept_batches(options.kept, options.batch, np.random.default_rng(options.seed + step))
    log, began, means = Log(options.run, step), time.monotonic(), {}
    network.eval()
    while step < options.steps:
        read, aim = (torch.from_numpy(part).to(device) for part in next(batches))
        rate = options.rate * min((step + 1) / WARM, 1 - step / options.steps)
        for group in itertools.chain(*(optimiser.param_groups for optimiser in optimisers)):
            group["lr"] = rate
        with brief(device):
            embedding = branch(read.permute(0, 3, 1, 2).float() * STEP).flatten(1)
        terms = losses.identity(functional.normalize(embedding.float(), dim=1), aim.float(), losses.some(bank))
        branch.zero_grad(set_to_none=True)
        sum(losses.WEIGHTS[name] * value for name, value in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(branch.parameters(), 5.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        seen += len(read)
        follow(average, network, step)
        for name, value in terms.items():
            means.setdefault(name, []).append(value.detach())
        if step % 500 == 0 or step == options.steps:
            row = {name: round(float(torch.stack(values).mean()), 4) for name, values in means.items()}
            print(step, seen, f"{time.monotonic() - began:.0f}s", f"{rate:.2e}", row, flush=True)
            log.write("train", step, seen, round(time.monotonic() - began), row | {"rate": rate})
            means = {}
            save(last, network, average, optimisers, step, seen)
        if step % 2500 == 0 or step == options.steps:
            found = validate(average, held, device)
            print("held out", step, found, flush=True)
            log.write("held out", step, seen, "held out", found)


def main() -> None:
    """Keep or learn."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = ask.add_subparsers(dest="task", required=True)
    keeping, learning = tasks.add_parser("keep"), tasks.add_parser("learn")
    keeping.add_argument("kept", type=Path)
    keeping.add_argument("--scenes", type=Path, nargs="+", required=True)
    keeping.add_argument("--backgrounds", type=Path)
    keeping.add_argument("--plans", choices=tuple(data.PLANS), default="people", help="the mix of canvases")
    keeping.add_argument("--times", type=int, default=1, help="batches this many times larger (for a GPU)")
    keeping.add_argument("--workers", type=int, default=0, help="processes that cut scenes: for a GPU, one a core")
    keeping.add_argument("--count", type=int, default=500_000)
    learning.add_argument("run", type=Path)
    learning.add_argument("kept", type=Path, nargs="+")
    learning.add_argument("--rate", type=float, default=2.5e-3)
    learning.add_argument("--steps", type=int, default=20_000)
    learning.add_argument("--batch", type=int, default=256)
    for task in (keeping, learning):
        task.add_argument("--weights", type=Path, required=True, help="checkpoint to start from")
        task.add_argument("--faces", type=Path, nargs="+", required=True)
        task.add_argument("--cache", type=Path, default=Path("runs/cache"))
        task.add_argument("--threads", type=int, default=2)
        task.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        task.add_argument("--seed", type=int, default=1)
    options = ask.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    network = OneLook().to(device, memory_format=torch.channels_last).eval()
    network.load_state_dict(torch.load(options.weights, map_location=device, weights_only=True)["average"])
    faces = data.Faces(options.faces, options.cache, "train")
    (keep if options.task == "keep" else learn)(options, network, faces)


if __name__ == "__main__":
    main()

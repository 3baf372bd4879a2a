"""Train the one-pass network: one loop, read top to bottom.

    python -m edge_models.training.train RUN --faces faces.npz fer.npz --scenes scenes/ [--steps 20000]

On a CPU, one process a core trains faster than threads do, as most of a step is small operations:
`torchrun --nproc-per-node 2 -m edge_models.training.train … --threads 1`; each composes and learns
from its own batches, and their gradients are averaged.
On a GPU a step takes as long for many faces as for few: `--device cuda --times 48 --plans all`, maybe with `--compile`;
`--steps 9999999 --decay 1 --seconds 490 --cool 350` ends it in time, with the rate down.
Batches are large arrays that come and go: with tcmalloc (LD_PRELOAD=libtcmalloc_minimal.so.4) a step takes an eighth less.

Keeps RUN/last.pt (everything needed to go on after a kill), RUN/log.csv and TensorBoard
events where tensorboard is installed. The learning rate rises, stays, and falls over the
last `--decay` steps, so that a run can be lengthened without starting again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from edge_models.training import data, losses
from edge_models.training.door import leave
from edge_models.training.log import Log
from edge_models.training.muon import Muon, knows_bfloat16
from edge_models.training.network import GRID, MAP_STRIDE, REACH, OneLook, checkpoint
from torch import Tensor, distributed
from torch.nn import functional

from onelook.align import TEMPLATE, TEMPLATE_SIZE

SURE = 0.3
"""Score from which the detector's landmarks are good enough to read a face by."""
MEMORY = 500
"""Steps whose weights are averaged. A step is mostly the noise of its few faces: the mean is spared it, without the rate
having to fall, and is what is validated and exported."""


def arguments() -> argparse.Namespace:
    """The command line."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("run", type=Path)
    ask.add_argument("--faces", type=Path, nargs="+", required=True)
    ask.add_argument("--scenes", type=Path, nargs="+", required=True)
    ask.add_argument("--tasks", choices=tuple(losses.TASKS), nargs="+", default=list(losses.TASKS), help="learn these alone")
    ask.add_argument("--detection", type=float, default=1.0, help="detection's losses count for so many times as much")
    ask.add_argument("--plans", choices=tuple(data.PLANS), default="faces", help="the mix of canvases")
    ask.add_argument("--optimiser", choices=("adamw", "muon"), default="muon")
    ask.add_argument("--backgrounds", type=Path)
    ask.add_argument("--cache", type=Path, default=Path("runs/cache"))
    ask.add_argument("--steps", type=int, default=20_000)
    ask.add_argument("--decay", type=int, default=6_000)
    ask.add_argument("--momentum", type=float, default=0.95, help="Muon's")
    ask.add_argument("--warm", type=int, default=500)
    ask.add_argument("--rate", type=float, default=2e-3)
    ask.add_argument("--times", type=int, default=1, help="batches this many times larger (for a GPU)")
    ask.add_argument("--compile", action="store_true", help="let torch join the network's small operations (tried on a CPU alone: minutes to begin)")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--weights", type=Path, help="checkpoint whose weights to start from")
    ask.add_argument("--freeze-norms", action="store_true", help="train with the norms' running figures: canvases "
                     "of a close face and of a street differ, and the daemon's frames are the latter")
    ask.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    ask.add_argument("--seconds", type=float, default=math.inf, help="stop, resumable, after so long")
    ask.add_argument("--cool", type=float, default=0.0, help="of those, the last in which the rate falls, whatever the step")
    return ask.parse_args()


def rate_at(top: float, risen: float, left: float) -> float:
    """Warm-up as `risen` goes to 1, level, then a cosine down to 1 % as `left` of the fall goes from 1 to 0."""
    if left < 1:
        return top * (0.01 + 0.99 * (1 + math.cos(math.pi * (1 - max(left, 0)))) / 2)
    return top * min(1.0, risen)


def on_grid(landmarks: Tensor, map_side: int | Tensor) -> Tensor:
    """`onelook.align.grid` for torch: (K, 5, 2) pixels -> (K, 2 GRID, 2 GRID, 2) for grid_sample, four points to a sample.
    map_side: in cells; or width and height (2,).

    Of a small face all four are the sample's own.
    """
    template = torch.from_numpy(TEMPLATE).to(landmarks)
    middle = template.mean(0)
    t = template - middle
    centre = landmarks.mean(1, keepdim=True)
    p = landmarks - centre
    scale = t.square().sum()
    a = (p * t).sum((1, 2)) / scale
    b = (p[..., 1] * t[:, 0] - p[..., 0] * t[:, 1]).sum(1) / scale
    line = ((torch.arange(GRID, device=landmarks.device) + 0.5) * (TEMPLATE_SIZE / GRID) - 0.5).repeat_interleave(2)
    aside = torch.tensor([-REACH, REACH], device=landmarks.device).repeat(GRID)
    spread = (torch.hypot(a, b) * TEMPLATE_SIZE > MAP_STRIDE * GRID)[:, None] * aside  # (K, 2 GRID)
    x, y = (spread + line - middle[0])[:, None], (spread + line - middle[1])[:, :, None]
    a, b = a[:, None, None], b[:, None, None]
    spots = torch.stack([a * x - b * y, b * x + a * y], -1) + centre[:, :, None]
    return (spots + 0.5) / (MAP_STRIDE * map_side) * 2 - 1


def sample(features: Tensor, grid: Tensor, owner: Tensor) -> Tensor:
    """Read maps (N, C, H, W) at `grid` (K, 2 GRID, 2 GRID, 2), the mean of each four points; face k lies on map owner[k],
    and owners are in order.

    Maps with equally many faces are read in one call, their faces' grids one above the other: a map is not copied
    for each of its faces.
    """
    many = torch.bincount(owner, minlength=len(features))
    sampled = features.new_empty(len(grid), features.shape[1], GRID, GRID)
    for count in many.unique().tolist():
        if count:
            maps, rows = (many == count).nonzero()[:, 0], (many[owner] == count).nonzero()[:, 0]
            read = functional.grid_sample(features[maps], grid[rows].reshape(len(maps), count * 2 * GRID, 2 * GRID, 2),
                                          align_corners=False, padding_mode="border")
            read = functional.avg_pool2d(read, 2)
            sampled = sampled.index_copy(0, rows, read.unflatten(2, (count, GRID)).transpose(1, 2).flatten(0, 1))
    return sampled


@contextmanager
def first_alone(rank: int, processes: int) -> Iterator[None]:
    """Let the first process through, and then the others."""
    if rank:
        distributed.barrier()
    yield
    if processes > 1 and not rank:
        distributed.barrier()


def commit() -> str:
    """The commit that trains, for the record."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    """Train until the steps or the seconds are used up."""
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    options.run.mkdir(parents=True, exist_ok=True)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        distributed.init_process_group("gloo")
    torch.manual_seed(options.seed)
    with first_alone(rank, processes):  # it decodes what is not yet in the cache
        faces = data.Faces(options.faces, options.cache, "train")
        held = data.Faces(options.faces, options.cache, "test")
        scenes = data.Scenes(options.scenes, options.backgrounds, options.cache)
    faces.keep_on(device)
    scenes.keep_on(device)
    print(f"{len(faces)} faces, {len(held)} held out, {len(scenes.rows)} scenes, {scenes.empty} backgrounds",
          flush=True)

    bank = faces.teachers()
    network = OneLook().to(device, memory_format=torch.channels_last)
    optimisers = optimise(network, options.rate, options.optimiser, options.momentum)
    average = copy.deepcopy(network)
    last = options.run / "last.pt"
    first, seen = begin(last, options.weights, network, average, optimisers, device)
    step = first
    (options.run / "run.json").write_text(json.dumps(
        {"processes": processes, **{k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()
            if k not in ("faces", "scenes", "seconds")},
         "faces": [f.name for f in options.faces], "scenes": [f.name for f in options.scenes], "commit": commit(), "parameters":
         sum(p.numel() for p in network.parameters()), "train": len(faces)}, indent=1))

    learnt = {name for task in options.tasks for name in losses.TASKS[task]}
    weights = {name: weight * (options.detection if name in losses.TASKS["detection"] else 1)
               for name, weight in losses.WEIGHTS.items()}
    torch.manual_seed(options.seed + step + 1_000_000 * rank)
    batches = iter(data.Batches(faces, scenes, device, options.seed + step, options.times, options.plans, rank))
    if options.compile:
        network.frame = torch.compile(network.frame, dynamic=True)
        network.describe = torch.compile(network.describe, dynamic=True)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d) and options.freeze_norms]
    began, means = time.monotonic(), {}
    log = None if rank else Log(options.run, step)
    over = step >= options.steps
    while not over:
        network.train()
        for module in norms:
            module.eval()
        batch = next(batches)
        left = (options.steps - step) / options.decay
        if options.cool:
            left = min(left, (options.seconds - time.monotonic() + began) / options.cool)
        rate = rate_at(options.rate, (step - first + 1) / options.warm, left)
        for group in itertools.chain(*(optimiser.param_groups for optimiser in optimisers)):
            group["lr"] = rate
        terms = {name: value for name, value in off(network, batch, bank).items() if name in learnt}
        nothing = 0 * next(network.parameters()).sum()  # a batch may hold no label of the tasks asked for
        loss = sum((weights[name] * value for name, value in terms.items()), nothing)
        network.zero_grad(set_to_none=True)
        loss.backward()
        share([p.grad for p in network.parameters() if p.grad is not None], processes)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        seen += len(batch.where) * processes
        over = step == options.steps or time.monotonic() - began >= options.seconds
        if log is None:
            continue
        follow(average, network, step)
        for name, value in terms.items():
            means.setdefault(name, []).append(value.detach())
        if step % 200 == 0:
            row = {k: round(float(torch.stack(v).mean()), 4) for k, v in means.items()}
            print(step, seen, f"{seen / 1e6:.2f}M faces", f"{time.monotonic() - began:.0f}s",
                  f"{rate:.2e}", row, flush=True)
            log.write("train", step, seen, round(time.monotonic() - began), row | {"rate": rate})
            means = {}
        if step % options.save_every == 0 or over:
            save(last, network, average, optimisers, step, seen)
        if step % 2500 == 0 or over:
            found = validate(average, held, device)
            print("held out", step, found, flush=True)
            log.write("held out", step, seen, "held out", found)


def brief(device: torch.device) -> torch.autocast:
    """In bfloat16, where the device has it: a processor that must make it up takes longer than with float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or knows_bfloat16())


def off(network: OneLook, batch: data.Batch, bank: Tensor) -> dict[str, Tensor]:
    """How far the network is off on a batch, loss by loss. bank (M, 256): teachers, of which some are drawn."""
    side, device = batch.image.shape[-1], batch.image.device
    at = losses.cells(side, side, device)
    with brief(device):
        score, place, sampled = looked(network, batch, at)
        embedding, traits = network.describe(sampled)
    return losses.detection(
        score, place, at, batch.boxes, batch.landmarks, batch.real
    ) | losses.description(embedding, named(network, traits), batch.labels, losses.some(bank))


def looked(network: OneLook, batch: data.Batch, at: losses.Cells) -> tuple[Tensor, Tensor, Tensor]:
    """One look at the batch's canvases: score (N, P, 1) and place (N, P, 14) of all cells, and what was read of each
    face, (K, features, GRID, GRID)."""
    side = batch.image.shape[-1]
    score, place, features = network.frame(batch.image.contiguous(memory_format=torch.channels_last))
    score, place = losses.flat(score), losses.flat(place)
    # In float32: a grid that is rounded to bfloat16 misses by a pixel.
    where = as_found(score.detach().float(), losses.decode(place.detach().float(), at)[1], batch)
    return score, place, sample(features.float(), on_grid(where, side // MAP_STRIDE), batch.owner)



def as_found(score: Tensor, marks: Tensor, batch: data.Batch) -> Tensor:
    """Landmarks (K, 5, 2) of the batch's faces as the detector has them, for the head must read by these.

    score (N, P, 1) logits and marks (N, P, 5, 2) in pixels of all cells. Of a face that is not found, and of a quarter of the
    others, the true ones, shaken.
    """
    width = (batch.where.amax(1) - batch.where.amin(1)).mean(1)
    shaken = batch.where + torch.randn_like(batch.where) * width[:, None, None] * 0.035
    away = (marks.mean(2)[batch.owner] - batch.where.mean(1, keepdim=True)).norm(dim=-1)  # (K, P)
    near, best = score[batch.owner, :, 0].masked_fill(away > 0.4 * width[:, None], -torch.inf).max(1)
    taken = (near.sigmoid() > SURE) & (torch.rand_like(width) < 0.75)
    return torch.where(taken[:, None, None], marks[batch.owner, best], shaken)


def optimise(network: torch.nn.Module, rate: float, kind: str, momentum: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the picture and the outputs, AdamW for what is left."""
    final = {id(m.weight) for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None}
    inner = [p for p in network.parameters() if p.ndim > 1 and id(p) not in final and p.shape[1] > 3] if kind == "muon" else []
    chosen = {id(p) for p in inner}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(
        [{"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.02},
         {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}], lr=rate, fused=True)
    return [adam, Muon(inner, rate, momentum)] if inner else [adam]


def share(gradients: list[Tensor], processes: int) -> None:
    """Over all processes, in place."""
    if processes == 1:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient) / processes)


@torch.no_grad()
def follow(average: OneLook, network: OneLook, step: int) -> None:
    """Bring the running mean of the weights up to `step`, the first being 1."""
    means, nows = ([x for x in of.state_dict().values() if x.is_floating_point()] for of in (average, network))
    torch._foreach_lerp_(means, nows, max(1 / MEMORY, 1 / step))


def begin(last: Path, weights: Path | None, network: OneLook, average: OneLook,
          optimisers: list[torch.optim.Optimizer], device: torch.device) -> tuple[int, int]:
    """Go on where `last` was kept, or begin with the mean of `weights`. Returns the steps done and the faces seen."""
    if last.exists():
        kept = checkpoint(last, device)
        for optimiser, state in zip(optimisers, kept["optimisers"], strict=True):
            asked = optimiser.param_groups
            optimiser.load_state_dict(state)
            for group, now in zip(optimiser.param_groups, asked, strict=True):
                group |= {name: value for name, value in now.items() if name != "params"}
    elif weights:
        kept = checkpoint(weights, device)
        kept |= {"step": 0, "network": kept["average"]}
    else:
        return 0, 0
    for now, name in ((network, "network"), (average, "average")):
        now.load_earlier(kept[name])
    return kept["step"], kept["seen"]


def named(network: OneLook, traits: Tensor) -> dict[str, Tensor]:
    """The traits (K, T) by name, in float32."""
    widths = tuple(network.traits.values())
    return dict(zip(network.traits, traits.float().split(widths, 1), strict=True))


def save(path: Path, network: OneLook, average: OneLook, optimisers: list[torch.optim.Optimizer], step: int,
         seen: int) -> None:
    """Write a checkpoint that a kill cannot halve."""
    part = path.with_suffix(".part")
    torch.save({"network": network.state_dict(), "average": average.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers], "step": step, "seen": seen}, part)
    part.replace(path)


@torch.no_grad()
def validate(network: OneLook, held: data.Faces, device: torch.device, face: float = 80.0) -> dict[str, float]:
    """How well held-out faces of `face` pixels are described, given exact landmarks."""
    network.eval()
    known = torch.from_numpy(np.flatnonzero(held.identity != ""))
    others = torch.from_numpy(np.flatnonzero(held.identity == ""))
    chosen = torch.cat([known, others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:2500]]])
    embeddings = []
    sums: dict[str, list[Tensor]] = {}
    for rows in chosen.split(128):
        patches, where, labels = held.take(rows, device)
        embedding, part = described(network, patches, where, face)
        embeddings.append(embedding)
        taught = labels["teacher"].abs().sum(1) > 0
        cosine = (embedding * labels["teacher"]).sum(1)
        told = labels["attributes"] != 0
        for name, values in (
            ("cosine", cosine[taught]),
            ("attributes", ((part["attributes"] > 0) == (labels["attributes"] > 0))[told]),
            ("gender", ((part["gender"][:, 0] > 0) == (labels["male"] == 1))[labels["male"] >= 0]),
            ("age", (part["age"][:, 0] * losses.AGE_STEP + losses.AGE_MIDDLE - labels["age"]).abs()[labels["age"] >= 0]),
            *((name, (part[name].argmax(1) == labels[name])[labels[name] >= 0]) for name in ("ethnicity", "race7", "emotion")),
        ):
            sums.setdefault(name, []).append(values.float().cpu())
    found = {name: round(float(torch.cat(values).mean()), 4) for name, values in sums.items() if len(torch.cat(values))}
    return found | accepted(torch.cat(embeddings)[:len(known)].cpu(), held.identity[known.numpy()])


@torch.no_grad()
def described(network: OneLook, patches: Tensor, landmarks: Tensor, face: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Faces shrunk to `face` pixels and read by their true landmarks: embeddings (K, EMBEDDING) of unit length, traits by name.

    patches (K, 3, P, P) 0 to 1, where an aligned face would be 112 pixels wide, landmarks (K, 5, 2) in pixels of them.
    """
    device, side, size = patches.device, 96, patches.shape[-1]
    middle = (side - 1) / 2
    axis = (torch.arange(side, device=device) - middle) / (face / 112)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    spots = torch.stack([x, y], -1) / (size / 2)
    small = functional.grid_sample(patches, spots.expand(len(patches), -1, -1, -1), align_corners=False, padding_mode="border")
    marks = (landmarks - (size - 1) / 2) * (face / 112) + middle
    with brief(device):
        _, _, features = network.frame((small * 2 - 1).contiguous(memory_format=torch.channels_last))
        sampled = sample(features.float(), on_grid(marks, side // MAP_STRIDE), torch.arange(len(marks), device=device))
        embedding, traits = network.describe(sampled)
    return functional.normalize(embedding.float(), dim=1), named(network, traits)


def accepted(embeddings: Tensor, identity: np.ndarray, far: tuple[float, ...] = (1e-2, 1e-3)) -> dict[str, float]:
    """TAR at each FAR over all pairs of embeddings (K, E), unit length, with their `identity` (K,).

    Pairs of one person count one over that person's number of pairs: a few have most of the pictures. Nothing, where
    nobody is there twice or nobody else.
    """
    _, who = np.unique(identity, return_inverse=True)
    first, second = np.triu_indices(len(who), 1)
    alike = (embeddings @ embeddings.T).numpy()[first, second]
    same = who[first] == who[second]
    if not same.any() or same.all():
        return {}
    weight = 1 / np.bincount(who[first[same]])[who[first[same]]]
    strange = np.sort(alike[~same])
    return {f"tar@{f:g}": round(float((weight * (alike[same] >= strange[-max(1, round(f * len(strange)))])).sum() / weight.sum()), 4)
            for f in far}


if __name__ == "__main__":
    leave(main)

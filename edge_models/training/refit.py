"""Learn what people look like on, while all else stays as it is.

    python -m edge_models.training.refit RUN OUT --faces faces.npz … --scenes scenes/ [--count 800000]

Where the layers beneath stay, a face need be drawn and looked at but once: what the trunk gives of `count` composed faces
is kept in bytes (5 kB each), and the looks are learnt from that, ten times as many faces a second as otherwise. All
faces have a label. Boxes, landmarks and identity are those of RUN. Writes OUT/last.pt, to be exported, OUT/log.csv, and
OUT/run.json, which is that of RUN.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from edge_models.training import data, losses
from edge_models.training.log import Log
from edge_models.training.network import GRID, OneLook
from edge_models.training.train import look, named, rate_at
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

HIGHEST = 20.0
"""The trunk's outputs are kept up to this; the highest of millions seen is 17."""
BATCH = 512
MEMORY = 200
"""Steps whose weights are averaged."""


def labelled(faces: data.Faces) -> None:
    """Draw faces with labels alone, and those with the rarer ones a little more often."""
    labels = faces.labels
    numbers = torch.stack([labels[name] for name in ("male", "age_low", "ethnicity", "race7", "emotion")])
    attributes = (labels["attributes"] != 0).any(1)
    faces.weight = ((numbers >= 0).any(0) | attributes).float()
    faces.weight[labels["emotion"] >= 0] = 1.3
    faces.weight[attributes] = 1.5


@torch.no_grad()
def keep(options: argparse.Namespace, seed: int, count: int) -> None:
    """Draw `count` faces and keep what the trunk gives of them, and what is known, beneath OUT."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    faces = data.Faces(options.faces, options.cache, "train")
    labelled(faces)
    network = OneLook().to(memory_format=torch.channels_last).eval()
    network.load_state_dict(torch.load(options.run / "last.pt", map_location="cpu", weights_only=True)["average"])
    scenes, device = data.Scenes(options.scenes, None, options.cache), torch.device("cpu")
    channels, side = network.looks[0][0].in_channels, GRID // 2
    kept = np.lib.format.open_memmap(options.out / f"trunk-{seed}.npy", "w+", np.uint8, (count, channels, side, side))
    known, done = [], 0
    batches = iter(data.Batches(faces, scenes, device, seed, 1, "looks"))
    bar = tqdm(total=count, unit="face", disable=None)
    while done < count:
        batch = next(batches)
        with torch.autocast(device.type, torch.bfloat16):
            trunk = network.trunk(look(network, batch)[2])
            embedding = functional.normalize(network.identity(trunk).flatten(1).float(), dim=1)
        labels = {name: value[:count - done] for name, value in batch.labels.items()}
        teacher = labels.pop("teacher")
        # What the quality shall be: how like the teacher's the embedding is; -1 where there is none.
        alike = (embedding[:len(teacher)] * teacher).sum(1).clamp(0, 1)
        known.append(labels | {"alike": torch.where(teacher.abs().sum(1) > 0, alike, -1.0)})
        kept[done:done + len(teacher)] = (trunk[:len(teacher)].float() * (255 / HIGHEST)).round().clamp(0, 255).byte()
        done += len(teacher)
        bar.update(len(teacher))
    kept.flush()
    torch.save({name: torch.cat([part[name] for part in known]) for name in known[0]}, options.out / f"labels-{seed}.pt")


def off(network: OneLook, trunk: Tensor, labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far the looks are off, loss by loss. trunk: (K, channels, side, side) as kept."""
    traits = network.looks(trunk.float() * (HIGHEST / 255)).flatten(1)
    nobody = trunk.new_zeros(len(trunk), 1, dtype=torch.float32)
    part = named(network, traits)
    terms = losses.description(nobody, part, labels | {"teacher": nobody}, nobody[:1])
    taught = labels["alike"] >= 0
    if taught.any():
        terms["quality"] = functional.mse_loss(part["quality"][taught, 0].sigmoid(), labels["alike"][taught])
    return terms


def learn(network: OneLook, trunk: Tensor, labels: dict[str, Tensor], options: argparse.Namespace) -> None:
    """Learn the looks on, and leave their running mean in the network."""
    looks = network.looks.train()
    average = copy.deepcopy(looks)
    optimiser = torch.optim.AdamW(
        [{"params": [p for p in looks.parameters() if p.ndim > 1], "weight_decay": 0.02},
         {"params": [p for p in looks.parameters() if p.ndim <= 1], "weight_decay": 0.0}], lr=options.rate, fused=True)
    log, step, steps = Log(options.out, 0), 0, max(1, round(options.epochs * len(trunk) / BATCH))
    means: dict[str, list[Tensor]] = {}
    while step < steps:
        for rows in torch.randperm(len(trunk)).split(BATCH)[:steps - step]:
            rate = rate_at(options.rate, (step + 1) / 100, 1 - step / steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            terms = off(network, trunk[rows], {name: value[rows] for name, value in labels.items()})
            optimiser.zero_grad()
            sum(losses.WEIGHTS[name] * value for name, value in terms.items()).backward()
            optimiser.step()
            step += 1
            with torch.no_grad():
                parts = ([x for x in of.state_dict().values() if x.is_floating_point()] for of in (average, looks))
                torch._foreach_lerp_(*parts, max(1 / MEMORY, 1 / step))
            for name, value in terms.items():
                means.setdefault(name, []).append(value.detach())
            if step % 200 == 0 or step == steps:
                row = {name: round(float(torch.stack(values).mean()), 4) for name, values in means.items()}
                print(step, row, flush=True)
                log.write("train", step, step * BATCH, f"{rate:.1e}", row)
                means = {}
    looks.load_state_dict(average.state_dict())


def main() -> None:
    """Keep, learn, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("run", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--faces", type=Path, nargs="+", required=True)
    ask.add_argument("--scenes", type=Path, nargs="+", required=True)
    ask.add_argument("--cache", type=Path, default=Path("runs/cache"))
    ask.add_argument("--count", type=int, default=800_000)
    ask.add_argument("--epochs", type=float, default=3.0)
    ask.add_argument("--rate", type=float, default=2e-3)
    ask.add_argument("--processes", type=int, default=2)
    ask.add_argument("--seed", type=int, default=1)
    options = ask.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = [options.seed * 1000 + i for i in range(options.processes)]
    with ProcessPoolExecutor(len(seeds), get_context("spawn")) as pool:  # a fork would have this one's threads, asleep
        for done in [pool.submit(keep, options, seed, options.count // len(seeds)) for seed in seeds]:
            done.result()
    files = [options.out / f"trunk-{seed}.npy" for seed in seeds]
    trunk = torch.from_numpy(np.concatenate([np.load(file, mmap_mode="r") for file in files]))
    known = [torch.load(options.out / f"labels-{seed}.pt", weights_only=True) for seed in seeds]
    labels = {name: torch.cat([part[name] for part in known]) for name in known[0]}
    kept = torch.load(options.run / "last.pt", map_location="cpu", weights_only=True)
    network = OneLook().eval()
    network.load_state_dict(kept["average"])
    torch.manual_seed(options.seed)
    learn(network, trunk, labels, options)
    torch.save({"average": network.state_dict(), "step": kept["step"], "seen": kept["seen"]}, options.out / "last.pt")
    shutil.copy(options.run / "run.json", options.out / "run.json")
    for file in files:
        file.unlink()


if __name__ == "__main__":
    main()

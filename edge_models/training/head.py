"""Learn a branch of the face head alone, four times as many faces a second as the whole network.

    python -m edge_models.training.head keep KEPT --weights CHECKPOINT --faces … --scenes … --count 500000 --seed 1
    python -m edge_models.training.head learn RUN KEPT … --weights CHECKPOINT --faces … --steps 20000 [--branch looks]

Where a network is to tell people apart better and all else is to stay, most of a step's arithmetic is for nothing. `keep` writes
down once what the trunk gives of so many faces, lit and laid on canvases as `train` does (5.5 kB a face: a byte a number, as the
shipped network has it), and what is known of them; `learn` reads that again and again, with only the layers behind it learning.
The norms' figures stay as they are, but of a branch that begins. RUN/last.pt is a checkpoint like any other, the rest of the network as it was; after a kill it
goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from edge_models.training import data, losses
from edge_models.training.door import leave
from edge_models.training.log import Log
from edge_models.training.network import GRID, OneLook, checkpoint
from edge_models.training.train import begin, brief, commit, follow, looked, named, optimise, save, validate
from numpy.lib.format import open_memmap
from torch import Tensor

STEP = 1 / 16
"""A kept byte's unit: the trunk gives from nothing to 16, and hardly ever more."""
PIECE = 32
"""Faces of neighbouring canvases, read in one go."""
MADE_OF = "made_of.json"
"""In a folder of faces kept: the names of the files and folders that they were made of."""
WARM = 100
"""Steps in which the rate rises."""
BRANCHES = {
    "identity": (("identity",), ("embedding", "relation", "choice")),
    "looks": (("looks.3", "from_embedding"), (*losses.TASKS["looks"], "quality")),
    "emotion": (("again",), ("emotion",)),
}
"""Branch -> what learns, and from which losses. Of the looks what is read off, by their own layers and by the embedding; of these
layers the last alone, as more of them learnt nothing that held on other faces. Emotion has a reading of its own, and pictures of its
own: hardly any face with a teacher has one."""
HAVING: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "teacher": lambda labels: labels["teacher"].abs().sum(1) > 0,
    "emotion": lambda labels: labels["emotion"] >= 0,
}
"""What must be known of a face to be kept -> whether it is, (N,)."""
WEIGHTS = losses.WEIGHTS | {"gender": 4 * losses.WEIGHTS["gender"]}
"""Gender is furthest from what is asked, and in the last layers it takes nothing from the others."""


def maps(kept: Path) -> Path:
    """What the trunk gave: (N, GRID / 2, GRID / 2, channels) uint8."""
    return kept / "maps.npy"


def known(kept: Path, name: str) -> Path:
    """What is known of the faces by one name, as `data.Faces.labels` has it: (N, …)."""
    return kept / f"{name}.npy"


def shelves(kept: Path, labels: dict[str, Tensor], count: int) -> dict[str, np.ndarray]:
    """Room on disk for what is known of `count` faces: labels (N, …), wherever they lie -> (count, …) of the same kinds."""
    return {name: open_memmap(known(kept, name), "w+", value.new_empty(0, device="cpu").numpy().dtype, (count, *value.shape[1:]))
            for name, value in labels.items()}


def learnt_from(options: argparse.Namespace) -> dict[str, list[str]]:
    """Names of all that a branch's network has learnt from: what the faces kept were made of, and what the run before it tells."""
    told = (*(kept / MADE_OF for kept in options.kept), options.weights.with_name("run.json"))
    rows = [{"faces": [file.name for file in options.faces]}, *(json.loads(file.read_text()) for file in told if file.exists())]
    return {kind: list(dict.fromkeys(name for row in rows for name in row.get(kind, []))) for kind in ("faces", "scenes")}


@torch.no_grad()
def keep(options: argparse.Namespace, network: OneLook, faces: data.Faces) -> None:
    """Write down what the trunk gives of `options.count` faces."""
    device = torch.device(options.device)
    scenes = data.Scenes(options.scenes, options.backgrounds, options.cache)
    faces.keep_on(device)
    scenes.keep_on(device)
    batches = iter(data.Batches(faces, scenes, device, options.seed, options.times, options.plans))
    options.kept.mkdir(parents=True, exist_ok=True)
    channels = network.trunk[0][0].out_channels
    out = open_memmap(maps(options.kept), "w+", np.uint8, (options.count, GRID // 2, GRID // 2, channels))
    labels = shelves(options.kept, faces.labels, options.count)
    (options.kept / MADE_OF).write_text(json.dumps(
        {"faces": [file.name for file in options.faces], "scenes": [folder.name for folder in options.scenes]}))
    done, began = 0, time.monotonic()
    while done < options.count:
        batch = next(batches)
        side = batch.image.shape[-1]
        taught = HAVING[options.having](batch.labels)
        with brief(device):
            read = network.trunk(looked(network, batch, losses.cells(side, side, device))[2][taught])
        stored = (read.float() / STEP).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        part = slice(done, min(done + len(stored), options.count))
        out[part] = stored[: part.stop - done]
        for name, store in labels.items():
            store[part] = batch.labels[name][taught].cpu().numpy()[: part.stop - done]
        if part.stop // 20_000 > done // 20_000:
            print(part.stop, f"{part.stop / (time.monotonic() - began):.0f} faces a second", flush=True)
        done = part.stop


def kept_batches(folders: list[Path], size: int, random: np.random.Generator) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Maps and labels of `size` faces, for ever; pieces of all folders mixed anew each time all were read."""
    stores = [{file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")} for folder in folders]
    pieces = [(store, start) for store in stores for start in range(0, len(store["maps"]) - PIECE + 1, PIECE)]
    together = max(1, min(size // PIECE, len(pieces)))
    while True:
        random.shuffle(pieces)
        for first in range(0, len(pieces) - together + 1, together):
            chosen = pieces[first : first + together]
            batch = {name: torch.from_numpy(np.concatenate([store[name][at : at + PIECE] for store, at in chosen])) for name in stores[0]}
            yield batch.pop("maps"), batch


def learn(options: argparse.Namespace, network: OneLook, faces: data.Faces) -> None:
    """Let one branch learn from what is kept, the rate falling to nothing in a straight line."""
    device = torch.device(options.device)
    bank, held = faces.teachers().to(device), data.Faces(options.faces, options.cache, "test")
    parts, learnt = BRANCHES[options.branch]
    network.requires_grad_(False)
    branch = torch.nn.ModuleList(network.get_submodule(part) for part in parts).requires_grad_()
    optimisers = optimise(branch, options.rate, "muon", 0.95)
    average = copy.deepcopy(network)
    last = options.run / "last.pt"
    options.run.mkdir(parents=True, exist_ok=True)
    step, seen = begin(last, options.weights, network, average, optimisers, device)
    (options.run / "run.json").write_text(json.dumps(
        {"weights": str(options.weights), "rate": options.rate, "steps": options.steps, "batch": options.batch, "seed": options.seed,
         "branch": options.branch, "kept": [f.name for f in options.kept], **learnt_from(options), "commit": commit(),
         "train": len(faces)}, indent=1))
    torch.manual_seed(options.seed + step)
    batches = kept_batches(options.kept, options.batch, np.random.default_rng(options.seed + step))
    log, began, means = Log(options.run, step), time.monotonic(), {}
    for module in network.modules():
        module.train(not isinstance(module, torch.nn.BatchNorm2d))
    for module in branch.modules():  # those of one that begins have figures yet to find
        if isinstance(module, torch.nn.BatchNorm2d) and not module.running_mean.any():
            module.train()
    while step < options.steps:
        read, labels = next(batches)
        labels = {name: value.to(device) for name, value in labels.items()} | {"teacher": labels["teacher"].to(device).float()}
        rate = options.rate * min((step + 1) / WARM, 1 - step / options.steps)
        for group in itertools.chain(*(optimiser.param_groups for optimiser in optimisers)):
            group["lr"] = rate
        with brief(device):
            embedding, traits = network.told(read.to(device).permute(0, 3, 1, 2).float() * STEP)
        terms = losses.description(embedding, named(network, traits), labels, losses.some(bank))
        terms = {name: terms[name] for name in learnt if name in terms}
        branch.zero_grad(set_to_none=True)
        sum(WEIGHTS[name] * value for name, value in terms.items()).backward()
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
    keeping.add_argument("--having", choices=tuple(HAVING), default="teacher", help="keep faces of which this is known")
    keeping.add_argument("--count", type=int, default=500_000)
    learning.add_argument("run", type=Path)
    learning.add_argument("kept", type=Path, nargs="+")
    learning.add_argument("--branch", choices=tuple(BRANCHES), default="identity")
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
    network.load_earlier(checkpoint(options.weights, device)["average"])
    faces = data.Faces(options.faces, options.cache, "train")
    (keep if options.task == "keep" else learn)(options, network, faces)


if __name__ == "__main__":
    leave(main)

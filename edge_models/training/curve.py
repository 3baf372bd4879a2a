"""What more hours or pictures would give: how far networks of one make are off, by how many faces they had seen.

    python -m edge_models.training.curve OUT.json CHECKPOINT … --data DATA

DATA holds faces.npz, fairface.npz, fer.npz and lfw.npz. The checkpoints are the float networks of the releases, the earlier
ones being in git's history; what OUT.json holds of others stays. Each describes faces of 80 px by their true landmarks, so that one
measure serves all of them. An error that falls as a power of the faces seen, as those of most networks do (Hestness et al. 2017,
arXiv 1712.00409), is a straight line of logarithms: it is laid through the networks of the make of which there are most and followed
to each floor (null: it gets there never). `deep` is the make: the bottlenecks of identity's branch. `cosine` and `cosine.learnt` are to the teacher's embedding, on pictures
held out and on ones learnt from: how much more pictures, and not steps, could give.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from edge_models.training import data, losses
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, folds, passed_by
from edge_models.training.network import OneLook, checkpoint
from edge_models.training.train import described
from torch import Tensor

FACE = 80.0
"""Pixels."""
FLOORS = {
    "lfw.accuracy": 0.955, "lfw.tar_at_far_1e-3": 0.75, "gender": 0.94, "age": 6.0, "race7": 0.60, "emotion": 0.62,
}
"""What is asked of the network and not yet reached, or hardly: rates, and years. (LFW: of faces of 112 px, which are known as well as these.)"""
BATCH = 128


def rates(network: OneLook, faces: data.Faces, most: int = 5000) -> dict[str, float]:
    """Cosine to the teacher, and how often or how far the looks are right, of `most` of one file's faces at random."""
    sums: dict[str, list[Tensor]] = {}
    chosen = torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))[:most]
    for rows in chosen.split(BATCH):
        patches, marks, labels = faces.take(rows, torch.device("cpu"))
        embedding, traits = described(network, patches, marks, FACE)
        aged, taught = labels["age"] >= 0, labels["teacher"].abs().sum(1) > 0
        for name, values in (
            ("cosine", (embedding * labels["teacher"]).sum(1)[taught]),
            ("gender", ((traits["gender"][:, 0] > 0) == (labels["male"] == 1))[aged & (labels["male"] >= 0)]),
            ("age", (traits["age"][:, 0] * losses.AGE_STEP + losses.AGE_MIDDLE - labels["age"]).abs()[aged]),
            *((name, (traits[name].argmax(1) == labels[name])[labels[name] >= 0]) for name in ("race7", "emotion")),
        ):
            sums.setdefault(name, []).append(values.float())
    return {name: float(torch.cat(values).mean()) for name, values in sums.items() if len(torch.cat(values))}


def verification(network: OneLook, lfw: Packed) -> dict[str, float]:
    """LFW's ten folds by the plain cosine, and the true accepts where 1 in 1,000 of all pairs of two people pass."""
    marks = torch.from_numpy(lfw.table["landmarks"]).float()
    parts = []
    for rows in torch.arange(len(marks)).split(BATCH):
        patches = torch.from_numpy(np.stack([lfw.patch(int(row)) for row in rows])).permute(0, 3, 1, 2).float() / 255
        parts.append(described(network, patches, marks[rows], FACE)[0])
    embeddings = torch.cat(parts).numpy()
    first, second, same = (lfw.table[name].astype(np.intp) for name in ("first", "second", "same"))
    alike = (embeddings[first] * embeddings[second]).sum(1)
    bar = passed_by(1e-3, embeddings @ embeddings.T, lfw.people())
    return {"lfw.accuracy": float(folds(alike, same == 1).mean()), "lfw.tar_at_far_1e-3": float((alike[same == 1] > bar).mean())}


def made(weights: dict[str, Tensor]) -> OneLook:
    """The network of such weights, of whatever make."""
    layers = {name.split(".")[1] for name in weights if name.startswith("identity.")}
    network = OneLook(len(layers) - 2, weights[f"identity.{len(layers) - 1}.weight"].shape[1])
    network.load_earlier(weights)
    return network.to(memory_format=torch.channels_last).eval()


def reached(seen: list[int], off: list[float], asked: float) -> float:
    """Faces to see until an error `off` that falls as a power of the faces `seen` is what is `asked`; infinite if it does not fall."""
    slope, height = np.polyfit(np.log(seen), np.log(off), 1)
    return float(np.exp((np.log(asked) - height) / slope)) if slope < 0 else np.inf


def error(name: str, value: float) -> float:
    """What there is to lose: years as they are, of a rate what it lacks."""
    return value if name == "age" else 1 - value


def main() -> None:
    """Measure, extrapolate and write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path)
    ask.add_argument("checkpoints", type=Path, nargs="+")
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--cache", type=Path, default=Path("runs/cache"))
    options = ask.parse_args()
    held = {name: data.Faces([options.data / f"{name}.npz"], options.cache, "test") for name in ("faces", "fairface", "fer")}
    learnt = data.Faces([options.data / "faces.npz"], options.cache, "train")
    lfw = Packed(options.data / "lfw.npz")
    before = json.loads(options.out.read_text())["networks"] if options.out.exists() else []
    networks = [row for row in before if row["name"] not in {file.stem for file in options.checkpoints}]
    for file in options.checkpoints:
        kept = checkpoint(file)
        network = made(kept["average"] if "average" in kept else kept["network"])
        faces = rates(network, held["faces"])
        row = {"name": file.stem, "deep": len(network.identity) - 2, "seen": kept["seen"], "cosine": faces["cosine"],
               "cosine.learnt": rates(network, learnt)["cosine"], **verification(network, lfw),
               "gender": faces["gender"], "age": faces["age"], "race7": rates(network, held["fairface"])["race7"],
               "emotion": rates(network, held["fer"])["emotion"]}
        networks.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
        print(networks[-1], flush=True)
    networks.sort(key=lambda row: row["name"])
    needed, make = {}, statistics.mode(row["deep"] for row in networks)
    for name, floor in FLOORS.items():
        points = [(row["seen"], error(name, row[name])) for row in networks if row["deep"] == make]
        # Without each of the networks in turn: how far the line can be trusted.
        without = [points[:i] + points[i + 1:] for i in range(len(points))]
        all_of, *fewer = (reached([s for s, _ in some], [e for _, e in some], error(name, floor)) for some in (points, *without))
        needed[name] = {"floor": floor} | {key: None if np.isinf(seen) else round(seen) for key, seen in (
            ("seen", all_of), ("low", min(fewer)), ("high", max(fewer)))}
        print(name, needed[name], flush=True)
    options.out.write_text(json.dumps({"face": FACE, "deep": make, "networks": networks, "needed": needed}, indent=1) + "\n")


if __name__ == "__main__":
    leave(main)

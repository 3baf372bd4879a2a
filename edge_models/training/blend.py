"""The mean of what two runs ended with, weight by weight: a model soup (Wortsman et al. 2022, arXiv 2203.05482).

    python -m edge_models.training.blend OUT RUN OTHER [--share 0.5]

For a run and one that went on from it, with the norms' figures still in both. Writes OUT/last.pt, to be exported, and
OUT/run.json, which is that of OTHER.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from edge_models.training.door import leave
from edge_models.training.network import checkpoint


def main() -> None:
    """Read, mix, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path)
    ask.add_argument("run", type=Path)
    ask.add_argument("other", type=Path)
    ask.add_argument("--share", type=float, default=0.5, help="of OTHER")
    options = ask.parse_args()
    first, other = (checkpoint(run / "last.pt") for run in (options.run, options.other))
    mixed = {name: torch.lerp(weight, other["average"][name], options.share) if weight.is_floating_point() else weight
             for name, weight in first["average"].items()}
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save({"average": mixed, "step": other["step"], "seen": other["seen"]}, options.out / "last.pt")
    shutil.copy(options.other / "run.json", options.out / "run.json")


if __name__ == "__main__":
    leave(main)

"""The cohort that similarities are compared with, see `onelook.cohort`, into MODEL/cohort.npy and MODEL/model.json.

    python -m edge_models.training.cohort MODEL --data faces.npz fairface.npz

Of the training faces of DATA, as many are drawn of each kind as there are of the fewest: of people whose pictures bear
names, who are public figures for the most part, and of each collection of others. Who falls to it is drawn by name, so
that `openset` can do without them. Described through onelook's own FaceModel, they are gathered into CENTRES clusters by
k-means, whose middles are kept. A cohort of one collection alone is worse than none for the people of others: strangers
among them have then nothing in common that is taken off.

`calibrate` is to follow, as every threshold changes.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed, describe
from scipy.cluster.vq import kmeans2

from onelook.cohort import FILE, Cohort
from onelook.face import Floats
from onelook.model import FaceModel
from onelook.spec import CohortFile, ModelSpec

CENTRES = 512
"""Twice as many tell people no better, half as many hardly worse."""
NEAREST = 3
SHARE = 0.75
"""Of what is common: of 0, 0.25, 0.5, 0.75 and 1 the one that tells held-out people best, in pairs and before a gallery of
a thousand (true accepts at a false accept rate of 1e-3: 30.6, 34.1, 36.4, 37.4 and 37.0 %; children under ten are taken for each other 54, 33, 16,
6 and 2 times as often as once in a thousand pairs of celebrities and UTKFace). Chosen on the very people whom `calibrate` and `openset`
then tell of, as are CENTRES, NEAREST and which collections there are: what those say is a little too good for that."""
SIZE = 80
"""Of the faces, in pixels of the network's input."""


def in_cohort(packed: Packed, rows: np.ndarray) -> np.ndarray:
    """(N,) which of the faces at `rows` may be in the cohort: of those to be learnt from, every second person's, or every second
    picture without a name."""
    names = np.where(packed.table["identity"][rows] == "", packed.table["name"][rows], packed.table["identity"][rows])
    return np.array([crc32(name.encode()) % 2 == 0 for name in names.tolist()], bool) & (packed.table["split"][rows] == "train")


def drawn(packs: Sequence[Packed], seed: int) -> list[np.ndarray]:
    """Of each pack, the rows that are described."""
    kinds: dict[str, list[tuple[int, int]]] = {}
    for place, packed in enumerate(packs):
        rows = packed.rows("train")
        for row in rows[in_cohort(packed, rows)].tolist():
            kind = "named" if packed.table["identity"][row] else str(packed.table["source"][row])
            kinds.setdefault(kind, []).append((place, row))
    fewest = min(map(len, kinds.values()))
    random = np.random.default_rng(seed)
    chosen = [faces[i] for faces in kinds.values() for i in random.permutation(len(faces))[:fewest].tolist()]
    print(f"{fewest} faces of each of {', '.join(sorted(kinds))}")
    return [np.array(sorted(row for where, row in chosen if where == place), np.intp) for place in range(len(packs))]


def middles(looks: Floats, count: int, seed: int) -> np.ndarray:
    """(count, D) int8: directions of the middles of that many clusters of `looks`, (N, D) of unit length."""
    found, _ = kmeans2(looks.astype(np.float64), count, minit="++", seed=seed, missing="raise")
    found /= np.abs(found).max(1, keepdims=True)
    return np.rint(found * 127).astype(np.int8)


def main() -> None:
    """Describe, gather, write."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, nargs="+", required=True, help="packed .npz files with a train split")
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--threads", type=int, default=1)
    options = ask.parse_args()
    model = FaceModel(options.model, threads=options.threads)
    packs = [Packed(file) for file in options.data]
    parts = [describe(model, packed, rows, SIZE, "cohort") for packed, rows in zip(packs, drawn(packs, options.seed), strict=True)]
    looks = np.concatenate([faces.embeddings[found] for faces, found in parts])
    centres = middles(looks, CENTRES, options.seed)
    np.save(options.model / FILE, centres)
    unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    typical = float(Cohort(unit.astype(np.float32), NEAREST).commonness(looks).mean())
    told = CohortFile(sha256=hashlib.sha256((options.model / FILE).read_bytes()).hexdigest(), nearest=NEAREST,
                      typical=round(typical, 4), share=SHARE)
    spec = model.spec.model_copy(update={"cohort": told})
    (options.model / "model.json").write_text(ModelSpec.model_validate(spec.model_dump()).model_dump_json(indent=1) + "\n")
    print(f"{len(looks)} faces in {CENTRES} clusters; a usual one has {typical:.3f} in common with the nearest {NEAREST}")


if __name__ == "__main__":
    leave(main)

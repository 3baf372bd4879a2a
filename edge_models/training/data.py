"""Training data: packed faces, crowd photographs and empty backgrounds, composed into canvases.

A canvas is a small square picture tiled with faces of about one size, so that a large
face and sixteen tiny ones cost the backbone the same. Everything random happens in
torch on whole batches, on the CPU or a GPU alike.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from edge_models.training.door import packed
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from onelook.align import FACE_BOX

PATCH, MARGIN = 144, 16
SHRUNK = (1, 2, 4)
"""Patches are kept in these fractions of their size too: a face of 24 px need not be drawn from one of 112."""
MIRROR = [1, 0, 2, 4, 3]
"""Landmarks after a left-right flip."""
MOST = 160
"""Faces a canvas at most."""
SAME_PICTURE = 0.88
"""Cosine of two teachers from which a face is taken for one that is held out, in another size or cut otherwise. CelebA-HQ's
pictures of CelebA's men have .88 to .966 to those; beneath are other pictures of one person, of one day at first."""


class Faces:
    """Packed faces: patches, mapped from disk or kept on the GPU, with whatever is known of each."""

    def __init__(self, files: list[Path], cache: Path, split: str) -> None:
        """Read NPZ+BIN pairs; decoded pixels are kept under `cache` as .npy."""
        columns: dict[str, list[np.ndarray]] = defaultdict(list)
        self.source: list[str] = []
        held = held_out(files)
        self._stores: list[list[np.ndarray]] = []
        store, row, people = [], [], []
        for file in files:
            table = packed(file)
            rows = np.flatnonzero(of_split(table, split, held))
            store.append(np.full(len(rows), len(self._stores)))
            row.append(rows)
            self._stores.append([_decoded(file, table, cache, shrunk) for shrunk in SHRUNK])
            n = len(rows)
            self.source += [str(file.stem)] * n
            people.append(_people(table)[rows])
            for name, empty in (
                ("landmarks", None), ("teacher", np.zeros((n, 256), np.float16)),
                ("attributes", np.zeros((n, 40), np.int8)), ("male", np.full(n, -1)), ("age", np.full(n, -1)),
                ("ethnicity", np.full(n, -1)), ("race7", np.full(n, -1)), ("emotion", np.full(n, -1)),
            ):
                columns[name].append(table[name][rows] if name in table else empty)
            for end in ("age_low", "age_high"):  # where an age is exact, that twice
                columns[end].append(table[end][rows] if end in table else columns["age"][-1])
        self._store, self._row = np.concatenate(store), np.concatenate(row)
        self.identity = np.concatenate(people)
        """Who it is, "" where unknown."""
        self._kept: list[Tensor] = []
        columns["teacher"] = [_units(part) for part in columns["teacher"]]
        self.labels = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
        self.landmarks = self.labels.pop("landmarks").float()
        # Labelled faces are few beside the merely taught: see them about as often.
        weight = torch.full((len(self),), 1.0)
        weight[(self.labels["attributes"] != 0).any(1)] = 1.6
        weight[self.labels["age"] >= 0] = 1.6
        weight[self.labels["emotion"] >= 0] = 0.8
        # Few people are there in several pictures, which is what tells likeness from light.
        weight[torch.from_numpy(self.identity != "")] *= 1.5
        self.weight = weight

    def __len__(self) -> int:
        """Faces held."""
        return len(self._row)

    def teachers(self) -> Tensor:
        """(M, 256) of the faces that have one."""
        known = self.labels["teacher"]
        return known[known.abs().sum(1) > 0]

    def keep_on(self, device: torch.device) -> None:
        """Hold everything in a GPU's memory (82 kB a face), so that batches need no transfer; on a CPU, nothing changes."""
        if device.type == "cpu":
            return
        for level, shrunk in enumerate(SHRUNK):
            side = PATCH // shrunk
            kept = torch.empty(len(self), side, side, 3, dtype=torch.uint8, device=device)
            for part in torch.arange(len(self)).split(4096):
                kept[part.to(device)] = torch.from_numpy(self._read(part.numpy(), level)).to(device)
            self._kept.append(kept)
        self.labels = {k: v.to(device) for k, v in self.labels.items()}
        self.landmarks, self.weight = self.landmarks.to(device), self.weight.to(device)

    def _read(self, rows: np.ndarray, level: int) -> np.ndarray:
        side = PATCH // SHRUNK[level]
        out = np.empty((len(rows), side, side, 3), np.uint8)
        for i, levels in enumerate(self._stores):
            here = np.flatnonzero(self._store[rows] == i)
            out[here] = levels[level][self._row[rows[here]]]
        return out

    def take(self, rows: Tensor, device: torch.device, shrunk: int = 1) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Patches (K, 3, 144 / shrunk, 144 / shrunk) float 0 to 1, landmarks (K, 5, 2) in the full ones, labels."""
        level = SHRUNK.index(shrunk)
        patches = self._kept[level][rows] if self._kept else torch.from_numpy(self._read(rows.numpy(), level)).to(device)
        labels = {k: v[rows].to(device) for k, v in self.labels.items()}
        labels["teacher"] = labels["teacher"].float()
        return patches.permute(0, 3, 1, 2).float().div_(255), self.landmarks[rows].to(device), labels


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What some files hold out, that nothing of it be learnt from by another way."""

    pictures: Mapping[str, set[str]]
    """Name of a picture -> who is on it, "" where unknown. Some collections count each person's pictures anew."""
    teachers: np.ndarray
    """(N, 256) embeddings of the teacher, unit length."""


def held_out(files: list[Path]) -> Held:
    """What any of `files` holds out: one picture may be in two files, in other sizes."""
    pictures: dict[str, set[str]] = defaultdict(set)
    teachers = [np.empty((0, 256), np.float32)]
    for file in files:
        table = packed(file)
        test = table["split"] == "test"
        if "name" in table:
            for name, who in zip(table["name"][test].tolist(), _people(table)[test].tolist(), strict=True):
                pictures[name].add(who)
        if "teacher" in table:
            known = _units(table["teacher"][test]).astype(np.float32)
            teachers.append(known[known.any(1)])
    return Held(pictures, np.concatenate(teachers))


def of_split(table: Mapping[str, np.ndarray], split: str, held: Held) -> np.ndarray:
    """Which rows of a packed file (N,) are of the split; what is `held` out anywhere is in "test" alone, by whatever name."""
    wanted = table["split"] == split
    if split == "test":
        return wanted
    if "name" in table:
        known = np.flatnonzero(wanted & np.isin(table["name"], list(held.pictures)))
        for row, name, who in zip(known, table["name"][known].tolist(), _people(table)[known].tolist(), strict=True):
            people = held.pictures[name]
            wanted[row] = who not in people and "" not in people and who != ""
    if "teacher" in table and len(held.teachers):
        for part in np.array_split(np.flatnonzero(wanted), wanted.sum() // 1024 + 1):
            close = _units(table["teacher"][part]).astype(np.float32) @ held.teachers.T
            wanted[part] = close.max(1, initial=0) < SAME_PICTURE
    return wanted


def _people(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Who is on each picture (N,), "" where unknown."""
    return table["identity"] if "identity" in table else np.full(len(table["split"]), "")


def _units(coded: np.ndarray) -> np.ndarray:
    """What `shard.as_bytes` made of unit vectors (N, E), as float16 of length 1 again; zero rows, and what is no bytes, stay."""
    if coded.dtype != np.int8:
        return coded
    numbers = coded.astype(np.float32)
    return (numbers / np.maximum(np.linalg.norm(numbers, axis=1, keepdims=True), 1)).astype(np.float16)


def _decoded(file: Path, table: np.lib.npyio.NpzFile, cache: Path, shrunk: int) -> np.ndarray:
    """All patches of a packed file as one (N, S, S, 3) RGB array on disk, S = PATCH / shrunk."""
    count, side = len(table["offset"]), PATCH // shrunk
    kept = cache / f"{file.stem}-{count}{'' if shrunk == 1 else f'-{side}'}.npy"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part.npy")
        out = np.lib.format.open_memmap(part, "w+", np.uint8, (count, side, side, 3))
        whole = None if shrunk == 1 else _decoded(file, table, cache, 1)
        blob = np.memmap(file.with_suffix(".bin"), np.uint8)
        for i, (start, length) in enumerate(zip(table["offset"], tqdm(table["length"], kept.stem, disable=None), strict=True)):
            picture = cv2.imdecode(blob[start:start + length], cv2.IMREAD_COLOR)[:, :, ::-1] if whole is None else whole[i]
            if len(picture) != side:
                picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if len(picture) > side else cv2.INTER_CUBIC)
            out[i] = picture
        out.flush()
        part.rename(kept)
    return np.asarray(np.load(kept, mmap_mode="r"))


def _decoded_pictures(paths: list[Path], rows: list[dict | None], cache: Path) -> tuple[Tensor, list[tuple[int, int]]]:
    """All pixels of pictures, one after the other, RGB, (pixels, 3), mapped from disk; and each one's height and width.

    What is to be ignored in a row of labels is painted over: nothing shall be learnt from it.
    """
    mark = hashlib.sha256(json.dumps([[path.name, path.stat().st_size, row] for path, row in zip(paths, rows, strict=True)]).encode())
    kept = cache / f"pictures-{mark.hexdigest()[:12]}.rgb"
    if not kept.with_suffix(".json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        sizes = []
        # Processes that train together come here at once: each makes its own, and all are the same.
        part = kept.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            for path, row in zip(tqdm(paths, "pictures", disable=None), rows, strict=True):
                read = cv2.imread(str(path))
                if read is None:
                    raise ValueError(f"{path} is not a picture.")
                picture = read[:, :, ::-1].copy()
                if row and picture.shape[:2] != (row["height"], row["width"]):
                    raise ValueError(f"{path} is not of the size that labels.json tells.")
                for x1, y1, x2, y2 in [*row.get("ignore", []), *(f["box"] for f in row["faces"] if f["landmarks"] is None)] if row else []:
                    hidden = picture[max(0, int(y1)):int(y2) + 1, max(0, int(x1)):int(x2) + 1]
                    if hidden.size:
                        hidden[:] = hidden.mean((0, 1))
                file.write(picture.tobytes())
                sizes.append(picture.shape[:2])
        part.replace(kept)
        part.write_text(json.dumps(sizes))
        part.replace(kept.with_suffix(".json"))
    sizes = [tuple(size) for size in json.loads(kept.with_suffix(".json").read_text())]
    return torch.from_numpy(np.memmap(kept, np.uint8, "c").reshape(-1, 3)), sizes


class Scenes:
    """Crowd photographs with boxes and landmarks, and pictures without faces."""

    def __init__(self, folders: list[Path], backgrounds: Path | None, cache: Path) -> None:
        """Each of `folders` holds labels.json and its pictures; of the first, the last tenth
        is not trained on. Decoded pixels are kept under `cache`. What may be a face, or is one without
        landmarks, is painted over: nothing shall be learnt from it."""
        self.rows: list[dict] = []
        paths: list[Path] = []
        for folder in folders:
            rows = json.loads((folder / "labels.json").read_text())
            if folder == folders[0]:
                rows = rows[:len(rows) - math.ceil(len(rows) / 10)]
            self.rows += rows
            paths += [folder / row["file"] for row in rows]
        found = sorted(p for p in backgrounds.rglob("*") if p.suffix in (".jpg", ".png")) if backgrounds else []
        self._pixels, sizes = _decoded_pictures(paths + found, [*self.rows, *(None for _ in found)], cache)
        self._size = torch.tensor(sizes).flip(1)  # (P, 2) width, height
        self._start = self._size.prod(1).cumsum(0) - self._size.prod(1)
        self.empty = len(found)
        """Pictures without faces, which come last."""
        sure = [[f for f in row["faces"] if f["landmarks"] is not None] for row in self.rows]
        self._count = torch.tensor([len(faces) for faces in sure])
        most = max(1, int(self._count.max()))
        self._boxes, self._marks = torch.zeros(len(sure), most, 4), torch.zeros(len(sure), most, 5, 2)
        for i, faces in enumerate(sure):
            if faces:
                self._boxes[i, :len(faces)] = torch.tensor([f["box"] for f in faces])
                self._marks[i, :len(faces)] = torch.tensor([f["landmarks"] for f in faces])
        _, source, many = np.unique([row.get("source", "crowds") for row in self.rows], return_inverse=True, return_counts=True)
        # A source counts by the root of its size: many pictures of one kind do not drown a few of another.
        self._share = torch.from_numpy(1 / np.sqrt(many)[source]).float()

    def keep_on(self, device: torch.device) -> None:
        """Hold everything in a GPU's memory, as `Faces.keep_on`: what a step of 48 times a batch is laid on took a processor
        2.6 seconds to cut, and so fifteen of them all of the step's time."""
        if device.type == "cpu":
            return
        for name in ("_pixels", "_size", "_start", "_count", "_boxes", "_marks", "_share"):
            setattr(self, name, getattr(self, name).to(device))

    def picture(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """A crowd photograph, (H, W, 3) RGB, and the landmarks (K, 5, 2) of its faces."""
        width, height = self._size[i].tolist()
        start = int(self._start[i])
        return self._pixels[start:start + width * height].reshape(height, width, 3).numpy(), self._marks[i, :self._count[i]].numpy()

    def _look(self, which: Tensor, corner: Tensor, step: Tensor, side: int, finer: int) -> Tensor:
        """Parts of pictures as canvases (N, 3, side, side) 0 to 1, `finer` times `finer` points a pixel.

        which (N,) pictures; corner (N, 2) where the canvas begins and step (N, 2) how far apart its pixels lie, in pixels of
        the picture.
        """
        points = (torch.arange(side * finer, device=which.device) + 0.5) / finer
        at = (corner[:, :, None] + points * step[:, :, None] - 0.5).clamp(min=0)  # (N, 2, points)
        last = self._size[which, :, None] - 1
        low = torch.minimum(at.long(), last)
        part = (at - low).clamp(max=1)
        high = torch.minimum(low + 1, last)
        wide = self._size[which, :1]
        columns = [low[:, 0], high[:, 0]]
        rows = [self._start[which, None] + y[:, 1] * wide for y in (low, high)]
        (x, y) = part[:, 0, None, :, None], part[:, 1, :, None, None]

        def row(begins: Tensor) -> Tensor:
            left, right = (self._pixels[begins[:, :, None] + column[:, None]].float() for column in columns)
            return left.lerp_(right, x.expand_as(left))

        seen = row(rows[0])
        seen = seen.lerp_(row(rows[1]), y.expand_as(seen)).permute(0, 3, 1, 2)
        return (functional.avg_pool2d(seen, finer) if finer > 1 else seen).div(255)

    def crowd(self, count: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random crops of photographs, at random scale: canvases (count, 3, side, side) 0 to 1 and
        what is on them, as `compose` gives it."""
        device = self._pixels.device

        def each(low: float | Tensor, high: float | Tensor, *more: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *more, device=device)

        which = torch.multinomial(self._share, count, replacement=True)
        size, boxes, marks = self._size[which].float(), self._boxes[which], self._marks[which]
        high = boxes[..., 3] - boxes[..., 1]
        # Near enough that a blurred back or a coat fills a large canvas: neither is a face. But whole faces shall fit.
        most = (side / (1.2 * high.amax(1).clamp(min=1))).clamp(max=max(2.5, side / 45))
        look = torch.where(self._count[which] > 0, each(0, 1), 1)
        face = (each(0, 1) * self._count[which]).long()
        row = torch.arange(count, device=device)
        tall = high[row, face][:, None]
        beneath = (look > 0.5) & (look < 0.8)
        near = torch.maximum(tall[:, 0] * each(1.5, 5), side / most)
        scale = each(math.log(0.5), most.clamp(min=0.5).log()).exp()
        window = torch.minimum(torch.where(beneath, near, side / scale), size.amin(1))[:, None]
        below = torch.cat([each(-1.5, 1.5, 1) * tall, each(0.5, 1, 1) * tall + window / 2], 1)
        away = torch.where(beneath[:, None], below, each(-0.4, 0.4, 2) * window)
        centre = away + torch.where(look[:, None] < 0.8, boxes[row, face].unflatten(1, (2, 2)).mean(1), each(0, 1, 2) * size)
        corner = torch.minimum((centre - window / 2).clamp(min=0), size - window)
        step = (window / side).repeat(1, 2)

        boxes = (boxes.unflatten(2, (2, 2)) - corner[:, None, None]) / step[:, None, None]
        marks = (marks + 0.5 - corner[:, None, None]) / step[:, None, None] - 0.5
        flip = each(0, 1) < 0.5
        corner[:, 0] += torch.where(flip, window[:, 0], 0)
        step[:, 0] *= torch.where(flip, -1.0, 1.0)
        boxes[..., 0] = torch.where(flip[:, None, None], side - boxes[..., 0].flip(-1), boxes[..., 0])
        marks[..., 0] = torch.where(flip[:, None, None], side - 1 - marks[..., 0], marks[..., 0])
        marks = torch.where(flip[:, None, None, None], marks[:, :, MIRROR], marks)

        middle = boxes.mean(2)
        there = torch.arange(boxes.shape[1], device=device) < self._count[which, None]
        inside = ((middle > 0) & (middle < side)).all(-1) & there
        chosen = inside.float().sort(dim=1, descending=True, stable=True).indices[:, :MOST]
        rows = row[:, None]
        return self._look(which, corner, step, side, 2), boxes[rows, chosen].flatten(2), marks[rows, chosen], inside[rows, chosen]

    def nothing(self, count: int, side: int) -> Tensor:
        """Canvases (count, 3, side, side) 0 to 1 without faces."""
        device = self._pixels.device
        kind = torch.rand(count, device=device) if self.empty else 0.85 + 0.15 * torch.rand(count, device=device)
        out = torch.empty(count, 3, side, side, device=device)
        for rows, made in ((kind < 0.85, self._wall), ((kind >= 0.85) & (kind < 0.925), _shine), (kind >= 0.925, _blots)):
            where = rows.nonzero()[:, 0]
            if len(where):
                out[where] = made(len(where), side, device)
        return out

    def _wall(self, count: int, side: int, device: torch.device) -> Tensor:
        """Of a picture without faces, a part, either way round."""
        which = len(self._size) - 1 - torch.randint(self.empty, (count,), device=device)
        size = self._size[which].float()
        window = (0.3 + 0.7 * torch.rand(count, 1, device=device)) * size.amin(1, keepdim=True)
        corner = torch.rand(count, 2, device=device) * (size - window)
        flip = torch.rand(count, 2, device=device) < 0.5
        step = torch.where(flip, -window, window) / side
        return self._look(which, corner + torch.where(flip, window, 0), step, side, 1)


def _shine(count: int, side: int, device: torch.device) -> Tensor:
    """A lamp's light on something dark, soft and maybe cut off, as on a visor or a door: (count, 3, side, side) 0 to 1. It is round,
    and brighter than what is around it, and no face."""
    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, device=device)

    axis = torch.arange(side, device=device) / side
    x, y = axis - each(0.2, 0.8), axis[:, None] - each(0.2, 0.8)
    wide, high = each(0.1, 0.4), each(0.1, 0.4)
    light = torch.exp(-(x / wide)**2 - (y / high)**2) * (1 + each(0, 0.2) * torch.randn(count, 1, side, side, device=device))
    angle = each(0, 2 * math.pi)
    cut = angle.cos() * x + angle.sin() * y < each(0, 1) * torch.minimum(wide, high)
    light = light * (cut | (each(0, 1) < 0.5))
    dark, bright = each(0, 60, 3), each(60, 255) * each(0.8, 1, 3)
    return ((dark + light * (bright - dark)) / 255).clamp(0, 1)


def _blots(count: int, side: int, device: torch.device) -> Tensor:
    """Blots of colour, as of walls, skin and sky: (count, 3, side, side) 0 to 1."""
    many = torch.randint(1, 8, (count, 1, 1, 2), device=device)
    axis = (torch.arange(side, device=device) + 0.5) / side
    x, y = axis[None, None, :, None], axis[None, :, None, None]
    spots = torch.cat([x.expand(count, side, -1, -1), y.expand(count, -1, side, -1)], 3) * many / 4 - 1  # of 8 by 8, so many are seen
    blots = torch.rand(count, 3, 8, 8, device=device)
    return functional.grid_sample(blots, spots, "bicubic", "border", align_corners=False).clamp(0, 1)


def compose(
    patches: Tensor, landmarks: Tensor, tiles: int, backgrounds: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lay faces on canvases, `tiles` x `tiles` each.

    patches (K, 3, P, P) with P 144 or a fraction of it, landmarks (K, 5, 2) in pixels of 144,
    backgrounds (N, 3, S, S), K = N * tiles**2.
    Returns canvases (N, 3, S, S); boxes (N, G, 4), landmarks (N, G, 5, 2) in canvas pixels
    and a mask (N, G) of real rows, with G = tiles**2.
    """
    device, count = patches.device, len(patches)
    side = backgrounds.shape[-1]
    tile = side // tiles
    flip = torch.rand(count, device=device) < 0.5
    turned = landmarks.clone()
    turned[..., 0] = PATCH - 1 - turned[..., 0]
    landmarks = torch.where(flip[:, None, None], turned[:, MIRROR], landmarks)

    face = tile * (0.6 + 0.55 * torch.rand(count, device=device))  # template's side on the canvas
    angle = torch.randn(count, device=device) * 0.16
    tilted = torch.rand(count, device=device) < 0.12
    angle = torch.where(tilted, (torch.rand(count, device=device) * 2 - 1) * math.pi / 4, angle)
    scale = face / 112
    stretch = 1 + 0.06 * torch.randn(count, 2, device=device).clamp(-2, 2)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    # patch -> tile: stretched, turned and scaled about the middle of the face
    forward = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1) * stretch[:, None]
    pivot = torch.tensor([(FACE_BOX[0] + FACE_BOX[2]) / 2, (FACE_BOX[1] + FACE_BOX[3]) / 2], device=device) + MARGIN
    room = (tile - face[:, None] * 0.85).clamp(min=0) / 2
    target = tile / 2 + (torch.rand(count, 2, device=device) * 2 - 1) * (room + 0.06 * tile)
    (a, b), (c, d) = forward[:, 0].unbind(1), forward[:, 1].unbind(1)
    inverse = torch.stack([d, -b, -c, a], 1).unflatten(1, (2, 2)) / (a * d - b * c)[:, None, None]

    axis = torch.arange(tile, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    spots = torch.stack([x, y], -1).reshape(1, -1, 2) - target[:, None]
    source = spots @ inverse.transpose(1, 2) + pivot  # (K, T*T, 2) pixels of the patch
    normal = (source + 0.5) / PATCH * 2 - 1
    normal[..., 0] *= torch.where(flip, -1.0, 1.0)[:, None]
    drawn = functional.grid_sample(patches, normal.reshape(count, tile, tile, 2), align_corners=False,
                                   padding_mode="border")
    # The patch ends somewhere: fade it out over a random rim, a rounded one for half of the faces.
    depth = 1 - normal.abs()
    straight = depth.amin(-1)
    rounded = 1.05 - normal.square().sum(-1).sqrt()
    edge = torch.where(torch.rand(count, 1, device=device) < 0.5, straight, rounded)
    rim = 0.02 + 0.12 * torch.rand(count, 1, device=device)
    alpha = (edge / rim).clamp(0, 1).reshape(count, 1, tile, tile)

    def gather(parts: Tensor) -> Tensor:
        shape = parts.shape[1]
        rows = parts.reshape(-1, tiles, tiles, shape, tile, tile).permute(0, 3, 1, 4, 2, 5)
        return rows.reshape(-1, shape, tiles * tile, tiles * tile)

    canvases = backgrounds.clone()
    alpha, drawn = gather(alpha), gather(drawn)
    full = tiles * tile
    canvases[..., :full, :full] = canvases[..., :full, :full] * (1 - alpha) + drawn * alpha

    index = torch.arange(tiles * tiles, device=device).repeat(count // (tiles * tiles))
    corner = torch.stack([index % tiles, index // tiles], 1) * tile
    marks = (landmarks - pivot) @ forward.transpose(1, 2) + (target + corner)[:, None]
    size = torch.tensor([FACE_BOX[2] - FACE_BOX[0], FACE_BOX[3] - FACE_BOX[1]], device=device)
    half = size * scale[:, None] * stretch / 2
    middle = target + corner
    boxes = torch.cat([middle - half, middle + half], 1)
    group = (-1, tiles * tiles)
    return (canvases, boxes.unflatten(0, group), marks.unflatten(0, group),
            torch.ones(count, dtype=torch.bool, device=device).unflatten(0, group))


_DCT = torch.tensor([[math.sqrt((1 if k == 0 else 2) / 8) * math.cos((2 * n + 1) * k * math.pi / 16)
                      for n in range(8)] for k in range(8)])
_LUMA = torch.tensor([  # ISO/IEC 10918-1, table K.1
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]]).float()


def weather(canvases: Tensor) -> Tensor:
    """What light, lens and codec do to a picture: (N, 3, H, W) 0 to 1 in and out."""
    count, _, height, width = canvases.shape
    device = canvases.device

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, device=device)

    def some(share: float) -> Tensor:
        return torch.nonzero(torch.rand(count, device=device) < share)[:, 0]

    x = canvases
    grey = some(0.12)
    x[grey] = (x[grey] * torch.tensor([0.299, 0.587, 0.114], device=device)[:, None, None]).sum(1, keepdim=True)
    gamma = some(0.3)
    x[gamma] = x[gamma].clamp(1e-3, 1) ** each(-0.6, 0.6).exp()[gamma]
    middle = x.mean((1, 2, 3), keepdim=True)
    contrast, tint = each(0.65, 1.3), each(0.92, 1.08, 3)
    x = torch.addcmul(middle * (each(0.6, 1.3) - contrast) * tint, x, contrast * tint)
    blur = some(0.2)
    x[blur] = functional.avg_pool2d(functional.pad(x[blur], (1, 1, 1, 1), mode="replicate"), 3, 1)
    soft = some(0.25)  # out of focus: as if enlarged from fewer pixels
    if len(soft):
        times = float(2 ** (1 + 2 * torch.rand(1)))
        less = functional.interpolate(x[soft], scale_factor=1 / times, mode="area")
        x[soft] = functional.interpolate(less, size=(height, width), mode="bilinear", align_corners=False)
    coded = some(0.2)
    if len(coded):
        blocks = x[coded].unfold(2, 8, 8).unfold(3, 8, 8) * 255  # (n, 3, s/8, s/8, 8, 8)
        dct = _DCT.to(device)
        table = _LUMA.to(device) * each(0.3, 2.0)[coded][..., None, None]
        waves = dct @ blocks @ dct.T
        blocks = dct.T @ (torch.round(waves / table) * table) @ dct
        x[coded] = blocks.permute(0, 1, 2, 4, 3, 5).reshape(-1, 3, height, width) / 255
    noisy = some(0.3)
    # Read from a random place of noise drawn once: drawing it takes as long as all the rest.
    noise = _noise(device)
    size = min(len(noisy) * 3 * height * width, len(noise) // 2)
    noisy = noisy[:size // (3 * height * width)]
    start = int(torch.randint(len(noise) - size, (1,)))
    grain = noise[start:start + len(noisy) * 3 * height * width].reshape(-1, 3, height, width)
    x[noisy] += grain * each(0, 0.05)[noisy]
    return x.clamp_(0, 1)


@functools.cache
def _noise(device: torch.device) -> Tensor:
    """Much normal noise in one row."""
    return torch.randn(2**(28 if device.type == "cuda" else 22), device=device)


PLANS = {
    # To try the code out.
    "tiny": ((1.0, 96, ((1, 1), (2, 1)), 1, 1),),
    # share of steps, side of the canvas, ((tiles a side, canvases), ...), crowd crops, empty canvases
    "faces": (
        (0.83, 96, ((1, 32), (2, 12), (3, 3), (4, 2)), 12, 4),
        (0.12, 192, ((1, 7), (2, 4), (4, 1)), 5, 2),
        (0.05, 320, ((1, 3), (2, 1)), 3, 1),
    ),
    # To learn people by: half of the pixels a face, hence nearly twice the faces in the same time.
    "small": (
        (0.80, 64, ((1, 64), (2, 18), (3, 2)), 14, 4),
        (0.12, 128, ((1, 8), (2, 5), (4, 2)), 6, 2),
        (0.08, 256, ((1, 2), (2, 2)), 3, 1),
    ),
    # To tell people apart: as "small", and fewer faces of under 30 pixels, which hold too little to be told apart by.
    "people": (
        (0.81, 64, ((1, 84), (2, 10), (3, 1)), 10, 3),
        (0.11, 128, ((1, 8), (2, 8), (4, 1)), 8, 2),
        (0.08, 256, ((1, 2), (2, 2)), 6, 1),
    ),
    # To tell expressions by: faces large enough for them, one a canvas.
    "near": (
        (0.6, 96, ((1, 64),), 1, 1),
        (0.2, 64, ((1, 96),), 1, 1),
        (0.2, 128, ((1, 40),), 1, 1),
    ),
    # To end with: more of real photographs at large, so that walls and coats are not taken for faces.
    "scenes": (
        (0.55, 96, ((1, 32), (2, 12), (3, 3), (4, 2)), 12, 4),
        (0.20, 192, ((1, 6), (2, 3), (4, 1)), 10, 3),
        (0.25, 320, ((1, 1), (2, 1)), 6, 2),
    ),
    # To end with where faces are still to be learnt: frames as cameras give them, and many faces all the same.
    "last": (
        (0.72, 96, ((1, 32), (2, 12), (3, 3), (4, 2)), 12, 4),
        (0.11, 192, ((1, 6), (2, 3), (4, 1)), 10, 2),
        (0.10, 320, ((1, 1), (2, 1), (5, 1)), 5, 1),
        (0.07, 448, ((2, 1), (6, 1)), 3, 0),
    ),
    # For a GPU, where pixels cost little: people near and far at once, and frames.
    "all": (
        (0.46, 64, ((1, 84), (2, 10), (3, 1)), 10, 3),
        (0.36, 96, ((1, 44), (2, 10), (3, 2), (4, 1)), 10, 3),
        (0.09, 192, ((1, 8), (2, 6), (4, 1)), 10, 2),
        (0.055, 320, ((1, 2), (2, 2), (5, 1)), 6, 1),
        (0.035, 448, ((1, 1), (2, 2), (6, 1)), 4, 1),
    ),
    # Frames as cameras give them: bodies, streets and rooms around the faces, at every size.
    "frames": (
        (0.42, 96, ((1, 32), (2, 12), (3, 3), (4, 2)), 12, 4),
        (0.22, 192, ((1, 6), (2, 3), (4, 1)), 12, 2),
        (0.24, 320, ((1, 1), (2, 1)), 6, 1),
        (0.12, 448, ((2, 1),), 4, 0),
    ),
}


@dataclass
class Batch:
    """Canvases, what is on them, and what is known of the faces laid there."""

    image: Tensor
    """(N, 3, S, S) -1 to 1."""
    boxes: Tensor
    """(N, MOST, 4) pixels."""
    landmarks: Tensor
    """(N, MOST, 5, 2) pixels."""
    real: Tensor
    """(N, MOST) whether the row holds a face."""
    owner: Tensor
    """(K,) canvas of each described face."""
    where: Tensor
    """(K, 5, 2) its landmarks."""
    labels: dict[str, Tensor]
    """See `losses.description`."""


class Batches:
    """Endless batches, a different stream of them for each seed."""

    def __init__(self, faces: Faces, scenes: Scenes, device: torch.device, seed: int, times: int = 1,
                 plans: str = "faces", rank: int = 0) -> None:
        """`times` makes every batch that many times larger; `plans` names the mix of canvases; `rank`: of the process,
        where several train together, with other faces on canvases of the same size."""
        self.faces, self.scenes, self.device, self.times, self.plans = faces, scenes, device, times, PLANS[plans]
        self.seed, self.rank = seed * 1000, rank

    def __iter__(self) -> Iterator[Batch]:
        """Batches for ever."""
        sizes = np.random.default_rng(self.seed)  # the same in all processes, so that none waits for another
        torch.manual_seed(self.seed + 1_000_000_000 * self.rank)
        while True:
            yield self._make(*self.plans[int(sizes.choice(len(self.plans), p=[plan[0] for plan in self.plans]))][1:])

    def _make(self, side: int, layouts: tuple[tuple[int, int], ...], crowd: int, empty: int) -> Batch:
        parts, labels, owner, where, total = [], [], [], [], 0
        for tiles, canvases in layouts:
            count = canvases * self.times
            chosen = torch.multinomial(self.faces.weight, count * tiles * tiles, replacement=True)
            room = 112 / (side // tiles * 1.15)  # pixels of the patch for one of the canvas, where the face is largest
            patches, marks, known = self.faces.take(chosen, self.device, max(n for n in SHRUNK if n <= max(1, room)))
            parts.append(compose(patches, marks, tiles, self.scenes.nothing(count, side)))
            where.append(parts[-1][2].flatten(0, 1))
            owner.append(torch.arange(count, device=self.device).repeat_interleave(tiles * tiles) + total)
            labels.append(known)
            total += count
        parts.append(self.scenes.crowd(crowd * self.times, side))
        pixels = self.scenes.nothing(empty * self.times, side)
        none = pixels.new_zeros(len(pixels), 1, 14)
        parts.append((pixels, none[..., :4], none[..., 4:].unflatten(-1, (5, 2)), none[..., 0] > 0))
        canvases, boxes, marks, real = zip(*parts, strict=True)
        return Batch(
            image=weather(torch.cat(canvases)) * 2 - 1,
            boxes=torch.cat([functional.pad(x, (0, 0, 0, MOST - x.shape[1])) for x in boxes]),
            landmarks=torch.cat([functional.pad(x, (0, 0, 0, 0, 0, MOST - x.shape[1])) for x in marks]),
            real=torch.cat([functional.pad(x, (0, MOST - x.shape[1])) for x in real]),
            owner=torch.cat(owner), where=torch.cat(where),
            labels={k: torch.cat([part[k] for part in labels]) for k in labels[0]},
        )

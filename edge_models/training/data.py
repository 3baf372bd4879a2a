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
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from onelook.align import FACE_BOX

PATCH, MARGIN = 144, 16
SHRUNK = (1, 2, 4)
"""Patches are kept in these fractions of their size too: a face of 24 px need not be drawn from one of 112."""
MIRROR = [1, 0, 2, 4, 3]
"""Landmarks after a left-right flip."""
MOST = 64
"""Faces a canvas at most."""


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
            table = np.load(file, allow_pickle=False)
            rows = np.flatnonzero(of_split(table, split, held))
            store.append(np.full(len(rows), len(self._stores)))
            row.append(rows)
            self._stores.append([_decoded(file, table, cache, shrunk) for shrunk in SHRUNK])
            n = len(rows)
            self.source += [str(file.stem)] * n
            people.append(table["identity"][rows] if "identity" in table else np.full(n, ""))
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
        columns["teacher"] = [_units(part) if part.dtype == np.int8 else part for part in columns["teacher"]]
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
        """Hold everything in a GPU's memory (82 kB a face), so that batches need no transfer."""
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


def held_out(files: list[Path]) -> set[str]:
    """Names of the pictures that any of `files` holds out: one picture may be in two files, in other sizes."""
    tables = (np.load(file, allow_pickle=False) for file in files)
    return {name for table in tables if "name" in table for name in table["name"][table["split"] == "test"].tolist()}


def of_split(table: Mapping[str, np.ndarray], split: str, held: set[str]) -> np.ndarray:
    """Which rows of a packed file (N,) are of the split; what is `held` out anywhere is in "test" alone."""
    wanted = table["split"] == split
    if split != "test" and "name" in table:
        wanted &= ~np.isin(table["name"], list(held))
    return wanted


def _units(coded: np.ndarray) -> np.ndarray:
    """What `shard.as_bytes` made of unit vectors (N, E), as float16 of length 1 again; zero rows stay."""
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


def _decoded_scenes(folder: Path, rows: list[dict], cache: Path) -> np.ndarray:
    """All pixels of a folder of scenes, one picture after the other, RGB, mapped from disk."""
    mark = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    kept = cache / f"{folder.name}-{mark}.rgb"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            for row in tqdm(rows, folder.name, disable=None):
                picture = cv2.imread(str(folder / row["file"]))[:, :, ::-1].copy()
                if picture.shape[:2] != (row["height"], row["width"]):
                    raise ValueError(f"{folder / row['file']} is not of the size that labels.json tells.")
                for x1, y1, x2, y2 in [*row.get("ignore", []),
                                       *(f["box"] for f in row["faces"] if f["landmarks"] is None)]:
                    hidden = picture[max(0, int(y1)):int(y2) + 1, max(0, int(x1)):int(x2) + 1]
                    if hidden.size:
                        hidden[:] = hidden.mean((0, 1))
                file.write(picture.tobytes())
        part.rename(kept)
    return np.memmap(kept, np.uint8, "r")


class Scenes:
    """Crowd photographs with boxes and landmarks, and pictures without faces."""

    def __init__(self, folders: list[Path], backgrounds: Path | None, cache: Path) -> None:
        """Each of `folders` holds labels.json and its pictures; of the first, the last tenth
        is not trained on. Decoded pixels are kept under `cache`. What may be a face, or is one without
        landmarks, is painted over: nothing shall be learnt from it."""
        self.rows, self.pictures, self.boxes, self.marks = [], [], [], []
        for folder in folders:
            rows = json.loads((folder / "labels.json").read_text())
            pixels = _decoded_scenes(folder, rows, cache)
            start = 0
            for i, row in enumerate(rows):
                shape = (row["height"], row["width"], 3)
                picture = pixels[start:start + math.prod(shape)].reshape(shape)
                start += math.prod(shape)
                if folder == folders[0] and i >= len(rows) - math.ceil(len(rows) / 10):
                    continue
                sure = [f for f in row["faces"] if f["landmarks"] is not None]
                self.rows.append(row)
                self.pictures.append(picture)
                self.boxes.append(np.array([f["box"] for f in sure], np.float32).reshape(-1, 4))
                self.marks.append(np.array([f["landmarks"] for f in sure], np.float32).reshape(-1, 5, 2))
        sources = np.array([row.get("source", "crowds") for row in self.rows])
        self._by_source = [np.flatnonzero(sources == name) for name in np.unique(sources)]
        # A source counts by the root of its size: many pictures of one kind do not drown a few of another.
        share = np.sqrt([len(rows) for rows in self._by_source])
        self._share = share / share.sum()
        found = sorted(p for p in backgrounds.rglob("*") if p.suffix in (".jpg", ".png")) if backgrounds else []
        read = (cv2.imread(str(p)) for p in found)
        self.empty = [picture[:, :, ::-1] for picture in read if picture is not None]

    def crowd(self, count: int, side: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random crops of photographs, at random scale: canvases (count, side, side, 3) uint8 and
        what is on them, as `compose` gives it."""
        canvases = np.empty((count, side, side, 3), np.uint8)
        boxes = np.zeros((count, MOST, 4), np.float32)
        marks = np.zeros((count, MOST, 5, 2), np.float32)
        real = np.zeros((count, MOST), bool)
        for i in range(count):
            source = self._by_source[int(random.choice(len(self._by_source), p=self._share))]
            which = int(source[random.integers(len(source))])
            picture, box, mark = self.pictures[which], self.boxes[which], self.marks[which]
            height, width = picture.shape[:2]
            # Near enough that a blurred back or a coat fills a large canvas: neither is a face. But whole faces shall fit.
            tall = box[:, 3] - box[:, 1]
            most = min(max(2.5, side / 45), side / (1.2 * tall.max(initial=1)))
            look = random.random() if len(box) else 1.0
            face = int(random.integers(len(box))) if len(box) else 0
            if 0.5 < look < 0.8:  # beneath a face
                window = min(max(tall[face] * random.uniform(1.5, 5), side / most), height, width)
                away = np.array([random.uniform(-1.5, 1.5) * tall[face], random.uniform(0.5, 1) * tall[face] + window / 2])
            else:
                window = min(side / float(np.exp(random.uniform(np.log(0.5), np.log(max(0.5, most))))), height, width)
                away = random.uniform(-0.4, 0.4, 2) * window
            scale = side / window
            centre = away + (box[face].reshape(2, 2).mean(0) if look < 0.8 else random.uniform(0, 1, 2) * (width, height))
            x, y = np.clip(centre - window / 2, 0, (width - window, height - window))
            crop = picture[int(y):int(y + window), int(x):int(x + window)]
            canvases[i] = cv2.resize(crop, (side, side),
                                     interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            origin = np.array([int(x), int(y)], np.float32)
            moved = ((box.reshape(-1, 2, 2) - origin) * scale).reshape(-1, 4)
            middle = moved.reshape(-1, 2, 2).mean(1)
            inside = np.flatnonzero(((middle > 0) & (middle < side)).all(1))[:MOST]
            n = len(inside)
            boxes[i, :n], real[i, :n] = moved[inside], True
            marks[i, :n] = (mark[inside] - origin) * scale
            if random.random() < 0.5:
                canvases[i] = canvases[i, :, ::-1]
                boxes[i, :n] = side - boxes[i, :n][:, [2, 1, 0, 3]]
                boxes[i, :n, 1::2] = moved[inside][:, 1::2]
                marks[i, :n, :, 0] = side - 1 - marks[i, :n, :, 0]
                marks[i, :n] = marks[i, :n][:, MIRROR]
        return torch.from_numpy(canvases), torch.from_numpy(boxes), torch.from_numpy(marks), torch.from_numpy(real)

    def nothing(self, count: int, side: int, random: np.random.Generator) -> Tensor:
        """Canvases (count, side, side, 3) uint8 without faces."""
        out = np.empty((count, side, side, 3), np.uint8)
        for i in range(count):
            if self.empty and random.random() < 0.85:
                picture = self.empty[int(random.integers(len(self.empty)))]
                height, width = picture.shape[:2]
                window = int(random.uniform(0.3, 1.0) * min(height, width))
                y, x = int(random.integers(height - window + 1)), int(random.integers(width - window + 1))
                out[i] = cv2.resize(picture[y:y + window, x:x + window], (side, side))
            elif random.random() < 0.5:
                out[i] = _shine(side, random)
            else:  # blots of colour: skin tones, walls, sky
                small = random.integers(0, 256, (int(random.integers(1, 8)), int(random.integers(1, 8)), 3))
                out[i] = cv2.resize(small.astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
        if count:
            turn = random.integers(0, 4)
            out = np.rot90(out, turn, (1, 2)) if turn % 2 == 0 else out[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(out))


def _shine(side: int, random: np.random.Generator) -> np.ndarray:
    """A lamp's light on something dark, soft and maybe cut off, as on a visor or a door: (side, side, 3) uint8. It is round, and
    brighter than what is around it, and no face."""
    y, x = np.mgrid[:side, :side] / side
    (x, y), (wide, high) = (x - random.uniform(0.2, 0.8), y - random.uniform(0.2, 0.8)), random.uniform(0.1, 0.4, 2)
    light = np.exp(-(x / wide)**2 - (y / high)**2) * (1 + random.normal(0, random.uniform(0, 0.2), (side, side)))
    if random.random() < 0.5:
        angle = random.uniform(0, 2 * np.pi)
        light *= np.cos(angle) * x + np.sin(angle) * y < random.uniform(0, 1) * min(wide, high)
    dark, bright = random.uniform(0, 60, 3), random.uniform(60, 255) * random.uniform(0.8, 1, 3)
    return np.clip(dark + light[..., None] * (bright - dark), 0, 255).astype(np.uint8)


def lit(pixels: Tensor, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) 0 to 1, on the device."""
    return pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


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


class Stage(NamedTuple):
    """What a batch is laid on: a processor's work, where all that follows may be a GPU's."""

    plan: int
    """Row of the plans."""
    backs: list[Tensor]
    """(N, S, S, 3) uint8 for each of the plan's layouts."""
    crowd: tuple[Tensor, Tensor, Tensor, Tensor]
    """See `Scenes.crowd`."""
    empty: Tensor
    """(N, S, S, 3) uint8."""


class Stages(IterableDataset[Stage]):
    """Endless stages, a different stream of them for each seed and worker."""

    def __init__(self, scenes: Scenes, seed: int, times: int, plans: str, rank: int) -> None:
        """See `Batches`."""
        self.scenes, self.seed, self.times, self.plans, self.rank = scenes, seed, times, PLANS[plans], rank

    def __iter__(self) -> Iterator[Stage]:
        """Stages for ever."""
        worker = get_worker_info()
        seed = self.seed * 1000 + (worker.id if worker else 0)
        sizes = np.random.default_rng(seed)  # the same in all processes, so that none waits for another
        random = np.random.default_rng(seed + 1_000_000_000 * self.rank)
        if worker:
            cv2.setNumThreads(1)
        while True:
            plan = int(sizes.choice(len(self.plans), p=[plan[0] for plan in self.plans]))
            _, side, layouts, crowd, empty = self.plans[plan]
            yield Stage(plan, [self.scenes.nothing(count * self.times, side, random) for _, count in layouts],
                        self.scenes.crowd(crowd * self.times, side, random), self.scenes.nothing(empty * self.times, side, random))


class Batches:
    """Endless batches, a different stream of them for each seed."""

    def __init__(self, faces: Faces, scenes: Scenes, device: torch.device, seed: int, times: int = 1,
                 plans: str = "faces", rank: int = 0, workers: int = 0) -> None:
        """`times` makes every batch that many times larger; `plans` names the mix of canvases; `rank`: of the process,
        where several train together, with other faces on canvases of the same size; `workers`: processes that cut scenes."""
        self.faces, self.device, self.plans, self.seed = faces, device, PLANS[plans], seed * 1000 + 1_000_000_000 * rank
        self.stages = DataLoader(Stages(scenes, seed, times, plans, rank), batch_size=None, num_workers=workers,
                                 prefetch_factor=3 if workers else None, pin_memory=device.type == "cuda")

    def __iter__(self) -> Iterator[Batch]:
        """Batches for ever."""
        torch.manual_seed(self.seed)
        return map(self._make, self.stages)

    def _make(self, stage: Stage) -> Batch:
        _, side, layouts, _, _ = self.plans[stage.plan]
        parts, labels, owner, where, total = [], [], [], [], 0
        for (tiles, _), back in zip(layouts, stage.backs, strict=True):
            count = len(back)
            chosen = torch.multinomial(self.faces.weight, count * tiles * tiles, replacement=True)
            room = 112 / (side // tiles * 1.15)  # pixels of the patch for one of the canvas, where the face is largest
            patches, marks, known = self.faces.take(chosen, self.device, max(n for n in SHRUNK if n <= max(1, room)))
            parts.append(compose(patches, marks, tiles, lit(back, self.device)))
            where.append(parts[-1][2].flatten(0, 1))
            owner.append(torch.arange(count, device=self.device).repeat_interleave(tiles * tiles) + total)
            labels.append(known)
            total += count
        pixels, *found = (x.to(self.device, non_blocking=True) for x in stage.crowd)
        parts.append((lit(pixels, self.device), *found))
        pixels = lit(stage.empty, self.device)
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

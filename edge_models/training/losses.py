"""What the network is asked for: detection on every canvas, description of every face."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from edge_models.training.network import STRIDES
from torch import Tensor
from torch.nn import functional

SIZES = ((0, 40), (32, 96), (80, 10_000))
"""Face size (square root of the box's area, pixels) that each level answers for; they overlap."""
SMALLEST = 9.0
"""Boxes under this size are neither asked for nor punished."""
AGE_MIDDLE, AGE_STEP = 40.0, 5.0
"""age in years = AGE_MIDDLE + AGE_STEP * output: keeps its int8 step near half a year."""
SHARP = 0.07
"""Temperature of the choice among the others."""
OTHERS = 2048
"""How many they are."""
WEIGHTS = {
    "score": 1.5, "box": 1.5, "landmarks": 20.0, "embedding": 8.0, "relation": 16.0, "choice": 0.6, "attributes": 1.5,
    "gender": 0.4, "age": 0.5, "ethnicity": 0.4, "race7": 0.3, "emotion": 0.8, "quality": 0.5,
}

TASKS = {
    "detection": ("score", "box", "landmarks"),
    "identity": ("embedding", "relation", "choice", "quality"),
    "looks": ("attributes", "gender", "age", "ethnicity", "race7"),
    "emotion": ("emotion",),
}
"""Task -> its losses."""


@dataclass
class Cells:
    """Every cell of every level of one canvas size."""

    centre: Tensor  # (P, 2) pixels
    stride: Tensor  # (P,)
    low: Tensor  # (P,) smallest face
    high: Tensor  # (P,)


def cells(height: int, width: int, device: torch.device) -> Cells:
    """Cells in the order in which `flat` joins the levels."""
    centre, stride, low, high = [], [], [], []
    for s, (a, b) in zip(STRIDES, SIZES, strict=True):
        y, x = torch.meshgrid(torch.arange(height // s), torch.arange(width // s), indexing="ij")
        centre.append((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * s)
        n = x.numel()
        for values, value in ((stride, s), (low, a), (high, b)):
            values.append(torch.full((n,), float(value)))
    return Cells(*(torch.cat(v).to(device) for v in (centre, stride, low, high)))


def flat(levels: list[Tensor]) -> Tensor:
    """Levels (N, C, h, w) -> (N, P, C)."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)


def decode(place: Tensor, at: Cells) -> tuple[Tensor, Tensor]:
    """(…, P, 14) -> boxes (…, P, 4) xyxy and landmarks (…, P, 5, 2), in pixels."""
    s = at.stride[:, None]
    middle = at.centre + place[..., :2] * s
    half = place[..., 2:4].clamp(-6, 6).exp() * s / 2
    marks = at.centre[:, None] + place[..., 4:].unflatten(-1, (5, 2)) * s[:, None]
    return torch.cat([middle - half, middle + half], -1), marks


def iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of boxes (M, 4) pair by pair."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inner = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    value = inner / union.clamp(min=1e-6)
    return value, value - (hull - union) / hull.clamp(min=1e-6)


def detection(score: Tensor, place: Tensor, at: Cells, boxes: Tensor, marks: Tensor, real: Tensor
              ) -> dict[str, Tensor]:
    """Losses of the detector.

    score (N, P, 1) logits, place (N, P, 14); boxes (N, G, 4), marks (N, G, 5, 2) in pixels;
    real (N, G): whether the row holds a face. The score learns the root of the IoU that its box reaches (after
    the quality focal loss, Li et al. 2020), so that NMS keeps the best box. The root, because a small face's box
    never fits as well as a large one's, and one threshold serves both.
    """
    # Only the real faces, one row each: a canvas has room for far more than most hold.
    of, row = real.nonzero(as_tuple=True)
    boxes, marks = boxes[of, row], marks[of, row]
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    root = size.prod(-1).clamp(min=1e-6).sqrt()  # (F,)
    away = (at.centre - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]).abs()  # (F, P, 2)
    reach = torch.maximum(size[:, None] * 0.22, at.stride[None, :, None] * 0.51)
    near = (away <= reach).all(-1)
    fits = (root[:, None] >= at.low) & (root[:, None] < at.high)
    small = (root < SMALLEST)[:, None]
    inside = (away <= size[:, None] * 0.5).all(-1)

    def on_canvas(asked: Tensor) -> Tensor:
        """Whether any face of the canvas asks it of the cell: (F, P) -> (N, P)."""
        return torch.zeros(score.shape[:2], device=score.device).index_add_(0, of, asked.float()) > 0

    # A cell that two faces ask for is the smaller one's.
    claim = torch.where(near & fits & ~small, root[:, None], torch.inf)
    smallest = torch.full(score.shape[:2], torch.inf, device=score.device)
    smallest.scatter_reduce_(0, of[:, None].expand_as(claim), claim, "amin")
    positive = torch.isfinite(smallest)  # (N, P)
    owner = torch.zeros(score.shape[:2], dtype=torch.long, device=score.device)
    face, cell = (torch.isfinite(claim) & (claim == smallest[of])).nonzero(as_tuple=True)
    owner[of[face], cell] = face
    ignored = on_canvas(inside & small)
    # A face's middle seen from the wrong level, and the rim around the middle, are left alone.
    unsure = on_canvas((inside & fits & ~small) | (near & ~fits)) & ~positive

    chosen = positive.nonzero(as_tuple=True)
    pick = owner[chosen]
    found_box, found_marks = decode(place.float(), at)
    want_box, want_marks = boxes[pick], marks[pick]
    overlap, general = iou(found_box[chosen], want_box)
    target = torch.zeros_like(score[..., 0], dtype=torch.float32)
    target[chosen] = overlap.detach().clamp(min=0.1).sqrt()
    logits = score[..., 0].float()
    focal = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = focal * (target - logits.sigmoid()).abs().pow(2)
    keep = ~ignored & ~unsure
    count = max(len(pick), 1)
    scale = root[pick][:, None, None]
    off = functional.smooth_l1_loss(found_marks[chosen] / scale, want_marks / scale, beta=0.02, reduction="sum")
    return {
        "score": (focal * keep).sum() / count,
        "box": (1 - general).sum() / count,
        "landmarks": off / count / 10,
    }


def some(bank: Tensor) -> Tensor:
    """OTHERS of the teachers `bank` (M, 256), drawn at random."""
    return bank[torch.randint(len(bank), (OTHERS,), device=bank.device)].float()


def identity(student: Tensor, teacher: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Losses of embeddings `student` (K, 256) against their `teacher` (K, 256) and `others` (M, 256), all of unit length."""
    # Among many faces, whom is it like? As the teacher answers (SEED, Fang et al. 2021).
    crowd = torch.cat([teacher, others])
    aim = (teacher @ crowd.T / SHARP).softmax(1)
    return {
        "embedding": (1 - (student * teacher).sum(1)).mean(),
        "relation": (student @ student.T - teacher @ teacher.T).square().mean(),
        "choice": -(aim * (student @ crowd.T / SHARP).log_softmax(1)).sum(1).mean(),
    }


def description(embedding: Tensor, part: dict[str, Tensor], labels: dict[str, Tensor], others: Tensor
                ) -> dict[str, Tensor]:
    """Losses of the face head; each label may be missing on any face.

    embedding (K, 256), part: the traits by name, each (K, its width); labels: `teacher` (K, 256) unit length or zero rows,
    `attributes` (K, 40) -1, 0 unknown, 1; `male`, `age_low` and `age_high`, `ethnicity`, `race7`, `emotion` (K,) -1 unknown.
    Of some faces the decade alone is known: any age in it is right.
    others (M, 256): teachers of other faces, drawn at random.
    """
    losses: dict[str, Tensor] = {}
    unit = functional.normalize(embedding.float(), dim=1)
    taught = labels["teacher"].abs().sum(1) > 0
    student, teacher = unit[taught], labels["teacher"][taught]
    if taught.any():
        losses |= identity(student, teacher, others)
        alike = (student.detach() * teacher).sum(1).clamp(0, 1)
        losses["quality"] = functional.mse_loss(part["quality"][taught, 0].sigmoid(), alike)

    known = labels["attributes"] != 0
    if known.any():
        losses["attributes"] = functional.binary_cross_entropy_with_logits(
            part["attributes"][known], (labels["attributes"][known] > 0).float()
        )
    for name in ("male", "age_low", "ethnicity", "race7", "emotion"):
        has = labels[name] >= 0
        if not has.any():
            continue
        want = labels[name][has]
        if name == "male":
            losses["gender"] = functional.binary_cross_entropy_with_logits(part["gender"][has, 0], want.float())
        elif name == "age_low":
            age = part["age"][has, 0]
            low, high = ((labels[end][has].float() - AGE_MIDDLE) / AGE_STEP for end in ("age_low", "age_high"))
            losses["age"] = functional.smooth_l1_loss(age, age.detach().clamp(low, high))
        else:
            losses[name] = functional.cross_entropy(part[name][has], want.long(), label_smoothing=0.05)
    return losses

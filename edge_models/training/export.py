"""Checkpoint in, the shipped int8 file and its model.json out.

    python -m edge_models.training.export RUN OUT --faces faces.npz --scenes scenes/

Writes OUT/model.tflite (int8, two signatures, one set of weights), OUT/float.tflite (the
same network unquantised, for parity) and OUT/model.json. The similarity thresholds in
model.json are calibrated by `evaluate`, which reads and rewrites it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import cv2
import litert_torch
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import quantizer, recipe
from edge_models.training import data, losses
from edge_models.training.graph import patches
from edge_models.training.network import EMBEDDING, FEATURES, GRID, STRIDES, TRAITS, OneLook
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from onelook import align
from onelook.spec import Detector, Labels, ModelSpec, Threshold, Training

WIDTH, HEIGHT = 640, 480
AT_ONCE = 16
"""Faces a call of the `faces` signature: large enough for good matrix products, small enough not to waste."""
LABELS = Labels(
    attributes=[],  # filled from the data
    gender=["female", "male"],
    ethnicity=["white", "black", "asian", "indian", "other"],
    emotion=["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"],
)


class Frame(nn.Module):
    """Signature `frame`."""

    def __init__(self, network: OneLook) -> None:
        """Channels last outside, as cameras deliver."""
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image (1, H, W, 3), -1 to 1."""
        scores, places, features = self.network.frame(image.permute(0, 3, 1, 2))
        named = {f"score{i}": x for i, x in enumerate(scores)}
        named |= {f"place{i}": x for i, x in enumerate(places)}
        named["features"] = features
        return {name: x.permute(0, 2, 3, 1) for name, x in named.items()}


class Describe(nn.Module):
    """Signature `faces`: bilinear sampling as four gathers, then the head."""

    def __init__(self, network: OneLook) -> None:
        """Shares its weights with nothing of `frame`."""
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, index: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """features (H*W, C); index, weight (AT_ONCE*GRID*GRID, 4), see `onelook.align.grid`."""
        index = index.long()
        sampled = sum(features[index[:, i]] * weight[:, i : i + 1] for i in range(4))
        embedding, traits = self.network.describe(sampled.reshape(AT_ONCE, GRID, GRID, FEATURES).permute(0, 3, 1, 2))
        return {"embedding": embedding, "traits": traits}


def folded(network: nn.Module) -> nn.Module:
    """Batch norms folded into the convolutions before them."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Sequential) and len(child) > 1 and isinstance(child[1], nn.BatchNorm2d):
            fused = [fuse_conv_bn_eval(child[0], child[1]), *list(child)[2:]]
            setattr(network, name, nn.Sequential(*fused)) if not isinstance(network, nn.Sequential) else \
                network.__setitem__(int(name), nn.Sequential(*fused))
        else:
            folded(child)
    return network


def calibration(network: OneLook, faces: data.Faces, scenes: data.Scenes, frames: int
                ) -> dict[str, list[dict[str, np.ndarray]]]:
    """Frames as the daemon sees them: crowds, composed faces, large and small."""
    torch.manual_seed(7)
    random = np.random.default_rng(7)
    inputs: dict[str, list[dict[str, np.ndarray]]] = {"frame": [], "faces": []}
    for i in range(frames):
        if i % 2:
            picture = scenes.pictures[int(random.integers(len(scenes.pictures)))]
            image = torch.from_numpy(cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).copy())
            pixels = image.permute(2, 0, 1)[None].float() / 255
            which = scenes.rows.index(scenes.rows[i % len(scenes.rows)])
            marks = torch.from_numpy(scenes.marks[which][:AT_ONCE])
        else:
            tiles = (1, 2, 3, 4, 6, 10)[(i // 2) % 6]
            side = HEIGHT // tiles * tiles
            chosen = torch.multinomial(faces.weight, tiles * tiles)
            patches, where, _ = faces.take(chosen, torch.device("cpu"))
            made = data.compose(patches, where, tiles, scenes.nothing(1, side, random))
            pixels = torch.zeros(1, 3, HEIGHT, WIDTH) + 0.5
            pixels[..., :side, :side] = made[0]
            pixels = data.weather(pixels)
            marks = made[2].flatten(0, 1)[:AT_ONCE]
        image = (pixels * 2 - 1).permute(0, 2, 3, 1).contiguous()
        inputs["frame"].append({"image": image.numpy()})
        with torch.no_grad():
            features = Frame(network)(image)["features"].reshape(-1, FEATURES)
        index, weight = align.grid(marks.numpy(), WIDTH // 4, HEIGHT // 4)
        rows = AT_ONCE * GRID * GRID
        repeat = -(-rows // len(index))
        inputs["faces"].append({
            "features": features.numpy(), "index": np.tile(index, (repeat, 1))[:rows],
            "weight": np.tile(weight, (repeat, 1))[:rows],
        })
    # The whole range of both inputs, so that 8 bits hold them exactly.
    inputs["frame"][0]["image"].flat[:2] = (-1, 1)
    inputs["faces"][0]["weight"].flat[:2] = (0, 1)
    return inputs


def main() -> None:
    """Convert, quantise, describe."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("run", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--faces", type=Path, nargs="+", required=True)
    ask.add_argument("--scenes", type=Path, required=True)
    ask.add_argument("--cache", type=Path, default=Path("runs/cache"))
    ask.add_argument("--frames", type=int, default=48, help="calibration frames")
    options = ask.parse_args()
    kept = torch.load(options.run / "last.pt", map_location="cpu", weights_only=True)
    network = OneLook()
    network.load_state_dict(kept["network"])
    network = folded(network.eval())
    options.out.mkdir(parents=True, exist_ok=True)

    features = torch.zeros(WIDTH // 4 * (HEIGHT // 4), FEATURES)
    rows = AT_ONCE * GRID * GRID
    converted = (
        litert_torch.signature("frame", Frame(network).eval(),
                               sample_kwargs={"image": torch.zeros(1, HEIGHT, WIDTH, 3)})
        .signature("faces", Describe(network).eval(), sample_kwargs={
            "features": features, "index": torch.zeros(rows, 4, dtype=torch.int32), "weight": torch.zeros(rows, 4)})
        .convert()
    )
    whole = options.out / "float.tflite"
    converted.export(str(whole))

    faces = data.Faces(options.faces, options.cache, "test")
    scenes = data.Scenes([options.scenes], None, options.cache)
    quant = quantizer.Quantizer(str(whole))
    quant.load_quantization_recipe(recipe.static_wi8_ai8())
    seen = quant.calibrate(calibration(network, faces, scenes, options.frames))
    small = quant.quantize(share_range(seen, whole.read_bytes())).quantized_model
    (options.out / "model.tflite").write_bytes(small)

    run = json.loads((options.run / "run.json").read_text())
    names = next(np.load(f)["attribute_names"] for f in options.faces if "attribute_names" in np.load(f))
    described = ModelSpec(
        name="onelook", version="0.1.0", sha256=hashlib.sha256(small).hexdigest(), input_size=(WIDTH, HEIGHT),
        input_mean=127.5, input_scale=1 / 127.5, patches=patches(bytes(small), HEIGHT), feature_stride=align.STRIDE,
        features=FEATURES, faces_at_once=AT_ONCE, embedding_size=EMBEDDING, traits=TRAITS,
        age_middle=losses.AGE_MIDDLE, age_step=losses.AGE_STEP,
        labels=LABELS.model_copy(update={"attributes": [str(n) for n in names]}),
        detector=Detector(strides=list(STRIDES), score=0.6, nms_iou=0.4),
        thresholds=[Threshold(far=0.001, similarity=0.5, tar=0.0)],
        training=Training(commit=run["commit"], seed=run["seed"], steps=kept["step"], faces_seen=kept["seen"],
                          data=[*run["faces"], *run.get("scenes", [])]),
        licence="Weights learned from research data (see MODEL_CARD.md): research and private use.",
    )
    (options.out / "model.json").write_text(described.model_dump_json(indent=1) + "\n")
    print(f"{len(small) / 1e6:.2f} MB, {len(described.patches)} size constants")


def share_range(seen: dict, network: bytes) -> dict:
    """Give the map that `frame` writes and the one that `faces` reads the same range.

    Then the daemon can hand the stored bytes from one to the other untouched.
    """
    model = schema.Model.GetRootAs(network)
    names = {}
    for i in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(i)
        graph = model.Subgraphs(signature.SubgraphIndex())
        for maps in ([signature.Inputs(k) for k in range(signature.InputsLength())],
                     [signature.Outputs(k) for k in range(signature.OutputsLength())]):
            for entry in maps:
                if entry.Name().startswith(b"score"):
                    # Few frames hold a very large face: averaged over frames, its level's range would end
                    # where sure and doubtful look alike.
                    tensor = graph.Tensors(entry.TensorIndex()).Name().decode()
                    seen[tensor] = {"min": np.full_like(seen[tensor]["min"], -9.0),
                                    "max": np.full_like(seen[tensor]["max"], 4.0)}
                if entry.Name() == b"features":
                    names[signature.SignatureKey().decode()] = graph.Tensors(entry.TensorIndex()).Name().decode()
    frame, faces = names["frame"], names["faces"]
    seen[faces] = seen[frame]
    return seen


if __name__ == "__main__":
    main()

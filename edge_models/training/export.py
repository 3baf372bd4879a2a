"""Checkpoint in, the shipped int8 file and its model.json out.

    python -m edge_models.training.export RUN OUT --faces faces.npz --scenes scenes/

Writes OUT/model.tflite (int8, two signatures, one set of weights), OUT/float.tflite (the
same network unquantised, for parity) and OUT/model.json. The similarity thresholds in
model.json are measured by `calibrate`, which reads and rewrites it.

`--before` names the folder of the model shipped before: if the two tell the same embeddings in float, so that but rounding is
between them, a gallery may hold the templates of both, and the cohort stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from edge_models.training import data, graph, losses
from edge_models.training.door import leave
from edge_models.training.network import EMBEDDING, GRID, MAP_STRIDE, REACH, STRIDES, OneLook, checkpoint
from edge_models.training.scales import Scales, learn, read_at
from edge_models.training.train import sample
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from onelook import align, cohort
from onelook.spec import Detector, Labels, Map, ModelSpec, Threshold, Training, load

WIDTH, HEIGHT = 640, 480
CELL = 4
"""Pixels of a row that the network takes as one cell."""
AT_ONCE = 50
"""Most faces a call of the `faces` signature: large enough for good matrix products, small enough for the cache."""
CHECKED, ALIKE = 12, 0.9999
"""Frames that are looked at for whether two networks tell the same embeddings, and the least cosine of one face's."""
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
        """image (1, H, W / CELL, CELL * 3), as `stored` makes it."""
        scores, places, features = self.network.frame(image.permute(0, 3, 1, 2))
        named = {f"score{i}": x for i, x in enumerate(scores)}
        named |= {f"place{i}": x for i, x in enumerate(places)}
        named["features"] = features
        return {name: x.permute(0, 2, 3, 1) for name, x in named.items()}


class Describe(nn.Module):
    """Signature `faces`: the head on features that `onelook.align.sample` has read.

    Sampling stays outside: gathers in the graph take as long as the whole head, and OpenCV's
    remap a tenth of it. No reshape holds the number of faces, so that the runtime can change it.
    """

    def __init__(self, network: OneLook) -> None:
        """Shares its weights with nothing of `frame`."""
        super().__init__()
        self.network = network

    def forward(self, aligned: Tensor) -> dict[str, Tensor]:
        """aligned (K, GRID, GRID, features). Returns maps of one cell, (K, 1, 1, numbers)."""
        trunk = self.network.trunk(aligned.permute(0, 3, 1, 2))
        embedding = self.network.identity(trunk)
        traits = self.network.looks(trunk) + self.network.again(trunk) + self.network.from_embedding(embedding)
        named = {"embedding": embedding, "traits": traits}
        return {name: x.permute(0, 2, 3, 1) for name, x in named.items()}


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


def by_cells(stem: nn.Conv2d) -> nn.Conv2d:
    """The first convolution, for an image that is `stored`.

    A row of CELL pixels is one cell of CELL * 3 channels: the same bytes, but the runtime fills its vectors and
    keeps a quarter of the pointers (0.26 ms for 0.43 of a frame of 640x480, 1.7 MB less). Exact, as nothing is padded.
    """
    out, colours, high, wide = stem.weight.shape
    made = nn.Conv2d(wide * colours, out, (high, 1), (high, 1))
    with torch.no_grad():
        # (pixel - 127.5) / 127.5, which was trained on, of (pixel - 128) / 128, which is stored
        made.weight.copy_((stem.weight * (128 / 127.5)).permute(0, 3, 1, 2).reshape(out, wide * colours, high, 1))
        made.bias.copy_(stem.bias + stem.weight.sum((1, 2, 3)) * (0.5 / 127.5))
    return made


def stored(pixels: Tensor) -> Tensor:
    """Pixels (1, 3, H, W), 0 to 1 -> (1, H, W / CELL, CELL * 3), -1 to 127 / 128: in int8, a pixel less 128."""
    image = (pixels * 255 - 128) / 128
    return image.permute(0, 2, 3, 1).reshape(1, image.shape[2], image.shape[3] // CELL, CELL * 3).contiguous()


def pictures(faces: data.Faces, scenes: data.Scenes, frames: int) -> list[tuple[Tensor, Tensor]]:
    """Frames as the daemon sees them: crowds, composed faces, large and small. `stored` images and landmarks (K, 5, 2)."""
    torch.manual_seed(7)
    random = np.random.default_rng(7)
    made: list[tuple[Tensor, Tensor]] = []
    while len(made) < frames:
        if len(made) % 3 == 2:
            picture, marked = scenes.picture(int(random.integers(len(scenes.rows))))
            image = torch.from_numpy(cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).copy())
            pixels = image.permute(2, 0, 1)[None].float() / 255
            marks = torch.from_numpy(marked[:AT_ONCE] * np.float32([WIDTH / picture.shape[1], HEIGHT / picture.shape[0]]))
        else:
            tiles = (2, 3, 4, 5, 3, 4, 8)[len(made) % 7]
            side = HEIGHT // tiles * tiles
            chosen = torch.multinomial(faces.weight, tiles * tiles, replacement=True)
            patches, where, _ = faces.take(chosen, torch.device("cpu"))
            composed = data.compose(patches, where, tiles, scenes.nothing(1, side))
            pixels = torch.zeros(1, 3, HEIGHT, WIDTH) + 0.5
            pixels[..., :side, :side] = composed[0]
            pixels = data.weather(pixels) if len(made) % 2 else pixels  # clear ones reach furthest
            marks = composed[2].flatten(0, 1)[:AT_ONCE]
        if len(marks):
            made.append((stored(pixels), marks))
    return made


def main() -> None:
    """Convert, quantise, describe."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("run", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--faces", type=Path, nargs="+", required=True)
    ask.add_argument("--scenes", type=Path, required=True)
    ask.add_argument("--cache", type=Path, default=Path("runs/cache"))
    ask.add_argument("--frames", type=int, default=400, help="frames that int8's scales are learnt from")
    ask.add_argument("--steps", type=int, default=900, help="as many frames are looked at in turn")
    ask.add_argument("--before", type=Path, help="folder of an earlier model")
    options = ask.parse_args()
    kept = checkpoint(options.run / "last.pt")
    run = json.loads((options.run / "run.json").read_text())
    network = OneLook()
    network.load_state_dict(kept["average"])
    network = folded(network.eval())
    network.quarter[0][0] = by_cells(network.quarter[0][0])
    options.out.mkdir(parents=True, exist_ok=True)

    faces = data.Faces(options.faces, options.cache, "train")
    scenes = data.Scenes([options.scenes], None, options.cache)
    frames = pictures(faces, scenes, options.frames)
    scales = Scales(Frame(network), Describe(network))
    print("int8 lies {:.4f} from float, and after learning {:.4f}".format(*learn(scales, frames, options.steps)))
    scales.bake()

    whole = converted(network, options.out / "float.tflite")
    scales.shift()
    with TemporaryDirectory() as scratch:
        shifted = Path(scratch) / "shifted.tflite"
        converted(network, shifted)
        quant = quantizer.Quantizer(str(shifted))
        quant.load_quantization_recipe(recipe.static_wi8_ai8())
        small = quant.quantize(named(scales.ranges(), quant, network, *frames[0])).quantized_model
    (options.out / "model.tflite").write_bytes(small)

    earlier = load(options.before)[0].training.data if options.before else []  # what its other parts have learnt from
    names = next(np.load(f)["attribute_names"] for f in options.faces if "attribute_names" in np.load(f))
    described = ModelSpec(
        name="onelook", version="0.9.4", sha256=hashlib.sha256(small).hexdigest(), input_size=(WIDTH, HEIGHT),
        input_mean=128, input_scale=1 / 128, patches=graph.patches(bytes(small), HEIGHT),
        maps={"features": Map(stride=MAP_STRIDE, channels=network.features, samples=GRID, reach=REACH)}, faces_at_once=AT_ONCE,
        embedding_size=EMBEDDING, traits=network.traits,
        age_middle=losses.AGE_MIDDLE, age_step=losses.AGE_STEP,
        labels=LABELS.model_copy(update={"attributes": [str(n) for n in names]}),
        detector=Detector(strides=list(STRIDES), score=0.47, nms_iou=0.4),  # the score is calibrate's, of this detector
        thresholds=[Threshold(far=0.001, similarity=0.5, tar=0.0)],
        training=Training(commit=run["commit"], seed=run["seed"], steps=kept["step"], faces_seen=kept["seen"],
                          data=list(dict.fromkeys([*run["faces"], *run.get("scenes", []), *earlier]))),
        licence="Weights learned from research data (see MODEL_CARD.md): research and private use.",
    )
    if options.before and same_embeddings((options.before / "float.tflite").read_bytes(), whole, frames[:CHECKED]):
        before = load(options.before)[0]
        described = described.model_copy(update={"embeddings": before.stamp, "cohort": before.cohort})
        if before.cohort:
            shutil.copyfile(options.before / cohort.FILE, options.out / cohort.FILE)
        print("embeddings are the same: stamp and cohort are kept")
    (options.out / "model.json").write_text(described.model_dump_json(indent=1) + "\n")
    print(f"{len(small) / 1e6:.2f} MB, {len(described.patches)} size constants")


def converted(network: OneLook, file: Path) -> bytes:
    """Write both signatures into `file`, in float; returns what it holds."""
    litert_torch.signature(
        "frame", Frame(network).eval(), sample_kwargs={"image": torch.zeros(1, HEIGHT, WIDTH // CELL, CELL * 3)}
    ).signature(
        "faces", Describe(network).eval(), sample_kwargs={"aligned": torch.zeros(AT_ONCE, GRID, GRID, network.features)}
    ).convert().export(str(file))
    return file.read_bytes()


def named(ranges: list[tuple[float, float]], quant: quantizer.Quantizer, network: OneLook, image: Tensor, marks: Tensor
          ) -> dict[str, dict[str, np.ndarray]]:
    """`ranges`, of the tensors that `Scales` holds, as the quantizer wants them: by the names that it has for these tensors.

    Both make them in one order; that it is so is seen by what they hold of a frame.
    """
    ours = Scales(Frame(network), Describe(network))
    at = read_at(image, marks)
    aligned = sample(Frame(network)(image)["features"].permute(0, 3, 1, 2), *at).permute(0, 2, 3, 1)
    filled = np.resize(aligned.numpy(), (AT_ONCE, *aligned.shape[1:]))
    theirs = quant.calibrate({"frame": [{"image": image.numpy()}]}) | quant.calibrate({"faces": [{"aligned": filled}]})
    named = {}
    for (name, seen), range_, mine in zip(theirs.items(), ranges, ours.seen(image, *at), strict=True):
        reached = [float(np.squeeze(seen[end])) for end in ("min", "max")]
        if not np.allclose(reached, mine, atol=1e-3 * max(np.ptp(mine), 1)):
            raise AssertionError(f"{name} holds {reached}, and not {mine}")
        named[name] = {end: np.full_like(seen[end], value) for end, value in zip(("min", "max"), range_, strict=True)}
    return named


def same_embeddings(before: bytes, now: bytes, frames: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether two float networks tell the same embeddings of faces, but for what rounding in float does."""
    told = []
    for network in (before, now):
        interpreter = Interpreter(model_content=network)
        frame, faces = (interpreter.get_signature_runner(name) for name in ("frame", "faces"))
        told.append([])
        for image, marks in frames:
            features = frame(image=image.numpy())["features"][0]
            aligned = align.sample(features, align.grid(marks.numpy(), MAP_STRIDE, GRID, REACH))
            embedding = faces(aligned=np.resize(aligned, (AT_ONCE, *aligned.shape[1:])))["embedding"].reshape(AT_ONCE, -1)
            told[-1].append(embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
    return all(bool(((one * other).sum(1) > ALIKE).all()) for one, other in zip(*told, strict=True))


if __name__ == "__main__":
    leave(main)

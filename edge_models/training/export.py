"""Checkpoint in, the shipped int8 file and its model.json out.

    python -m edge_models.training.export RUN OUT --faces faces.npz --scenes scenes/

Writes OUT/model.tflite (int8, two signatures, one set of weights), OUT/float.tflite (the
same network unquantised, for parity) and OUT/model.json. The similarity thresholds in
model.json are measured by `calibrate`, which reads and rewrites it.

Where a part of a network alone was learnt on, `--before` names the file shipped before: layers that did not change keep their
ranges, and with them every number that they give. If all boxes and embeddings stay as they were, so does what is known of them:
thresholds, cohort, and whose templates a gallery may hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import cv2
import litert_torch
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer import quantizer, recipe
from ai_edge_quantizer.utils import qsv_utils
from edge_models.training import data, graph, losses
from edge_models.training.door import leave
from edge_models.training.network import EMBEDDING, GRID, MAP_STRIDE, REACH, STRIDES, OneLook, checkpoint
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from onelook import align, cohort
from onelook.spec import Detector, Labels, Map, ModelSpec, Threshold, Training

WIDTH, HEIGHT = 640, 480
CELL = 4
"""Pixels of a row that the network takes as one cell."""
AT_ONCE = 50
"""Most faces a call of the `faces` signature: large enough for good matrix products, small enough for the cache."""
SHARES = np.linspace(0.4, 1, 13)
"""Of a tensor's widest range, of which `fitting` takes the best."""
SAMPLE = 20_000
"""Numbers of a tensor that are looked at for each frame."""
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


def calibration(network: OneLook, faces: data.Faces, scenes: data.Scenes, frames: int
                ) -> dict[str, list[dict[str, np.ndarray]]]:
    """Frames as the daemon sees them: crowds, composed faces, large and small."""
    torch.manual_seed(7)
    random = np.random.default_rng(7)
    inputs: dict[str, list[dict[str, np.ndarray]]] = {"frame": [], "faces": []}
    for i in range(frames):
        if i % 2:
            picture, marked = scenes.picture(int(random.integers(len(scenes.rows))))
            image = torch.from_numpy(cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).copy())
            pixels = image.permute(2, 0, 1)[None].float() / 255
            marks = torch.from_numpy(marked[:AT_ONCE] * np.float32([WIDTH / picture.shape[1], HEIGHT / picture.shape[0]]))
        else:
            tiles = (1, 2, 3, 4, 6, 10)[(i // 2) % 6]
            side = HEIGHT // tiles * tiles
            chosen = torch.multinomial(faces.weight, tiles * tiles, replacement=True)
            patches, where, _ = faces.take(chosen, torch.device("cpu"))
            made = data.compose(patches, where, tiles, scenes.nothing(1, side))
            pixels = torch.zeros(1, 3, HEIGHT, WIDTH) + 0.5
            pixels[..., :side, :side] = made[0]
            pixels = data.weather(pixels)
            marks = made[2].flatten(0, 1)[:AT_ONCE]
        image = stored(pixels)
        inputs["frame"].append({"image": image.numpy()})
        with torch.no_grad():
            features = Frame(network)(image)["features"][0]
        aligned = align.sample(features.numpy(), align.grid(marks.numpy(), MAP_STRIDE, GRID, REACH))
        inputs["faces"].append({"aligned": np.resize(aligned, (AT_ONCE, *aligned.shape[1:]))})
    return inputs


def main() -> None:
    """Convert, quantise, describe."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("run", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--faces", type=Path, nargs="+", required=True)
    ask.add_argument("--scenes", type=Path, required=True)
    ask.add_argument("--cache", type=Path, default=Path("runs/cache"))
    ask.add_argument("--frames", type=int, default=96, help="calibration frames")
    ask.add_argument("--before", type=Path, help="an earlier model.tflite: what has its weights keeps its ranges")
    options = ask.parse_args()
    kept = checkpoint(options.run / "last.pt")
    run = json.loads((options.run / "run.json").read_text())
    network = OneLook()
    network.load_state_dict(kept["average"])
    network = folded(network.eval())
    network.quarter[0][0] = by_cells(network.quarter[0][0])
    options.out.mkdir(parents=True, exist_ok=True)

    converted = (
        litert_torch.signature("frame", Frame(network).eval(),
                               sample_kwargs={"image": torch.zeros(1, HEIGHT, WIDTH // CELL, CELL * 3)})
        .signature("faces", Describe(network).eval(), sample_kwargs={
            "aligned": torch.zeros(AT_ONCE, GRID, GRID, network.features)})
        .convert()
    )
    whole = options.out / "float.tflite"
    converted.export(str(whole))

    faces = data.Faces(options.faces, options.cache, "test")
    scenes = data.Scenes([options.scenes], None, options.cache)
    quant = quantizer.Quantizer(str(whole))
    quant.load_quantization_recipe(recipe.static_wi8_ai8())
    inputs = calibration(network, faces, scenes, options.frames)
    seen = widest(quant, inputs)
    seen = known_ranges(seen | fitting(whole.read_bytes(), seen, inputs["frame"]), whole.read_bytes())
    small = quant.quantize(seen).quantized_model
    earlier: list[str] = []
    if options.before:
        told = options.before.with_name("model.json")  # what its other parts have learnt from
        earlier = json.loads(told.read_text())["training"]["data"] if told.exists() else []
        kept_ranges = unchanged(options.before.read_bytes(), bytes(small))
        small = quant.quantize(seen | {name: range_ for name, range_ in kept_ranges.items() if name in seen}).quantized_model
        print(f"{len(kept_ranges)} ranges kept")
    (options.out / "model.tflite").write_bytes(small)

    names = next(np.load(f)["attribute_names"] for f in options.faces if "attribute_names" in np.load(f))
    described = ModelSpec(
        name="onelook", version="0.9.3", sha256=hashlib.sha256(small).hexdigest(), input_size=(WIDTH, HEIGHT),
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
    if options.before and same_faces(options.before.read_bytes(), bytes(small), inputs):
        described = described.model_copy(update=known_of_faces(options.before.parent, options.out))
        print("boxes and embeddings are the same: thresholds, cohort and stamp are kept")
    (options.out / "model.json").write_text(described.model_dump_json(indent=1) + "\n")
    print(f"{len(small) / 1e6:.2f} MB, {len(described.patches)} size constants")


def widest(quant: quantizer.Quantizer, inputs: dict[str, list[dict[str, np.ndarray]]]) -> dict:
    """Every tensor's least and largest number over all inputs.

    Left to itself the quantizer takes a running mean of each input's, and cuts off what rare faces reach: that cost .024 of
    the embedding's cosine with its teacher.
    """
    seen: dict = {}
    for signature, all_of in inputs.items():
        for one in all_of:
            for name, range_ in quant.calibrate({signature: [one]}).items():
                seen[name] = qsv_utils.min_max_update(seen.get(name, {}), range_)
    return seen


def fitting(network: bytes, seen: dict, frames: list[dict[str, np.ndarray]]) -> dict:
    """What of the widest ranges `seen` int8 tells the numbers of a frame best by: with the least squared error over `frames`.

    One number in many thousands reaches furthest, and 256 steps as far as that are coarse for all others: the map is told by
    26 dB in place of 22.6. Not so the head, where large clear faces reach furthest, which matter most: their embeddings would lie
    at .994 to those in float, and not at .996. network: in float.
    """
    interpreter = Interpreter(model_content=network, experimental_preserve_all_tensors=True,
                              experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    run, subgraph = interpreter.get_signature_runner("frame"), graph.subgraph(network, "frame")
    tensors = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details(subgraph) if tensor["name"] in seen}
    random, errors = np.random.default_rng(7), dict.fromkeys(tensors, np.zeros(len(SHARES)))
    for frame in frames:
        run(**frame)
        for name, index in tensors.items():
            values = interpreter.get_tensor(index, subgraph).ravel()
            values = values[random.integers(len(values), size=SAMPLE)]
            low, high = (float(np.squeeze(seen[name][end])) for end in ("min", "max"))
            errors[name] = errors[name] + [rounding(values, low * share, high * share) for share in SHARES]
    return {name: {end: value * np.float32(SHARES[np.argmin(errors[name])]) for end, value in seen[name].items()} for name in tensors}


def rounding(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of `values` in int8, where that spans `low` to `high` and nothing."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high - low, 1e-9) / 255
    zero = np.round(-128 - low / step)
    return float(np.square((np.clip(np.round(values / step) + zero, -128, 127) - zero) * step - values).mean())


def known_ranges(seen: dict, network: bytes) -> dict:
    """Ranges that need no measuring.

    A pixel is stored exactly. Every level's score logits have one range: few frames hold a very large face, and its
    level's range might end where sure and doubtful look alike. The map has the range of what is read off it, so that
    onelook can read it as it is stored; what the rest of a frame goes to beyond that is nobody's.
    """
    model, of = schema.Model.GetRootAs(network), {}
    for i in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(i)
        graph = model.Subgraphs(signature.SubgraphIndex())
        ends = [signature.Inputs(k) for k in range(signature.InputsLength())]
        ends += [signature.Outputs(k) for k in range(signature.OutputsLength())]
        for end in ends:
            of[end.Name()] = graph.Tensors(end.TensorIndex()).Name().decode()
            for name, low, high in ((b"image", -1.0, 127 / 128), (b"score", -9.0, 4.0)):
                if end.Name().startswith(name):
                    tensor = of[end.Name()]
                    seen[tensor] = {"min": np.full_like(seen[tensor]["min"], low),
                                    "max": np.full_like(seen[tensor]["max"], high)}
    seen[of[b"features"]] = seen[of[b"aligned"]]
    return seen


def ends(scale: float, zero: int) -> dict[str, np.float32]:
    """The range of which the quantizer makes this scale, to the last bit, and zero point."""
    near = []
    for end in (-128, 127):
        exact = np.float32(end - zero) * np.float32(scale)
        near.append([exact, *(np.nextafter(exact, np.float32(side)) for side in (-np.inf, np.inf) if exact)])
    pairs = [{"min": low, "max": high} for low in near[0] for high in near[1]]
    return next((pair for pair in pairs if (pair["max"] - pair["min"]) / np.float32(255) == np.float32(scale)), pairs[0])


def unchanged(before: bytes, now: bytes) -> dict:
    """The ranges, as `before` has them, of whatever both quantised networks compute alike.

    A tensor is alike if it has one name in both, and is an input of the whole, or made of tensors that are alike by weights
    that are byte for byte the same.
    """
    old, new = graph.activations(before), graph.activations(now)
    alike: dict = {}
    for name, made in new.items():
        was = old.get(name)
        if was and was.weights == made.weights and was.sources == made.sources and all(s in alike for s in made.sources):
            alike[name] = ends(was.scale, was.zero)
    return {name: range_ for (_, name), range_ in alike.items()}


def same_faces(before: bytes, now: bytes, inputs: dict[str, list[dict[str, np.ndarray]]]) -> bool:
    """Whether two networks give the same boxes, landmarks, map and embeddings of all inputs, to the bit."""
    for signature, all_of in inputs.items():
        runs = [Interpreter(model_content=network).get_signature_runner(signature) for network in (before, now)]
        for one in all_of:
            # of which inputs are given in float, and in int8 by those who ship them
            (name, value), = one.items()
            told = [run(**{name: stored_as(run.get_input_details()[name], value)}) for run in runs]
            if any(not np.array_equal(told[0][end], told[1][end]) for end in told[0] if end != "traits"):
                return False
    return True


def stored_as(details: dict, value: np.ndarray) -> np.ndarray:
    """Numbers as the network's input holds them."""
    scale, zero = details["quantization"]
    low, high = (np.iinfo(details["dtype"]).min, np.iinfo(details["dtype"]).max)
    return np.clip(np.round(value / scale) + zero, low, high).astype(details["dtype"])


def known_of_faces(before: Path, out: Path) -> dict[str, object]:
    """What `before`, a model's folder, knows of its boxes and embeddings; its cohort's file goes to `out`."""
    spec = ModelSpec.model_validate_json((before / "model.json").read_bytes())
    if spec.cohort:
        shutil.copyfile(before / cohort.FILE, out / cohort.FILE)
    return {"embeddings": spec.stamp, **{name: getattr(spec, name)
                                         for name in ("detector", "thresholds", "cohort", "caution", "averaging")}}


if __name__ == "__main__":
    leave(main)

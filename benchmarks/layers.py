"""Layers: where a network's time goes, operator by operator, against what the machine's int8 peak would allow.

    python -m benchmarks.layers                     # the shipped network
    python -m benchmarks.layers FOLDER|FILE.tflite  # another; --threads N, --seconds S, --json

Each operator is cut out of the file into a network of its own and run there, all in their order, round after round,
so that what one leaves in the cache the next one finds. Their sum is compared with the whole: what XNNPACK fuses
is faster there than the sum.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tf
from edge_models.training.door import leave

from benchmarks import measure
from benchmarks.latency import peak
from onelook.errors import OwnerError
from onelook.model import _interpreter, shipped

Op = tf.BuiltinOperator
NAMES = {number: name for name, number in vars(Op).items() if isinstance(number, int)}
CROWD = 100
"""Faces that the `faces` signature is added up for."""


@dataclass
class Layer:
    """One operator of one signature."""

    signature: str
    kind: str
    """The operator's name; a convolution's with its kernel and stride."""
    shape: str
    """Height x width x channels, from and to."""
    macs: int
    indirection: int
    """Bytes of pointers that XNNPACK keeps for it: one for each place of the output and of the kernel."""
    content: bytes
    """The operator alone, as a .tflite."""
    seconds: float = 0.0


def layers(network: bytes) -> list[Layer]:
    """Every operator of every signature, in the order in which they run."""
    model = tf.ModelT.InitFromPackedBuf(network, 0)
    for buffer in model.buffers:  # large ones may lie behind the tables
        if buffer.data is None and buffer.size:
            buffer.data = np.frombuffer(network, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    signatures = {s.subgraphIndex: s.signatureKey.decode() for s in model.signatureDefs or []} or {0: "frame"}
    return [layer for index, name in sorted(signatures.items())
            for layer in _layers(model, model.subgraphs[index], name)]


def _layers(model: Any, graph: Any, signature: str) -> list[Layer]:
    """The operators of a graph; padding goes with the convolution that it is for, as in XNNPACK."""
    found, waiting = [], []
    for operator, after in zip(graph.operators, [*graph.operators[1:], None], strict=True):
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) in (Op.PAD, Op.PADV2) and (
                after is not None and after.inputs[0] == operator.outputs[0]):
            waiting = [operator]
            continue
        found.append(_layer(model, graph, [*waiting, operator], signature))
        waiting = []
    return found


def _layer(model: Any, graph: Any, operators: list[Any], signature: str) -> Layer:
    operator = operators[-1]
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    before, after = (tuple(int(n) for n in graph.tensors[which].shape)
                     for which in (operators[0].inputs[0], operator.outputs[0]))
    kind, macs, indirection, options = NAMES[builtin].lower(), 0, 0, operator.builtinOptions
    if builtin in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D):
        weights = graph.tensors[operator.inputs[1]].shape
        high, wide = int(weights[1]), int(weights[2])
        places, (down, across) = int(np.prod(after[1:3])), (options.strideH, options.strideW)
        macs = int(np.prod(after)) * high * wide * (int(weights[3]) if builtin == Op.CONV_2D else 1)
        kind = f"{'conv' if builtin == Op.CONV_2D else 'depthwise'} {high}x{wide}" + (
            f" /{down}" if down == across else f" /{down},{across}") * ((down, across) != (1, 1))
        if builtin == Op.DEPTHWISE_CONV_2D:  # neighbours share what their kernels overlap by
            indirection = 8 * after[1] * (high * wide + (after[2] - 1) * min(across, wide) * high)
        elif (high, wide, down, across) != (1, 1, 1, 1):
            indirection = 8 * places * high * wide
    elif builtin == Op.FULLY_CONNECTED:
        macs = int(np.prod(after)) * int(graph.tensors[operator.inputs[1]].shape[-1])
    return Layer(signature, kind, f"{_plain(before)} -> {_plain(after)}", macs, indirection,
                 _alone(model, graph, operators))


def _plain(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in (shape[1:] if len(shape) == 4 else shape))


def _alone(model: Any, graph: Any, operators: list[Any]) -> bytes:
    """A network of these operators and nothing else, as large as in the whole."""
    used = [int(n) for operator in operators for n in [*operator.inputs, *operator.outputs] if n >= 0]
    numbers = {old: new for new, old in enumerate(dict.fromkeys(used))}
    made, part, buffers = tf.ModelT(), tf.SubGraphT(), [tf.BufferT()]
    part.tensors = []
    for old in numbers:
        was = graph.tensors[old]
        tensor = tf.TensorT()
        tensor.shape, tensor.type, tensor.name, tensor.quantization = was.shape, was.type, was.name, was.quantization
        tensor.buffer = 0
        if model.buffers[was.buffer].data is not None:
            buffers.append(model.buffers[was.buffer])
            tensor.buffer = len(buffers) - 1
        part.tensors.append(tensor)
    part.operators, written = [], set()
    for number, operator in enumerate(operators):
        single = tf.OperatorT()
        single.opcodeIndex = number
        single.inputs = [numbers.get(int(n), -1) for n in operator.inputs]
        single.outputs = [numbers[int(n)] for n in operator.outputs]
        single.builtinOptions, single.builtinOptionsType = operator.builtinOptions, operator.builtinOptionsType
        part.operators.append(single)
        written |= set(single.outputs)
    part.outputs = part.operators[-1].outputs
    part.inputs = [n for single in part.operators for n in single.inputs
                   if n >= 0 and part.tensors[n].buffer == 0 and n not in written]
    made.version, made.subgraphs, made.buffers = 3, [part], buffers
    made.operatorCodes = [model.operatorCodes[operator.opcodeIndex] for operator in operators]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def timed(found: list[Layer], threads: int, seconds: float) -> list[Layer]:
    """The same with what each takes."""
    calls = {}
    for number, layer in enumerate(found):
        interpreter = _interpreter()(model_content=layer.content, num_threads=threads)
        interpreter.allocate_tensors()
        _fill(interpreter)
        calls[str(number)] = interpreter.invoke
    taken = measure.interleaved(calls, budget=seconds, least=10, most=1000, forwards=True)
    for number, layer in enumerate(found):
        layer.seconds = undisturbed(taken[str(number)].seconds)
    return found


def undisturbed(seconds: list[float]) -> float:
    """What it takes where nobody interferes: one round in twenty is as quick. Medians need an idle machine."""
    return measure.quantile(seconds, 0.05)


def _fill(interpreter: Any) -> None:
    random = np.random.default_rng(1)
    for detail in interpreter.get_input_details():
        if np.issubdtype(detail["dtype"], np.integer):
            bounds = np.iinfo(detail["dtype"])
            value = random.integers(bounds.min, bounds.max, detail["shape"], dtype=detail["dtype"])
        else:
            value = random.normal(size=detail["shape"]).astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], value)


def whole(network: bytes, threads: int, seconds: float) -> dict[str, measure.Samples]:
    """Signature -> what a call of it takes; they are called in turn."""
    interpreter = _interpreter()(model_content=network, num_threads=threads)
    calls = {}
    for name in interpreter.get_signature_list() or {}:
        runner = interpreter.get_signature_runner(name)
        given = {key: np.zeros(detail["shape"], detail["dtype"]) for key, detail in runner.get_input_details().items()}
        calls[name] = partial(runner, **given)
    if not calls:  # a network without names
        interpreter.allocate_tensors()
        calls["frame"] = interpreter.invoke
    return measure.interleaved(calls, budget=seconds, least=10, most=1000, forwards=True)


def main() -> int:
    """Print the table, or JSON."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("network", type=Path, nargs="?", default=shipped(),
                     help="a folder with model.tflite, or a .tflite; default: the shipped one")
    ask.add_argument("--threads", type=int, default=1, help="for each operator; with more than one, waking the "
                     "others takes longer than many a small operator")
    ask.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    ask.add_argument("--json", action="store_true", help="the figures instead of the table")
    options = ask.parse_args()
    file = options.network / "model.tflite" if options.network.is_dir() else options.network
    try:
        network = file.read_bytes()
    except OSError as error:
        raise OwnerError(f"{file} cannot be read: {error.strerror}.") from None
    if network[4:8] != b"TFL3":
        raise OwnerError(f"{file} is no TFLite network.")
    found = timed(layers(network), options.threads, options.seconds)
    calls = whole(network, options.threads, options.seconds)
    most = peak(options.threads)
    if options.json:
        print(json.dumps({"peak": most, "threads": options.threads,
                          "layers": [{k: v for k, v in asdict(x).items() if k != "content"} for x in found],
                          "signatures": {name: undisturbed(x.seconds) for name, x in calls.items()}}))
        return 0
    for name, samples in calls.items():
        print("\n".join(described(name, [x for x in found if x.signature == name], samples, most)))
    if "faces" in calls:
        once = int(_faces_at_once(network))
        frame, faces = (undisturbed(calls[name].seconds) * 1e3 for name in ("frame", "faces"))
        many = -(-CROWD // once) * faces
        print(f"One frame with {CROWD} faces: {frame:.2f} + {many:.2f} = {frame + many:.2f} ms in the runtime.")
    print(f"Machine's int8 peak with {options.threads} thread{'s' * (options.threads > 1)}: {most / 1e9:.0f} MMAC/ms")
    return 0


def _faces_at_once(network: bytes) -> int:
    model = tf.ModelT.InitFromPackedBuf(network, 0)
    graph = next(s.subgraphIndex for s in model.signatureDefs if s.signatureKey == b"faces")
    return int(model.subgraphs[graph].tensors[model.subgraphs[graph].inputs[0]].shape[0])


def described(name: str, found: list[Layer], samples: measure.Samples, most: float) -> list[str]:
    """Lines that tell of one signature."""
    total = sum(layer.seconds for layer in found)
    heads = ("MMAC", 8), ("ms", 8), ("share", 8), ("MMAC/ms", 9), ("pointers MB", 13)
    lines = [name, f"{'operator':<24}{'shape':<34}" + "".join(head.rjust(width) for head, width in heads)]

    def row(kind: str, shape: str, rows: list[Layer]) -> str:
        seconds, macs = sum(x.seconds for x in rows), sum(x.macs for x in rows)
        rate = f"{macs / seconds / 1e9:.0f}" if macs else ""
        return (f"{kind:<24}{shape:<34}{macs / 1e6:>8.1f}{seconds * 1e3:>8.3f}{seconds / total:>8.1%}{rate:>9}"
                f"{sum(x.indirection for x in rows) / 2**20:>13.2f}")

    lines += [row(layer.kind, layer.shape, [layer]) for layer in found]
    lines.append("by kind")
    kinds = dict.fromkeys(layer.kind for layer in found)
    kinds = dict.fromkeys(sorted(kinds, key=lambda kind: -sum(x.seconds for x in found if x.kind == kind)))
    lines += [row(kind, "", [x for x in found if x.kind == kind]) for kind in kinds]
    macs, call = sum(x.macs for x in found), undisturbed(samples.seconds)
    lines += [row("sum", "", found),
              f"the whole: {call * 1e3:.3f} ms (CPU {undisturbed(samples.cpu) * 1e3:.3f}), {macs / 1e6:.1f} MMAC, "
              f"{macs / call / 1e9:.0f} MMAC/ms; at the machine's peak {macs / most * 1e3:.3f} ms, "
              f"which is {macs / most / call:.0%} of it", ""]
    return lines


if __name__ == "__main__":
    leave(main)

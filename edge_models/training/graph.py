"""What lies in a .tflite file: its arithmetic, and the sizes that it holds as constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from onelook.spec import Patch


def patches(network: bytes, input_height: int) -> list[Patch]:
    """Where the upsampling layers' output sizes lie in the file."""
    model = schema.Model.GetRootAs(network)
    graph = model.Subgraphs(0)
    found = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if code not in (schema.BuiltinOperator.RESIZE_NEAREST_NEIGHBOR, schema.BuiltinOperator.RESIZE_BILINEAR):
            continue
        buffer = model.Buffers(graph.Tensors(operator.Inputs(1)).Buffer())
        height, _ = np.frombuffer(buffer.DataAsNumpy().tobytes(), np.int32)
        offset = buffer._tab.Vector(buffer._tab.Offset(4))
        patch = Patch(offset=offset, stride=input_height // int(height))
        if patch not in found:
            found.append(patch)
    return found


def subgraph(network: bytes, signature: str) -> int:
    """Which of the file's graphs it is that is called so."""
    model = schema.Model.GetRootAs(network)
    named = (model.SignatureDefs(i) for i in range(model.SignatureDefsLength()))
    return next(one.SubgraphIndex() for one in named if one.SignatureKey().decode() == signature)


@dataclass(frozen=True)
class Activation:
    """What an int8 tensor holds a number by, and what it is made of."""

    scale: float
    zero: int
    sources: tuple[tuple[int, str], ...]
    weights: tuple[bytes, ...]


def activations(network: bytes) -> dict[tuple[int, str], Activation]:
    """Every int8 tensor that is no weight, by signature's number and name, in the order in which they are made."""
    model, found = schema.Model.GetRootAs(network), {}
    for s in range(model.SubgraphsLength()):
        graph = model.Subgraphs(s)
        tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
        made: dict[int, tuple[list[int], list[bytes]]] = {int(i): ([], []) for i in graph.InputsAsNumpy()}
        for i in range(graph.OperatorsLength()):
            operator = graph.Operators(i)
            sources = [int(k) for k in operator.InputsAsNumpy()]
            made[operator.Outputs(0)] = (
                [k for k in sources if k in made],
                # not the biases: they are stored in steps of the input's
                [_stored(network, model, tensors[k]) for k in sources if k not in made and tensors[k].Type() == schema.TensorType.INT8])
        for index, (sources, weights) in made.items():
            tensor = tensors[index]
            if tensor.Type() == schema.TensorType.INT8:
                ranges = tensor.Quantization()
                found[s, tensor.Name().decode()] = Activation(
                    float(ranges.Scale(0)), int(ranges.ZeroPoint(0)),
                    tuple((s, tensors[k].Name().decode()) for k in sources), tuple(weights))
    return found


def _stored(network: bytes, model: schema.Model, tensor: schema.Tensor) -> bytes:
    """A constant's bytes, which lie in its buffer or, where they are many, at the file's end."""
    buffer = model.Buffers(tensor.Buffer())
    return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else network[buffer.Offset():buffer.Offset() + buffer.Size()]


def macs(network: bytes) -> dict[str, float]:
    """Multiply-accumulates of each signature in millions, counted in the file itself."""
    model = schema.Model.GetRootAs(network)
    out = {}
    for s in range(model.SignatureDefsLength()):
        graph = model.Subgraphs(model.SignatureDefs(s).SubgraphIndex())
        total = 0
        for i in range(graph.OperatorsLength()):
            op = graph.Operators(i)
            code = model.OperatorCodes(op.OpcodeIndex()).BuiltinCode()
            shape = graph.Tensors(op.Outputs(0)).ShapeAsNumpy()
            if code == schema.BuiltinOperator.CONV_2D:
                total += int(np.prod(shape)) * int(np.prod(graph.Tensors(op.Inputs(1)).ShapeAsNumpy()[1:]))
            elif code == schema.BuiltinOperator.DEPTHWISE_CONV_2D:
                total += int(np.prod(shape)) * int(np.prod(graph.Tensors(op.Inputs(1)).ShapeAsNumpy()[1:3]))
            elif code == schema.BuiltinOperator.FULLY_CONNECTED:
                total += int(np.prod(shape)) * int(graph.Tensors(op.Inputs(1)).ShapeAsNumpy()[-1])
        out[model.SignatureDefs(s).SignatureKey().decode()] = total / 1e6
    return out

"""What lies in a .tflite file: its arithmetic, and the sizes that it holds as constants."""

from __future__ import annotations

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

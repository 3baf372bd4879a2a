"""Stand-ins: int8 TFLite networks of well-known architectures, with random weights.

What a layer costs does not depend on the numbers in it, so for latency an architecture is as
good as its weights. They are written straight into TFLite's file format, in a second and with
no training framework, so that any board can make them. They know nothing: no accuracy is ever
taken from one.

Wherever a choice was open it was made in the cascade's favour: PReLU became ReLU, which costs
nothing; every layer is int8 with per-channel weights; padding is TFLite's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tf
from numpy.typing import NDArray

Op = tf.BuiltinOperator
STEP = 0.05
"""Scale of every activation: real = STEP * (stored - zero), zero being 0, or -128 after a ReLU."""


class Writer:
    """One network under construction; every layer returns the number of its output tensor."""

    def __init__(self, batch: int = 1, seed: int = 1) -> None:
        """`batch` pictures a call, until somebody resizes it."""
        self.batch, self._random = batch, np.random.default_rng(seed)
        self._buffers, self._tensors, self._operators = [tf.BufferT()], [], []
        self._codes: dict[tuple[int, int], int] = {}
        self._shapes: list[tuple[int, ...]] = []
        self._zeros: dict[int, int] = {}
        self.macs = 0
        """Multiply-accumulates of one picture."""

    def input(self, height: int, width: int, channels: int) -> int:
        """The picture, stored as pixel - 128."""
        return self._tensor((self.batch, height, width, channels), 0, "input")

    def conv(self, x: int, channels: int, size: int = 1, stride: int = 1, *, relu: bool = True,
             same: bool = True) -> int:
        """A plain convolution."""
        _, h, w, inputs = self._shapes[x]
        shape = (*self._out(h, w, size, stride, same), channels)
        self.macs += int(np.prod(shape)) * size * size * inputs
        weights = self._weights((channels, size, size, inputs), size * size * inputs, channels, 0)
        options = tf.Conv2DOptionsT()
        return self._layer(Op.CONV_2D, 3, [x, *weights], shape,
                           self._window(options, stride, relu, same), tf.BuiltinOptions.Conv2DOptions,
                           -128 if relu else 0)

    def depthwise(self, x: int, size: int = 3, stride: int = 1, *, relu: bool = True, same: bool = True) -> int:
        """A convolution within each channel."""
        _, h, w, channels = self._shapes[x]
        shape = (*self._out(h, w, size, stride, same), channels)
        self.macs += int(np.prod(shape)) * size * size
        weights = self._weights((1, size, size, channels), size * size, channels, 3)
        options = tf.DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
        return self._layer(Op.DEPTHWISE_CONV_2D, 3, [x, *weights], shape,
                           self._window(options, stride, relu, same), tf.BuiltinOptions.DepthwiseConv2DOptions,
                           -128 if relu else 0)

    def pool(self, x: int, size: int = 2, stride: int = 2) -> int:
        """Largest of each window."""
        _, h, w, channels = self._shapes[x]
        options = tf.Pool2DOptionsT()
        options.filterHeight = options.filterWidth = size
        options.strideH = options.strideW = stride
        options.padding = tf.Padding.SAME
        return self._layer(Op.MAX_POOL_2D, 2, [x], (*self._out(h, w, size, stride, True), channels),
                           options, tf.BuiltinOptions.Pool2DOptions, self._zeros[x])

    def add(self, x: int, y: int) -> int:
        """The sum of two maps."""
        return self._layer(Op.ADD, 2, [x, y], self._shapes[x][1:], tf.AddOptionsT(), tf.BuiltinOptions.AddOptions, 0)

    def mean(self, x: int) -> int:
        """Over all places, of each channel."""
        options = tf.ReducerOptionsT()
        options.keepDims = True
        axes = self._constant(np.array([1, 2], np.int32))
        return self._layer(Op.MEAN, 2, [x, axes], (1, 1, self._shapes[x][3]), options,
                           tf.BuiltinOptions.ReducerOptions, self._zeros[x])

    def double(self, x: int) -> int:
        """Twice as high and wide, each cell repeated."""
        _, h, w, channels = self._shapes[x]
        options = tf.ResizeNearestNeighborOptionsT()
        size = self._constant(np.array([2 * h, 2 * w], np.int32))
        return self._layer(Op.RESIZE_NEAREST_NEIGHBOR, 2, [x, size], (2 * h, 2 * w, channels), options,
                           tf.BuiltinOptions.ResizeNearestNeighborOptions, self._zeros[x])

    def file(self, outputs: list[int]) -> bytes:
        """The finished .tflite."""
        graph = tf.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = [0], outputs
        model = tf.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self._buffers
        model.operatorCodes = []
        for code, version in self._codes:
            entry = tf.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = code
            entry.version = version
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _out(self, h: int, w: int, size: int, stride: int, same: bool) -> tuple[int, int]:
        return tuple(-(-n // stride) if same else (n - size) // stride + 1 for n in (h, w))  # type: ignore[return-value]

    def _window(self, options: Any, stride: int, relu: bool, same: bool) -> Any:
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding = tf.Padding.SAME if same else tf.Padding.VALID
        options.fusedActivationFunction = _activation(relu)
        return options

    def _weights(self, shape: tuple[int, ...], fan_in: int, channels: int, axis: int) -> tuple[int, int]:
        """Random weights, scaled so that what comes out fills the range as what went in did; and zero biases."""
        values = self._random.integers(-127, 128, shape).astype(np.int8)
        scale = np.full(channels, 40 / (np.sqrt(fan_in) * 73 * 28), np.float32)
        bias = np.zeros(channels, np.int32)
        return (self._constant(values, scale, axis), self._constant(bias, scale * np.float32(STEP), 0))

    def _constant(self, values: NDArray[Any], scale: NDArray[np.float32] | None = None, axis: int = 0) -> int:
        buffer = tf.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._buffers.append(buffer)
        tensor = tf.TensorT()
        tensor.buffer, tensor.shape = len(self._buffers) - 1, list(values.shape)
        tensor.type = {"int8": tf.TensorType.INT8, "int32": tf.TensorType.INT32}[values.dtype.name]
        if scale is not None:
            tensor.quantization = tf.QuantizationParametersT()
            tensor.quantization.scale = scale
            tensor.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            tensor.quantization.quantizedDimension = axis
        return self._kept(tensor, values.shape)

    def _tensor(self, shape: tuple[int, ...], zero: int, name: str = "") -> int:
        tensor = tf.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.name = list(shape), tf.TensorType.INT8, 0, name
        tensor.quantization = tf.QuantizationParametersT()
        tensor.quantization.scale = np.array([STEP], np.float32)
        tensor.quantization.zeroPoint = np.array([zero], np.int64)
        number = self._kept(tensor, shape)
        self._zeros[number] = zero
        return number

    def _kept(self, tensor: Any, shape: tuple[int, ...]) -> int:
        self._tensors.append(tensor)
        self._shapes.append(tuple(shape))
        return len(self._tensors) - 1

    def _layer(self, code: int, version: int, inputs: list[int], shape: tuple[int, ...], options: Any,
               kind: int, zero: int) -> int:
        operator = tf.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        output = self._tensor((self.batch, *shape), zero)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptions, operator.builtinOptionsType = options, kind
        self._operators.append(operator)
        return output


def _activation(relu: bool) -> int:
    return int(tf.ActivationFunctionType.RELU if relu else tf.ActivationFunctionType.NONE)


def yunet(width: int, height: int) -> tuple[bytes, int]:
    """YuNet-n (Wu, Peng, Yu 2023), the detector: scores, boxes and landmarks at strides 8, 16, 32."""
    net = Writer()

    def unit(x: int, channels: int, *, relu: bool = True) -> int:
        return net.depthwise(net.conv(x, channels, relu=False), relu=relu)

    x = unit(net.conv(net.input(height, width, 3), 16, 3, 2), 16)
    x = unit(unit(net.pool(x), 16), 64)
    x = net.pool(unit(unit(x, 64), 64))
    eighth = unit(unit(x, 64), 64)
    sixteenth = unit(unit(net.pool(eighth), 64), 64)
    coarse = unit(unit(unit(net.pool(sixteenth), 64), 64), 64)
    middle = unit(net.add(sixteenth, net.double(coarse)), 64)
    fine = unit(net.add(eighth, net.double(middle)), 64)
    outputs = []
    for x in (fine, middle, coarse):
        shared = unit(x, 64)
        outputs += [unit(shared, channels, relu=False) for channels in (1, 1, 4, 10)]
    return net.file(outputs), net.macs


def mobilefacenet() -> tuple[bytes, int]:
    """MobileFaceNet (Chen et al. 2018), the recogniser: 112x112 to 128 numbers, 221 million multiply-adds."""
    net = Writer()

    def bottleneck(x: int, channels: int, widen: int, stride: int, keep: bool) -> int:
        inner = net._shapes[x][3] * widen
        y = net.conv(net.depthwise(net.conv(x, inner), stride=stride), channels, relu=False)
        return net.add(x, y) if keep else y

    x = net.depthwise(net.conv(net.input(112, 112, 3), 64, 3, 2))
    for widen, channels, times, stride in ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2),
                                           (2, 128, 2, 1)):
        for i in range(times):
            first = i == 0
            x = bottleneck(x, channels, widen, stride if first else 1,
                           keep=not first or (stride == 1 and net._shapes[x][3] == channels))
    x = net.depthwise(net.conv(x, 512), 7, relu=False, same=False)
    return net.file([net.conv(x, 128, relu=False)]), net.macs


def mobilenet_v2(outputs: int, side: int = 112, width: float = 1.0) -> tuple[bytes, int]:
    """MobileNetV2 (Sandler et al. 2018): attributes, age, gender and ethnicity from one network."""
    net = Writer()

    def round8(n: float) -> int:
        return max(8, int(n + 4) // 8 * 8)

    x = net.conv(net.input(side, side, 3), round8(32 * width), 3, 2)
    for widen, wide, times, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
                                       (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        channels = round8(wide * width)
        for i in range(times):
            inputs = net._shapes[x][3]
            inner = x if widen == 1 else net.conv(x, inputs * widen)
            y = net.conv(net.depthwise(inner, stride=stride if i == 0 else 1), channels, relu=False)
            x = net.add(x, y) if i else y
    x = net.mean(net.conv(x, 1280))
    return net.file([net.conv(x, outputs, relu=False)]), net.macs


def mini_xception(outputs: int = 7, side: int = 64) -> tuple[bytes, int]:
    """mini-XCEPTION (Arriaga et al. 2017), the emotion: 64x64 grey."""
    net = Writer()
    x = net.conv(net.conv(net.input(side, side, 1), 8, 3, same=False), 8, 3, same=False)
    for channels in (16, 32, 64, 128):
        y = net.conv(net.depthwise(x, relu=False), channels)
        y = net.conv(net.depthwise(y, relu=False), channels, relu=False)
        x = net.add(net.pool(y, 3), net.conv(x, channels, stride=2, relu=False))
    return net.file([net.mean(net.conv(x, outputs, 3, relu=False))]), net.macs


def peak() -> tuple[bytes, int]:
    """Nothing but the layer that int8 kernels are fastest at, small enough for the cache: the machine's roofline."""
    net = Writer()
    x = net.input(24, 24, 256)
    for _ in range(8):
        x = net.conv(x, 256)
    return net.file([x]), net.macs


TRAITS = 47
"""40 attributes, gender, age and five ethnicities."""
FACE_NETS: dict[str, Callable[[], tuple[bytes, int]]] = {
    "recogniser": mobilefacenet,
    "attributes": lambda: mobilenet_v2(TRAITS),
    "emotion": mini_xception,
}
"""Network of each job done face by face."""

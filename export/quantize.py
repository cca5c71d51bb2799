"""Static int8 quantization; the layers with the largest quantization error can stay in float."""

import logging
import math
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    qdq_loss_debug,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.model.manifest import INPUT
from unfreeze.export.graph import strip_debug_info
from unfreeze.export.hard_sigmoid import merge_scales, split_hard_sigmoids
from unfreeze.export.options import Target

_BATCH = 8
_COMPARED_IMAGES = 16
_LAYERS = ("Conv", "Gemm", "MatMul")
_FILTER_AXES = 4  # output and input channels, height, width
_SMALLEST_FILTER = 256  # weights per filter of a first convolution that is worth quantizing on x86, see `_begin`
# Operators between layers are quantized where ONNX Runtime has int8 kernels, to avoid dequantizing in between; softmax,
# normalization and others stay in float.
_QUANTIZED = (*_LAYERS, "Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu")


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Reads prepared images in batches."""

    def __init__(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> None:
        self._batches: Iterator[np.ndarray] = (pixels[at : at + _BATCH] for at in range(0, len(pixels), _BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: np.ascontiguousarray(batch)}


class Quantizer:
    """Quantizes a float graph to int8.

    Args:
        model: the graph in float32.
        pixels: prepared training images, which calibrate the ranges of activations.
        target: the kernels to quantize for. x86 multiplies unsigned activations by signed weights; on ARM and in
            TensorRT both are signed and symmetric.
        folder: an empty folder for intermediate files.
        plain: quantize the first layer and leave hard-sigmoids in float, to measure the difference.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        pixels: UInt8[np.ndarray, "n h w 3"],
        target: Target,
        folder: Path,
        *,
        plain: bool = False,
    ) -> None:
        self._pixels = pixels
        self._target = target
        self._folder = folder
        self._float_path = self._path("float")
        raw = self._path("raw")
        onnx.save(model, raw)
        with _quiet():
            quant_pre_process(raw, self._float_path, skip_symbolic_shape=True)
        graph = onnx.load(self._float_path)
        adapted = target == "cpu" and not plain
        begin = _begin(graph.graph, adapted=adapted)
        if adapted:
            split_hard_sigmoids(graph, begin)
        for number, node in enumerate(graph.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"  # nodes are excluded by their names
        onnx.save(graph, self._float_path)
        nodes = graph.graph.node
        *layers, head = (number for number, node in enumerate(nodes) if node.op_type in _LAYERS)
        # What precedes the first quantized layer, and the head and softmax at the end, stay in float.
        end = head - 2
        self._outside = {node.name for node in (*nodes[:begin], *nodes[end:])}
        self._layers = [nodes[number] for number in layers if begin <= number < end]
        self._shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights before quantization, by name."""
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(self._float_path).graph.initializer}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be quantized, in order from the input."""
        return tuple(node.name for node in self._layers)

    @property
    def depthwise(self) -> dict[str, tuple[str, ...]]:
        """Names of the depthwise convolutions that can be quantized, by the size of their filters."""
        found: dict[str, tuple[str, ...]] = {}
        for node in self._layers:
            shape = self._shapes.get(node.input[1], ())
            if len(shape) == _FILTER_AXES and shape[0] > 1 and shape[1] == 1 and max(shape[2:]) > 1:
                size = "x".join(map(str, shape[2:]))
                found[size] = (*found.get(size, ()), node.name)
        return found

    def graph(self, kept: Collection[str] = (), *, between: bool = True) -> onnx.ModelProto:
        """Quantize the graph.

        Args:
            kept: names of layers that stay in float.
            between: whether operators between layers are quantized.
        """
        path = self._path("int8")
        symmetric = self._target != "cpu"
        with _quiet():
            quantize_static(
                self._float_path,
                path,
                _Reader(self._pixels),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED if between else _LAYERS),
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted({*self._outside, *kept}),
                calibrate_method=CalibrationMethod.MinMax,
                calibration_cache_path=self._path("ranges.json"),
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )
        model = onnx.load(path)
        merge_scales(model)
        strip_debug_info(model)
        return model

    def layers_by_error(self) -> tuple[str, ...]:
        """Return the layers in order of their quantization error, the largest first.

        The error of a layer is the lowest signal-to-quantization-noise ratio among its inputs and outputs.
        """
        self.graph()
        floats, quantized = self._path("floats"), self._path("all")
        with _quiet():
            qdq_loss_debug.modify_model_output_intermediate_tensors(self._float_path, floats)
            qdq_loss_debug.modify_model_output_intermediate_tensors(self._path("int8"), quantized)
            pixels = self._pixels[:_COMPARED_IMAGES]
            activations = [
                qdq_loss_debug.collect_activations(str(path), _Reader(pixels)) for path in (quantized, floats)
            ]
            errors = qdq_loss_debug.compute_activation_error(qdq_loss_debug.create_activation_matching(*activations))
        ratios = {name: error["qdq_err"] for name, error in errors.items()}

        def ratio(node: onnx.NodeProto) -> float:
            return min((ratios[name] for name in (*node.input, *node.output) if name in ratios), default=np.inf)

        return tuple(node.name for node in sorted(self._layers, key=ratio))

    def _path(self, name: str) -> Path:
        return self._folder / (name if "." in name else f"{name}.onnx")


def _begin(graph: onnx.GraphProto, *, adapted: bool) -> int:
    """Return the number of the node where quantization begins: the first layer, or the second one.

    On x86, a first convolution with small filters stays in float: its int8 kernel takes 2.7 times as long as the float
    one, and behind it, ONNX Runtime normalizes with the channels last, which takes 14 times as long. A maximum pooling
    next to it takes longer still in float.
    """
    first, second = [number for number, node in enumerate(graph.node) if node.op_type in _LAYERS][:2]
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    is_small = math.prod(weights.get(graph.node[first].input[1], ())[1:]) < _SMALLEST_FILTER
    pools = any(node.op_type == "MaxPool" for node in graph.node[first:second])
    return second if adapted and graph.node[first].op_type == "Conv" and is_small and not pools else first


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's warnings and advice, which are meant for its direct users."""
    root, level = logging.getLogger(), logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)

"""Hard-sigmoids, also those inside hard-swishes, as two operators that have int8 kernels."""

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

_PREFIX = "hard_sigmoid_"
_ALPHA, _BETA = 0.2, 0.5  # ONNX's defaults


def split_hard_sigmoids(model: onnx.ModelProto, first: int) -> None:
    """Replace HardSigmoid, which has no int8 kernel, by Add, Clip and Mul; a hard-swish is its product with its input.

    clip(a x + b, 0, 1) is a clip(x + b / a, 0, 1 / a). In int8, the sum's saturation is the clip, and the product with
    a constant is a change of scale, see `merge_scales`: what is left is one addition.

    Args:
        model: the float graph, changed in place.
        first: the number of the node to begin with.
    """
    nodes = list(model.graph.node)
    replaced: list[onnx.NodeProto] = nodes[:first]
    for number, node in enumerate(nodes[first:]):
        if node.op_type != "HardSigmoid":
            replaced.append(node)
            continue
        attributes = {one.name: one.f for one in node.attribute}
        alpha, beta = attributes.get("alpha", _ALPHA), attributes.get("beta", _BETA)
        name = f"{_PREFIX}{number}"
        constants = {"shift": beta / alpha, "low": 0.0, "high": 1 / alpha, "alpha": alpha}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.float32), f"{name}_{key}") for key, value in constants.items()
        )
        replaced += [
            helper.make_node("Add", [node.input[0], f"{name}_shift"], [f"{name}_sum"], f"{name}_add"),
            helper.make_node(
                "Clip", [f"{name}_sum", f"{name}_low", f"{name}_high"], [f"{name}_clipped"], f"{name}_clip"
            ),
            helper.make_node("Mul", [f"{name}_clipped", f"{name}_alpha"], list(node.output), f"{name}_mul"),
        ]
    del model.graph.node[:]
    model.graph.node.extend(replaced)


def merge_scales(model: onnx.ModelProto) -> None:
    """Remove the products with a constant that `split_hard_sigmoids` made: dequantize with another scale instead.

    Quantize, dequantize, multiply, quantize and dequantize become quantize and dequantize: the integers before and
    behind the product are equal.

    Args:
        model: the quantized graph, changed in place.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    for node in model.graph.node:
        if node.op_type != "Mul" or not node.name.startswith(_PREFIX):
            continue
        before, behind = producers.get(node.input[0]), consumers.get(node.output[0], [])
        if before is None or before.op_type != "DequantizeLinear" or [n.op_type for n in behind] != ["QuantizeLinear"]:
            continue
        for dequantize in consumers[behind[0].output[0]]:
            dequantize.input[0] = before.input[0]
    _remove_unused(model)


def _remove_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and weights whose results nothing uses."""
    outputs = {value.name for value in model.graph.output}
    while True:
        used = Counter(name for node in model.graph.node for name in node.input)
        kept = [node for node in model.graph.node if any(name in outputs or used[name] for name in node.output)]
        if len(kept) == len(model.graph.node):
            break
        del model.graph.node[:]
        model.graph.node.extend(kept)
    weights = [tensor for tensor in model.graph.initializer if used[tensor.name]]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)

"""Split a quantized graph into a frozen part and one that is trained."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from unfreeze.contract.errors import ProofError

_LAYERS = ("Conv", "Gemm", "MatMul")
_QUANTIZED = "_quantized"  # what ONNX Runtime appends to the name of a weight


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight or bias of a trained layer.

    Args:
        name: of the weight in the float graph.
        dequantize: the node that makes it float; None where the layer stays in float.
        is_bias: whether it is a bias.
    """

    name: str
    dequantize: onnx.NodeProto | None
    is_bias: bool

    @property
    def int8(self) -> onnx.NodeProto | None:
        """The node that makes it float if it is int8; biases have 32 bits, whose rounding is too small to matter."""
        return None if self.is_bias else self.dequantize


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is trained of a graph.

    Args:
        nodes: the nodes behind the first trained weights, in their order, and those that dequantize their inputs.
        weights: the trained weights, by the name of the tensor that a layer takes.
        scales: names of the scales of activations that can be learned.
        border: names of the tensors that the other nodes compute for these, or the graph's input.
    """

    nodes: tuple[onnx.NodeProto, ...]
    weights: dict[str, Weight]
    scales: tuple[str, ...]
    border: tuple[str, ...]


def split(model: onnx.ModelProto, floats: Mapping[str, np.ndarray], trained: Collection[str]) -> Parts:
    """Find the trained part of a quantized graph.

    Args:
        model: the graph.
        floats: the weights before quantization, by name.
        trained: names of the weights that may change; the others of the same layer are biases.

    Raises:
        ProofError: no layer has a trained weight.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    weights = _weights(graph, producers, floats, trained)
    if not weights:
        raise ProofError("the exported graph has no layer of those that were tuned")
    behind, chosen = set(weights), set[int]()
    for number, node in enumerate(graph.node):
        if behind.intersection(node.input) or behind.intersection(node.output):
            behind.update(node.output)
            chosen.add(number)
    numbers = {name: number for number, node in enumerate(graph.node) for name in node.output}
    taken = {name for number in chosen for name in graph.node[number].input if name}
    # What dequantizes an input belongs to the trained part, so that the border is small.
    chosen |= {numbers[name] for name in taken if name in producers and producers[name].op_type == "DequantizeLinear"}
    nodes = tuple(node for number, node in enumerate(graph.node) if number in chosen)
    made = {name for node in nodes for name in node.output} | constants | set(weights)
    border = tuple(dict.fromkeys(name for node in nodes for name in node.input if name and name not in made))
    return Parts(nodes=nodes, weights=weights, scales=_scales(nodes), border=border)


def _weights(
    graph: onnx.GraphProto,
    producers: Mapping[str, onnx.NodeProto],
    floats: Mapping[str, np.ndarray],
    trained: Collection[str],
) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    for layer in graph.node:
        if layer.op_type not in _LAYERS:
            continue
        nodes = [producers.get(name) for name in layer.input[1:]]
        names = [
            name if node is None else node.input[0].removesuffix(_QUANTIZED)
            for name, node in zip(layer.input[1:], nodes, strict=True)
        ]
        is_constant = all(node is None or node.op_type == "DequantizeLinear" for node in nodes)
        if is_constant and names[0] in trained and all(name in floats for name in names):
            for number, (taken, name, node) in enumerate(zip(layer.input[1:], names, nodes, strict=True)):
                found[taken] = Weight(name=name, dequantize=node, is_bias=number > 0)
    return found


def _scales(nodes: Collection[onnx.NodeProto]) -> tuple[str, ...]:
    """Return the scales of activations that are quantized and dequantized with the same scale."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    return tuple(
        dict.fromkeys(
            node.input[1]
            for node in nodes
            if node.op_type == "QuantizeLinear"
            and all(
                one.op_type == "DequantizeLinear" and one.input[1] == node.input[1] for one in consumers[node.output[0]]
            )
        )
    )

"""Outputs that are added to a graph behind its probabilities: features, and a score of images unlike the others.

They are added when the graph is complete in its precision: what computes them is in float32, and what computes the
probabilities stays as it is.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from unfreeze.contract.errors import ProofError
from unfreeze.contract.model.manifest import ANSWERS, FEATURES, OUTPUT
from unfreeze.export.score_nodes import Nodes, score_nodes
from unfreeze.tune.ood.score import Score


@dataclass(frozen=True, kw_only=True)
class HeadTensors:
    """Names of the tensors of a graph's head.

    Args:
        features: pooled features, which are standardized next.
        logits: of the linear layer.
        weights: what the softmax takes: logits, divided by the temperature and through the link.
        width: number of features.
    """

    features: str
    logits: str
    weights: str
    width: int


@dataclass(frozen=True, kw_only=True)
class AddedOutputs:
    """What is added to a graph.

    Args:
        score: an output `answers`, float32 [N, C + 1], of the probabilities and this score; None for none.
        features: whether to add an output `features`, float32 [N, F]: pooled, as the head takes them.
    """

    score: Score | None = None
    features: bool = False

    def add_to(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a copy of a graph with these outputs; the graph itself if there are none.

        Args:
            model: a graph that ends with the head.

        Raises:
            ProofError: the head is not found.
        """
        if self.score is None and not self.features:
            return model
        head, classes = find_head(model), model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        batch = model.graph.output[0].type.tensor_type.shape.dim[0].dim_param
        added = onnx.ModelProto()
        added.CopyFrom(model)
        if self.features:
            added.graph.node.append(helper.make_node("Identity", [head.features], [FEATURES], "added_features"))
            added.graph.output.append(_value(FEATURES, batch, head.width))
        if self.score is not None:
            nodes = Nodes()
            score = score_nodes(nodes, self.score, features=head.features, logits=head.logits, weights=head.weights)
            nodes.add("Concat", [OUTPUT, score], ANSWERS, axis=1)
            added.graph.node.extend(nodes.nodes)
            added.graph.initializer.extend(nodes.constants)
            added.graph.output.append(_value(ANSWERS, batch, classes + 1))
        return added


NOTHING_ADDED = AddedOutputs()


def find_head(model: onnx.ModelProto) -> HeadTensors:
    """Find the head of a graph: subtraction, product, linear layer, link and softmax.

    Args:
        model: the graph.

    Raises:
        ProofError: it does not end with them.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    softmax = producers[OUTPUT]
    linear = next((node for node in reversed(model.graph.node) if node.op_type == "Gemm"), None)
    product = None if linear is None else producers.get(linear.input[0])
    difference = None if product is None else producers.get(product.input[0])
    if linear is None or difference is None or softmax.op_type != "Softmax" or difference.op_type != "Sub":
        raise ProofError(
            "the exported graph does not end with a standardization, a linear layer and a softmax, which the outputs "
            "features and answers need; tune with --ood-false-alarms 0, and export without --features"
        )
    return HeadTensors(
        features=difference.input[0],
        logits=linear.output[0],
        weights=softmax.input[0],
        width=int(np.prod(sizes[difference.input[1]])),
    )


def _value(name: str, batch: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, width])

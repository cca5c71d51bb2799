"""The out-of-distribution score as ONNX operators that every runtime has, in float32."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

from unfreeze.contract.model.ood import BASELINE
from unfreeze.tune.ood.gaussian import Gaussians
from unfreeze.tune.ood.score import Score


@dataclass
class Nodes:
    """Nodes and constants that are added to a graph.

    Args:
        prefix: of their names.

    Attributes:
        nodes: in their order.
        constants: of these nodes.
    """

    prefix: str = "ood_"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the name of that."""
        name = f"{self.prefix}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output or name], name, **attributes))
        return output or name

    def constant(self, value: np.ndarray | Tensor | float) -> str:
        """Add a constant of float32, or of int64 if it is, and return its name."""
        array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
        name = f"{self.prefix}constant_{len(self.constants)}"
        array = np.ascontiguousarray(array if array.dtype == np.int64 else array.astype(np.float32))
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def reduce(self, operator: str, values: str) -> str:
        """Reduce [N, K] to [N, 1] with ReduceSum, ReduceMax or ReduceMin."""
        return self.add(operator, [values, self.constant(np.array([1], np.int64))], keepdims=1)

    def square_sum(self, values: str) -> str:
        """Sum the squares of [N, K]: to [N, 1]."""
        return self.reduce("ReduceSum", self.add("Mul", [values, values]))


def score_nodes(nodes: Nodes, score: Score, *, features: str, logits: str, weights: str) -> str:
    """Add the nodes of a score, which compute what `Score.of` does.

    Args:
        nodes: to add to.
        score: the score.
        features: name of the pooled features, [N, F].
        logits: name of the logits, [N, C].
        weights: name of what the softmax takes, [N, C].

    Returns:
        The name of the score, [N, 1].
    """
    if score.gaussians is not None:
        return _distance(nodes, score.gaussians, features, relative=score.method == "relative-mahalanobis")
    if score.method == BASELINE:
        _, log_sum = _log_sum_exp(nodes, weights)
        return log_sum
    temperature = nodes.constant(score.temperature if score.method == "calibrated-energy" else 1.0)
    largest, log_sum = _log_sum_exp(nodes, nodes.add("Div", [logits, temperature]))
    whole = nodes.add("Add", [log_sum, largest])
    return nodes.add("Neg", [nodes.add("Mul", [whole, temperature])])


def _log_sum_exp(nodes: Nodes, values: str) -> tuple[str, str]:
    """Add the largest value, and the logarithm of the sum of exponentials of the differences from it.

    ReduceLogSumExp overflows in runtimes that compute it without the largest value.
    """
    largest = nodes.reduce("ReduceMax", values)
    powers = nodes.add("Exp", [nodes.add("Sub", [values, largest])])
    return largest, nodes.add("Log", [nodes.reduce("ReduceSum", powers)])


def _distance(nodes: Nodes, gaussians: Gaussians, features: str, *, relative: bool) -> str:
    centered = nodes.add("Sub", [features, nodes.constant(gaussians.center)])
    standard = nodes.add("Mul", [centered, nodes.constant(gaussians.scale)])
    components = nodes.add("MatMul", [standard, nodes.constant(gaussians.basis)])
    whitened = nodes.add("MatMul", [components, nodes.constant(gaussians.whitening)])
    # The squared distance from a mean, without the square of the image itself, which is the same for all classes.
    twice, squares = nodes.constant(-2 * gaussians.means.T), nodes.constant(gaussians.means.square().sum(1))
    nearest = nodes.reduce("ReduceMin", nodes.add("Add", [nodes.add("MatMul", [whitened, twice]), squares]))
    inside = nodes.add("Add", [nearest, nodes.square_sum(whitened)])
    if relative:
        scaled = nodes.add("MatMul", [components, nodes.constant(gaussians.whitening_of_all)])
        return nodes.add("Sub", [inside, nodes.square_sum(scaled)])
    left = nodes.add("Relu", [nodes.add("Sub", [nodes.square_sum(standard), nodes.square_sum(components)])])
    return nodes.add("Add", [inside, nodes.add("Mul", [left, nodes.constant(gaussians.inverse_residual)])])

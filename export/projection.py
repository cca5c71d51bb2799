"""A few numbers of an image's features, which a server watches for drift: part of the output `answers`."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor

from unfreeze.contract.arrays import Float32
from unfreeze.contract.model.manifest import ANSWERS, FEATURES, OUTPUT
from unfreeze.contract.reporting import Reporter
from unfreeze.export.candidates import CandidateGraph
from unfreeze.export.prepared import PreparedImages
from unfreeze.export.prove import BATCH_SIZES, check_graph
from unfreeze.export.score_nodes import Nodes
from unfreeze.export.session import Session
from unfreeze.tune.features.components import PrincipalComponents

_MOST, _IMAGES_EACH = 16, 4
_SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear map of features, which on the validation images gives the mean 0 and the covariance 1.

    Args:
        mean: of the features, float32 [F].
        basis: float32 [F, K].
    """

    mean: Tensor
    basis: Tensor

    @classmethod
    def fit(cls, features: Float32[np.ndarray, "n f"]) -> Self:
        """Fit at most 16 principal components to the features of validation images, one for each four images."""
        values = torch.from_numpy(features)
        components = PrincipalComponents.fit(values)
        count = max(1, min(_MOST, len(values) // _IMAGES_EACH, components.basis.shape[1]))
        deviation = components.of(values)[:, :count].std(0, correction=0)
        basis = components.basis[:, :count] / deviation.clamp(min=_SMALLEST)
        return cls(mean=components.mean, basis=basis.contiguous())

    @property
    def count(self) -> int:
        """K."""
        return self.basis.shape[1]

    def add_to(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a copy of a graph, which has features, with the projected ones at the end of `answers`."""
        added = onnx.ModelProto()
        added.CopyFrom(model)
        graph, nodes = added.graph, Nodes(prefix="projection_")
        centered = nodes.add("Sub", [FEATURES, nodes.constant(self.mean)])
        projected = nodes.add("MatMul", [centered, nodes.constant(self.basis)])
        answers = next((node for node in graph.node if ANSWERS in node.output), None)
        if answers is None:
            dims = graph.output[0].type.tensor_type.shape.dim
            shape: list[str | int | None] = [dims[0].dim_param, dims[1].dim_value]
            graph.output.append(helper.make_tensor_value_info(ANSWERS, onnx.TensorProto.FLOAT, shape))
            answers = helper.make_node("Concat", [OUTPUT], [ANSWERS], "projection_answers", axis=1)
        else:
            graph.node.remove(answers)
        answers.input.append(projected)
        (width,) = (one.type.tensor_type.shape.dim[1] for one in graph.output if one.name == ANSWERS)
        width.dim_value += self.count
        graph.node.extend([*nodes.nodes, answers])
        graph.initializer.extend(nodes.constants)
        return added


def with_projection(
    published: CandidateGraph, images: PreparedImages, reporter: Reporter
) -> tuple[CandidateGraph, Projection]:
    """Add projected features to the graph that is published.

    They are fitted to the features that this graph gives, not torch: rounding must not look like drift.

    Args:
        published: with features.
        images: the validation images.
        reporter: shows progress.
    """
    session, step = Session(published.content, published.about.precision), max(BATCH_SIZES)
    advance, found = reporter.track("computing features", len(images.pixels)), []
    for start in range(0, len(images.pixels), step):
        found.append(session.features(images.pixels[start : start + step]))
        advance(len(found[-1]))
    projection = Projection.fit(np.concatenate(found))
    graph = projection.add_to(published.graph)
    check_graph(graph)
    size = len(graph.SerializeToString(deterministic=True))
    return replace(published, graph=graph, about=replace(published.about, bytes=size)), projection

"""A model that classifies colors with one multiplication, so that all of a request's time is the server's."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.hostile.images import COLORS
from bench.hostile.messages import MODEL
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import INPUT, METADATA_KEY, OUTPUT, Manifest, Proof, Provenance
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import sealed

_PROVENANCE = Provenance(backbone="none", weights="none", weights_sha256="", cut="head", seed=0, images=0, versions={})
_PROOF = Proof(
    images=0, batch_sizes=(1,), largest_difference=0, tolerance=0, same_top1=1, accuracy=1, trained_accuracy=1
)


def publish_colors(repository: Path, image_size: int = 32) -> Path:
    """Publish the model.

    Args:
        repository: folder of the repository.
        image_size: height and width of its input.

    Returns:
        The repository.
    """
    spec = PreprocessSpec(resize=(image_size,), crop=(image_size, image_size))
    manifest = Manifest(
        labels=tuple(COLORS),
        preprocess=spec,
        precision="fp32",
        max_batch=32,
        metrics={},
        provenance=_PROVENANCE,
        proof=_PROOF,
    )
    graph = _graph(spec)
    graph.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    ModelRepository(repository).publish(MODEL, sealed(graph.SerializeToString()), manifest)
    return repository


def _graph(spec: PreprocessSpec) -> onnx.ModelProto:
    """Compare an image's mean color with each label's."""
    colors = np.array(list(COLORS.values()), np.float32).T / 255
    bias = -0.5 * (colors**2).sum(0)
    nodes = [
        helper.make_node("Cast", [INPUT], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weight"], ["likeness"]),
        helper.make_node("Add", ["likeness", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [OUTPUT], axis=1),
    ]
    weights = [
        numpy_helper.from_array(colors * 20 / 255, "weight"),
        numpy_helper.from_array((bias * 20).astype(np.float32), "bias"),
    ]
    taken = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", *spec.shape])
    given = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", len(COLORS)])
    graph = helper.make_graph(nodes, "colors", [taken], [given], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

"""A published model with random or given weights, for benchmarks of speed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from unfreeze.contract.model.manifest import INPUT, METADATA_KEY, OUTPUT, Provenance
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED, sealed
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts, save_run
from unfreeze.tune.backbones.weights import load_pretrained

_LABELS = ("ant", "bee", "wasp")


def publish_random(
    backbone: str,
    folder: Path,
    name: str = "random",
    image_size: int | None = None,
    weights: str = "none",
    precision: str = "fp32",
) -> Path:
    """Export a network with random weights, or with a random head on given ones.

    Args:
        backbone: torchvision's name of the network.
        folder: receives `models`, the repository; an existing one is reused.
        name: name of the model.
        image_size: side of its input in pixels; None for the usual one.
        weights: a file of weights, or "none".
        precision: "fp32", "fp16" or "int8".

    Returns:
        The repository.
    """
    repository = folder / "models"
    if ModelRepository(repository).versions(name):
        return repository
    torch.manual_seed(0)
    pretrained = load_pretrained(backbone, weights, image_size)
    network = pretrained.network(backbone, len(_LABELS), torch.device("cpu")).eval()
    facts = RunFacts(
        labels=_LABELS,
        preprocess=pretrained.spec,
        temperature=1.0,
        provenance=Provenance(
            backbone=backbone, weights="none", weights_sha256="", cut="head", seed=0, images=0, versions={}
        ),
        metrics={},
        data=str(folder),
        val=tuple(LabeledFile(path=f"{number}.png", label=number) for number in range(len(_LABELS))),
    )
    (folder / "run").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for file in facts.val:
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(folder / file.path)
    save_run(folder / "run", network, facts, {})
    export_model(folder / "run", repository, name, ExportOptions(precision=precision, max_drop=100, max_batch=32))
    return repository


def publish_linear(folder: Path, name: str = "linear") -> Path:
    """Publish a model that takes almost no time: it averages a few rows of pixels.

    Args:
        folder: receives `models`, the repository.
        name: name of the model.

    Returns:
        The repository.
    """
    path = ModelRepository(publish_random("mobilenet_v3_small", folder / "manifest", name)).path(name, 1)
    manifest = replace(read_manifest(path.read_bytes()), golden=(), sha256=UNSEALED)
    nodes = [
        helper.make_node("Slice", [INPUT, "first", "last", "axis"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], [OUTPUT], axis=-1),
    ]
    constants = {"first": [0], "last": [8], "axis": [1], "axes": [1, 2]}
    initializers = [numpy_helper.from_array(np.array(value, np.int64), key) for key, value in constants.items()]
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", *manifest.preprocess.shape])
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", len(_LABELS)])
    graph = helper.make_graph(nodes, name, [pixels], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    ModelRepository(folder / "models").publish(name, sealed(model.SerializeToString()), manifest)
    return folder / "models"

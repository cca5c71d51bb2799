"""Versions of a tiny model that agree, disagree, fail on bright images, or are slow."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from support.images import encode
from support.manifests import MANIFEST
from unfreeze.contract.model.manifest import METADATA_KEY
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import sealed

Kind = Literal["good", "other", "failing", "slow"]
MODEL = "shades"
_WIDE = 900
DARK, BRIGHT = (encode(Image.new("RGB", (80, 64), (shade,) * 3), "PNG") for shade in (40, 200))


def publish_shades(repository: Path, kinds: Sequence[Kind]) -> Path:
    """Publish versions, from 1, that name an image by its brightness.

    Args:
        repository: where to publish them.
        kinds: "other" gives the other label, "failing" raises for BRIGHT, "slow" takes about 50 ms.
    """
    for kind in kinds:
        ModelRepository(repository).publish(MODEL, _model(kind), MANIFEST)
    return repository


def _model(kind: Kind) -> bytes:
    sign = -1 if kind == "other" else 1
    weight = np.outer(np.ones(3), [sign, -sign]).astype(np.float32) / 20
    constants = {
        "weight": weight,
        "bias": np.array([-19.2 * sign, 19.2 * sign], np.float32),
        "table": np.zeros(128, np.float32),
        "tiny": np.array([1e-20], np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["channels"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["channels", "weight"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
    ]
    last = "logits"
    if kind == "failing":
        nodes += [
            helper.make_node("ReduceMax", ["floats"], ["brightest"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Cast", ["brightest"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["guard"]),
            helper.make_node("Unsqueeze", ["guard", "one"], ["guards"]),
            helper.make_node("Add", [last, "guards"], ["guarded"]),
        ]
        last = "guarded"
    if kind == "slow":
        constants |= {
            one: np.full((rows, _WIDE), 1 / _WIDE, np.float32) for one, rows in (("widen", 3), ("square", _WIDE))
        }
        names = ["wide", *(f"product{number}" for number in range(100))]
        nodes.append(helper.make_node("MatMul", ["channels", "widen"], [names[0]]))
        nodes += [helper.make_node("MatMul", [one, "square"], [other]) for one, other in pairwise(names)]
        nodes += [
            helper.make_node("ReduceMean", [names[-1]], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["mean", "tiny"], ["little"]),
            helper.make_node("Add", [last, "little"], ["late"]),
        ]
        last = "late"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    height, width, channels = MANIFEST.preprocess.shape
    model_input = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", height, width, channels])
    model_output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, MODEL, [model_input], [model_output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    model.metadata_props.add(key=METADATA_KEY, value=MANIFEST.to_json())
    return sealed(model.SerializeToString())

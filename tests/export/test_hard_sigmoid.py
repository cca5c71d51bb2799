"""Hard-swishes in int8: an addition that saturates and a product, without an operator in float."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.tiny_networks import hard_swishes

from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.hard_sigmoid import split_hard_sigmoids
from unfreeze.export.quantize import Quantizer
from unfreeze.export.session import Session
from unfreeze.tune.backbones.network import Network

SPEC = PreprocessSpec(resize=(32,), crop=(32, 32))
COLORS = np.random.default_rng(0).integers(0, 256, (16, 1, 1, 3), dtype=np.uint8)
PIXELS = np.random.default_rng(1).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8) // 4 + COLORS // 4 * 3


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    """A network with three hard-swishes, in float32."""
    network = Network("support.tiny_networks:hard_swishes", hard_swishes(), SPEC, 3).eval()
    torch.nn.init.normal_(network.head.linear.weight, std=5.0)
    return onnx_from_network(CalibratedNetwork(network, 1.0, "softmax"), SPEC.shape)


def test_on_x86_the_first_convolution_stays_in_float_and_hard_swishes_become_int8(
    graph: onnx.ModelProto, tmp_path: Path
) -> None:
    """The first hard-swish is the one behind the first convolution; of the others, no constant product is left."""
    quantizer = Quantizer(graph, PIXELS, "cpu", tmp_path)
    model = quantizer.graph()
    onnx.checker.check_model(model)
    assert len(quantizer.layers) == 2
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["HardSigmoid"], operators["Add"], operators["Clip"]) == (1, 2, 0)
    # Of the normalization, of three hard-swishes, of the standardization.
    assert operators["Mul"] == 5
    found, expected = (Session(one.SerializeToString(), "int8").run(PIXELS) for one in (model, graph))
    assert expected.std(0).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_sum_saturates_where_a_hard_sigmoid_is_0_or_1(graph: onnx.ModelProto, tmp_path: Path) -> None:
    """Its integers are those of values from 0 up, and are dequantized as values up to 1."""
    model = Quantizer(graph, PIXELS, "cpu", tmp_path).graph()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    consumers = {name: node for node in model.graph.node for name in node.input}
    (first, second) = (node for node in model.graph.node if node.op_type == "Add")
    for node in (first, second):
        quantize = consumers[node.output[0]]
        dequantize = consumers[quantize.output[0]]
        assert weights[quantize.input[2]] == weights[dequantize.input[2]] == 0
        assert weights[dequantize.input[1]] == pytest.approx(weights[quantize.input[1]] / 6, rel=1e-5)
        assert weights[dequantize.input[1]] <= 1 / 255 + 1e-6


def test_other_targets_keep_hard_sigmoids(graph: onnx.ModelProto, tmp_path: Path) -> None:
    """Their activations are symmetric, so a sum does not saturate at 0."""
    quantizer = Quantizer(graph, PIXELS, "arm", tmp_path)
    assert len(quantizer.layers) == 3
    assert sum(node.op_type == "HardSigmoid" for node in quantizer.graph().graph.node) == 3


def test_splitting_changes_no_value(graph: onnx.ModelProto, tmp_path: Path) -> None:
    """In float, the three operators compute the hard-sigmoid."""
    Quantizer(graph, PIXELS, "arm", tmp_path)
    inlined = onnx.load(tmp_path / "float.onnx")
    split = onnx.ModelProto()
    split.CopyFrom(inlined)
    split_hard_sigmoids(split, 0)
    assert not any(node.op_type == "HardSigmoid" for node in split.graph.node)
    found, expected = (Session(one.SerializeToString(), "fp32").run(PIXELS) for one in (split, inlined))
    np.testing.assert_allclose(found, expected, atol=1e-6)

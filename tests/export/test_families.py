"""Every family of torchvision's classifiers exports, computes what torch computes, and can become an engine."""

from collections import Counter

import numpy as np
import pytest
import torch
from support.families import SMALL_MODELS, builder_of, image_size, small_model

from bench.families import BUILDERS, PRECISIONS, export_builder
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.prove import check_graph
from unfreeze.export.session import Session
from unfreeze.tune.backbones.families import FAMILIES, family_of
from unfreeze.tune.backbones.network import Network

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
# In `make test`; the others are exhaustive. Convolutions, concatenation, a shuffle of channels, squeeze and excitation,
# layer norms, shifted windows, and a class token.
REPRESENTATIVES = (
    "alexnet",
    "resnet18",
    "densenet121",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "convnext_tiny",
    "swin_t",
    "vit_b_16",
)


def test_every_family_is_exported_by_the_exhaustive_tests() -> None:
    """No way to split a network into blocks is missing."""
    found = {id(family_of(backbone)) for backbone in BUILDERS}
    assert found == {id(family) for family in FAMILIES.values()}


@pytest.mark.parametrize(
    "key",
    [pytest.param(key, marks=[] if key in REPRESENTATIVES else [pytest.mark.exhaustive]) for key in SMALL_MODELS],
)
def test_a_small_member_of_a_family_exports_with_a_dynamic_batch(key: str) -> None:
    """Three images at once and one at a time give torch's probabilities, which differ between images."""
    size = image_size(key)
    network = _network(key, PreprocessSpec(resize=(size,), crop=(size, size)))
    pixels = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(pixels).numpy()
    assert np.abs(expected[:, None] - expected[None]).max(2)[~np.eye(3, dtype=bool)].min() > 1e-3
    graph = onnx_from_network(network, (size, size, 3))
    check_graph(graph)
    session = Session(graph.SerializeToString(), "fp32")
    np.testing.assert_allclose(session.run(pixels.numpy()), expected, atol=TOLERANCES["fp32"])
    alone = np.concatenate([session.run(pixels.numpy()[row : row + 1]) for row in range(3)])
    np.testing.assert_allclose(alone, expected, atol=TOLERANCES["fp32"])


def _network(key: str, spec: PreprocessSpec) -> CalibratedNetwork:
    """Put a head with standardized features on a small model."""
    network = Network(builder_of(key), small_model(key), spec, 3).eval()
    noise = torch.randint(0, 256, (8, *spec.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.train().momentum = None  # its statistics become those of the noise
        network.run_blocks(noise, 0, len(network.block_names))
        network.eval()
        features = network.head.pool(network.run_blocks(noise, 0, len(network.block_names)))
    network.head.mean.copy_(features.mean(0))
    deviation = features.std(0)
    network.head.inverse_std.copy_(1 / (deviation + 0.1 * deviation.max() + 1e-12))
    torch.nn.init.normal_(network.head.linear.weight, std=1 / len(deviation) ** 0.5)  # logits of about 1
    return CalibratedNetwork(network, 1.0, "softmax")


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backbone", BUILDERS)
def test_a_builder_exports_and_becomes_an_engine(backbone: str, precision: str) -> None:
    """At full size, in both precisions; the engine of the float32 graph is no smaller than its weights."""
    found = export_builder(backbone, precision, engine=precision == "fp32")
    expected = found.expected
    assert np.abs(expected[:, None] - expected[None]).max(2)[~np.eye(3, dtype=bool)].min() > 0.01
    np.testing.assert_allclose(found.together, expected, atol=TOLERANCES[precision])
    np.testing.assert_allclose(found.alone, expected, atol=TOLERANCES[precision])
    if precision == "fp32":
        assert not found.refusal
        assert found.engine_mb > 0.9 * found.model_mb


def test_squeezing_is_one_operator() -> None:
    """Each squeeze-and-excitation pools with GlobalAveragePool, and no index is computed from the batch size."""
    size = image_size("efficientnet_b0")
    graph = onnx_from_network(
        _network("efficientnet_b0", PreprocessSpec(resize=(size,), crop=(size, size))), (size, size, 3)
    ).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["GlobalAveragePool"] == 3
    assert not {"Shape", "Gather", "Range", "Reshape"} & operators.keys()

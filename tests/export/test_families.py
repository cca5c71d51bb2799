"""Every family of torchvision's classifiers exports, in float32 and float16, and answers as in torch."""

from functools import lru_cache

import numpy as np
import onnxruntime
import pytest
import torch

from export.graph import HalfNetwork, Served, graph_from_network
from export.prove import check_graph
from tune.families import _FAMILIES, family_of
from tune.weights import load_pretrained

SMALLEST = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_16",
)
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}


@lru_cache(maxsize=1)  # in both precisions, one after the other
def _served(backbone: str) -> Served:
    """Random weights, and a head that answers otherwise to other pictures."""
    torch.manual_seed(0)
    network = load_pretrained(backbone, "none").network(backbone, 3, torch.device("cpu"))
    with torch.inference_mode():
        features = network.run_blocks(_pixels(network.picture_shape), 0, len(network.block_names)).mean((2, 3))
        network.head.mean.copy_(features.mean(0))
        network.head.inverse_std.copy_(1 / (features.std(0) + 1e-3 * features.abs().max() + 1e-12))
    torch.nn.init.normal_(network.head.linear.weight, std=0.1)
    return Served(network, 1.0, "softmax")


def _pixels(shape: tuple[int, int, int]) -> torch.Tensor:
    """Noise of several sizes of grain and several colours."""
    rng = np.random.default_rng(0)
    grains = [rng.integers(0, 256, (-(-shape[0] // grain), -(-shape[1] // grain), 3)) for grain in (1, 8, 40)]
    pictures = [
        np.kron(one, np.ones((grain, grain, 1)))[: shape[0], : shape[1]]
        for one, grain in zip(grains, (1, 8, 40), strict=True)
    ]
    return torch.from_numpy(np.stack(pictures).astype(np.uint8))


def test_every_family_has_one_here() -> None:
    """No two of these are of one family that is cut in the same way, and none is missing."""
    found = {id(family_of(backbone)) for backbone in SMALLEST}
    assert found == {id(family) for family in _FAMILIES.values()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backbone", SMALLEST)
def test_a_family_exports_with_a_dynamic_batch(backbone: str, precision: str) -> None:
    """Three pictures at once and one at a time give torch's answers, which differ from picture to picture."""
    served = _served(backbone)
    pixels = _pixels(served.network.picture_shape)
    with torch.inference_mode():
        expected = served(pixels).numpy()
    assert np.abs(expected[:, None] - expected[None]).max(2)[~np.eye(3, dtype=bool)].min() > 0.01
    shape = served.network.picture_shape
    if precision == "fp16":
        served = Served(HalfNetwork(served.network), 1.0, "softmax")
    graph = graph_from_network(served, shape)
    check_graph(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    together = session.run(None, {"pixels": pixels.numpy()})[0]
    alone = np.concatenate([session.run(None, {"pixels": pixels.numpy()[row : row + 1]})[0] for row in range(3)])
    np.testing.assert_allclose(together, expected, atol=TOLERANCES[precision])
    np.testing.assert_allclose(alone, expected, atol=TOLERANCES[precision])

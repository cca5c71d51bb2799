"""Every family of torchvision's classifiers exports, in float32 and float16, and answers as in torch."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
import pytest
import torch

from export.graph import HalfNetwork, Served, graph_from_network
from export.prove import check_graph
from export.session import Session
from tune.families import _FAMILIES, family_of
from tune.weights import load_pretrained

SMALLEST = (
    "maxvit_t",
    "swin_v2_t",
    "swin_t",
    "densenet121",
    "vit_b_16",
    "inception_v3",
    "efficientnet_b0",
    "googlenet",
    "convnext_tiny",
    "regnet_y_400mf",
    "vgg11",
    "alexnet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}


def _pixels(shape: tuple[int, int, int]) -> torch.Tensor:
    """Noise of several sizes of grain and several colours."""
    rng, pictures = np.random.default_rng(0), []
    for grain in (1, 8, 40):
        coarse = rng.integers(0, 256, (-(-shape[0] // grain), -(-shape[1] // grain), 3))
        pictures.append(np.kron(coarse, np.ones((grain, grain, 1)))[: shape[0], : shape[1]])
    return torch.from_numpy(np.stack(pictures).astype(np.uint8))


def _served(backbone: str) -> Served:
    """Random weights, activations of the usual size, and a head that answers otherwise to other pictures."""
    torch.manual_seed(0)
    network = load_pretrained(backbone, "none").network(backbone, 3, torch.device("cpu"))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train().momentum = None  # its statistics become those of the first batch
        network.run_blocks(_pixels(network.picture_shape), 0, len(network.block_names))
        for module in network.eval().modules():
            if isinstance(
                module, torch.nn.BatchNorm2d
            ):  # what hardly varies is not blown up, and halves' rounding with it
                module.running_var += module.running_mean**2
        features = network.run_blocks(_pixels(network.picture_shape), 0, len(network.block_names)).mean((2, 3))
    deviation = features.std(0)
    network.head.mean.copy_(features.mean(0))
    network.head.inverse_std.copy_(1 / (deviation + 0.1 * deviation.max() + 1e-12))
    # Logits of a third or so: random weights pass rounding on as they pass on everything else.
    torch.nn.init.normal_(network.head.linear.weight, std=0.3 / len(deviation) ** 0.5)
    return Served(network, 1.0, "softmax")


def _answers(backbone: str, precision: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let torch answer in float32, and ONNX Runtime to all pictures at once and to one at a time."""
    torch.set_num_threads(1)
    served = _served(backbone)
    shape = served.network.picture_shape
    pixels = _pixels(shape)
    with torch.inference_mode():
        expected = served(pixels).numpy()
    if precision == "fp16":
        served = Served(HalfNetwork(served.network), 1.0, "softmax")
    graph = graph_from_network(served, shape)
    check_graph(graph)
    session = Session(graph.SerializeToString(), precision)
    together = session.run(pixels.numpy())
    alone = np.concatenate([session.run(pixels.numpy()[row : row + 1]) for row in range(3)])
    return expected, together, alone


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[tuple[str, str], Future]]:
    """All of them, from two processes: an export runs on one core."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        yield {
            (backbone, precision): pool.submit(_answers, backbone, precision)
            for backbone in SMALLEST
            for precision in TOLERANCES
        }
        pool.shutdown(cancel_futures=True)


def test_every_family_has_one_here() -> None:
    """No way to split a network into blocks is missing."""
    found = {id(family_of(backbone)) for backbone in SMALLEST}
    assert found == {id(family) for family in _FAMILIES.values()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("backbone", SMALLEST)
def test_a_family_exports_with_a_dynamic_batch(
    backbone: str, precision: str, answers: dict[tuple[str, str], Future]
) -> None:
    """Three pictures at once and one at a time give torch's answers, which differ from picture to picture."""
    expected, together, alone = answers[backbone, precision].result()
    assert np.abs(expected[:, None] - expected[None]).max(2)[~np.eye(3, dtype=bool)].min() > 0.01
    np.testing.assert_allclose(together, expected, atol=TOLERANCES[precision])
    np.testing.assert_allclose(alone, expected, atol=TOLERANCES[precision])

"""Which of torchvision's families export, and which of them TensorRT for RTX builds engines of.

python -m bench.families > docs/families.md

Random weights; one builder of each family. Largest differences are of probabilities, between torch in float32 and ONNX
Runtime. Engines are built for two kinds of GPU on a machine that has none.
"""

import sys
import time
from importlib.metadata import version

import cyclopts
import numpy as np
import torch

from contract.errors import UnfreezeError, first_line
from contract.reporting import Silent
from export.engine import build_engine
from export.graph import HalfNetwork, Served, graph_from_network
from export.options import EngineOptions
from export.prove import check_graph
from export.session import Session
from tune.weights import load_pretrained
from unfreeze.console import REMARKS

BUILDERS = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_16",
    "wide_resnet50_2",
)
_ENGINE = EngineOptions(flavour="tensorrt_rtx", targets=("SM89", "SM120"), batches=(1, 8, 32))
_PACKAGES = ("torch", "torchvision", "onnxruntime", "tensorrt-rtx")
_HEAD = f"""\
# What exports, and what becomes an engine

Made by `python -m bench.families`, with {", ".join(f"{name} {version(name)}" for name in _PACKAGES)}.
Random weights. Differences are of probabilities, between torch in float32 and ONNX Runtime on a CPU, over three
pictures in one batch and one by one. Engines are TensorRT for RTX's, for {" and ".join(_ENGINE.targets)}, built on a
machine with no GPU; where one is not built, the library's words stand in its place.

| builder | fp32 differs by | fp16 differs by | fp32, MB | fp16, MB | engine of fp32 | engine of fp16 |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Export every family, and build engines: the table goes to standard output."""
    lines = []
    for backbone in BUILDERS:
        REMARKS.print(backbone)
        lines.append(_line(backbone))
    sys.stdout.write(_HEAD + "".join(lines))


def _line(backbone: str) -> str:
    torch.manual_seed(0)
    network = load_pretrained(backbone, "none").network(backbone, 3, torch.device("cpu"))
    shape = network.picture_shape
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    full, half = Served(network, 1.0, "softmax"), Served(HalfNetwork(network), 1.0, "softmax")
    with torch.inference_mode():
        expected = full(torch.from_numpy(pixels)).numpy()
    differences, sizes, engines = [], [], []
    for served, precision in ((full, "fp32"), (half, "fp16")):
        graph = graph_from_network(served, shape)
        check_graph(graph)
        content = graph.SerializeToString()
        differences.append(f"{_difference(content, precision, pixels, expected):.0e}")
        sizes.append(f"{len(content) / 1e6:.1f}")
        engines.append(_engine(content, shape))
    return f"| {' | '.join([backbone, *differences, *sizes, *engines])} |\n"


def _difference(content: bytes, precision: str, pixels: np.ndarray, expected: np.ndarray) -> float:
    session = Session(content, precision)
    together = session.run(pixels)
    alone = np.concatenate([session.run(pixels[row : row + 1]) for row in range(len(pixels))])
    return float(max(np.abs(together - expected).max(), np.abs(alone - expected).max()))


def _engine(content: bytes, shape: tuple[int, int, int]) -> str:
    started = time.monotonic()
    try:
        engine = build_engine(content, shape, _ENGINE, Silent())
    except UnfreezeError as error:
        return first_line(error).replace("|", "\\|")
    return f"{len(engine.plan) / 1e6:.1f} MB in {time.monotonic() - started:.1f} s"


if __name__ == "__main__":
    cyclopts.run(main)

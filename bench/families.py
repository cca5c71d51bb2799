"""Which of torchvision's families export, and which of them TensorRT for RTX builds engines of.

python -m bench.families

One builder of each family, with random weights; tests hold the same to account.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cyclopts
import numpy as np
import torch

from unfreeze.console import REMARKS
from unfreeze.contract.errors import ProofError, first_line
from unfreeze.contract.reporting import Silent
from unfreeze.export.engine import build_engine
from unfreeze.export.graph import HalfNetwork, Served, graph_from_network
from unfreeze.export.options import EngineOptions
from unfreeze.export.prove import check_graph
from unfreeze.export.session import Session
from unfreeze.tune.backbones.weights import load_pretrained

BUILDERS = (
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
PRECISIONS = ("fp32", "fp16")
_ENGINE = EngineOptions(flavour="tensorrt_rtx", targets=("SM89", "SM120"), batches=(1, 8, 32))
_PACKAGES = ("torch", "torchvision", "onnxruntime", "tensorrt-rtx")
_HEAD = f"""\
# What exports, and what becomes an engine

Made by `python -m bench.families`, with {", ".join(f"{name} {version(name)}" for name in _PACKAGES)}.
Random weights, with the statistics of their norms taken from images, one builder of each family. Differences are of
probabilities, between torch in float32 and ONNX Runtime on a CPU, over three images in one batch and one by one.
Engines are TensorRT for RTX's, for {" and ".join(_ENGINE.targets)}, built on a machine with no GPU; where one is not
built, the library's words stand in its place. The engines have not been run: that takes a GPU that they are for.

| builder | fp32 differs by | fp16 differs by | fp32 file, MB | fp16 file, MB | engine of fp32 | engine of fp16 |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What became of one builder in one precision.

    Args:
        expected: what torch answers in float32.
        together: what ONNX Runtime answers to all images at once.
        alone: what it answers to one at a time.
        model_mb: size of the graph, in millions of bytes.
        engine_mb: size of the engine; 0 where there is none.
        refusal: why there is none, in the library's words.
    """

    expected: np.ndarray
    together: np.ndarray
    alone: np.ndarray
    model_mb: float
    engine_mb: float
    refusal: str

    @property
    def difference(self) -> float:
        """The largest difference of any probability from torch's."""
        return float(max(np.abs(answer - self.expected).max() for answer in (self.together, self.alone)))


def main(out: Path = Path("docs/families.md")) -> None:
    """Export every family, and build engines.

    Args:
        out: gets the table; TensorRT's own warnings go to standard output.
    """
    lines = []
    for backbone in sorted(BUILDERS):
        REMARKS.print(backbone)
        found = [export_builder(backbone, precision, engine=True) for precision in PRECISIONS]
        differences = [f"{one.difference:.0e}" for one in found]
        sizes = [f"{one.model_mb:.1f}" for one in found]
        engines = [f"{one.engine_mb:.1f} MB" if one.engine_mb else one.refusal.partition(";")[0] for one in found]
        lines.append(f"| {' | '.join([backbone, *differences, *sizes, *engines])} |\n")
    out.write_text(_HEAD + "".join(lines))


def export_builder(backbone: str, precision: str, *, engine: bool) -> Exported:
    """Export a network with random weights and run it.

    Args:
        backbone: torchvision's name of the builder.
        precision: "fp32" or "fp16".
        engine: build one of it, too.
    """
    torch.set_num_threads(1)
    served = _served(backbone)
    shape = served.network.image_shape
    pixels = _pixels(shape)
    with torch.inference_mode():
        expected = served(pixels).numpy()
    if precision == "fp16":
        served = Served(HalfNetwork(served.network), 1.0, "softmax")
    graph = graph_from_network(served, shape)
    check_graph(graph)
    model = graph.SerializeToString()
    session = Session(model, precision)
    engine_mb, refusal = 0.0, ""
    try:
        if engine:
            engine_mb = len(build_engine(model, shape, _ENGINE, Silent()).plan) / 1e6
    except ProofError as error:
        refusal = first_line(error)
    return Exported(
        expected=expected,
        together=session.run(pixels.numpy()),
        alone=np.concatenate([session.run(pixels.numpy()[row : row + 1]) for row in range(len(pixels))]),
        model_mb=len(model) / 1e6,
        engine_mb=engine_mb,
        refusal=refusal,
    )


def _served(backbone: str) -> Served:
    """Random weights, activations of the usual size, and a head that answers otherwise to other images."""
    torch.manual_seed(0)
    network = load_pretrained(backbone, "none").network(backbone, 3, torch.device("cpu"))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train().momentum = None  # its statistics become those of the first batch
        network.run_blocks(_pixels(network.image_shape), 0, len(network.block_names))
        for module in network.eval().modules():
            # What hardly varies is not blown up, and halves' rounding with it.
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var += module.running_mean**2
        features = network.run_blocks(_pixels(network.image_shape), 0, len(network.block_names)).mean((2, 3))
    deviation = features.std(0)
    network.head.mean.copy_(features.mean(0))
    network.head.inverse_std.copy_(1 / (deviation + 0.1 * deviation.max() + 1e-12))
    # Logits of a third or so: random weights pass rounding on as they pass on everything else.
    torch.nn.init.normal_(network.head.linear.weight, std=0.3 / len(deviation) ** 0.5)
    return Served(network, 1.0, "softmax")


def _pixels(shape: tuple[int, int, int]) -> torch.Tensor:
    """Noise of several sizes of grain and several colors."""
    rng, images = np.random.default_rng(0), []
    for grain in (1, 8, 40):
        coarse = rng.integers(0, 256, (-(-shape[0] // grain), -(-shape[1] // grain), 3))
        images.append(np.kron(coarse, np.ones((grain, grain, 1)))[: shape[0], : shape[1]])
    return torch.from_numpy(np.stack(images).astype(np.uint8))


if __name__ == "__main__":
    cyclopts.run(main)

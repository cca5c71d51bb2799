"""Networks with random weights that answer otherwise to other pictures, and pictures to ask them about."""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.pictures import write_textures
from contract.preprocess import PreprocessSpec, prepare
from tune.network import Network, pool
from tune.pictures import Picture
from tune.weights import load_pretrained

PHOTOGRAPH_PX = (500, 375)  # what photographs of the usual sets have
_PICTURES = 32  # that statistics are taken from
_USUAL_MOMENTUM = 0.1
_LOGITS = 3.0  # their standard deviation


def draw_photographs(folder: Path, each: int) -> None:
    """Draw textures of fourteen kinds, three of ten for validation, as JPEG files as large as photographs."""
    write_textures(folder, each)
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as picture:
            picture.resize(PHOTOGRAPH_PX, Image.Resampling.BICUBIC).save(path, quality=90)


def random_network(backbone: str, classes: int, pictures: Sequence[Picture]) -> tuple[Network, PreprocessSpec]:
    """Make a network on the CPU whose activations are of the usual size, so that float16 holds them.

    The statistics of its norms are those of some pictures, and its head tells each picture by the nearest class.

    Args:
        backbone: torchvision's name of the builder.
        classes: how many.
        pictures: some of each class.
    """
    torch.manual_seed(0)
    pretrained = load_pretrained(backbone, "none")
    network = pretrained.network(backbone, classes, torch.device("cpu"))
    some = sorted(pictures, key=lambda picture: picture.path.name)[:_PICTURES]  # of all classes
    pixels = prepared(some, pretrained.spec)
    with torch.inference_mode():
        _settle(network, pixels)
        features = pool(network.run_blocks(pixels, 0, len(network.block_names)))
        _answer(network, features, torch.tensor([picture.label for picture in some]))
    return network, pretrained.spec


def prepared(pictures: Sequence[Picture], spec: PreprocessSpec, count: int | None = None) -> Tensor:
    """Decode pictures, all or so many, again from the first where there are fewer: uint8 [N, H, W, 3]."""
    made = [prepare(picture.path.read_bytes(), spec) for picture in pictures[:count]]
    return torch.from_numpy(np.stack(list(islice(cycle(made), count or len(made)))))


def _settle(network: Network, pixels: Tensor) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None  # its statistics become those of the first batch
    network.run_blocks(pixels, 0, len(network.block_names))
    for norm in norms:
        norm.eval().momentum = _USUAL_MOMENTUM
        norm.running_var += norm.running_mean**2  # what hardly varies is not blown up


def _answer(network: Network, features: Tensor, labels: Tensor) -> None:
    """Standardise the features [N, F], and weigh them by the mean of each class."""
    head, deviation = network.head, features.std(0)
    head.mean.copy_(features.mean(0))
    head.inverse_std.copy_(1 / (deviation + 0.1 * deviation.max() + 1e-12))
    standard = (features - head.mean) * head.inverse_std
    rows = [standard[labels == label] for label in range(network.classes)]
    means = torch.stack([row.mean(0) if len(row) else torch.zeros(standard.shape[1]) for row in rows])
    head.linear.weight.copy_(means * _LOGITS / (standard @ means.T).std())
    head.linear.bias.zero_()

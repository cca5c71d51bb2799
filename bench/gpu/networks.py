"""Networks with random weights whose answers depend on the image, and images for them."""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.images import write_textures
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.tune.backbones.network import Network, pool
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.data.images import LabeledImage

PHOTOGRAPH_PX = (500, 375)  # usual size of photographs in data sets
_IMAGES = 32  # number of images for the statistics
_USUAL_MOMENTUM = 0.1
_LOGITS = 3.0  # their standard deviation


def draw_photographs(folder: Path, each: int) -> None:
    """Draw textures of fourteen kinds as JPEG files of photograph size, three of ten for validation."""
    write_textures(folder, each)
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            image.resize(PHOTOGRAPH_PX, Image.Resampling.BICUBIC).save(path, quality=90)


def random_network(backbone: str, classes: int, images: Sequence[LabeledImage]) -> tuple[Network, PreprocessSpec]:
    """Build a network on the CPU with activations of usual magnitude, so that float16 does not overflow.

    Normalization statistics come from some images; the head predicts the class with the nearest mean.

    Args:
        backbone: torchvision's name of the network.
        classes: number of classes.
        images: some of each class.
    """
    torch.manual_seed(0)
    pretrained = load_pretrained(backbone, "none")
    network = pretrained.network(backbone, classes, torch.device("cpu"))
    some = sorted(images, key=lambda image: image.path.name)[:_IMAGES]  # of all classes
    pixels = prepared(some, pretrained.spec)
    with torch.inference_mode():
        _settle(network, pixels)
        features = pool(network.run_blocks(pixels, 0, len(network.block_names)))
        _answer(network, features, torch.tensor([image.label for image in some]))
    return network, pretrained.spec


def prepared(images: Sequence[LabeledImage], spec: PreprocessSpec, count: int | None = None) -> Tensor:
    """Prepare `count` images (default all), repeating them if there are fewer: uint8 [N, H, W, 3]."""
    made = [prepare(image.path.read_bytes(), spec) for image in images[:count]]
    return torch.from_numpy(np.stack(list(islice(cycle(made), count or len(made)))))


def _settle(network: Network, pixels: Tensor) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None  # take the statistics of the first batch
    network.run_blocks(pixels, 0, len(network.block_names))
    for norm in norms:
        norm.eval().momentum = _USUAL_MOMENTUM
        norm.running_var += norm.running_mean**2  # do not amplify channels that hardly vary


def _answer(network: Network, features: Tensor, labels: Tensor) -> None:
    """Standardize the features [N, F] and weight them by the mean of each class."""
    head, deviation = network.head, features.std(0)
    head.mean.copy_(features.mean(0))
    head.inverse_std.copy_(1 / (deviation + 0.1 * deviation.max() + 1e-12))
    standard = (features - head.mean) * head.inverse_std
    rows = [standard[labels == label] for label in range(network.classes)]
    means = torch.stack([row.mean(0) if len(row) else torch.zeros(standard.shape[1]) for row in rows])
    head.linear.weight.copy_(means * _LOGITS / (standard @ means.T).std())
    head.linear.bias.zero_()

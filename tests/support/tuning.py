"""Small networks with random weights, and what one pass of them over small images gives."""

from pathlib import Path

import torch

from support.images import write_images
from support.runs import SPEC
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.families import build
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.images import TRAIN, LabeledImage
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.cache import Cached
from unfreeze.tune.features.extract import ExtractedFeatures, extract_features
from unfreeze.tune.features.placement import CachePlacement

FLOAT32 = Precision(device=torch.device("cpu"), dtype=torch.float32)
BFLOAT16 = Precision(device=torch.device("cpu"), dtype=torch.bfloat16)
AMPLE = 1 << 30


def small_network(
    backbone: str = "squeezenet1_1", *, spec: PreprocessSpec = SPEC, classes: int = 3, **options: object
) -> Network:
    """Build a network with random weights, the same each time, in eval mode."""
    torch.manual_seed(0)
    return Network(backbone, build(backbone, **options), spec, classes).eval()


def training_images(folder: Path, per_class: int = 8) -> tuple[LabeledImage, ...]:
    """Write images of three colors, 64 by 80 pixels, and read them."""
    write_images(folder / "data" / TRAIN, per_class)
    write_images(folder / "data" / "val", 1, first_seed=500)
    return read_dataset(folder / "data").splits[TRAIN]


def activations_at(network: Network, position: int, count: int = 24, *, views: int = 1, seed: int = 0) -> Cached:
    """Make up activations of three classes that differ in their means; at 0, images of noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    shape = network.border_shape(position)
    if position == 0:
        images = torch.randint(0, 256, (count, views, *shape), dtype=torch.uint8, generator=generator)
        return Cached(position=0, activations=images, labels=labels)
    centers = torch.randn(3, *shape, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, views, *shape, generator=generator)
    activations = (centers[labels][:, None] + noise).relu().bfloat16()
    return Cached(position=position, activations=activations, labels=labels)


def placement_in(folder: Path, budget_bytes: int = AMPLE) -> CachePlacement:
    """Give room for activations."""
    return CachePlacement(budget_bytes=budget_bytes, folder=folder)


def extracted_at(  # noqa: PLR0913 - one pass is told several things
    network: Network,
    position: int,
    images: tuple[LabeledImage, ...],
    folder: Path,
    *,
    views: int = 2,
    precision: Precision = FLOAT32,
    budget_bytes: int = AMPLE,
    survey: bool = False,
) -> ExtractedFeatures:
    """Run the network once over the images."""
    recipe = Views(spec=SPEC, count=views, seed=1)
    return extract_features(
        network, position, images, recipe, precision, placement_in(folder, budget_bytes), survey=survey
    )

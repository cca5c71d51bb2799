"""Small networks with random weights, and the features that they extract from small images."""

from pathlib import Path
from typing import Any

import torch

from support.families import SMALL_MODELS, builder_of
from support.images import write_images
from support.runs import SPEC
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.images import TRAIN, LabeledImage
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.activations import Cached
from unfreeze.tune.features.extract import ExtractedFeatures, extract_features
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.options import TuneOptions

FLOAT32 = Precision(device=torch.device("cpu"), dtype=torch.float32)
BFLOAT16 = Precision(device=torch.device("cpu"), dtype=torch.bfloat16)
AMPLE = 1 << 30
_SMALL = {key: SMALL_MODELS[key] for key in ("resnet18", "swin_t", "vit_b_16", "vgg11", "vgg11:bn")}


def small_network(key: str = "squeezenet1_1", *, spec: PreprocessSpec = SPEC, classes: int = 3) -> Network:
    """Build a network with random weights, the same each time, in eval mode.

    Args:
        key: of `support.families.SMALL_MODELS`, or a builder's name for the builder's full model.
        spec: how images are prepared.
        classes: of the head.
    """
    torch.manual_seed(0)
    model = _SMALL[key]() if key in _SMALL else find_backbone(key).build(spec.shape[:2])
    return Network(builder_of(key), model, spec, classes).eval()


def class_mean_options(**options: Any) -> TuneOptions:
    """Return options that train a small vision transformer for an epoch and pool its class token and patches."""
    return TuneOptions(
        backbone="timm/test_vit",
        weights="none",
        image_size=32,
        device="cpu",
        epochs=1,
        pooling="class-mean",
        **options,
    )


def training_images(folder: Path, per_class: int = 8) -> tuple[LabeledImage, ...]:
    """Write images of three colors, of 80 by 64 pixels, and read them."""
    write_images(folder / "data" / TRAIN, per_class)
    write_images(folder / "data" / "val", 1, first_seed=500)
    return read_dataset(folder / "data").splits[TRAIN]


def activations_at(network: Network, position: int, count: int = 24, *, views: int = 1, seed: int = 0) -> Cached:
    """Draw activations of three classes with different means; at position 0, images of noise."""
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
    """Cache activations in memory, or in a file in a folder."""
    return CachePlacement(budget_bytes=budget_bytes, folder=folder)


def extracted_at(  # noqa: PLR0913 - one pass has many options
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
    """Extract features with one pass over the images."""
    recipe = Views(spec=SPEC, count=views, seed=1)
    return extract_features(
        network, position, images, recipe, precision, placement_in(folder, budget_bytes), survey=survey
    )

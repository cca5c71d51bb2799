"""Images are prepared as timm's evaluation transforms prepare them."""

import io
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image

from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.tune.backbones.timm_config import preprocess_from_config

CONFIGS: dict[str, dict[str, Any]] = {
    "ImageNet": {"interpolation": "bicubic", "crop_pct": 0.875},
    "bilinear": {"interpolation": "bilinear", "crop_pct": 0.95, "mean": (0.5,) * 3, "std": (0.5,) * 3},
    "all of the image": {"interpolation": "bicubic", "crop_pct": 1.0},
    "squash": {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "squash"},
    "14-pixel patches": {"interpolation": "bicubic", "crop_pct": 1.0, "input_size": (3, 98, 98)},
}


def _photograph(width: int, height: int) -> Image.Image:
    """Draw smooth shapes with some noise."""
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (150, 333), (224, 224)])
@pytest.mark.parametrize("name", CONFIGS)
def test_pixels_are_those_of_timms_transform(name: str, size: tuple[int, int]) -> None:
    """Up to rounding, because we resize and crop in one step; mean and standard deviation are the configuration's."""
    config = {"input_size": (3, 112, 112), **CONFIGS[name]}
    spec = preprocess_from_config(config, "a network")
    resolved = timm.data.resolve_data_config(pretrained_cfg=config)
    transform = timm.data.create_transform(**resolved, is_training=False)
    image, encoded = _photograph(*size), io.BytesIO()
    image.save(encoded, "PNG")
    theirs = transform(image).numpy()
    mean, std = np.array(resolved["mean"]), np.array(resolved["std"])
    pixels = (theirs.transpose(1, 2, 0) * std + mean) * 255
    ours = prepare(encoded.getvalue(), spec)
    assert ours.shape == pixels.shape
    difference = np.abs(ours - pixels)
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.99) <= 3
    assert (spec.mean, spec.std) == (tuple(resolved["mean"]), tuple(resolved["std"]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input_size": (3, 96, 96), "crop_mode": "border"}, "crop_mode 'border'; supported: center and squash"),
        ({"crop_pct": 0.9}, r"the input_size of a network must be \(3, height, width\), got None"),
        ({"input_size": (1, 96, 96)}, r"must be \(3, height, width\), got \(1, 96, 96\)"),
        ({"input_size": (3, 96)}, r"must be \(3, height, width\), got \(3, 96\)"),
        ({"input_size": (3, 96, 96), "crop_pct": "all"}, "no valid preprocessing"),
        ({"input_size": (3, 96, 96), "std": (0.5, 0, 0.5)}, "std above 0"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(config: dict[str, Any], message: str) -> None:
    """The network is named, and what is wrong."""
    with pytest.raises(WeightsError, match=message):
        preprocess_from_config(config, "a network")

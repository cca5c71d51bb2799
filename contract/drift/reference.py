"""What a model's validation images were like: stored in its manifest, and compared with what it sees later."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float32, Float64, UInt8
from unfreeze.contract.drift.histogram import Histogram, categories_of, histogram_of

LABEL, CONFIDENCE, SIZE, OOD_SCORE = "label", "confidence", "size", "out-of-distribution score"
BRIGHTNESS, CONTRAST, SHARPNESS = "brightness", "contrast", "sharpness"
_OTHER_SIZE = 0.25
_STRIDE = 16  # of the pixels that brightness is computed from


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One property of images or predictions.

    Args:
        name: of the property.
        histogram: of the validation images.
    """

    name: str
    histogram: Histogram


@dataclass(frozen=True, kw_only=True)
class DriftReference:
    """The validation images, as distributions.

    Args:
        images: number of validation images.
        quantities: their properties.
    """

    images: int
    quantities: tuple[Quantity, ...]


def reference_of(values: Mapping[str, Float64[np.ndarray, " n"]], classes: int) -> DriftReference:
    """Build a reference.

    Args:
        values: of each property, one per validation image; the values of `LABEL` are the numbers of classes. Properties
            without any value are left out.
        classes: number of classes.
    """
    made = {
        name: categories_of(found.astype(np.int64), classes)
        if name == LABEL
        else histogram_of(found, beyond=_OTHER_SIZE if name == SIZE else 0.0)
        for name, found in values.items()
        if len(found)
    }
    images = len(next(iter(values.values())))
    return DriftReference(images=images, quantities=tuple(Quantity(name=name, histogram=made[name]) for name in made))


def side_of(size: tuple[int, int]) -> float:
    """Return the side of a square with as many pixels as an image of this width and height: the values of `SIZE`."""
    return math.sqrt(size[0] * size[1])


def sample(pixels: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "2 n values"]:
    """Copy every 16th pixel of every 16th row of prepared images, and the pixels at the left of these.

    Brightness, contrast and sharpness are measured on them.
    """
    start = min(_STRIDE, *pixels.shape[1:3]) // 2
    rows = pixels[:, start::_STRIDE]
    grid = rows[:, :, start::_STRIDE]
    left = rows[:, :, max(0, start - 1) :: _STRIDE][:, :, : grid.shape[2]]
    return np.stack([one.reshape(len(pixels), -1) for one in (grid, left)])


def measure(
    sampled: UInt8[np.ndarray, "2 n values"],
    probabilities: Float32[np.ndarray, "n c"],
    scores: Float32[np.ndarray, " n"] | None = None,
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Measure the properties of images and their predictions.

    Args:
        sampled: what `sample` has returned.
        probabilities: of the classes.
        scores: out-of-distribution scores, if there are any.

    Returns:
        Values by name of the property, one per image. Brightness and contrast are mean and standard deviation of the
        sampled values, sharpness is their mean absolute difference from those of the neighbors, on a scale of 0 to 255.
    """
    values, neighbors = sampled.astype(np.float32)
    return {
        LABEL: probabilities.argmax(1).astype(np.float64),
        CONFIDENCE: probabilities.max(1).astype(np.float64),
        BRIGHTNESS: values.mean(1).astype(np.float64),
        CONTRAST: values.std(1).astype(np.float64),
        SHARPNESS: np.abs(values - neighbors).mean(1).astype(np.float64),
        **({} if scores is None else {OOD_SCORE: scores.astype(np.float64)}),
    }

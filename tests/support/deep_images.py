"""Two classes of gray images that differ within a narrow range of values, with as many bits as a test needs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

BITS_12 = 4095


def draw_values(label: str, seed: int, size: int = 64) -> np.ndarray:
    """Draw bright horizontal or vertical stripes with noise, values 0 to 1, float64 [H, W]."""
    rng = np.random.default_rng(seed)
    waves = 0.5 + 0.4 * np.sin(np.arange(size) * rng.uniform(0.5, 0.7) + rng.uniform(0, 6))
    stripes = np.tile(waves, (size, 1))
    stripes = stripes if label == "vertical" else stripes.T
    return (stripes + rng.normal(0, 0.03, stripes.shape)).clip(0, 1)


def write_deep_images(folder: Path, pixels: Callable[[np.ndarray], np.ndarray], suffix: str = "png") -> Path:
    """Write train and val folders of two classes.

    Args:
        folder: receives them.
        pixels: maps values of 0 to 1 to pixels, whose type decides on the depth of the files.
        suffix: of the files, which decides on their format.
    """
    for split, count, first_seed in (("train", 12, 0), ("val", 8, 500)):
        for label in ("horizontal", "vertical"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                values = draw_values(label, first_seed + number + 100 * (label == "vertical"))
                Image.fromarray(pixels(values)).save(folder / split / label / f"{number:02}.{suffix}")
    return folder


def in_12_of_16_bits(values: np.ndarray) -> np.ndarray:
    """Map to 0..4095, uint16."""
    return np.rint(values * BITS_12).astype(np.uint16)


def in_8_bits(values: np.ndarray) -> np.ndarray:
    """Map to 0..255, uint8."""
    return np.rint(values * 255).astype(np.uint8)

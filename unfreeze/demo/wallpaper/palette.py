"""Random color schemes, drawn in OKLCH, where equal steps look equally large."""

import numpy as np

from unfreeze.contract.arrays import Float64

SHADES = 256
_HUE_SCHEMES_DEGREES = (
    (0, 25, -25, 50, 180),  # neighbors and an accent
    (0, 180, 20, 200, 160),  # complements
    (0, 120, 240, 30, 150),  # triad
    (0, 0, 15, 150, -15),  # one hue and a rare second
    (0, 90, 180, 270, 45),  # tetrad
)
# From Björn Ottosson, "A perceptual color space for image processing" (2020): OKLab to the cube roots of LMS, and LMS
# to linear sRGB.
_LAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def random_palette(rng: np.random.Generator, count: int) -> Float64[np.ndarray, "count 3"]:
    """Draw colors of one hue scheme whose lightness is spread evenly, so that all differ in grayscale, too.

    Args:
        rng: Random generator.
        count: Number of colors, at least 2.

    Returns:
        sRGB in [0, 1], in random order.
    """
    lightness = np.linspace(rng.uniform(0.2, 0.38), rng.uniform(0.86, 0.97), count)
    lightness = rng.permutation(lightness + rng.uniform(-0.03, 0.03, count))
    scheme = np.array(_HUE_SCHEMES_DEGREES[rng.integers(len(_HUE_SCHEMES_DEGREES))])
    hue = np.radians(rng.uniform(0, 360) + rng.choice(scheme, count) + rng.normal(0, 6, count))
    # The gamut narrows towards black and white.
    chroma = rng.uniform(0.05, 0.19) * rng.uniform(0.5, 1.2, count) * np.sin(np.pi * np.clip(lightness, 0, 1)) ** 0.6
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = np.clip((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0, 1)
    colors: Float64[np.ndarray, "count 3"] = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return colors


def random_ramp(
    rng: np.random.Generator, first: Float64[np.ndarray, " 3"], second: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, "shades 3"]:
    """Draw the colors of a layer from its edge to its core: flat, outlined, banded or a soft gradient.

    Args:
        rng: Random generator.
        first: Main color, sRGB in [0, 1].
        second: Second color.

    Returns:
        sRGB in [0, 1] for each of the `SHADES` depths, edge first.
    """
    depth = np.linspace(0, 1, SHADES)
    style = rng.choice(["flat", "outlined", "banded", "gradient"], p=[0.3, 0.3, 0.15, 0.25])
    share = {
        "flat": np.zeros(SHADES),
        "outlined": depth < rng.uniform(0.12, 0.3),
        "banded": (depth * rng.uniform(1.2, 2.6)) % 1.0 < 0.45,
        "gradient": depth ** rng.uniform(0.7, 1.6) * rng.uniform(0.5, 1.0),
    }[str(style)][:, None]
    colors: Float64[np.ndarray, "shades 3"] = first * (1 - share) + second * share
    return colors

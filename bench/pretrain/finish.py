"""Degradations as by a camera and a codec: uneven light, blur, noise, JPEG."""

import io

import numpy as np
from PIL import Image, ImageFilter

from bench.pretrain.draw_textures import draw_noise


def finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Apply slight degradations, each with its own probability.

    Args:
        rng: Random generator.
        image: RGB image, [h, w, 3], float32 in [0, 255].

    Returns:
        RGB image, [h, w, 3], uint8.
    """
    light, blur, grain, codec = rng.random(4)
    if light < 0.25:  # noqa: PLR2004
        image = image * (0.5 + 0.7 * draw_noise(rng, len(image), 2.5)[..., None])
    if blur < 0.3:  # noqa: PLR2004
        soft = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        image = np.asarray(soft.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5))), np.float32)
    if grain < 0.4:  # noqa: PLR2004
        spread = np.float32(rng.uniform(2, 22))
        image = image + spread * rng.standard_normal(image.shape, np.float32)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return _compress(image, int(rng.integers(35, 90))) if codec < 0.2 else image  # noqa: PLR2004


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))

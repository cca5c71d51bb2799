"""What a camera and a codec do to a picture: uneven light, blur, grain, JPEG."""

import io

import numpy as np
from PIL import Image, ImageFilter

from tune.pretrain.draw_textures import draw_noise


def finish(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Spoil a picture a little, each fault with a chance of its own.

    Args:
        rng: The source of chance.
        picture: HWC float32 in 0..255.

    Returns:
        The picture, HWC uint8.
    """
    light, blur, grain, codec = rng.random(4)
    if light < 0.25:  # noqa: PLR2004
        picture = picture * (0.5 + 0.7 * draw_noise(rng, len(picture), 2.5)[..., None])
    if blur < 0.3:  # noqa: PLR2004
        soft = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        picture = np.asarray(soft.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5))), np.float32)
    if grain < 0.4:  # noqa: PLR2004
        spread = np.float32(rng.uniform(2, 22))
        picture = picture + spread * rng.standard_normal(picture.shape, np.float32)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    return _compress(picture, int(rng.integers(35, 90))) if codec < 0.2 else picture  # noqa: PLR2004


def _compress(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))

"""Deep images, of more than 8 bits per pixel: which range of values they use, and how it maps to 0..255.

Deep images are gray images of 16-bit integers (PNG, TIFF, JPEG 2000, PGM), of 32-bit integers (TIFF) or of floating
point (TIFF, PFM). JPEG 2000 and PGM files state how many bits they use; their decoders scale the values to 0..65535.
Color images of more than 8 bits per channel are not deep here: Pillow delivers them with 8 bits, the high byte of each
channel.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import UnsupportedImageError
from unfreeze.contract.images.opening import MAX_PIXELS, opened

DeepRange = tuple[float, ...]
_BLOCK = 2**20  # pixels mapped at a time, so that a large image needs little memory besides its pixels


@dataclass(frozen=True, kw_only=True)
class PixelRange:
    """The values that a deep image uses.

    Args:
        mode: "I;16" for 16-bit integers, "I" for 32-bit integers, "F" for floating point.
        low: the smallest value; infinities and NaN do not count.
        high: the largest value.
        bits_used: bits that the largest value needs, 0 to 32; 0 for floating point.
    """

    mode: str
    low: float
    high: float
    bits_used: int


def measure_range(data: bytes, *, max_pixels: int = MAX_PIXELS) -> PixelRange | None:
    """Find which values a deep image uses, to choose a range for it.

    Args:
        data: the encoded image.
        max_pixels: images with more pixels are rejected before they are decoded.

    Returns:
        The range, or None for an image of 8 bits or fewer, whose pixels are not decoded.

    Raises:
        ImageError: as `unfreeze.contract.images.decoding.decode` does, except that a range is not needed.
    """
    with opened(data, max_pixels=max_pixels) as (image, image_format):
        mode = deep_mode(image)
        if mode is None:
            return None
        image_format.shrink(image, data, None)
        image.load()
        values = np.asarray(image)
    if mode == "F":
        values = values[np.isfinite(values)]
    if values.size == 0:
        raise UnsupportedImageError("the image holds no finite number: all of its pixels are NaN or infinite")
    low, high = values.min().item(), values.max().item()
    bits = 0 if mode == "F" else int(max(abs(low), abs(high))).bit_length()
    return PixelRange(mode=mode, low=float(low), high=float(high), bits_used=bits)


def deep_mode(image: Image.Image) -> str | None:
    """Return the mode of a deep image.

    Args:
        image: as Pillow opened it, decoded or not.

    Returns:
        "I;16", "I" or "F" as in `PixelRange`; None for 8 bits or fewer.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # PGM: 0 to 65535
        return "I;16"
    return image.mode if image.mode in ("I", "F") else None


def to_8_bits(image: Image.Image, deep_range: DeepRange | None) -> UInt8[np.ndarray, "h w"]:
    """Map the values of a deep image to 0..255: linearly, clipped, and rounded to the nearest level.

    Args:
        image: an image for which `deep_mode` is not None.
        deep_range: (low, high), the values that become 0 and 255; None is the full range of 16-bit integers, of which
            the high byte is kept.

    Returns:
        Gray levels. Infinities become 0 or 255 by their sign, and NaN becomes 0.

    Raises:
        UnsupportedImageError: 32-bit integers or floating point, and `deep_range` is None.
    """
    mode, values = deep_mode(image), np.asarray(image)
    if deep_range is not None:
        return _mapped(values, deep_range)
    if mode == "I;16":
        return (values >> 8).astype(np.uint8)
    kind = "32-bit integers" if mode == "I" else "floating-point numbers"
    raise UnsupportedImageError(
        f"the pixels are {kind}, and the model has no range of values for them: tune with --deep-range LOW,HIGH or "
        "--deep-range auto, or save the image with 8 or 16 bits"
    )


def _mapped(values: np.ndarray, deep_range: DeepRange) -> np.ndarray:
    low, high = deep_range
    if values.dtype.itemsize == 2:  # noqa: PLR2004 - a table of all values is quicker
        return np.take(_scaled(np.arange(2**16), low, high), values)
    flat = values.reshape(-1)
    levels = np.empty(flat.shape, np.uint8)
    for at in range(0, flat.size, _BLOCK):
        levels[at : at + _BLOCK] = _scaled(flat[at : at + _BLOCK], low, high)
    return levels.reshape(values.shape)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    clipped = np.clip(np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low), low, high)
    return np.asarray(np.rint((clipped - low) / (high - low) * 255), np.uint8)

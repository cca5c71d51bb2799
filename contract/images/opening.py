"""Open an encoded image: recognize its format, screen it, and read its header; no pixel is decoded yet."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from unfreeze.contract.errors import (
    DamagedImageError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
)
from unfreeze.contract.images.formats import FORMATS, ImageFormat

MAX_PIXELS = 64_000_000
LARGEST_MAX_PIXELS = 178_956_970  # Pillow refuses more, whatever its caller allows


@contextmanager
def opened(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[Image.Image, ImageFormat]]:
    """Open an encoded image, and convert any exception of its decoder into an `ImageError`.

    Args:
        data: the encoded image, in one of `FORMATS`.
        max_pixels: images with more pixels are rejected by their header.

    Yields:
        Pillow's image, whose pixels are decoded when they are first used, and its format.

    Raises:
        EmptyImageError: no bytes or no pixels.
        NotAnImageError: not one of `FORMATS`.
        DamagedImageError: truncated or broken, here or in the block.
        ImageTooLargeError: more than `max_pixels`, or more than memory holds.
        UnsupportedImageError: the format's decoder is not installed.
    """
    if not data:
        raise EmptyImageError("the image is empty: it has no bytes")
    try:
        image_format = _recognized(data)
        with _open(data, image_format, max_pixels) as image:
            _check_size(image, max_pixels)
            yield image, image_format
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        raise ImageTooLargeError(f"the image has more than the {max_pixels:,} pixels allowed") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
        raise DamagedImageError(f"the image is truncated or damaged: {_first_line(error)}") from error


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height of an encoded image, from its header.

    Raises:
        ImageError: see `opened`.
    """
    with opened(data) as (image, _):
        return image.size


def _open(data: bytes, image_format: ImageFormat, max_pixels: int) -> Image.Image:
    image_format.load()
    screened = image_format.screen(data, max_pixels)
    try:
        return Image.open(io.BytesIO(screened), formats=(image_format.pillow_name,))
    except UnidentifiedImageError:
        raise DamagedImageError(
            f"the image is truncated or damaged: its {image_format.name} header cannot be read"
        ) from None


def _recognized(data: bytes) -> ImageFormat:
    found = next((image_format for image_format in FORMATS if image_format.recognizes(data)), None)
    if found is None:
        names = ", ".join(image_format.name for image_format in FORMATS)
        raise NotAnImageError(f"not an image in a supported format ({names}): the bytes begin with {data[:8]!r}")
    return found


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise EmptyImageError(f"the image is empty: it is {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image is {width} x {height} pixels; at most {max_pixels:,} are allowed")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__

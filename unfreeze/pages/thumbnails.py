"""Images that are part of a page, made small."""

import base64
import io
from pathlib import Path

from PIL import Image

from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.depth import DeepRange

QUALITY = 80  # of JPEG files
_SIDE = 160


def thumbnail(path: Path, deep_range: DeepRange | None = None) -> Image.Image | None:
    """Return an image, whole, with at most 160 pixels a side; None if it cannot be read any more.

    Args:
        path: of the image.
        deep_range: the values of images of more than 8 bits that become 0 and 255.
    """
    image = read_image(path, _SIDE, deep_range)
    if image is not None:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return image


def read_image(path: Path, at_least: int, deep_range: DeepRange | None) -> Image.Image | None:
    """Decode an image as `decode` does; None if it cannot be read any more."""
    try:
        return decode(path.read_bytes(), at_least=at_least, deep_range=deep_range)
    except (ImageError, OSError):
        return None


def jpeg_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """Return an image as a data URI."""
    return data_uri(image, "jpeg", quality=quality)


def data_uri(image: Image.Image, kind: str, **options: int | bool) -> str:
    """Return an image as a data URI of one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"

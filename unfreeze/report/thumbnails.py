"""Images of a dataset, small enough to be part of a page."""

import base64
import io
from pathlib import Path

from PIL import Image

from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.depth import DeepRange

_SIDE = 160
_QUALITY = 80


def thumbnail(path: Path, deep_range: DeepRange | None = None) -> str | None:
    """Return an image as a data URI, whole, with at most 160 pixels a side; None if it cannot be read any more.

    Args:
        path: of the image.
        deep_range: the values of images of more than 8 bits that become 0 and 255.
    """
    try:
        image = decode(path.read_bytes(), at_least=_SIDE, deep_range=deep_range)
    except (ImageError, OSError):
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

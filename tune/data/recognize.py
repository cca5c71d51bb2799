"""Recognize image files: by their suffix, otherwise by their first bytes."""

from pathlib import Path

from unfreeze.contract.images.formats import FORMATS
from unfreeze.contract.images.suffixes import has_image_suffix

_HEAD_BYTES = 4096


def not_an_image(path: Path) -> str | None:
    """Describe why a file is not treated as an image.

    Args:
        path: of the file. It is opened only if its suffix is not that of an image.

    Returns:
        The reason; None for a file with an image's suffix, or one that begins like an image in a supported format.
    """
    if has_image_suffix(path.name):
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if any(image_format.recognizes(head) for image_format in FORMATS):
        return None
    return f"not an image ({path.suffix or 'no suffix'})" if head else "an empty file"

"""What the decoder needs to know about an image format."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

Box = tuple[float, float, float, float]


def unchanged(data: bytes, max_pixels: int) -> bytes:  # noqa: ARG001
    """Screen nothing: Pillow's decoder needs no protection from files of this format."""
    return data


def built_in() -> None:
    """Load nothing: Pillow has the decoder built in."""


def full_size(image: Image.Image, data: bytes, at_least: int | None) -> None:
    """Decode at full size: the format has no reduced sizes."""


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """An image format.

    Args:
        name: as users know it, for messages.
        pillow_name: the name under which Pillow's decoder is registered.
        recognizes: returns whether encoded bytes are of this format, by their first bytes.
        screen: receives the encoded bytes and the largest number of pixels; returns the bytes to decode,
            unchanged or without the parts that the decoder must not process. Raises an `ImageError` for files that
            would take far more time or memory to decode than their number of pixels suggests.
        load: makes Pillow's decoder available; called before each image. Raises an `ImageError` that says what to
            install where the decoder is missing.
        shrink: receives the opened image, its encoded bytes and the least length of its sides in pixels, or None for
            the full size; sets the decoder to a smaller size that is still large enough. Returns the box (left, top,
            right, bottom) of the decoded pixels that the image fills, or None for all. It is in fractions of pixels,
            and may end up to half a pixel outside.
    """

    name: str
    pillow_name: str
    recognizes: Callable[[bytes], bool]
    screen: Callable[[bytes, int], bytes] = unchanged
    load: Callable[[], None] = built_in
    shrink: Callable[[Image.Image, bytes, int | None], Box | None] = full_size


def begins_with(*prefixes: bytes) -> Callable[[bytes], bool]:
    """Recognize a format by its first bytes."""
    return lambda data: data.startswith(prefixes)

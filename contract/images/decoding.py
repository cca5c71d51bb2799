"""Decode an image: upright, in RGB, 8 bits per channel."""

from PIL import Image

from unfreeze.contract.images.depth import DeepRange, deep_mode, to_8_bits
from unfreeze.contract.images.opening import MAX_PIXELS, opened
from unfreeze.contract.images.orientation import orientation_of, turned_upright, upright_box

CONTENT_BOX = "unfreeze.content"  # in `Image.info`: the box of the content in an image decoded at a reduced size
STORED_SIZE = "unfreeze.size"  # in `Image.info`: width and height in the file
_WHITE = (255, 255, 255, 255)


def decode(
    data: bytes,
    *,
    at_least: int | None = None,
    max_pixels: int = MAX_PIXELS,
    deep_range: DeepRange | None = None,
) -> Image.Image:
    """Decode an image, upright and in RGB.

    Alpha is composited on white; CMYK and palettes are converted; color profiles are ignored. Only the first
    frame or page is decoded. Colors of more than 8 bits per channel keep their high byte.

    Args:
        data: the encoded image, in one of `unfreeze.contract.images.formats.FORMATS`.
        at_least: a JPEG or JPEG 2000 file whose sides are all at least twice this many pixels is decoded at a half, a
            quarter and so on of its size, but no smaller than this, which is several times faster.
        max_pixels: images with more pixels are rejected before they are decoded.
        deep_range: (low, high), the values of deep gray images (`unfreeze.contract.images.depth`) that become 0 and
            255; None is the full range of 16-bit integers, and 32-bit integers or floating point are rejected.

    Returns:
        The image, mode "RGB".

    Raises:
        EmptyImageError: no bytes or no pixels.
        NotAnImageError: not in a supported format.
        DamagedImageError: truncated or broken.
        ImageTooLargeError: more than `max_pixels`.
        UnsupportedImageError: 32-bit integers or floating point without a range, or a decoder that is not installed.
    """
    with opened(data, max_pixels=max_pixels) as (image, image_format):
        size = image.size
        box = image_format.shrink(image, data, at_least)
        image.load()
        orientation = orientation_of(image)
        upright = turned_upright(_to_rgb(image, deep_range), orientation)
        upright.info[STORED_SIZE] = size
        if box is not None:
            upright.info[CONTENT_BOX] = upright_box(image.size, box, orientation)
        return upright


def _to_rgb(image: Image.Image, deep_range: DeepRange | None) -> Image.Image:
    if deep_mode(image) is not None:
        return Image.fromarray(to_8_bits(image, deep_range)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", with_alpha.size, _WHITE), with_alpha).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # Pillow would copy it

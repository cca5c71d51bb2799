"""The one way to prepare an image: decode, orient, convert to RGB, resize, crop.

Training's evaluation, calibration, proofs, the server and the device all call `prepare`, so that decode and resize
cannot differ between them.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import (
    DamagedImageError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
    UnsupportedImageError,
)
from unfreeze.contract.images.jpeg import check_jpeg

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
LARGEST_MAX_PIXELS = 178_956_970  # Pillow refuses more, whatever it is told
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Which of the stored image's margins (left, top, right, bottom) stand there in the upright one.
_UPRIGHT_MARGINS = {
    2: (2, 1, 0, 3),
    3: (2, 3, 0, 1),
    4: (0, 3, 2, 1),
    5: (1, 0, 3, 2),
    6: (3, 0, 1, 2),
    7: (3, 2, 1, 0),
    8: (1, 2, 3, 0),
}
_CONTENT = "unfreeze.content"  # in `Image.info`: the box of what libjpeg has decoded; it pads the last pixels


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How an image becomes a network's input.

    Args:
        resize: (shorter side,) or (height, width), in pixels, to which the image is resized, antialiased.
        crop: (height, width) in pixels of the central part that is kept; no larger than what is resized.
        interpolation: the resampling filter's name.
        mean: per channel (RGB), on the scale of 0 to 1; subtracted inside the exported graph.
        std: per channel (RGB), on the scale of 0 to 1; divided by inside the exported graph.

    Raises:
        ValueError: a size is not positive, the crop does not fit, or a standard deviation is not positive.
    """

    resize: tuple[int, ...]
    crop: tuple[int, ...]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        if len(self.resize) not in (1, 2) or len(self.crop) != 2:  # noqa: PLR2004
            raise ValueError(f"resize takes 1 or 2 sizes and crop 2, found {self.resize} and {self.crop}")
        if not all(1 <= size <= 4096 for size in (*self.resize, *self.crop)):  # noqa: PLR2004
            raise ValueError(f"sizes go from 1 to 4096 pixels, found resize {self.resize} and crop {self.crop}")
        height, width = self.resize if len(self.resize) == 2 else self.resize * 2  # noqa: PLR2004
        if self.crop[0] > height or self.crop[1] > width:
            raise ValueError(f"the crop {self.crop} is larger than the resized image {self.resize}")
        if self.interpolation not in _RESAMPLING:
            raise ValueError(f"interpolation is one of {', '.join(_RESAMPLING)}, found {self.interpolation!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:  # noqa: PLR2004
            raise ValueError(f"mean and std have 3 values, std above 0, found {self.mean} and {self.std}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared image."""
        return self.crop[0], self.crop[1], 3


def prepare(data: bytes, spec: PreprocessSpec, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Turn an encoded image into a network's input.

    Args:
        data: JPEG, PNG, WebP, GIF (its first frame), BMP or TIFF.
        spec: sizes and filter.
        max_pixels: images with more pixels are refused before they are decoded.

    Returns:
        RGB, HWC, uint8, of the spec's crop size. Never writable: it may share Pillow's memory.

    Raises:
        ImageError: see `decode`.
    """
    return np.asarray(resize_and_crop(decode(data, at_least=max(spec.resize), max_pixels=max_pixels), spec))


def decode(data: bytes, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image, upright and in RGB.

    Alpha is composited on white, 16-bit gray keeps its high byte, CMYK and palettes are converted.

    Args:
        data: JPEG, PNG, WebP, GIF (its first frame), BMP or TIFF.
        at_least: a JPEG whose sides are all at least twice this many pixels is decoded at a half, a quarter or an
            eighth of its size, no smaller than this: libjpeg's scaled decoding, several times cheaper.
        max_pixels: images with more pixels are refused before they are decoded.

    Returns:
        The image, mode "RGB".

    Raises:
        EmptyImageError: no bytes or no pixels.
        NotAnImageError: none of the formats above.
        DamagedImageError: truncated or broken.
        ImageTooLargeError: more than `max_pixels`.
        UnsupportedImageError: 32-bit integer or float pixels.
    """
    if not data:
        raise EmptyImageError("the image is empty: it has no bytes")
    try:
        with _open(data) as image:
            return _read(image, at_least, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        raise ImageTooLargeError(f"the image has more than the {max_pixels:,} pixels allowed") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
        raise DamagedImageError(f"the image is truncated or damaged: {_first_line(error)}") from error


def resize_and_crop(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Resize and crop the center, in one step that computes only the pixels that are kept.

    Gives what torchvision's `Resize` (antialiased) followed by `CenterCrop` gives.

    Args:
        image: upright, mode "RGB".
        spec: sizes and filter.

    Returns:
        The image at the spec's crop size.
    """
    x, y, right, bottom = image.info.get(_CONTENT, (0, 0, *image.size))
    height, width = _resized(bottom - y, right - x, spec.resize)
    crop_height, crop_width = spec.crop
    top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
    down, across = (bottom - y) / height, (right - x) / width
    end = min(x + (left + crop_width) * across, right), min(y + (top + crop_height) * down, bottom)
    box = (x + left * across, y + top * down, *end)
    return image.resize((crop_width, crop_height), _RESAMPLING[spec.interpolation], box=box)


def _resized(height: float, width: float, resize: tuple[int, ...]) -> tuple[int, int]:
    if len(resize) == 2:  # noqa: PLR2004
        return resize[0], resize[1]
    if height <= width:
        return resize[0], max(1, int(resize[0] * width // height))
    return max(1, int(resize[0] * height // width)), resize[0]


def _open(data: bytes) -> Image.Image:
    check_jpeg(data)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise NotAnImageError(
            f"the bytes are no image that we read ({', '.join(FORMATS)}); they begin with {data[:8]!r}"
        ) from None


def _read(image: Image.Image, at_least: int | None, max_pixels: int) -> Image.Image:
    width, height = image.size
    if min(width, height) < 1:
        raise EmptyImageError(f"the image is empty: it is {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image is {width} x {height} pixels; at most {max_pixels:,} are allowed")
    scaled = None
    if at_least is not None and image.format in ("JPEG", "MPO"):
        scaled = image.draft(None, (at_least, at_least))
    image.load()
    orientation = _orientation(image)
    upright = _upright(_to_rgb(image), orientation)
    if scaled is not None:
        upright.info[_CONTENT] = _content(image.size, scaled[1][2:], orientation)
    return upright


def _content(size: tuple[int, int], used: tuple[float, float], orientation: int) -> tuple[float, ...]:
    """Say where the content of a scaled JPEG lies once it is upright: (left, top, right, bottom)."""
    stored = (0, 0, size[0] - used[0], size[1] - used[1])
    left, top, right, bottom = (stored[side] for side in _UPRIGHT_MARGINS.get(orientation, (0, 1, 2, 3)))
    width, height = size if orientation < 5 or orientation > 8 else size[::-1]  # noqa: PLR2004 - 5 to 8 lie on a side
    return left, top, width - right, height - bottom


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - broken EXIF in a good image says nothing about how to turn it
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnsupportedImageError(
            f"the pixels are 32-bit ({image.mode}), which have no agreed range; save the image with 8 or 16 bits"
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # Pillow would copy it


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__

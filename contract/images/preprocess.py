"""The one way to preprocess an image: decode, orient, convert to RGB, resize, crop.

Training's evaluation, calibration, proofs, the server and the device all call `prepare`, so that decode and resize
cannot differ between them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.images.decoding import CONTENT_BOX, STORED_SIZE, decode
from unfreeze.contract.images.opening import MAX_PIXELS

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How an image becomes a network's input.

    Args:
        resize: (shorter side,) or (height, width), in pixels, to which the image is resized, antialiased.
        crop: (height, width) in pixels of the center crop; no larger than the resized image.
        interpolation: the resampling filter's name.
        mean: per channel (RGB), on the scale of 0 to 1; subtracted inside the exported graph.
        std: per channel (RGB), on the scale of 0 to 1; divided by inside the exported graph.
        deep_range: (low, high), the values of gray images of more than 8 bits that become 0 and 255; values between
            map linearly, values outside are clipped. None is the full range of 16-bit integers; images of 32-bit
            integers or floating point are then rejected.

    Raises:
        ValueError: a size is not positive, the crop does not fit, a standard deviation is not positive, or the deep
            range is not a finite low value and a higher one.
    """

    resize: tuple[int, ...]
    crop: tuple[int, ...]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    deep_range: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        if len(self.resize) not in (1, 2) or len(self.crop) != 2:  # noqa: PLR2004
            raise ValueError(f"resize must have 1 or 2 sizes and crop 2, got {self.resize} and {self.crop}")
        if not all(1 <= size <= 4096 for size in (*self.resize, *self.crop)):  # noqa: PLR2004
            raise ValueError(f"sizes must be from 1 to 4096 pixels, got resize {self.resize} and crop {self.crop}")
        height, width = self.resize if len(self.resize) == 2 else self.resize * 2  # noqa: PLR2004
        if self.crop[0] > height or self.crop[1] > width:
            raise ValueError(f"the crop {self.crop} is larger than the resized image {self.resize}")
        if self.interpolation not in _RESAMPLING:
            raise ValueError(f"interpolation must be one of {', '.join(_RESAMPLING)}, got {self.interpolation!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:  # noqa: PLR2004
            raise ValueError(f"mean and std must have 3 values, std above 0, got {self.mean} and {self.std}")
        check_deep_range(self.deep_range)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared image."""
        return self.crop[0], self.crop[1], 3


def check_deep_range(deep_range: tuple[float, ...] | None) -> None:
    """Reject an invalid range for deep images.

    Raises:
        ValueError: it is not a finite low value and a higher one.
    """
    if deep_range is None:
        return
    if len(deep_range) != 2 or not all(abs(value) < 1e38 for value in deep_range) or deep_range[0] >= deep_range[1]:  # noqa: PLR2004
        raise ValueError(f"deep_range must be a finite low value and a higher one, got {deep_range}")


def prepare(data: bytes, spec: PreprocessSpec, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Turn an encoded image into pixels for a network.

    Args:
        data: the encoded image; see `unfreeze.contract.images.decoding.decode`.
        spec: how it is prepared.
        max_pixels: images with more pixels are rejected before they are decoded.

    Returns:
        RGB, HWC, uint8, of the spec's crop size. Never writable: it may share Pillow's memory.

    Raises:
        ImageError: see `decode`.
    """
    return prepare_sized(data, spec, max_pixels=max_pixels)[0]


def prepare_sized(
    data: bytes, spec: PreprocessSpec, *, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """Do what `prepare` does, and also return width and height of the image in the file."""
    decoded = decode(data, at_least=max(spec.resize), max_pixels=max_pixels, deep_range=spec.deep_range)
    return np.asarray(resize_and_crop(decoded, spec)), decoded.info[STORED_SIZE]


def resize_and_crop(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Resize and center-crop, in one step that computes only the pixels that are kept.

    Equivalent to torchvision's `Resize` (antialiased) followed by `CenterCrop`.

    Args:
        image: upright, mode "RGB".
        spec: sizes and filter.

    Returns:
        The image at the spec's crop size.
    """
    content = image.info.get(CONTENT_BOX, (0, 0, *image.size))
    x, y, end_x, end_y = crop_box(content, spec)
    right, bottom = min(content[2], image.width), min(content[3], image.height)
    box = (max(0, x), max(0, y), min(end_x, right), min(end_y, bottom))
    return image.resize((spec.crop[1], spec.crop[0]), _RESAMPLING[spec.interpolation], box=box)


def crop_box(content: tuple[float, float, float, float], spec: PreprocessSpec) -> tuple[float, float, float, float]:
    """Return the part of an image that the network sees.

    Args:
        content: left, top, right and bottom of the whole image, in any unit.
        spec: sizes of the resized image and of the crop.

    Returns:
        Left, top, right and bottom of the part, in the same unit.
    """
    x, y, right, bottom = content
    height, width = _resized(bottom - y, right - x, spec.resize)
    crop_height, crop_width = spec.crop
    top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
    y_scale, x_scale = (bottom - y) / height, (right - x) / width
    return (
        x + left * x_scale,
        y + top * y_scale,
        x + (left + crop_width) * x_scale,
        y + (top + crop_height) * y_scale,
    )


def _resized(height: float, width: float, resize: tuple[int, ...]) -> tuple[int, int]:
    if len(resize) == 2:  # noqa: PLR2004
        return resize[0], resize[1]
    if height <= width:
        return resize[0], max(1, int(resize[0] * width // height))
    return max(1, int(resize[0] * height // width)), resize[0]

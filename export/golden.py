"""Golden examples: synthetic images with the model's probabilities, stored inside the model for verification."""

import base64
import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.contract.model.manifest import Golden
from unfreeze.export.session import Session

_DIGITS = 7  # the significant digits of float32


def make_golden(model: bytes, precision: str, spec: PreprocessSpec, labels: tuple[str, ...]) -> tuple[Golden, ...]:
    """Classify synthetic images of several formats with a model.

    Args:
        model: the content of a `model.onnx`, without a manifest.
        precision: "fp32", "fp16" or "int8".
        spec: how images are prepared.
        labels: in the order of the probabilities.
    """
    session = Session(model, precision)
    return tuple(
        _golden(session, draw(number), spec, labels, is_exact=is_exact)
        for number, (draw, is_exact) in enumerate(_EXAMPLES)
    )


def _golden(session: Session, image: bytes, spec: PreprocessSpec, labels: tuple[str, ...], *, is_exact: bool) -> Golden:
    pixels = prepare(image, spec)
    (row,) = session.run(pixels[None])
    probabilities = tuple(float(f"{value:.{_DIGITS}g}") for value in row)
    return Golden(
        image=base64.b64encode(image).decode(),
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest() if is_exact else "",
        probabilities=probabilities,
        label=labels[probabilities.index(max(probabilities))],
    )


def _png(number: int) -> bytes:
    return _encode(_draw(number, 300, 240), "PNG", optimize=True)


def _png_with_alpha(number: int) -> bytes:
    image = _draw(number, 150, 210)
    image.putalpha(_draw(number + 100, 150, 210).convert("L"))
    return _encode(image, "PNG", optimize=True)


def _rotated_jpeg(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encode(_draw(number, 320, 250), "JPEG", quality=85, exif=exif)


def _large_gray_jpeg(number: int) -> bytes:
    return _encode(_draw(number, 1100, 900).convert("L"), "JPEG", quality=60)


def _tiny_bmp(number: int) -> bytes:
    return _encode(_draw(number, 64, 19), "BMP")


# How to draw each image, and whether its format is lossless, so that pixels are equal with every decoder.
_EXAMPLES: tuple[tuple[Callable[[int], bytes], bool], ...] = (
    (_png, True),
    (_png_with_alpha, True),
    (_tiny_bmp, True),
    (_rotated_jpeg, False),
    (_large_gray_jpeg, False),
)


def _draw(number: int, width: int, height: int) -> Image.Image:
    """Draw colored waves and sharp edges, which a wrong filter, size or channel order changes visibly."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    image = np.empty((height, width, 3))
    for channel in range(3):
        along, across, phase = *rng.uniform(2, 14, 2), rng.uniform(0, 6)
        image[..., channel] = 110 + 60 * np.sin(along * x * 2 + phase) + 50 * np.cos(across * (y - x) + phase)
    for _ in range(6):
        left, top = rng.integers(0, width), rng.integers(0, height)
        image[top : top + height // 4, left : left + width // 5] = rng.integers(0, 256, 3)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8) // 8 * 8)  # few levels compress well


def _encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()

"""Golden vectors: images of our own and the answers to them, which travel inside the model."""

import base64
import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.contract.model.manifest import Golden
from unfreeze.export.session import Session

_DIGITS = 7  # significant ones, which is what float32 has


def golden(model: bytes, precision: str, spec: PreprocessSpec, labels: tuple[str, ...]) -> tuple[Golden, ...]:
    """Let a model answer to images that are drawn for it.

    Args:
        model: the content of a `model.onnx`, its manifest not in it yet.
        precision: of its arithmetic.
        spec: how images are prepared.
        labels: in the order of the probabilities.
    """
    session = Session(model, precision)
    return tuple(
        _golden(session, draw(number), spec, labels, is_exact=is_exact)
        for number, (draw, is_exact) in enumerate(_DRAWN)
    )


def _golden(session: Session, image: bytes, spec: PreprocessSpec, labels: tuple[str, ...], *, is_exact: bool) -> Golden:
    pixels = prepare(image, spec)
    (answer,) = session.run(pixels[None])
    probabilities = tuple(float(f"{value:.{_DIGITS}g}") for value in answer)
    return Golden(
        image=base64.b64encode(image).decode(),
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest() if is_exact else "",
        probabilities=probabilities,
        label=labels[probabilities.index(max(probabilities))],
    )


def _png(number: int) -> bytes:
    return _encoded(_drawn(number, 300, 240), "PNG", optimize=True)


def _png_with_alpha(number: int) -> bytes:
    image = _drawn(number, 150, 210)
    image.putalpha(_drawn(number + 100, 150, 210).convert("L"))
    return _encoded(image, "PNG", optimize=True)


def _turned_jpeg(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded(_drawn(number, 320, 250), "JPEG", quality=85, exif=exif)


def _large_gray_jpeg(number: int) -> bytes:
    return _encoded(_drawn(number, 1100, 900).convert("L"), "JPEG", quality=60)


def _bmp_sliver(number: int) -> bytes:
    return _encoded(_drawn(number, 64, 19), "BMP")


# How each is drawn, and whether its format is lossless.
_DRAWN: tuple[tuple[Callable[[int], bytes], bool], ...] = (
    (_png, True),
    (_png_with_alpha, True),
    (_bmp_sliver, True),
    (_turned_jpeg, False),
    (_large_gray_jpeg, False),
)


def _drawn(number: int, width: int, height: int) -> Image.Image:
    """Draw waves of a few colors and sharp edges: what a wrong filter, size or order of channels changes."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    image = np.empty((height, width, 3))
    for channel in range(3):
        along, across, phase = *rng.uniform(2, 14, 2), rng.uniform(0, 6)
        image[..., channel] = 110 + 60 * np.sin(along * x * 2 + phase) + 50 * np.cos(across * (y - x) + phase)
    for _ in range(6):
        left, top = rng.integers(0, width), rng.integers(0, height)
        image[top : top + height // 4, left : left + width // 5] = rng.integers(0, 256, 3)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8) // 8 * 8)  # few levels, which compress well


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()

"""Resizing and cropping: equal to torchvision's transforms, computed in one step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import encode
from torchvision.transforms import InterpolationMode, v2

from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare, resize_and_crop

# Pillow resizes rows or columns first, whichever is cheaper, and clips to 0..255 in between, so where a bicubic filter
# overshoots, the result depends on the order. Noise of middle levels never clips.
LEVELS = {"bilinear": (0, 256), "bicubic": (70, 186)}
TOLERANCE = {"bilinear": 1, "bicubic": 2}


def _image(height: int, width: int, seed: int = 0, levels: tuple[int, int] = (0, 256)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(*levels, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def _torchvision(image: Image.Image, spec: PreprocessSpec) -> np.ndarray:
    transform = v2.Compose(
        [
            v2.Resize(list(spec.resize), interpolation=InterpolationMode(spec.interpolation), antialias=True),
            v2.CenterCrop(list(spec.crop)),
        ]
    )
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return transform(pixels).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", LEVELS)
@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [
        ((300, 400), (256,), (224, 224)),
        ((401, 303), (256,), (224, 224)),
        ((333, 500), (232,), (224, 224)),
        ((1000, 700), (64,), (64, 64)),
        ((97, 65), (40,), (33, 21)),
        ((20, 31), (64,), (48, 64)),
        ((7, 5), (64,), (64, 64)),
        ((1, 1), (8,), (8, 8)),
        ((256, 256), (256,), (224, 224)),
        ((120, 90), (50, 80), (50, 80)),
        ((90, 120), (80, 50), (71, 33)),
        ((30, 40), (90, 70), (64, 64)),
    ],
)
def test_equals_torchvision(
    size: tuple[int, int], resize: tuple[int, ...], crop: tuple[int, int], interpolation: str
) -> None:
    """Downscaling, upscaling and both at once equal torchvision's antialiased Resize and CenterCrop."""
    spec = PreprocessSpec(resize=resize, crop=crop, interpolation=interpolation)
    image = _image(*size, levels=LEVELS[interpolation])
    found = np.asarray(resize_and_crop(image, spec)).astype(int)
    assert np.abs(found - _torchvision(image, spec)).max() <= TOLERANCE[interpolation]


@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    resize=st.integers(1, 60),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
)
@settings(deadline=None, max_examples=150)
def test_equals_torchvision_for_any_size(size: tuple[int, int], resize: int, shares: tuple[float, float]) -> None:
    """For any size the result equals torchvision's within two levels: each of the two passes is rounded."""
    height, width = (max(1, round(resize * share)) for share in shares)
    spec = PreprocessSpec(resize=(resize,), crop=(height, width))
    image = _image(*size, seed=resize)
    found = np.asarray(resize_and_crop(image, spec)).astype(int)
    assert np.abs(found - _torchvision(image, spec)).max() <= 2


def test_nearest_and_lanczos_keep_uniform_colors() -> None:
    """The other two filters keep the color of a uniform image."""
    for interpolation in ("nearest", "lanczos"):
        spec = PreprocessSpec(resize=(24,), crop=(20, 24), interpolation=interpolation)
        made = np.asarray(resize_and_crop(Image.new("RGB", (50, 90), (9, 120, 240)), spec))
        assert np.array_equal(made, np.full((20, 24, 3), (9, 120, 240)))


@pytest.mark.parametrize(("height", "width"), [(1, 20_000), (20_000, 1), (2, 40_000)])
def test_extreme_aspect_ratios_are_prepared(height: int, width: int) -> None:
    """An image of one or two rows is prepared like its center: only the pixels that are kept are computed."""
    spec = PreprocessSpec(resize=(256,), crop=(224, 224))
    image = _image(height, width)
    middle = (
        max(0, width // 2 - 20),
        max(0, height // 2 - 20),
        min(width, width // 2 + 20),
        min(height, height // 2 + 20),
    )
    found = prepare(encode(image, "PNG"), spec).astype(int)
    assert np.abs(found - _torchvision(image.crop(middle), spec)).max() <= 1


def _photograph(width: int, height: int) -> Image.Image:
    """Draw smooth colors with fine noise, as in photographs."""
    coarse = _image(height // 40, width // 40).resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(1).normal(0, 6, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(1333, 1000), (799, 533), (500, 333), (333, 500), (1005, 1003)])
@pytest.mark.parametrize("resize", [(64,), (56, 72)])
def test_scaled_jpeg_decoding_stays_close(size: tuple[int, int], resize: tuple[int, ...]) -> None:
    """A JPEG decoded at a fraction of its size is prepared like the whole one, without the padded last pixels."""
    data = encode(_photograph(*size), "JPEG", quality=90)
    spec = PreprocessSpec(resize=resize, crop=(56, 56))
    whole = np.asarray(resize_and_crop(decode(data), spec)).astype(int)
    assert np.abs(prepare(data, spec) - whole).mean() < 2.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_jpeg_decoding_stays_close_in_any_orientation(orientation: int) -> None:
    """The padded pixels are left out on whichever side they are in the upright image."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(_photograph(505, 333), "JPEG", quality=90, exif=exif)
    spec = PreprocessSpec(resize=(64,), crop=(60, 60))
    whole = np.asarray(resize_and_crop(decode(data), spec)).astype(int)
    assert np.abs(prepare(data, spec) - whole).mean() < 2.5


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [
        ((1600, 1200), 300, (400, 300)),
        ((1600, 1200), 301, (800, 600)),
        ((1600, 1200), 601, (1600, 1200)),
        ((4000, 3000), 232, (500, 375)),
        ((4000, 460), 232, (4000, 460)),
    ],
)
def test_scaled_jpeg_decoding_is_large_enough(size: tuple[int, int], at_least: int, expected: tuple[int, int]) -> None:
    """The scale is a half, a quarter or an eighth, as long as both sides have the requested length."""
    data = encode(Image.new("RGB", size), "JPEG")
    assert decode(data, at_least=at_least).size == expected
    assert decode(data).size == size


def test_other_formats_are_decoded_at_full_size() -> None:
    """Only JPEG and JPEG 2000 have a scaled decoding."""
    data = encode(Image.new("RGB", (800, 600)), "PNG")
    assert decode(data, at_least=50).size == (800, 600)

"""Deep images, of more than 8 bits a pixel: the range of values that they use, and how it maps to 0..255."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import draw_image, encode

from unfreeze.contract.errors import ImageError, UnsupportedImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.depth import PixelRange, measure_range
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare

LEVELS = np.random.default_rng(0).integers(0, 4096, (6, 5), dtype=np.uint16)  # 12 bits
LEVELS[0, :2] = 16, 4000


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values)


def _gray(data: bytes, deep_range: tuple[float, float] | None = None) -> np.ndarray:
    red, green, blue = np.moveaxis(np.asarray(decode(data, deep_range=deep_range)), -1, 0)
    assert np.array_equal(red, green)
    assert np.array_equal(red, blue)
    return red


def _expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


KINDS = {
    "16-bit PNG": encode(_image(LEVELS), "PNG"),
    "16-bit TIFF": encode(_image(LEVELS), "TIFF"),
    "16-bit big-endian TIFF": encode(Image.frombytes("I;16B", (5, 6), LEVELS.astype(">u2").tobytes()), "TIFF"),
    "16-bit compressed TIFF": encode(_image(LEVELS), "TIFF", compression="tiff_lzw"),
    "16-bit JPEG 2000": encode(_image(LEVELS), "JPEG2000"),
    "16-bit PGM": encode(_image(LEVELS), "PPM"),
    "32-bit TIFF": encode(_image(LEVELS.astype(np.int32)), "TIFF"),
    "float TIFF": encode(_image(LEVELS.astype(np.float32)), "TIFF"),
    "PFM": encode(_image(LEVELS.astype(np.float32)), "PPM"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_in_the_range_become_0_to_255(kind: str) -> None:
    """In every format: linear, rounded to the nearest level, clipped outside of the range."""
    assert np.array_equal(_gray(KINDS[kind], (500, 3000)), _expected(LEVELS, 500, 3000))
    assert np.array_equal(_gray(KINDS[kind], (0, 4095)), _expected(LEVELS, 0, 4095))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("16-bit")])
def test_the_full_range_of_16_bits_is_the_default(kind: str) -> None:
    """Without a range, 16-bit integers keep their high byte."""
    assert np.array_equal(_gray(KINDS[kind]), LEVELS >> 8)


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [("32-bit TIFF", "32-bit integers"), ("float TIFF", "floating-point numbers"), ("PFM", "floating-point numbers")],
)
def test_other_depths_need_a_range(kind: str, pixels: str) -> None:
    """32-bit integers and floating point have no range of their own: the error names the options that give one."""
    options = r"tune with --deep-range LOW,HIGH or --deep-range auto, or save the image with 8 or 16 bits"
    with pytest.raises(UnsupportedImageError, match=rf"the pixels are {pixels}, .*: {options}$"):
        decode(KINDS[kind])


@pytest.mark.parametrize(
    ("kind", "mode", "bits"),
    [(kind, "I;16", 12) for kind in KINDS if kind.startswith("16-bit")]
    + [("32-bit TIFF", "I", 12), ("float TIFF", "F", 0), ("PFM", "F", 0)],
)
def test_measured_range_is_that_of_the_values(kind: str, mode: str, bits: int) -> None:
    """The smallest and the largest value, and how many bits of the integers are used."""
    low, high = float(LEVELS.min()), float(LEVELS.max())
    assert measure_range(KINDS[kind]) == PixelRange(mode=mode, low=low, high=high, bits_used=bits)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF"])
def test_images_of_8_bits_have_no_range_to_measure(kind: str) -> None:
    """They have none, and a given range does not change them."""
    data = encode(draw_image((200, 90, 40), 0), kind)
    assert measure_range(data) is None
    assert np.array_equal(np.asarray(decode(data, deep_range=(3, 7))), np.asarray(decode(data)))


@pytest.mark.parametrize(("values", "bits"), [([0, 0], 0), ([1, 1], 1), ([255, 256], 9), ([-(2**31), 5], 32)])
def test_bits_are_those_of_the_largest_magnitude(values: list[int], bits: int) -> None:
    """Negative numbers count as well."""
    found = measure_range(encode(_image(np.array([values], np.int32)), "TIFF"))
    assert found is not None
    assert (found.low, found.high, found.bits_used) == (values[0], values[1], bits)


def test_infinities_are_clipped_and_nan_is_black() -> None:
    """Pixels that are not finite do not count for the measured range, and have defined levels."""
    values = np.array([[-np.inf, 0.25, 0.5], [np.nan, 0.75, np.inf]], np.float32)
    data = encode(_image(values), "TIFF")
    assert measure_range(data) == PixelRange(mode="F", low=0.25, high=0.75, bits_used=0)
    assert _gray(data, (0.25, 0.75)).tolist() == [[0, 0, 128], [0, 255, 255]]


def test_images_without_a_finite_number_are_refused_when_measured() -> None:
    """Nothing can be learned from them about a range."""
    data = encode(_image(np.full((2, 2), np.nan, np.float32)), "TIFF")
    with pytest.raises(UnsupportedImageError, match="holds no finite number: all of its pixels are NaN or infinite"):
        measure_range(data)


@pytest.mark.parametrize("data", [b"", b"no image", KINDS["16-bit TIFF"][:40], KINDS["float TIFF"][:60]])
def test_what_does_not_decode_cannot_be_measured(data: bytes) -> None:
    """The same errors as of `decode`."""
    with pytest.raises(ImageError):
        measure_range(data)


@given(
    values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
    ends=st.lists(st.floats(-1e37, 1e37), min_size=2, max_size=2, unique=True).map(sorted),
)
@settings(deadline=None, max_examples=60)
def test_any_range_maps_any_values(values: list[int], ends: list[float]) -> None:
    """Levels rise with the values, whatever the range, and no warning of the arithmetic escapes."""
    data = encode(_image(np.sort(np.array([values], np.int32))), "TIFF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        levels = _gray(data, (ends[0], ends[1])).astype(int)
    assert (np.diff(levels) >= 0).all()


def test_12_bits_in_16_look_like_the_same_image_in_8_bits() -> None:
    """A camera's 12 bits in a 16-bit file, with their range, are prepared to what an 8-bit file of them is."""
    scene = np.asarray(draw_image((120, 120, 120), 0, (90, 70)).convert("L"))
    deep, shallow = encode(_image(scene.astype(np.uint16) << 4), "PNG"), encode(Image.fromarray(scene), "PNG")
    spec = PreprocessSpec(resize=(40,), crop=(32, 32), deep_range=(0, 4080))
    assert np.array_equal(prepare(deep, spec), prepare(shallow, spec))


def test_large_images_are_mapped_in_blocks() -> None:
    """The last block of an image that is not a whole number of blocks is mapped too."""
    values = np.arange(1500 * 1500, dtype=np.int32).reshape(1500, 1500)
    data = encode(_image(values), "TIFF")
    assert np.array_equal(_gray(data, (0, 2249999)), _expected(values, 0, 2249999))

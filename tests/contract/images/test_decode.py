"""Decoding: every supported format and pixel type is decoded to the colors that viewers show."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support.images import encode

from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
GRAY = np.random.default_rng(1).integers(0, 256, (12, 20), dtype=np.uint8)
TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}


def _decoded(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_lossless_formats_keep_every_pixel(kind: str, options: dict[str, object]) -> None:
    """PNG, lossless WebP, BMP and TIFF are decoded to the pixels that were saved."""
    assert np.array_equal(_decoded(encode(Image.fromarray(RGB), kind, **options)), RGB)


@pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", 3), ("WEBP", 6)])
@pytest.mark.parametrize("color", [(200, 30, 40), (20, 180, 60), (30, 60, 220)])
def test_lossy_formats_keep_the_color(kind: str, tolerance: int, color: tuple[int, int, int]) -> None:
    """JPEG and lossy WebP keep the color of a uniform image, with the channels in RGB order."""
    found = _decoded(encode(Image.new("RGB", (32, 24), color), kind, quality=95))
    assert np.abs(found.astype(int) - color).max() <= tolerance


def test_first_frame_of_a_gif_is_decoded() -> None:
    """Of an animated GIF."""
    frames = [Image.new("RGB", (8, 6), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(_decoded(data), np.full((6, 8, 3), (250, 0, 0)))


def test_gray_becomes_three_equal_channels() -> None:
    """The gray level is repeated in all three channels."""
    assert np.array_equal(_decoded(encode(Image.fromarray(GRAY), "PNG")), np.dstack([GRAY] * 3))


def test_black_and_white_goes_from_0_to_255() -> None:
    """In a 1-bit image, black is 0 and white is 255."""
    found = _decoded(encode(Image.fromarray(GRAY > 127), "PNG"))
    assert np.array_equal(found, np.dstack([(GRAY > 127) * 255] * 3))


@pytest.mark.parametrize(
    ("kind", "mode", "order"), [("PNG", "I;16", "<u2"), ("TIFF", "I;16", "<u2"), ("TIFF", "I;16B", ">u2")]
)
def test_16_bit_gray_keeps_the_high_byte(kind: str, mode: str, order: str) -> None:
    """16-bit gray, in either byte order, is reduced to its high byte, not clipped or wrapped."""
    levels = np.random.default_rng(2).integers(0, 2**16, (6, 5)).astype(order)
    data = encode(Image.frombytes(mode, (5, 6), levels.tobytes()), kind)
    assert np.array_equal(_decoded(data), np.dstack([levels >> 8] * 3))


def _palette() -> Image.Image:
    image = Image.fromarray(GRAY % 3, "L").convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 128])
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes_are_looked_up(kind: str) -> None:
    """Palette indices become colors."""
    colors = np.array([(10, 20, 30), (200, 100, 50), (0, 255, 128)])
    assert np.array_equal(_decoded(encode(_palette(), kind)), colors[GRAY % 3])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entries_are_white(kind: str) -> None:
    """Transparent palette entries become white."""
    colors = np.array([(10, 20, 30), (255, 255, 255), (0, 255, 128)])
    assert np.array_equal(_decoded(encode(_palette(), kind, transparency=1)), colors[GRAY % 3])


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_transparent_color_is_white(mode: str) -> None:
    """In a PNG without alpha that declares one color as transparent, that color becomes white."""
    image = Image.new(mode, (4, 4), 0)
    transparency = (0, 0, 0) if mode == "RGB" else 0
    assert (_decoded(encode(image, "PNG", transparency=transparency)) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(kind: str) -> None:
    """RGBA becomes color * alpha + white * (1 - alpha), within one level of rounding."""
    alpha = np.random.default_rng(3).integers(0, 256, RGB.shape[:2], dtype=np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = _decoded(encode(Image.fromarray(np.dstack([RGB, alpha])), kind, **options))
    share = alpha[..., None] / 255
    assert np.abs(found - (RGB * share + 255 * (1 - share))).max() <= 1


def test_gray_with_alpha_is_composited_on_white() -> None:
    """LA becomes gray * alpha + white * (1 - alpha), within one level of rounding."""
    alpha = GRAY[::-1]
    image = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(alpha)])
    share = alpha / 255
    expected = np.dstack([GRAY * share + 255 * (1 - share)] * 3)
    assert np.abs(_decoded(encode(image, "PNG")) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "color"), [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255, 255, 255))]
)
def test_cmyk_is_converted_to_rgb(kind: str, ink: tuple[int, ...], color: tuple[int, ...]) -> None:
    """CMYK is not inverted: cyan ink is cyan, full black is black, no ink is white."""
    found = _decoded(encode(Image.new("CMYK", (16, 16), ink), kind))
    assert np.abs(found.astype(int) - color).max() <= 2


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}, 3),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_exif_orientation_is_applied(orientation: int, kind: str, options: dict[str, object], tolerance: int) -> None:
    """Each of the eight EXIF orientations is undone."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = _decoded(encode(Image.fromarray(RGB), kind, exif=exif, **options))
    expected = TURNS[orientation](RGB)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_are_ignored(orientation: int) -> None:
    """With an orientation outside 1 to 8, the image is decoded as stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(_decoded(encode(Image.fromarray(RGB), "PNG", exif=exif)), RGB)


def test_broken_exif_is_ignored() -> None:
    """With invalid EXIF data, the image is decoded as stored."""
    data = encode(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert np.array_equal(_decoded(data), RGB)


def test_orientation_is_applied_before_the_crop() -> None:
    """`prepare` crops the upright image, also with scaled JPEG decoding."""
    wide = Image.new("RGB", (640, 320), (255, 255, 255))
    wide.paste((255, 0, 0), (0, 0, 320, 320))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = prepare(encode(wide, "JPEG", exif=exif, quality=95), PreprocessSpec(resize=(64, 32), crop=(64, 32)))
    assert made.shape == (64, 32, 3)
    assert np.abs(made[:30].astype(int) - (255, 0, 0)).max() < 8
    assert np.abs(made[34:].astype(int) - 255).max() < 8


def test_threads_get_the_same_pixels() -> None:
    """Eight threads at once get the same pixels as one thread."""
    spec = PreprocessSpec(resize=(24,), crop=(16, 20))
    noise = np.random.default_rng(4).integers(0, 256, (40, 70, 90, 3), dtype=np.uint8)
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")
    files = [encode(Image.fromarray(pixels), kinds[i % len(kinds)]) for i, pixels in enumerate(noise)]
    alone = [prepare(data, spec) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: prepare(data, spec), files * 3))
    assert all(np.array_equal(one, other) for one, other in zip(alone * 3, together, strict=True))


def test_prepared_images_are_read_only_rgb_of_the_crop() -> None:
    """`prepare` returns uint8 HWC of the spec's shape, not writable."""
    spec = PreprocessSpec(resize=(10,), crop=(7, 9))
    made = prepare(encode(Image.fromarray(RGB), "PNG"), spec)
    assert made.shape == spec.shape == (7, 9, 3)
    assert made.dtype == np.uint8
    assert not made.flags.writeable


def test_decoded_image_does_not_need_its_bytes() -> None:
    """The decoded image can be used after its buffer is closed."""
    buffer = io.BytesIO(encode(Image.fromarray(RGB), "TIFF"))
    image = decode(buffer.getvalue())
    buffer.close()
    assert np.array_equal(np.asarray(image), RGB)

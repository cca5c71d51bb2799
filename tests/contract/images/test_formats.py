"""The registry of formats, and the formats beside JPEG, PNG, WebP, GIF, BMP and TIFF."""

import io
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import draw_image, encode

from unfreeze.contract.errors import (
    DamagedImageError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
    UnsupportedImageError,
)
from unfreeze.contract.images import opening
from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.formats import FORMATS, ImageFormat
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare, resize_and_crop

SPEC = PreprocessSpec(resize=(16,), crop=(16, 16))
RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
PHOTO = draw_image((200, 90, 40), 0, (40, 30)).resize((400, 300), Image.Resampling.BICUBIC)


def _decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data))


def test_a_registered_format_is_read_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """One `ImageFormat` in the list is enough: bytes that it recognizes are screened, decoded and named in errors."""

    def screen(data: bytes, max_pixels: int) -> bytes:
        assert max_pixels == 1000
        return data.removeprefix(b"FAKE")

    fake = ImageFormat(name="Fake", pillow_name="BMP", recognizes=lambda data: data.startswith(b"FAKE"), screen=screen)
    data = b"FAKE" + encode(Image.fromarray(RGB), "BMP")
    with pytest.raises(NotAnImageError):
        prepare(data, SPEC, max_pixels=1000)
    monkeypatch.setattr(opening, "FORMATS", [*FORMATS, fake])
    assert np.array_equal(np.asarray(decode(data, max_pixels=1000)), RGB)
    with pytest.raises(NotAnImageError, match=r"\(JPEG, PNG, .*, Fake\)"):
        decode(b"anything else")


def test_every_format_has_its_own_first_bytes() -> None:
    """No two formats recognize the same bytes."""
    image = Image.fromarray(RGB)
    files = {found.pillow_name: encode(image, found.pillow_name) for found in FORMATS if found.pillow_name != "HEIF"}
    files["HEIF"] = _ftyp(b"heic", b"mif1", b"heic")
    for name, data in files.items():
        assert [found.pillow_name for found in FORMATS if found.recognizes(data)] == [name]


@pytest.mark.parametrize(("mode", "color"), [("RGB", (200, 30, 40)), ("RGB", (20, 180, 60)), ("L", 90)])
@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "PPM"])
def test_colors_are_decoded(kind: str, mode: str, color: tuple[int, int, int] | int) -> None:
    """Red, green and blue in their places, and gray."""
    found = _decoded(encode(Image.new(mode, (32, 24), color), kind))
    assert found.shape == (24, 32, 3)
    assert np.abs(found.astype(int) - color).max() <= 3


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}, {"tile_size": (8, 8)}, {"num_resolutions": 1}])
def test_lossless_jpeg_2000_keeps_every_pixel(options: dict[str, object]) -> None:
    """As JP2 file or bare codestream, in one tile or several."""
    assert np.array_equal(_decoded(encode(Image.fromarray(RGB), "JPEG2000", **options)), RGB)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_alpha_is_composited_on_white(kind: str) -> None:
    """Transparent pixels are white."""
    image = Image.new("RGBA", (32, 24), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (16, 0, 32, 24))
    found = _decoded(encode(image, kind)).astype(int)
    assert np.abs(found[:, :14] - (255, 0, 0)).max() <= 3
    assert np.abs(found[:, 18:] - 255).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_avif(orientation: int) -> None:
    """An orientation turns an AVIF file as it does a JPEG."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    found, expected = (
        _decoded(encode(PHOTO, kind, exif=exif.tobytes(), quality=100, subsampling="4:4:4")).astype(int)
        for kind in ("AVIF", "JPEG")
    )
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 3


def test_first_frame_of_an_avif_sequence_is_decoded() -> None:
    """The others are not."""
    frames = [Image.new("RGB", (32, 24), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    found = _decoded(encode(frames[0], "AVIF", save_all=True, append_images=frames[1:])).astype(int)
    assert np.abs(found - (250, 0, 0)).max() <= 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P1\n# a comment\n3 2\n1 0 1\n0 1 0", [[0, 255, 0], [255, 0, 255]]),
        (b"P1 3 2\n101010", [[0, 255, 0], [255, 0, 255]]),
        (b"P2\n2 2\n15\n0 15\n5 10\n", [[0, 255], [85, 170]]),
        (b"P2\n2 # width\n2\n1000\n0 1000 # row\n250 500\n", [[0, 255], [64, 128]]),
        (b"P4\n3 2\n\xa0\x40", [[0, 255, 0], [255, 0, 255]]),
        (b"P5\n2 2\n255\n\x00\xff\x07\x08", [[0, 255], [7, 8]]),
        (b"P5\n2 2\n15\n\x00\x0f\x05\x0a", [[0, 255], [85, 170]]),
        (b"P5\r2\t2 65535 \x00\x00\xff\xff\x07\xff\x08\x00", [[0, 255], [7, 8]]),
        (b"P5\n2 2\n4095\n\x00\x00\x0f\xff\x07\xff\x08\x00", [[0, 255], [127, 128]]),
    ],
)
def test_gray_pnm(data: bytes, expected: list[list[int]]) -> None:
    """Black and white and gray, plain and binary, with any largest value, comments and blanks."""
    assert np.array_equal(_decoded(data), np.dstack([np.array(expected)] * 3))


@pytest.mark.parametrize(
    "data",
    [
        b"P3\n2 1\n255\n10 20 30 250 0 128",
        b"P6\n2 1\n255\n" + bytes([10, 20, 30, 250, 0, 128]),
        b"P3\n2 1\n51\n2 4 6 50 0 26",
        b"P6\n2 1\n51\n" + bytes([2, 4, 6, 50, 0, 26]),
        b"P6\n2 1\n65535\n" + np.array([10, 20, 30, 250, 0, 128], ">u2").__mul__(257).astype(">u2").tobytes(),
    ],
)
def test_color_pnm(data: bytes) -> None:
    """Plain and binary, with any largest value."""
    assert np.abs(_decoded(data).astype(int) - [[[10, 20, 30], [250, 0, 128]]]).max() <= 2


@given(
    kind=st.sampled_from(["P2", "P3", "P5", "P6"]),
    maxval=st.integers(1, 65535),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=100)
def test_rewritten_pnm_has_pillows_pixels(kind: str, maxval: int, size: tuple[int, int], seed: int) -> None:
    """Whatever the largest value, pixels are what Pillow decodes from the file itself."""
    count = size[0] * size[1] * (3 if kind in ("P3", "P6") else 1)
    samples = np.random.default_rng(seed).integers(0, maxval + 1, count)
    header = f"{kind}\n{size[0]} {size[1]}\n{maxval}\n".encode()
    plain = kind in ("P2", "P3")
    sample_type = np.dtype(">u2") if maxval > 255 else np.dtype("u1")
    data = header + (" ".join(map(str, samples)).encode() if plain else samples.astype(sample_type).tobytes())
    pillows = Image.open(io.BytesIO(data))
    expected = np.asarray(pillows) >> 8 if pillows.mode == "I" else np.asarray(pillows)
    found = _decoded(data)
    assert np.array_equal(found if pillows.mode == "RGB" else found[..., 0], expected)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"P5\n2 2\n", DamagedImageError, "its PNM header cannot be read"),
        (b"P5\n2 -2\n255\nabcd", DamagedImageError, "its PNM header cannot be read"),
        (b"P5 " + b"#" * 100_000, DamagedImageError, "its PNM header cannot be read"),
        (b"P5 " + b"#\n" * 100_000, DamagedImageError, "its PNM header cannot be read"),
        (b"P5\n2 2\n0\nabcd", DamagedImageError, "must be from 1 to 65535, got 0"),
        (b"P5\n2 2\n65536\nabcd", DamagedImageError, "must be from 1 to 65535, got 65536"),
        (b"P5\n2 2\n100\nabc", DamagedImageError, "shorter than its header promises"),
        (b"P5\n2 2\n255\nabc", DamagedImageError, "truncated or damaged"),
        (b"P2\n2 2\n255\n1 2 3", DamagedImageError, "shorter than its header promises"),
        (b"P2\n2 2\n255\n1 2 -3 4", DamagedImageError, r"plain PNM cannot contain b'-'"),
        (b"P2\n2 2\n99\n1 2 100 4", DamagedImageError, "a value above 99"),
        (b"P2\n1 1\n255\n" + b"9" * 1000, DamagedImageError, "a value above 255"),
        (b"P1\n2 2\n0 1 2 1", DamagedImageError, "a value above 1"),
        (b"P5\n0 2\n9\n", EmptyImageError, "it is 0 x 2 pixels"),
        (b"P2\n9999999999 9999999999\n255\n1", ImageTooLargeError, "is 9999999999 x 9999999999 pixels"),
        (b"P5\n99999 99999\n255\n1", ImageTooLargeError, "pixels"),
        (b"P5\n99999 99999\n9\n1", ImageTooLargeError, "is 99999 x 99999 pixels; at most 64,000,000 are allowed"),
        (b"Pf\n99999 99999\n-1.0\n1", ImageTooLargeError, "pixels"),
        (b"P7\nWIDTH 4\n", NotAnImageError, "PNM"),
    ],
)
def test_bad_pnm_is_refused(data: bytes, error: type[ImageError], message: str) -> None:
    """Headers that cannot be read, values that do not fit, and files that are cut off."""
    with pytest.raises(error, match=message):
        decode(data)


def test_plain_pnm_is_read_quickly() -> None:
    """Pillow takes a second of the interpreter for each million values."""
    data = b"P3\n1200 1000\n200\n" + b"7 20 199\n" * 1_200_000
    started = time.process_time()
    found = _decoded(data)
    assert time.process_time() - started < 2.5
    assert np.array_equal(found[0, 0], [9, 26, 254])


def _siz(data: bytes) -> int:
    return data.index(b"\xff\x51")


def _patched(at: Callable[[bytes], int], fmt: str, *values: int, **options: object) -> bytes:
    data = bytearray(encode(Image.fromarray(RGB), "JPEG2000", **options))
    struct.pack_into(fmt, data, at(bytes(data)), *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (_patched(lambda data: _siz(data) + 6, ">II", 60_000, 60_000), ImageTooLargeError, "is 60000 x 60000 pixels"),
        (_patched(lambda data: data.index(b"ihdr") + 4, ">II", 60_000, 60_000), ImageTooLargeError, "pixels"),
        (
            _patched(lambda data: _siz(data) + 6, ">IIIIII", 2000, 2000, 0, 0, 16, 16),
            UnsupportedImageError,
            "15,625 tiles",
        ),
        (_patched(lambda data: _siz(data) + 22, ">II", 0, 9), DamagedImageError, "header cannot be read"),
        (_patched(lambda data: _siz(data) + 14, ">II", 20, 0), EmptyImageError, "it is 0 x 12 pixels"),
        (_patched(lambda data: _siz(data) + 38, ">H", 9000), UnsupportedImageError, "9,000 components; at most 4"),
        (
            _patched(lambda data: _siz(data) + 6, ">IIIIII", 8000, 8000, 0, 0, 8000, 8000, codeblock_size=(4, 4)),
            UnsupportedImageError,
            "code blocks; at most 1,000,000 are read",
        ),
        (
            _patched(
                lambda data: _siz(data) + 6,
                ">IIIIII",
                8000,
                8000,
                0,
                0,
                8000,
                8000,
                precinct_size=(32, 32),
                codeblock_size=(16, 16),
            ),
            UnsupportedImageError,
            "precincts; at most 250,000 are read",
        ),
        (_patched(lambda data: data.index(b"jp2c"), ">4s", b"free"), DamagedImageError, "without a codestream"),
    ],
)
def test_bad_jpeg_2000_is_refused(data: bytes, error: type[ImageError], message: str) -> None:
    """Headers that promise more than the image is worth, in pixels, tiles, components, code blocks or precincts."""
    with pytest.raises(error, match=message):
        decode(data)


@pytest.mark.parametrize("size", [(400, 300), (401, 301), (397, 299), (210, 700)])
def test_scaled_jpeg_2000_decoding_stays_close(size: tuple[int, int]) -> None:
    """A lower resolution of the file is prepared to what the whole one is, also where its size is odd."""
    data = encode(PHOTO.resize(size, Image.Resampling.BICUBIC), "JPEG2000")
    spec = PreprocessSpec(resize=(40,), crop=(40, 40))
    whole = np.asarray(resize_and_crop(decode(data), spec)).astype(int)
    assert np.abs(prepare(data, spec) - whole).mean() < 2.5
    assert min(decode(data, at_least=40).size) in range(80, 160)


@pytest.mark.parametrize("turned", [False, True])
def test_scaled_jpeg_2000_decoding_does_not_shift_the_image(*, turned: bool) -> None:
    """A slope stays in its place to a fraction of a pixel, across and down."""
    slope = np.clip(np.linspace(-382, 637, 1600), 0, 255).round().astype(np.uint8)
    pixels = np.broadcast_to(slope, (1600, 1600))
    data = encode(Image.fromarray(pixels.T.copy() if turned else pixels.copy()), "JPEG2000")
    spec = PreprocessSpec(resize=(40,), crop=(36, 36))
    assert decode(data, at_least=40).size == (100, 100)
    whole = np.asarray(resize_and_crop(decode(data), spec)).astype(int)
    middle = (whole > 30) & (whole < 225)
    assert abs((prepare(data, spec) - whole)[middle].mean()) < 0.7


def test_large_jpeg_2000_without_lower_resolutions_is_refused() -> None:
    """OpenJPEG would need more than a gigabyte; with lower resolutions it needs next to nothing."""
    image = Image.new("L", (6000, 3000), 100)
    with pytest.raises(ImageTooLargeError, match="6000 x 3000 pixels; of a JPEG 2000 file at most 16,000,000"):
        prepare(encode(image, "JPEG2000", num_resolutions=1), SPEC)
    assert np.abs(prepare(encode(image, "JPEG2000"), SPEC).astype(int) - 100).max() <= 1


def _ftyp(*brands: bytes) -> bytes:
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", len(content) + 4) + content + bytes(200)


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"mif1", b"heic"), (b"msf1",), (b"heix",)])
def test_heic_is_recognized_by_its_brands(brands: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pillow-heif the error says how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(UnsupportedImageError, match=r"a HEIC file, .*: pip install 'unfreeze\[heic\]', or save"):
        decode(_ftyp(*brands))


def test_heic_is_decoded() -> None:
    """With pillow-heif, colors and orientation are those of the image."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    found = _decoded(encode(PHOTO, "HEIF", quality=95, exif=exif.tobytes())).astype(int)
    assert np.abs(found - np.asarray(PHOTO.transpose(Image.Transpose.ROTATE_270))).mean() < 4
    with pytest.raises(ImageTooLargeError):
        decode(encode(PHOTO, "HEIF"), max_pixels=1000)
    for length in range(20, 2000, 100):
        with pytest.raises(ImageError):
            decode(encode(PHOTO, "HEIF")[:length])


_SOUND = {
    "AVIF": encode(PHOTO, "AVIF"),
    "JPEG2000": encode(PHOTO, "JPEG2000", no_jp2=True),
    "PPM": encode(PHOTO, "PPM"),
}
_SOUND["JP2"] = encode(PHOTO, "JPEG2000", quality_layers=[80, 40, 20], tile_size=(128, 128))
_SOUND["PGM of 12 bits"] = b"P5\n20 20\n4095\n" + bytes(800)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", _SOUND)
def test_truncated_files_are_refused(kind: str) -> None:
    """Cut off in the first half, each is an `ImageError`."""
    data = _SOUND[kind]
    assert prepare(data, SPEC).shape == (16, 16, 3)
    for length in range(0, len(data) // 2, max(1, len(data) // 60)):
        with pytest.raises(ImageError):
            prepare(data[:length], SPEC)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_changed_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever bytes of a sound file are changed, the result is an image or an `ImageError`."""
    good = bytearray(_SOUND[data.draw(st.sampled_from(sorted(_SOUND)))])
    where = st.one_of(st.integers(0, min(300, len(good) - 1)), st.integers(0, len(good) - 1))
    for position, value in data.draw(st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=6)):
        good[position] = value
    try:
        made = prepare(bytes(good), SPEC, max_pixels=1_000_000)
    except ImageError:
        return
    assert made.shape == (16, 16, 3)


def _avif_with_frames(count: int) -> bytes:
    """Put empty frames in the place of a coded image, which is at the end of the file."""
    data = encode(PHOTO, "AVIF")
    begin = data.rindex(b"mdat") + 4
    frames = data[begin : begin + 2] + b"\x32\x02\0\0" * count
    location = struct.pack(">II", begin, len(data) - begin)
    assert data.count(location) == 1
    return data[:begin].replace(location, struct.pack(">II", begin, len(frames))) + frames


def _sequence_with_frames(count: int) -> bytes:
    """Let the first sample of a sequence's track be empty frames, behind the end of the file."""
    data = bytearray(encode(PHOTO, "AVIF", save_all=True, append_images=[PHOTO.rotate(90)]))
    frames = b"\x12\0" + b"\x32\x02\0\0" * count
    struct.pack_into(">I", data, data.index(b"stsz") + 16, len(frames))
    struct.pack_into(">I", data, data.index(b"stco") + 12, len(data))
    return bytes(data) + frames


@pytest.mark.parametrize("make", [_avif_with_frames, _sequence_with_frames])
def test_avif_with_countless_hidden_frames_is_refused_quickly(make: Callable[[int], bytes]) -> None:
    """Frames that are decoded and not shown are bounded, as the scans of a JPEG are."""
    data, started = make(2_000_000), time.process_time()
    with pytest.raises(DamagedImageError, match="more than 64 frames in one coded image, which no encoder writes"):
        decode(data)
    assert time.process_time() - started < 1
    with pytest.raises(DamagedImageError, match="the image is truncated or damaged"):
        decode(make(64))


def test_nested_boxes_are_refused_quickly() -> None:
    """Boxes within boxes, thousands deep and each as large as the file."""
    data = b"".join(struct.pack(">I4s", 8 * (200_000 - number), b"moov") for number in range(200_000))
    started = time.process_time()
    with pytest.raises(DamagedImageError):
        decode(struct.pack(">I4s4sI4s", 20, b"ftyp", b"avif", 0, b"avif") + data)
    assert time.process_time() - started < 1

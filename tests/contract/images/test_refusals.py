"""Bytes that are not a usable image: always an `ImageError` of the right class, at little cost."""

import struct
import subprocess
import sys
import zlib

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
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare

SPEC = PreprocessSpec(resize=(16,), crop=(16, 16))
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
WHOLE = {kind: encode(draw_image((200, 90, 40), 0, (40, 30)), kind) for kind in KINDS}
WHOLE["TIFF, LZW"] = encode(draw_image((200, 90, 40), 0, (40, 30)), "TIFF", compression="tiff_lzw")
WHOLE["JPEG, progressive"] = encode(draw_image((200, 90, 40), 0, (40, 30)), "JPEG", progressive=True)
# `PIL.Image.new("RGB", (16383, 16383))` as lossless WebP, which takes ten seconds to encode.
WEBP_BOMB = bytes.fromhex("524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(width: int, height: int) -> bytes:
    """Make a PNG whose header promises more pixels than it has."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(bytes(10_000))), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _zero_wide_bmp() -> bytes:
    data = bytearray(WHOLE["BMP"])
    data[18:22] = bytes(4)
    return bytes(data)


def _zero_wide_gif() -> bytes:
    data = bytearray(WHOLE["GIF"])
    frame = data.index(b",\0\0\0\0" + struct.pack("<HH", 40, 30))
    data[6:8] = data[frame + 5 : frame + 7] = bytes(2)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", EmptyImageError, "it has no bytes"),
        (
            b"hello, world",
            NotAnImageError,
            r"not an image in a supported format \(JPEG, PNG, .*, PNM, HEIC\): the bytes begin with b'hello, w'",
        ),
        (b"<!DOCTYPE html><html></html>", NotAnImageError, "the bytes begin with b'<!DOCTYP'"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NotAnImageError, "the bytes begin with b'<svg xml'"),
        (b"PK\x03\x04" + bytes(60), NotAnImageError, "the bytes begin with b'PK"),
        (b"\0" * 1000, NotAnImageError, "not an image in a supported format"),
        (encode(Image.new("RGB", (8, 8)), "ICO"), NotAnImageError, "not an image in a supported format"),
        (_zero_wide_bmp(), DamagedImageError, "its BMP header cannot be read"),
        (_zero_wide_gif(), DamagedImageError, "its GIF header cannot be read"),
        (_png(0, 5), DamagedImageError, "its PNG header cannot be read"),
        (WHOLE["JPEG"][:-200], DamagedImageError, "truncated or damaged: image file is truncated"),
        (WHOLE["PNG"][:-200], DamagedImageError, "truncated or damaged"),
        (_png(700, 500), DamagedImageError, "truncated or damaged"),
        (_png(8000, 8001), ImageTooLargeError, "is 8000 x 8001 pixels; at most 64,000,000 are allowed"),
        (_png(60_000, 60_000), ImageTooLargeError, "more than the 64,000,000 pixels allowed"),
        (_png(2**31 - 1, 2**31 - 1), ImageTooLargeError, "more than the 64,000,000 pixels allowed"),
        (WEBP_BOMB, ImageTooLargeError, "more than the 64,000,000 pixels allowed"),
        (
            encode(Image.new("I", (8, 8), 7), "TIFF"),
            UnsupportedImageError,
            r"32-bit integers.* --deep-range LOW,HIGH .*save .* 8 or 16 bits",
        ),
        (
            encode(Image.new("F", (8, 8), 7), "TIFF"),
            UnsupportedImageError,
            r"floating-point numbers.* --deep-range LOW,HIGH .*save .* 8 or 16",
        ),
    ],
)
def test_errors_name_the_reason(data: bytes, error: type[ImageError], message: str) -> None:
    """Each kind of unusable bytes has its own error class, and the message says what was found."""
    with pytest.raises(error, match=message) as caught:
        prepare(data, SPEC)
    assert type(caught.value) is error


def test_pixel_limit_can_be_set() -> None:
    """The limit is exact."""
    assert prepare(WHOLE["PNG"], SPEC, max_pixels=1200).shape == (16, 16, 3)
    with pytest.raises(ImageTooLargeError, match="is 40 x 30 pixels; at most 1,199 are allowed"):
        prepare(WHOLE["PNG"], SPEC, max_pixels=1199)


def _prepare_or_refuse(data: bytes) -> np.ndarray | None:
    try:
        made = prepare(data, SPEC, max_pixels=1_000_000)
    except ImageError as error:
        assert len(str(error)) < 400  # noqa: PT017 - it need not be raised
        return None
    assert made.shape == (16, 16, 3)
    return made


# Pillow warns of odd metadata; in the tests warnings are errors.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_files_are_refused_or_decoded(kind: str) -> None:
    """A file that is cut off anywhere is an `ImageError` or, if only its end is missing, an image."""
    data = WHOLE[kind]
    assert _prepare_or_refuse(data) is not None
    results = [_prepare_or_refuse(data[:length]) for length in range(0, len(data), max(1, len(data) // 300))]
    assert all(result is None for result in results[: len(results) // 2])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_changed_bytes_are_refused_or_decoded(data: st.DataObject) -> None:
    """Whichever bytes of a valid file are changed, the result is an image or an `ImageError`."""
    good = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    where = st.one_of(st.integers(0, min(200, len(good) - 1)), st.integers(0, len(good) - 1))
    for position, value in data.draw(st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=8)):
        good[position] = value
    _prepare_or_refuse(bytes(good))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(
    magic=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBPVP8L", b"GIF89a", b"II*\0"]),
    rest=st.binary(max_size=400),
)
@settings(deadline=None, max_examples=300)
def test_random_bytes_are_refused_or_decoded(magic: bytes, rest: bytes) -> None:
    """Random bytes after a format's first bytes are an image or an `ImageError`."""
    _prepare_or_refuse(magic + rest)


@pytest.mark.parametrize("bomb", [WEBP_BOMB, _png(9_400, 9_400), _png(60_000, 60_000)], ids=["webp", "png", "huge png"])
def test_decompression_bombs_cost_little_memory(bomb: bytes) -> None:
    """Small files that promise hundreds of megapixels are refused with less than 20 MB of memory."""
    code = f"""
import resource
from unfreeze.contract.errors import ImageTooLargeError
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
spec = PreprocessSpec(resize=(16,), crop=(16, 16))
prepare({WHOLE["WEBP"]!r}, spec), prepare({WHOLE["PNG"]!r}, spec)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    prepare({bomb!r}, spec)
except ImageTooLargeError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    grown_kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown_kib < 20_000


def test_lack_of_memory_is_an_image_error() -> None:
    """Under a memory limit, a large image is an `ImageTooLargeError`, and the process continues."""
    code = f"""
import resource
from unfreeze.contract.errors import ImageTooLargeError
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
spec = PreprocessSpec(resize=(16,), crop=(16, 16))
prepare({WHOLE["PNG"]!r}, spec)
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 60_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    prepare({_png(8_000, 8_000)!r}, spec)
except ImageTooLargeError:
    print("refused")
print(prepare({WHOLE["PNG"]!r}, spec).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["refused", "(16, 16, 3)"]

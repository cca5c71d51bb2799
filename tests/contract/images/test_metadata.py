"""Metadata beside the pixels: large or hostile, it neither costs much nor makes a sound image a damaged one."""

import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.images import draw_image, encode

from unfreeze.contract.errors import DamagedImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.formats.png import without_large_text

IMAGE = draw_image((200, 90, 40), 0, (40, 30))
PIXELS = np.asarray(IMAGE)
LARGE = 3 * 2**20
PLAIN = encode(IMAGE, "PNG")
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png_with(chunks: bytes, *, at_end: bool = False) -> bytes:
    at = len(PLAIN) - 12 if at_end else 33  # before IEND, or behind IHDR
    return PLAIN[:at] + chunks + PLAIN[at:]


def _text(kind: str, key: str, value: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        info.add_itxt(key, value, "en", "key", zip=False)
    elif kind == "compressed iTXt":
        info.add_itxt(key, value, "en", "key", zip=True)
    else:
        info.add_text(key, value, zip=kind == "zTXt")
    return b"".join(_chunk(name, content) for name, content, _ in info.chunks)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("key", ["Comment", "XML:com.adobe.xmp"])
@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "compressed iTXt"])
def test_large_text_in_png_is_skipped(kind: str, key: str, *, at_end: bool) -> None:
    """A sound PNG with megabytes of text decodes, whatever the text's kind and place."""
    data = _png_with(_text(kind, key, "a" * LARGE), at_end=at_end)
    assert np.array_equal(np.asarray(decode(data)), PIXELS)


def test_much_text_in_png_is_skipped() -> None:
    """Many texts, which together are more than Pillow unpacks."""
    data = _png_with(_text("zTXt", "Comment", "a" * 2**20) * 100)
    assert np.array_equal(np.asarray(decode(data)), PIXELS)


def test_large_color_profile_in_png_is_skipped() -> None:
    """Color profiles are ignored, whatever their size."""
    data = _png_with(_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(LARGE))))
    assert np.array_equal(np.asarray(decode(data)), PIXELS)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "compressed iTXt"])
def test_orientation_in_png_text_is_used(kind: str) -> None:
    """XMP can hold the orientation, and is kept; other texts beside it are not."""
    data = _png_with(_text(kind, "Comment", "a" * LARGE) + _text(kind, "XML:com.adobe.xmp", XMP))
    assert np.array_equal(np.asarray(decode(data)), PIXELS[::-1, ::-1])


def test_orientation_in_imagemagicks_png_text_is_used() -> None:
    """ImageMagick writes EXIF as hexadecimal text."""
    exif = Image.Exif()
    exif[0x0112] = 3
    raw = exif.tobytes()
    text = f"\nexif\n{len(raw):8}\n{raw.hex()}\n"
    data = _png_with(_text("zTXt", "Raw profile type exif", text))
    assert np.array_equal(np.asarray(decode(data)), PIXELS[::-1, ::-1])


def test_png_without_text_is_not_copied() -> None:
    """The bytes are the same object."""
    assert without_large_text(PLAIN) is PLAIN


@pytest.mark.parametrize(
    "content", [b"XML:com.adobe.xmp\0\0not zlib", b"XML:com.adobe.xmp", b"XML:com.adobe.xmp\0", b"", b"\0\0\0"]
)
@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"tEXt"])
def test_broken_text_in_png_is_skipped(name: bytes, content: bytes) -> None:
    """It does not matter for the pixels."""
    assert np.array_equal(np.asarray(decode(_png_with(_chunk(name, content)))), PIXELS)


def test_a_bomb_of_text_in_png_costs_little() -> None:
    """Gigabytes of text, compressed a thousandfold, are neither unpacked nor a reason to refuse the image."""
    text = b"XML:com.adobe.xmp\0\0" + zlib.compress(bytes(50 * 2**20), 9)
    data = _png_with(_chunk(b"zTXt", text) * 40)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert np.array_equal(np.asarray(decode(data)), PIXELS)
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


def test_png_with_countless_chunks_is_refused_quickly() -> None:
    """Millions of empty chunks would take seconds to read."""
    data = _png_with(_chunk(b"prIv", b"") * 1_000_000)
    started = time.process_time()
    with pytest.raises(DamagedImageError, match="a PNG with more than 200,000 chunks, which no encoder writes"):
        decode(data)
    assert time.process_time() - started < 2


def _gif_with_comment() -> bytes:
    data = encode(IMAGE, "GIF")
    blocks = (b"\xff" + b"c" * 255) * (LARGE // 255)
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)  # behind the palette
    return data[:at] + b"\x21\xfe" + blocks + b"\0" + data[at:]


def _jpeg_with_segments() -> bytes:
    data = encode(IMAGE, "JPEG", quality=95)
    comment = b"\xff\xfe" + struct.pack(">H", 65_000) + bytes(64_998)
    unknown = b"\xff\xeb" + struct.pack(">H", 65_000) + bytes(64_998)
    return data[:2] + comment * 50 + unknown * 50 + data[2:]


def _large_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    exif[0x010E] = "a" * LARGE
    return exif


def _tiff() -> bytes:
    return encode(IMAGE, "TIFF", tiffinfo={270: "a" * LARGE, 65000: b"b" * LARGE, 0x0112: 3}, icc_profile=bytes(LARGE))


TURNED = PIXELS[::-1, ::-1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_tiff(), TURNED),
        (_jpeg_with_segments(), PIXELS),
        (encode(IMAGE, "JPEG", icc_profile=bytes(LARGE), quality=95), PIXELS),
        (encode(IMAGE, "PNG", exif=_large_exif().tobytes()), TURNED),
        (
            encode(IMAGE, "WEBP", exif=_large_exif().tobytes(), xmp=b"x" * LARGE, icc_profile=bytes(LARGE), quality=95),
            TURNED,
        ),
        (encode(IMAGE, "AVIF", exif=_large_exif().tobytes(), xmp=b"x" * LARGE, quality=95), TURNED),
        (_gif_with_comment(), PIXELS),
        (encode(IMAGE, "JPEG2000", comment="c" * 60_000), PIXELS),
        (b"P6\n" + b"# comment\n" * 100_000 + encode(IMAGE, "PPM")[3:], PIXELS),
    ],
    ids=["TIFF", "JPEG segments", "JPEG profile", "PNG EXIF", "WebP", "AVIF", "GIF", "JPEG 2000", "PNM"],
)
def test_large_metadata_of_other_formats_is_harmless(data: bytes, expected: np.ndarray) -> None:
    """Megabytes of comments, tags, profiles, XMP and EXIF: the image is decoded, upright, and quickly."""
    started = time.process_time()
    found = np.asarray(decode(data)).astype(int)
    assert time.process_time() - started < 1
    assert np.abs(found - expected).mean() < 25


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_tags_that_share_their_data_cost_little() -> None:
    """Hundreds of EXIF tags, each of which points to the same half megabyte, are not copied hundreds of times."""
    count, size = 800, 500_000
    at = 8 + 2 + 12 * count + 4
    tags = b"".join(struct.pack("<HHII", 1000 + number, 7, size, at) for number in range(count))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + tags + bytes(4) + bytes(size)
    data = encode(IMAGE, "PNG", exif=b"Exif\0\0" + exif)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.array_equal(np.asarray(decode(data)), PIXELS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000

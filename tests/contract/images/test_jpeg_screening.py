"""JPEG files that are small and slow to decode are refused before they are decoded, and no others."""

import time

import pytest
from PIL import Image
from support.images import draw_image, encode

from unfreeze.contract.errors import DamagedImageError
from unfreeze.contract.images.formats.jpeg import check_jpeg
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare

SPEC = PreprocessSpec(resize=(16,), crop=(16, 16))
IMAGE = draw_image((200, 90, 40), 0, (40, 30))
PROGRESSIVE = encode(IMAGE, progressive=True)
SCAN = b"\xff\xda"


def _with_scans(data: bytes, more: int) -> bytes:
    """Repeat the last scan, with its tables."""
    last = data[data.rindex(b"\xff\xc4") : -2]
    return data[:-2] + last * more + data[-2:]


def _sequential(size: int, more: int) -> bytes:
    """Make a JPEG of three scans of one component each, and repeat the first of them without its content."""
    data = bytearray(encode(Image.new("RGB", (size, size)), subsampling=0))
    at = data.index(SCAN)
    head, content = bytes(data[:at]), bytes(data[at + 14 : -2])
    scans = [SCAN + bytes([0, 8, 1, number, 0x11 * (number > 1), 0, 63, 0]) for number in (1, 2, 3)]
    return head + b"".join(scan + content for scan in scans) + scans[0] * more + b"\xff\xd9"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"progressive": True, "subsampling": 0}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_accepts_what_encoders_write(mode: str, options: dict[str, object]) -> None:
    """Gray, color and CMYK, baseline and progressive, with metadata of many segments."""
    data = encode(IMAGE.convert(mode), icc_profile=bytes(5_000_000), **options)
    check_jpeg(data)
    assert prepare(data, SPEC).shape == (16, 16, 3)


def test_scans_of_embedded_images_do_not_count() -> None:
    """Scans of a thumbnail in a segment, or of data after the end of the image, do not count."""
    thumbnail = b"\xff\xe5" + (2 + 2 * 1000).to_bytes(2, "big") + SCAN * 1000
    data = PROGRESSIVE[:2] + thumbnail + PROGRESSIVE[2:] + SCAN * 1000
    assert (prepare(data, SPEC) == prepare(PROGRESSIVE, SPEC)).all()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (_with_scans(PROGRESSIVE, 100), "64 scans"),
        (_sequential(40, 100), "64 scans"),
        (PROGRESSIVE[:2] + b"\xff\xe5\0\2" * 2000 + PROGRESSIVE[2:], "1,000 segments"),
        (PROGRESSIVE[:2] + b"\xff\xe1\0\x0cExif\0\0abcd" * 2000 + PROGRESSIVE[2:], "1,000 segments"),
    ],
)
def test_rejects_more_than_any_encoder_writes(data: bytes, what: str) -> None:
    """Hundreds of scans, progressive or of one component each, or thousands of segments."""
    with pytest.raises(DamagedImageError, match=f"a JPEG with more than {what}, which no encoder writes"):
        prepare(data, SPEC)


@pytest.mark.parametrize("data", [_with_scans(PROGRESSIVE, 50), _sequential(40, 0), _sequential(40, 50)])
def test_accepts_scans_below_the_limit(data: bytes) -> None:
    """More scans than usual, progressive or of one component each."""
    assert prepare(data, SPEC).shape == (16, 16, 3)


def test_rejects_many_scans_quickly() -> None:
    """Ten thousand scans of twenty megapixels would take minutes to decode, and are refused in less than a second."""
    bomb = _with_scans(encode(Image.new("L", (5000, 4000), 128), progressive=True), 10_000)
    started = time.monotonic()
    with pytest.raises(DamagedImageError, match="64 scans"):
        prepare(bomb, SPEC)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xda\0\0\0"]
)
def test_truncated_files_are_left_to_the_decoder(data: bytes) -> None:
    """Markers at the very end of a file are not an error here."""
    check_jpeg(data)

"""JPEG; small files that would take minutes to decode are detected by their markers and rejected."""

import re
from collections.abc import Iterator

from PIL import Image

from unfreeze.contract.errors import DamagedImageError
from unfreeze.contract.images.formats.image_format import Box, ImageFormat, begins_with

# libjpeg visits all blocks of an image once for each scan, however short the scan is, and Pillow copies all of EXIF
# for each of its segments. Encoders write up to about 20 scans, and one segment for every 64 KiB of metadata.
_MOST_SCANS, _MOST_SEGMENTS = 64, 1000
_MAGIC = b"\xff\xd8\xff"
# Two bytes that begin a segment: neither fill bytes nor, within a scan, stuffed bytes and restart markers.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END, _SCAN, _WITHOUT_LENGTH = 0xD9, 0xDA, (0x01, 0xD8)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0x02  # of a frame's marker: SOF2, SOF6, SOF10 and SOF14


def check_jpeg(data: bytes) -> None:
    """Reject a JPEG that would take far longer to decode than its number of pixels suggests.

    Args:
        data: the encoded image.

    Raises:
        DamagedImageError: more scans or segments than any encoder writes.
    """
    scans, components = 0, 0
    for number, (marker, at) in enumerate(_segments(data), start=1):
        if marker in _FRAMES:
            components = data[at + 7] if marker & 3 != _PROGRESSIVE and len(data) > at + 7 else 0
        if marker == _SCAN:
            scans += 1
            if len(data) > at + 2 and data[at + 2] == components:
                return  # one scan holds everything, and libjpeg reads no further
        if scans > _MOST_SCANS or number > _MOST_SEGMENTS:
            limit = f"{_MOST_SCANS} scans" if scans > _MOST_SCANS else f"{_MOST_SEGMENTS:,} segments"
            raise DamagedImageError(f"the image is a JPEG with more than {limit}, which no encoder writes")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each segment's marker and the position of its length, up to the end of the image."""
    at = 0
    while (found := _MARKER.search(data, at)) and (marker := data[found.start() + 1]) != _END:
        at = found.end()
        if marker not in _WITHOUT_LENGTH:
            yield marker, at
            at += int.from_bytes(data[at : at + 2], "big")


def _shrink(image: Image.Image, data: bytes, at_least: int | None) -> Box | None:  # noqa: ARG001
    """Let libjpeg decode at a half, a quarter or an eighth; it pads the last pixels."""
    drafted = None if at_least is None else image.draft(None, (at_least, at_least))
    return None if drafted is None else drafted[1]


def _screen(data: bytes, max_pixels: int) -> bytes:  # noqa: ARG001
    check_jpeg(data)
    return data


FORMAT = ImageFormat(name="JPEG", pillow_name="JPEG", recognizes=begins_with(_MAGIC), screen=_screen, shrink=_shrink)

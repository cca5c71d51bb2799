"""JPEG files that are small and take minutes: refused by their markers, before anything is decoded."""

import re
from collections.abc import Iterator

from unfreeze.contract.errors import DamagedImageError

# libjpeg goes through all blocks of an image once for each scan, however little the scan says, and Pillow copies all
# of EXIF for each segment of it. Encoders write up to about 20 scans, and a segment for every 64 KiB of metadata.
_MOST_SCANS, _MOST_SEGMENTS = 64, 1000
_START = b"\xff\xd8"
# Two bytes that begin a segment: neither fill bytes nor, within a scan, stuffed bytes and restarts.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END, _SCAN, _ALONE = 0xD9, 0xDA, (0x01, 0xD8)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0x02  # of a frame's marker: SOF2, SOF6, SOF10 and SOF14


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG that would take far longer to decode than its pixels do; whatever is no JPEG passes.

    Args:
        data: the encoded image.

    Raises:
        DamagedImageError: more scans or segments than any encoder writes.
    """
    if not data.startswith(_START):
        return
    scans, components = 0, 0
    for number, (marker, at) in enumerate(_segments(data), start=1):
        if marker in _FRAMES:
            components = data[at + 7] if marker & 3 != _PROGRESSIVE and len(data) > at + 7 else 0
        if marker == _SCAN:
            scans += 1
            if len(data) > at + 2 and data[at + 2] == components:
                return  # one scan holds everything, and libjpeg takes no other
        if scans > _MOST_SCANS or number > _MOST_SEGMENTS:
            what = f"{_MOST_SCANS} scans" if scans > _MOST_SCANS else f"{_MOST_SEGMENTS:,} segments"
            raise DamagedImageError(f"the image is a JPEG of more than {what}, as no encoder writes it")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Give each segment's marker, and where its length stands, up to the end of the image."""
    at = 0
    while (found := _MARKER.search(data, at)) and (marker := data[found.start() + 1]) != _END:
        at = found.end()
        if marker not in _ALONE:
            yield marker, at
            at += int.from_bytes(data[at : at + 2], "big")

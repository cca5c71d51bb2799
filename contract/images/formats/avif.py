"""AVIF; of a sequence, the first frame.

A coded AV1 image may contain frames that are decoded and never shown, each of a few bytes and as slow to decode as the
whole image. Files with more of these frames than encoders write are rejected.
"""

from collections.abc import Iterator

from PIL import AvifImagePlugin

from unfreeze.contract.errors import DamagedImageError
from unfreeze.contract.images.formats.boxes import boxes, brands
from unfreeze.contract.images.formats.image_format import ImageFormat

_BRANDS = frozenset({b"avif", b"avis"})
_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
_FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER = 3, 6, 7  # types of AV1's open bitstream units
_MOST_FRAMES = 64  # of one coded image, in four layers and with references
_MOST_EXTENTS = 10_000
_LARGEST_TRACKS = 4 * 2**20  # bytes of all tracks' headers: a sequence needs about 10 for each frame


def check_avif(data: bytes) -> None:
    """Reject a file whose coded images hold more frames than encoders write.

    Args:
        data: the encoded image. What cannot be parsed here is left to the decoder.

    Raises:
        DamagedImageError: too many frames or parts.
    """
    for number, (begin, end) in enumerate(_coded_images(data), start=1):
        if number > _MOST_EXTENTS:
            raise DamagedImageError(f"the image is an AVIF file with more than {_MOST_EXTENTS:,} parts")
        frames = 0
        for kind in _units(data, begin, min(end, len(data))):
            frames += kind in (_FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER)
            if frames > _MOST_FRAMES:
                raise DamagedImageError(
                    f"the image is an AVIF file with more than {_MOST_FRAMES} frames in one coded image, which no "
                    "encoder writes"
                )


def _coded_images(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the items' data, and the first sample of each track, begin and end."""
    for kind, begin, end in boxes(data):
        if kind == b"meta":
            idat = next((at for name, at, _ in boxes(data, begin + 4, end) if name == b"idat"), 0)
            for name, at, stop in boxes(data, begin + 4, end):
                if name == b"iloc":
                    yield from _extents(data[at:stop], idat)
        elif kind == b"moov":
            if end - begin > _LARGEST_TRACKS:
                raise DamagedImageError(f"the image is an AVIF file with {end - begin:,} bytes of track headers")
            yield from _first_samples(data, begin, end)


def _extents(iloc: bytes, idat: int) -> Iterator[tuple[int, int]]:
    """Read an item location box (ISO 14496-12, 8.11.3)."""
    version, sizes = iloc[0], iloc[4:6]
    if len(sizes) < 2:  # noqa: PLR2004
        return
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version else 0
    wide = 4 if version == 2 else 2  # noqa: PLR2004
    reader = _Reader(iloc, 6)
    for _ in range(reader.read(wide)):
        reader.read(wide)
        method = reader.read(2) & 15 if version else 0
        reader.read(2)
        base = reader.read(base_size) + (idat if method == 1 else 0)
        for _ in range(reader.read(2)):
            reader.read(index_size)
            begin = base + reader.read(offset_size)
            length = reader.read(length_size)
            if reader.at > len(iloc):
                return
            yield begin, begin + length


def _first_samples(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    offset = size = None
    for kind, at, stop in boxes(data, begin, end):
        if kind in _CONTAINERS:
            yield from _first_samples(data, at, stop)
        elif kind in (b"stco", b"co64"):
            offset = int.from_bytes(data[at + 8 : at + (12 if kind == b"stco" else 16)], "big")
        elif kind == b"stsz":
            fixed = int.from_bytes(data[at + 4 : at + 8], "big")
            size = fixed or int.from_bytes(data[at + 12 : at + 16], "big")
    if offset is not None and size is not None:
        yield offset, offset + size


class _Reader:
    """Reads big-endian numbers one after the other; past the end they are 0."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def read(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")


def _units(data: bytes, at: int, end: int) -> Iterator[int]:
    """Yield the types of AV1's open bitstream units (AV1 specification, 5.3), as far as they state their sizes."""
    while at < end and data[at] & 0x02:
        kind, at = data[at] >> 3 & 15, at + 1 + (data[at] >> 2 & 1)
        size = shift = 0
        while at < end and shift < 56:  # noqa: PLR2004 - leb128: at most 8 bytes
            byte, at = data[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004
                break
        yield kind
        at += size


def _recognizes(data: bytes) -> bool:
    return bool(_BRANDS & brands(data))


def _load() -> None:
    """Decode each image on the calling thread: images are decoded on all cores already.

    Otherwise Pillow starts one thread per core for each image. This is its only setting for that.
    """
    if AvifImagePlugin.DEFAULT_MAX_THREADS == 0:
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _screen(data: bytes, max_pixels: int) -> bytes:  # noqa: ARG001
    check_avif(data)
    return data


FORMAT = ImageFormat(name="AVIF", pillow_name="AVIF", recognizes=_recognizes, load=_load, screen=_screen)

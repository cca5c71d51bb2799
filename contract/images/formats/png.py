"""PNG; of an animation, the first frame.

Texts and color profiles are stored compressed, separately from the pixels. Pillow decompresses them when it opens a
file and fails if they are large. Only texts that can contain the orientation are needed; the others are removed first.
"""

import zlib
from collections.abc import Iterator

from unfreeze.contract.errors import DamagedImageError
from unfreeze.contract.images.formats.image_format import ImageFormat, begins_with

_MAGIC = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 200_000  # encoders write pixels in chunks of at least 4 KiB
_MOST_TEXT = 2**20  # bytes, unpacked, up to which a text is searched for an orientation
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILE = b"iCCP"
_ORIENTATION_KEYS = (b"Raw profile type exif", b"XML:com.adobe.xmp")


def without_large_text(data: bytes) -> bytes:
    """Remove color profiles, and texts that are large or cannot contain the image's orientation.

    Args:
        data: the encoded image.

    Returns:
        The same bytes if there is nothing to remove.

    Raises:
        DamagedImageError: more chunks than any encoder writes.
    """
    kept, begin, view = [], 0, memoryview(data)
    for kind, at, end in _chunks(data):
        if kind == _PROFILE or (kind in _TEXTS and not _may_hold_orientation(kind, view[at + 8 : end - 4])):
            kept.append(view[begin:at])
            begin = end
    return b"".join([*kept, view[begin:]]) if kept else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's type, and where it begins and ends, as far as chunks are complete."""
    at = len(_MAGIC)
    for _ in range(_MOST_CHUNKS):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or at + 8 > len(data):
            return
        yield data[at + 4 : at + 8], at, end
        at = end
    if at < len(data):
        raise DamagedImageError(f"the image is a PNG with more than {_MOST_CHUNKS:,} chunks, which no encoder writes")


def _may_hold_orientation(kind: bytes, content: memoryview) -> bool:
    """Return whether a text is one of those that contain EXIF or XMP, and is small enough for Pillow to read."""
    head = bytes(content[:80])
    key, _, rest = head.partition(b"\0")
    if key not in _ORIENTATION_KEYS:
        return False
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return len(content) <= _MOST_TEXT
    begin = len(key) + 2  # after the compression method
    if kind == b"iTXt":  # after a flag, the method, a language and a translated key
        language = bytes(content).find(b"\0", begin + 1)
        begin = bytes(content).find(b"\0", language + 1) + 1
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(content[begin:], _MOST_TEXT)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail


def _screen(data: bytes, max_pixels: int) -> bytes:  # noqa: ARG001
    return without_large_text(data)


FORMAT = ImageFormat(name="PNG", pillow_name="PNG", recognizes=begins_with(_MAGIC), screen=_screen)

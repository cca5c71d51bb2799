"""PNM: PBM, PGM and PPM, in plain text and binary, and gray PFM.

Pillow reads plain text, and binary whose largest value is not 255 or 65535, in Python loops that hold the interpreter
for seconds. Such files are rewritten with numpy into binary ones that it reads quickly; the pixels are the same.
"""

import re

import numpy as np

from unfreeze.contract.errors import DamagedImageError, EmptyImageError, ImageTooLargeError
from unfreeze.contract.images.formats.image_format import ImageFormat

_BLANK = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*+[\r\n])"
_NUMBER = rb"([0-9]{1,10})"
# The magic number, width and height; for gray and color also the largest value. One blank ends the header.
_HEADER = re.compile(rb"P([1-6])" + 2 * (_BLANK + b"++" + _NUMBER))
_MAXVAL = re.compile(_BLANK + b"++" + _NUMBER)
_PLAIN, _BITS, _COLOR = b"123", b"14", b"36"
_COMMENT = re.compile(rb"#[^\r\n]*+")
_NOT_PLAIN = re.compile(rb"[^0-9 \t\n\v\f\r]")
_ONE_BYTE, _TWO_BYTES = 255, 65535
_MOST_TEXT_BYTES = 16  # of plain text for each sample: its digits, blanks and comments


def rewritten(data: bytes, max_pixels: int) -> bytes:
    """Rewrite a file that Pillow would read slowly.

    Args:
        data: the encoded image.
        max_pixels: images with more pixels are rejected.

    Returns:
        The same bytes for a file that Pillow reads quickly.

    Raises:
        DamagedImageError: a header, or plain text, that cannot be read, or less content than the header promises.
        EmptyImageError: no pixels.
        ImageTooLargeError: more than `max_pixels`.
    """
    if data.startswith(b"Pf"):
        return data
    kind, width, height, maxval, begin = _header(data)
    if kind in _PLAIN:
        _check_size(width, height, max_pixels)
        count = width * height * (3 if kind in _COLOR else 1)
        return _binary(kind, width, height, maxval, _plain_samples(data[begin:], kind, count, maxval))
    if kind in _BITS or maxval in (_ONE_BYTE, _TWO_BYTES if kind not in _COLOR else _ONE_BYTE):
        return data
    _check_size(width, height, max_pixels)
    count = width * height * (3 if kind in _COLOR else 1)
    sample_type = ">u2" if maxval > _ONE_BYTE else "u1"
    content = data[begin : begin + count * np.dtype(sample_type).itemsize]
    if len(content) < count * np.dtype(sample_type).itemsize:
        raise DamagedImageError("the image is truncated or damaged: the file is shorter than its header promises")
    return _binary(kind, width, height, maxval, np.frombuffer(content, sample_type))


def _header(data: bytes) -> tuple[bytes, int, int, int, int]:
    """Read the kind ("1" to "6"), width, height and largest value, and where the pixels begin."""
    found = _HEADER.match(data)
    maximum = _MAXVAL.match(data, found.end()) if found and found[1] not in _BITS else None
    last = found if found and found[1] in _BITS else maximum
    if found is None or last is None or not data[last.end() : last.end() + 1].isspace():
        raise DamagedImageError("the image is truncated or damaged: its PNM header cannot be read")
    maxval = int(maximum[1]) if maximum else 1
    if not 0 < maxval <= _TWO_BYTES:
        raise DamagedImageError(f"the largest value of a PNM image must be from 1 to 65535, got {maxval}")
    return found[1], int(found[2]), int(found[3]), maxval, last.end() + 1


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < 1:
        raise EmptyImageError(f"the image is empty: it is {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image is {width} x {height} pixels; at most {max_pixels:,} are allowed")


def _plain_samples(text: bytes, kind: bytes, count: int, maxval: int) -> np.ndarray:
    text = _COMMENT.sub(b" ", text) if b"#" in text else text
    text = text[: count * _MOST_TEXT_BYTES]
    if found := _NOT_PLAIN.search(text):
        raise DamagedImageError(f"the image is truncated or damaged: plain PNM cannot contain {found[0]!r}")
    if kind in _BITS:  # each digit is a pixel, with blanks or without
        digits = np.frombuffer(b"".join(text.split()), np.uint8)[:count]
        samples = (digits - ord("0")).astype(np.int64)
    else:
        samples = np.fromstring(text.decode("ascii"), np.int64, sep=" ", count=-1)[:count]
    if samples.size < count:
        raise DamagedImageError("the image is truncated or damaged: the file is shorter than its header promises")
    if samples.max() > maxval:
        raise DamagedImageError(f"the image is damaged: it has a value above {maxval}, its largest by the header")
    return samples


def _binary(kind: bytes, width: int, height: int, maxval: int, samples: np.ndarray) -> bytes:
    """Scale samples to one byte, or gray of more than 8 bits to two, as Pillow does, and write them."""
    deep = maxval > _ONE_BYTE and kind not in _COLOR
    top = _TWO_BYTES if deep else _ONE_BYTE
    scaled = np.rint(np.arange(maxval + 1) / maxval * top)
    if kind in _BITS:
        scaled = scaled[::-1]  # 1 is black
    levels = scaled.astype(">u2" if deep else "u1")[np.minimum(samples, maxval)]
    magic = b"P6" if kind in _COLOR else b"P5"
    return b"%s\n%d %d\n%d\n%s" % (magic, width, height, top, levels.tobytes())


def _recognizes(data: bytes) -> bool:
    return data[:1] == b"P" and data[1:2] in b"123456f" and data[2:3].isspace()


FORMAT = ImageFormat(name="PNM", pillow_name="PPM", recognizes=_recognizes, screen=rewritten)

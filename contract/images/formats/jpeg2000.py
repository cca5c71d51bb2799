"""JPEG 2000: JP2 files and bare codestreams.

OpenJPEG allocates memory for every tile, code block and precinct that a header promises, before it reads any of them,
and Pillow trusts the size in the file's outer header. So the codestream's own header is checked first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from unfreeze.contract.errors import DamagedImageError, EmptyImageError, ImageTooLargeError, UnsupportedImageError
from unfreeze.contract.images.formats.boxes import boxes
from unfreeze.contract.images.formats.image_format import Box, ImageFormat, begins_with

_JP2, _CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_SIZ, _COD, _COC, _START_OF_TILE, _START_OF_DATA = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_MOST_SEGMENTS, _MOST_LEVELS = 50_000, 32
_MOST_COMPONENTS = 4  # gray or color, with alpha
_MOST_TILES, _MOST_BLOCKS, _MOST_PRECINCTS = 4096, 1_000_000, 250_000
_MOST_DECODED = 16_000_000  # pixels: OpenJPEG needs about 40 bytes and 0.1 microseconds for each
_LARGEST = 0xFF  # a precinct's logarithms of height and width, 15 each; used where none are given
_BROKEN = "the image is truncated or damaged: its JPEG 2000 header cannot be read"


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """What a codestream's main header promises.

    Args:
        width: width in pixels.
        height: height in pixels.
        components: gray or color channels, and alpha.
        tiles: number of tiles in the image.
        levels: how many times it can be halved when it is decoded.
        has_offset: whether the image begins elsewhere than at the corner of its grid.
        code_blocks: approximate number of code blocks of all components.
        precincts: approximate number of precincts of all components.
    """

    width: int
    height: int
    components: int
    tiles: int
    levels: int
    has_offset: bool
    code_blocks: int
    precincts: int


def read_codestream(data: bytes) -> Codestream:
    """Read a codestream's main header.

    Args:
        data: the encoded image.

    Raises:
        DamagedImageError: no codestream, or a header that cannot be read.
    """
    segments = list(_segments(data, _begin(data) + 2))
    # Each style: whether precincts are given, then the parameters that `_halvings_blocks_precincts` reads.
    styles = [data[begin : begin + 1] + data[begin + 5 : end] for marker, begin, end in segments if marker == _COD]
    styles += [data[begin + 1 : end] for marker, begin, end in segments if marker == _COC]
    if not styles or segments[0][0] != _SIZ or segments[0][2] - segments[0][1] < 36:  # noqa: PLR2004
        raise DamagedImageError(_BROKEN)
    siz = data[segments[0][1] : segments[0][2]]
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        int.from_bytes(siz[at : at + 4], "big") for at in range(2, 34, 4)
    )
    width, height, components = right - left, bottom - top, int.from_bytes(siz[34:36], "big")
    if min(tile_width, tile_height) < 1:
        raise DamagedImageError(_BROKEN)
    costs = [_halvings_blocks_precincts(style, max(1, width), max(1, height)) for style in styles]
    return Codestream(
        width=width,
        height=height,
        components=components,
        tiles=-(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height),
        levels=min(levels for levels, _, _ in costs),
        has_offset=bool(left or top or tile_left or tile_top),
        code_blocks=components * max(blocks for _, blocks, _ in costs),
        precincts=components * max(precincts for _, _, precincts in costs),
    )


def _begin(data: bytes) -> int:
    if data.startswith(_CODESTREAM):
        return 0
    for kind, begin, _ in boxes(data):
        if kind == b"jp2c" and data.startswith(_CODESTREAM, begin):
            return begin
    raise DamagedImageError("the image is truncated or damaged: a JPEG 2000 file without a codestream")


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield the markers of the main header and of all tiles' headers, and where their content begins and ends."""
    end_of_tile = 0
    for _ in range(_MOST_SEGMENTS):
        marker, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _START_OF_DATA and end_of_tile > at:
            at = end_of_tile
            continue
        if length < 2 or at + 2 + length > len(data) or marker == _START_OF_DATA:  # noqa: PLR2004
            return
        if marker == _START_OF_TILE:
            end_of_tile = at + int.from_bytes(data[at + 6 : at + 10], "big")
        yield marker, at + 4, at + 2 + length
        at += 2 + length
    raise DamagedImageError(f"the image is a JPEG 2000 file with more than {_MOST_SEGMENTS:,} segments")


def _halvings_blocks_precincts(style: bytes, width: int, height: int) -> tuple[int, int, int]:
    """Read how many times one component can be halved, and count its code blocks and precincts, as if in one tile."""
    if len(style) < 6 or style[1] > _MOST_LEVELS:  # noqa: PLR2004
        raise DamagedImageError(_BROKEN)
    levels, block_width, block_height = style[1], style[2] + 2, style[3] + 2
    precincts = style[6:] if style[0] & 1 else b""
    blocks = places = 0
    for resolution in range(levels + 1):
        given = precincts[resolution] if resolution < len(precincts) else _LARGEST
        across, down = given & 15, given >> 4
        columns, rows = (-(-side >> (levels - resolution)) for side in (width, height))
        places += -(-columns >> across) * -(-rows >> down)
        blocks += -(-columns >> min(block_width, across)) * -(-rows >> min(block_height, down))
    return levels, blocks, places


def check_codestream(data: bytes, max_pixels: int) -> None:
    """Reject a file that would take far more memory or time than its number of pixels suggests.

    Args:
        data: the encoded image.
        max_pixels: images with more pixels are rejected.

    Raises:
        DamagedImageError: no codestream, or a header that cannot be read.
        EmptyImageError: no pixels.
        ImageTooLargeError: more than `max_pixels`.
        UnsupportedImageError: more components, tiles, code blocks or precincts than are read.
    """
    found = read_codestream(data)
    if min(found.width, found.height) < 1:
        raise EmptyImageError(f"the image is empty: it is {found.width} x {found.height} pixels")
    if found.width * found.height > max_pixels:
        raise ImageTooLargeError(
            f"the image is {found.width} x {found.height} pixels; at most {max_pixels:,} are allowed"
        )
    for count, most, what in (
        (found.components, _MOST_COMPONENTS, "components"),
        (found.tiles, _MOST_TILES, "tiles"),
        (found.precincts, _MOST_PRECINCTS, "precincts"),
        (found.code_blocks, _MOST_BLOCKS, "code blocks"),
    ):
        if count > most:
            raise UnsupportedImageError(
                f"the image is a JPEG 2000 file with {count:,} {what}; at most {most:,} are read"
            )


def _screen(data: bytes, max_pixels: int) -> bytes:
    check_codestream(data, max_pixels)
    return data


def _shrink(image: Image.Image, data: bytes, at_least: int | None) -> Box | None:
    """Decode a lower resolution: the wavelet transform halves the sides, rounded up, and keeps every other pixel.

    The first pixel's center does not move, so the content begins up to half a pixel inside the decoded image. Because
    the result is aliased, its sides are at least twice `at_least`.
    """
    found = read_codestream(data)
    halvings = 0 if at_least is None or found.has_offset else found.levels
    while halvings and min(image.size) >> halvings < 2 * (at_least or 0):
        halvings -= 1
    width, height = (-(-side >> halvings) for side in image.size)
    if width * height > _MOST_DECODED:
        raise ImageTooLargeError(
            f"the image is {found.width} x {found.height} pixels; of a JPEG 2000 file at most {_MOST_DECODED:,} are "
            "decoded, at the lowest resolution that is large enough"
        )
    if not halvings:
        return None
    shift = 0.5 - 0.5 / 2**halvings
    right, bottom = (shift + side / 2**halvings for side in image.size)
    box = (shift, shift, right, bottom)
    (tile,) = image.tile  # type: ignore[attr-defined]
    codec, _, layers, file, length = tile.args
    image.tile = [tile._replace(extents=(0, 0, width, height), args=(codec, halvings, layers, file, length))]  # type: ignore[attr-defined]
    image._size = (width, height)  # noqa: SLF001 - Pillow's own `reduce` rounds to the nearest and fails on odd sizes
    return box


FORMAT = ImageFormat(
    name="JPEG 2000",
    pillow_name="JPEG2000",
    recognizes=begins_with(_JP2, _CODESTREAM),
    screen=_screen,
    shrink=_shrink,
)

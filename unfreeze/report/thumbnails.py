"""Images of a dataset for the report: tiles of the map, and where the network looked."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unfreeze.contract.arrays import Float32
from unfreeze.contract.images.depth import DeepRange
from unfreeze.contract.images.preprocess import PreprocessSpec, crop_box
from unfreeze.pages.thumbnails import QUALITY, data_uri, jpeg_uri, read_image
from unfreeze.tune.data.prefetch import map_ahead

_TILE_PIXELS = 10_000_000  # of all tiles together: as JPEG files 2 to 3 MB
_TILE_SIDES = 32, 64  # smallest, largest
_COLUMNS = 32
_GRAY = (128, 128, 128)
_HEAT = (255, 210, 0), (220, 0, 0)  # from weak to strong


def heat_uri(saliency: Float32[np.ndarray, "y x"], shown: Image.Image, spec: PreprocessSpec) -> str:
    """Return a map of what the network looked at, to be laid over a whole image, as a data URI.

    Args:
        saliency: of the part of the image that the network sees, 0 to 1.
        shown: the whole image; the map gets its size.
        spec: says which part of an image the network sees.
    """
    left, top, right, bottom = (round(edge) for edge in crop_box((0, 0, *shown.size), spec))
    size = max(1, right - left), max(1, bottom - top)
    strength = Image.fromarray((255 * saliency).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    heat = ImageOps.colorize(strength, *_HEAT).convert("RGBA")
    heat.putalpha(strength.point([value * 7 // 10 for value in range(256)]))
    whole = Image.new("RGBA", shown.size)
    whole.paste(heat, (left, top))
    return data_uri(whole.quantize(64), "png", optimize=True)


def tile_sheets(
    paths: Sequence[Path], deep_range: DeepRange | None = None, advance: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Put tiny images into sheets of 32 x 32 tiles, row by row. Those that cannot be read are gray.

    Args:
        paths: of the images.
        deep_range: the values of images of more than 8 bits that become 0 and 255.
        advance: called with the number of images done since the last call.

    Returns:
        The sheets as data URIs; the more images, the smaller the tiles.
    """
    smallest, largest = _TILE_SIDES
    side = min(largest, max(smallest, int((_TILE_PIXELS / max(1, len(paths))) ** 0.5)))

    def load(path: Path) -> Image.Image | None:
        image = read_image(path, side, deep_range)
        return None if image is None else ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color=_GRAY)

    return list(_sheets(map_ahead(load, paths), len(paths), side, advance))


def _sheets(
    tiles: Iterator[Image.Image | None], count: int, side: int, advance: Callable[[int], None]
) -> Iterator[str]:
    for first in range(0, count, _COLUMNS * _COLUMNS):
        rows = -(-min(count - first, _COLUMNS * _COLUMNS) // _COLUMNS)
        sheet = Image.new("RGB", (_COLUMNS * side, rows * side), _GRAY)
        for place in range(min(count - first, _COLUMNS * _COLUMNS)):
            tile = next(tiles)
            advance(1)
            if tile is not None:
                sheet.paste(tile, (place % _COLUMNS * side, place // _COLUMNS * side))
        yield jpeg_uri(sheet, QUALITY - 20)

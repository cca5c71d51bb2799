"""Load pictures as prepared views: the picture as served, then random crops, turns and colours of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from contract.arrays import UInt8
from contract.errors import PictureError
from contract.preprocess import PreprocessSpec, decode, resize_and_crop
from tune.ahead import map_ahead
from tune.dataset import Picture, Skipped

_AREA = (0.5, 1.0)
_TURN = 8.0  # degrees
_COLOUR = (0.8, 1.2)
_ASPECT = (0.9, 1 / 0.9)


@dataclass(frozen=True, kw_only=True)
class Views:
    """What to make of each picture.

    Args:
        spec: how a picture is prepared.
        count: views per picture; the first is always the picture as served.
        seed: of the random ones.
        mirror: whether random ones may be mirrored.
    """

    spec: PreprocessSpec
    count: int = 1
    seed: int = 0
    mirror: bool = True


def load_views(
    pictures: Sequence[Picture], views: Views, skipped: list[Skipped]
) -> Iterator[tuple[Picture, UInt8[np.ndarray, "v h w 3"]]]:
    """Decode pictures on all cores, in their order; those that do not decode are added to `skipped`.

    Args:
        pictures: what to load.
        views: what to make of each.
        skipped: takes up the files that are no pictures, with the reason.

    Yields:
        A picture and its views, RGB, uint8.
    """
    for picture, loaded in zip(pictures, map_ahead(partial(_load, views=views), pictures), strict=True):
        if isinstance(loaded, Skipped):
            skipped.append(loaded)
        else:
            yield picture, loaded


def _load(picture: Picture, views: Views) -> np.ndarray | Skipped:
    try:
        return make_views(picture.path.read_bytes(), picture.path.name, views)
    except (PictureError, OSError) as error:
        return Skipped(path=picture.path, reason=str(error))


def make_views(data: bytes, name: str, views: Views) -> UInt8[np.ndarray, "v h w 3"]:
    """Decode a picture and make its views.

    Args:
        data: the encoded picture.
        name: of its file; with the seed it decides on the random views.
        views: what to make.

    Raises:
        PictureError: it does not decode.
    """
    upright = decode(data, at_least=max(views.spec.resize))
    return np.stack([_make_view(upright, name, views, number) for number in range(views.count)])


def load_view(picture: Picture, views: Views, number: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a picture and make one of its views; 0 is the picture as served.

    Raises:
        PictureError: it does not decode.
    """
    upright = decode(picture.path.read_bytes(), at_least=max(views.spec.resize))
    return _make_view(upright, picture.path.name, views, number)


def _make_view(upright: Image.Image, name: str, views: Views, number: int) -> np.ndarray:
    if number == 0:
        return np.asarray(resize_and_crop(upright, views.spec))
    rng = np.random.default_rng([views.seed, number, *name.encode()])
    made = _random_view(upright, views.spec, rng)
    return np.asarray(ImageOps.mirror(made) if views.mirror and rng.random() < 0.5 else made)  # noqa: PLR2004


def _random_view(picture: Image.Image, spec: PreprocessSpec, rng: np.random.Generator) -> Image.Image:
    """Turn a little, crop at random and change the colours.

    Crops are those of Szegedy et al. 2015 (arXiv:1409.4842) in narrower ranges, as are the changes of colour, after
    Howard 2013 (arXiv:1312.5402).
    """
    area = picture.width * picture.height * rng.uniform(*_AREA)
    aspect = np.exp(rng.uniform(*np.log(_ASPECT))) * spec.crop[1] / spec.crop[0]
    width, height = min(picture.width, (area * aspect) ** 0.5), min(picture.height, (area / aspect) ** 0.5)
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    # One affine map turns about the crop's centre, shifts and scales; a large picture is made smaller before.
    turn = np.radians(rng.uniform(-_TURN, _TURN))
    scale = np.array([width / spec.crop[1], height / spec.crop[0]])
    centre = np.array([left + width / 2, top + height / 2])
    reduced = picture.reduce(factor) if (factor := int(scale.min())) > 1 else picture
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
    offset = centre - rotation @ (np.array([spec.crop[1], spec.crop[0]]) / 2)
    matrix = np.column_stack([rotation, offset]) / (max(1, factor))
    view = reduced.transform(
        (spec.crop[1], spec.crop[0]), Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BILINEAR
    )
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = change(view).enhance(rng.uniform(*_COLOUR))
    return view

"""Load images as views: the image as served, then randomly cropped, rotated and recolored versions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.preprocess import PreprocessSpec, resize_and_crop
from unfreeze.tune.data.dataset import LabeledImage, Skipped
from unfreeze.tune.data.prefetch import map_ahead

_AREA = (0.5, 1.0)
_ROTATION = 8.0  # degrees
_COLOR = (0.8, 1.2)
_ASPECT = (0.9, 1 / 0.9)


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which views to make of each image.

    Args:
        spec: how an image is prepared.
        count: views per image; the first is always the image as served.
        seed: random seed of the views.
        flip: whether half of the random views are flipped horizontally.
    """

    spec: PreprocessSpec
    count: int = 1
    seed: int = 0
    flip: bool = True


def load_views(
    images: Sequence[LabeledImage], views: Views, skipped: list[Skipped]
) -> Iterator[tuple[LabeledImage, UInt8[np.ndarray, "v h w 3"]]]:
    """Decode images on all cores and make their views.

    Args:
        images: the images to load.
        views: the views to make of each image.
        skipped: receives the files that cannot be decoded, with the reason.

    Yields:
        An image and its views, RGB, uint8, in the order of the images.
    """
    for image, loaded in zip(images, map_ahead(partial(_load, views=views), images), strict=True):
        if isinstance(loaded, Skipped):
            skipped.append(loaded)
        else:
            yield image, loaded


def _load(image: LabeledImage, views: Views) -> np.ndarray | Skipped:
    try:
        return make_views(image.path.read_bytes(), image.path.name, views)
    except (ImageError, OSError) as error:
        return Skipped(path=image.path, reason=str(error))


def make_views(data: bytes, name: str, views: Views) -> UInt8[np.ndarray, "v h w 3"]:
    """Decode an image and make its views.

    Args:
        data: the encoded image.
        name: of its file, which seeds the random views together with the seed.
        views: the views to make.

    Raises:
        ImageError: it cannot be decoded.
    """
    upright = _decode(data, views.spec)
    return np.stack([_make_view(upright, name, views, number) for number in range(views.count)])


def load_view(image: LabeledImage, views: Views, number: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image and make one of its views; 0 is the image as served.

    Raises:
        ImageError: it cannot be decoded.
    """
    upright = _decode(image.path.read_bytes(), views.spec)
    return _make_view(upright, image.path.name, views, number)


def _decode(data: bytes, spec: PreprocessSpec) -> Image.Image:
    return decode(data, at_least=max(spec.resize), deep_range=spec.deep_range)


def _make_view(upright: Image.Image, name: str, views: Views, number: int) -> np.ndarray:
    if number == 0:
        return np.asarray(resize_and_crop(upright, views.spec))
    rng = np.random.default_rng([views.seed, number, *name.encode()])
    view = _random_view(upright, views.spec, rng)
    is_flipped = views.flip and rng.random() < 0.5  # noqa: PLR2004
    return np.asarray(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_flipped else view)


def _random_view(image: Image.Image, spec: PreprocessSpec, rng: np.random.Generator) -> Image.Image:
    """Rotate slightly, crop at random and change the colors.

    Crops follow Szegedy et al. 2015 (arXiv:1409.4842) and color changes Howard 2013 (arXiv:1312.5402), both in
    narrower ranges.
    """
    area = image.width * image.height * rng.uniform(*_AREA)
    aspect = np.exp(rng.uniform(*np.log(_ASPECT))) * spec.crop[1] / spec.crop[0]
    width, height = min(image.width, (area * aspect) ** 0.5), min(image.height, (area / aspect) ** 0.5)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    # One affine map rotates about the crop's center, shifts and scales; a large image is reduced first.
    angle = np.radians(rng.uniform(-_ROTATION, _ROTATION))
    scale = np.array([width / spec.crop[1], height / spec.crop[0]])
    center = np.array([left + width / 2, top + height / 2])
    reduced = image.reduce(factor) if (factor := int(scale.min())) > 1 else image
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    offset = center - rotation @ (np.array([spec.crop[1], spec.crop[0]]) / 2)
    matrix = np.column_stack([rotation, offset]) / (max(1, factor))
    view = reduced.transform(
        (spec.crop[1], spec.crop[0]), Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BILINEAR
    )
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = change(view).enhance(rng.uniform(*_COLOR))
    return view

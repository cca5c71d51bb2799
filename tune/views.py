"""Load pictures as prepared views: the picture as served, then random crops and flips of it."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from contract.arrays import UInt8
from contract.errors import PictureError
from contract.preprocess import PreprocessSpec, decode, resize_and_crop
from tune.dataset import Picture, Skipped

_AREA = (0.5, 1.0)
_ASPECT = (0.9, 1 / 0.9)
_READ_AHEAD = 64


@dataclass(frozen=True, kw_only=True)
class Views:
    """What to make of each picture.

    Args:
        spec: how a picture is prepared.
        count: views per picture; the first is always the picture as served.
        seed: of the random ones.
    """

    spec: PreprocessSpec
    count: int = 1
    seed: int = 0


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
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[tuple[Picture, Future[np.ndarray]]] = deque()
        remaining = iter(pictures)
        try:
            while True:
                for picture in remaining:
                    waiting.append((picture, pool.submit(_load, picture, views)))
                    if len(waiting) >= _READ_AHEAD:
                        break
                if not waiting:
                    return
                picture, future = waiting.popleft()
                try:
                    yield picture, future.result()
                except (PictureError, OSError) as error:
                    skipped.append(Skipped(path=picture.path, reason=str(error)))
        finally:
            for _, future in waiting:
                future.cancel()


def _load(picture: Picture, views: Views) -> np.ndarray:
    return make_views(picture.path.read_bytes(), picture.path.name, views)


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
    made = [resize_and_crop(upright, views.spec)]
    for number in range(1, views.count):
        key = [views.seed, number, *name.encode()]
        made.append(_random_view(upright, views.spec, np.random.default_rng(key)))
    return np.stack([np.asarray(view) for view in made])


def _random_view(picture: Image.Image, spec: PreprocessSpec, rng: np.random.Generator) -> Image.Image:
    """Crop at random and flip half of the time, as Szegedy et al. 2015 (arXiv:1409.4842) do for Inception."""
    area = picture.width * picture.height * rng.uniform(*_AREA)
    aspect = np.exp(rng.uniform(*np.log(_ASPECT))) * spec.crop[1] / spec.crop[0]
    width, height = min(picture.width, (area * aspect) ** 0.5), min(picture.height, (area / aspect) ** 0.5)
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    view = picture.resize((spec.crop[1], spec.crop[0]), Image.Resampling.BILINEAR, box=box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view  # noqa: PLR2004

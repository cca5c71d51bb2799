"""Measure how long it takes to load an image."""

import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from PIL import Image

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.inspection.fingerprints import DECODED_SIDE
from unfreeze.tune.data.views import Views, make_views

_TIMED_IMAGES = 32
_WARM_UP_IMAGES = 4


def measure_loading(images: Sequence[LabeledImage], views: Views) -> float:
    """Time the inspection, decoding and augmentation of some images on all cores.

    Args:
        images: up to 63 of them, evenly spaced, are timed; if there are none, a synthetic photograph is timed instead.
        views: the views to make of each image.

    Returns:
        Seconds per image. Images that cannot be decoded count as loaded.
    """
    some = images[:: max(1, len(images) // _TIMED_IMAGES)]
    encoded = [(image.path.name, image.path.read_bytes()) for image in some]
    encoded = encoded or [("photograph.jpg", _synthetic_photograph())] * _TIMED_IMAGES

    def load(image: tuple[str, bytes]) -> None:
        with suppress(ImageError):
            decode(image[1], at_least=DECODED_SIDE, deep_range=views.spec.deep_range)
            make_views(image[1], image[0], views)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(load, encoded[:_WARM_UP_IMAGES]))
        started = time.perf_counter()
        list(pool.map(load, encoded))
        return (time.perf_counter() - started) / len(encoded)


def _synthetic_photograph() -> bytes:
    """Encode a JPEG with the dimensions, the grain and the file size of a photograph."""
    noise = np.random.default_rng(0).normal(0, 12, (375, 500, 3))
    slope = np.linspace(40, 200, 500)[None, :, None]
    file = io.BytesIO()
    Image.fromarray((noise + slope).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()

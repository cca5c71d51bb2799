"""Remember of each image what it takes to recognize it: the hash of its bytes and a thumbnail."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.preprocess import PreprocessSpec, decode, resize_and_crop
from unfreeze.tune.data.dataset import TEST, TRAIN, VAL, Dataset, LabeledImage, Skipped
from unfreeze.tune.data.prefetch import map_ahead

_SIDE = 16
_THUMBNAIL = PreprocessSpec(resize=(_SIDE, _SIDE), crop=(_SIDE, _SIDE))
DECODED_SIDE = 2 * _SIDE  # a JPEG decoded straight to the thumbnail's size would alias


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """What is remembered of the images that decode, the training images first, then val, then test.

    Args:
        images: whose fingerprints these are.
        splits: the split of each.
        digests: SHA-256 of each file's bytes.
        thumbnails: each whole image at 16 x 16 pixels, RGB.
    """

    images: tuple[LabeledImage, ...]
    splits: tuple[str, ...]
    digests: tuple[bytes, ...]
    thumbnails: UInt8[np.ndarray, "n 16 16 3"]


def take_fingerprints(dataset: Dataset, advance: Callable[[int], None]) -> tuple[Fingerprints, tuple[Skipped, ...]]:
    """Read and decode every file once, on all cores.

    Args:
        dataset: whose images.
        advance: is called with 1 for each image done.

    Returns:
        The fingerprints of the images that decode, and the files that do not.
    """
    listed = [(split, image) for split in (TRAIN, VAL, TEST) for image in dataset.splits.get(split, ())]
    thumbnails = np.empty((len(listed), _SIDE, _SIDE, 3), np.uint8)
    digests: list[bytes] = []
    kept: list[tuple[str, LabeledImage]] = []
    skipped: list[Skipped] = []
    for item, read in zip(listed, map_ahead(_read, (image for _, image in listed)), strict=True):
        if isinstance(read, Skipped):
            skipped.append(read)
        else:
            digest, thumbnails[len(kept)] = read
            digests.append(digest)
            kept.append(item)
        advance(1)
    prints = Fingerprints(
        images=tuple(image for _, image in kept),
        splits=tuple(split for split, _ in kept),
        digests=tuple(digests),
        thumbnails=thumbnails[: len(kept)],
    )
    return prints, tuple(skipped)


def _read(image: LabeledImage) -> tuple[bytes, np.ndarray] | Skipped:
    try:
        data = image.path.read_bytes()
        upright = decode(data, at_least=DECODED_SIDE)
    except (ImageError, OSError) as error:
        return Skipped(path=image.path, reason=str(error))
    return hashlib.sha256(data).digest(), np.asarray(resize_and_crop(upright, _THUMBNAIL))

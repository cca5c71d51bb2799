"""Read every image once, and keep what identifies it: a hash of its bytes, a thumbnail, and its range of values."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from unfreeze.contract.arrays import Int64, UInt8
from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.contract.images.depth import DeepRange, PixelRange, measure_range
from unfreeze.contract.images.opening import opened
from unfreeze.contract.images.preprocess import PreprocessSpec, resize_and_crop
from unfreeze.tune.data.dataset import TEST, TRAIN, VAL, Dataset, LabeledImage, Skipped
from unfreeze.tune.data.inspection.stored import Fingerprint, StoredFingerprints
from unfreeze.tune.data.prefetch import map_ahead
from unfreeze.tune.options import FULL_RANGE
from unfreeze.tune.store.store import NO_STORE, FeatureStore

_SIDE = 16
_THUMBNAIL = PreprocessSpec(resize=(_SIDE, _SIDE), crop=(_SIDE, _SIDE))
DECODED_SIDE = 2 * _SIDE  # a JPEG decoded straight to the thumbnail's size would alias


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """Fingerprints of the images that can be decoded: the training images first, then val, then test.

    Args:
        images: the images.
        splits: the split of each.
        digests: SHA-256 of each file's bytes.
        thumbnails: each whole image at 16 x 16 pixels, RGB; images of more than 8 bits by the range that each uses.
        ranges: the values that each image of more than 8 bits uses, None for the others.
        sizes: width and height of each image in pixels, as stored in its file.
    """

    images: tuple[LabeledImage, ...]
    splits: tuple[str, ...]
    digests: tuple[bytes, ...]
    thumbnails: UInt8[np.ndarray, "n 16 16 3"]
    ranges: tuple[PixelRange | None, ...]
    sizes: Int64[np.ndarray, "n 2"]


def take_fingerprints(
    dataset: Dataset, deep_range: str, advance: Callable[[int], None], store: FeatureStore = NO_STORE
) -> tuple[Fingerprints, tuple[Skipped, ...]]:
    """Read every file on all cores, and decode those whose fingerprints are not stored.

    Args:
        dataset: the dataset with the images.
        deep_range: "auto", "full" or "LOW,HIGH", as in `TuneOptions`. With "full", images of 32-bit integers or
            floating point cannot be decoded.
        advance: called with 1 for each image done.
        store: has the fingerprints that earlier runs took.

    Returns:
        The fingerprints of the images that can be decoded, and the files that cannot.
    """
    stored = StoredFingerprints(store, keep_full=deep_range == FULL_RANGE)
    read_one = partial(_read, keep_full=deep_range == FULL_RANGE, stored=stored)
    listed = [(split, image) for split in (TRAIN, VAL, TEST) for image in dataset.splits.get(split, ())]
    taken: list[Fingerprint | bytes] = []
    kept: list[tuple[str, LabeledImage]] = []
    skipped: list[Skipped] = []
    for item, read in zip(listed, map_ahead(read_one, (image for _, image in listed)), strict=True):
        if isinstance(read, Skipped):
            skipped.append(read)
        else:
            taken.append(read)
            kept.append(item)
        advance(1)
    stored.add([one for one in taken if isinstance(one, Fingerprint)])
    known = stored.read([one for one in taken if isinstance(one, bytes)])
    if known is None:  # the store is damaged
        return take_fingerprints(dataset, deep_range, lambda _: None)
    found = iter(known)
    return _joined(kept, [one if isinstance(one, Fingerprint) else next(found) for one in taken]), tuple(skipped)


def _joined(kept: Sequence[tuple[str, LabeledImage]], prints: Sequence[Fingerprint]) -> Fingerprints:
    thumbnails = np.empty((len(kept), _SIDE, _SIDE, 3), np.uint8)
    for row, one in enumerate(prints):
        thumbnails[row] = one.thumbnail
    return Fingerprints(
        images=tuple(image for _, image in kept),
        splits=tuple(split for split, _ in kept),
        digests=tuple(one.digest for one in prints),
        thumbnails=thumbnails,
        ranges=tuple(one.used for one in prints),
        sizes=np.array([one.size for one in prints], np.int64).reshape(len(prints), 2),
    )


def _read(image: LabeledImage, *, keep_full: bool, stored: StoredFingerprints) -> Fingerprint | bytes | Skipped:
    """Take the fingerprint of an image; return only its digest if the fingerprint is stored."""
    try:
        data = image.path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if stored.has(digest):
            return digest
        with opened(data) as (header, _):
            size = header.size
        used = measure_range(data)
        own_range = None if used is None or keep_full else _own_range(used)
        upright = decode(data, at_least=DECODED_SIDE, deep_range=own_range)
    except (ImageError, OSError) as error:
        return Skipped(path=image.path, reason=str(error))
    thumbnail = np.asarray(resize_and_crop(upright, _THUMBNAIL))
    return Fingerprint(digest=digest, thumbnail=thumbnail, used=used, size=size)


def _own_range(used: PixelRange) -> DeepRange:
    return (used.low, used.high if used.high > used.low else used.low + max(1.0, abs(used.low)))

"""Remember of each picture what it takes to recognise it: the hash of its bytes and a thumbnail."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from contract.arrays import UInt8
from contract.errors import PictureError
from contract.preprocess import PreprocessSpec, decode, resize_and_crop
from tune.ahead import map_ahead
from tune.dataset import TEST, TRAIN, VAL, Dataset, Picture, Skipped

_SIDE = 16
_THUMBNAIL = PreprocessSpec(resize=(_SIDE, _SIDE), crop=(_SIDE, _SIDE))
DECODED_SIDE = 2 * _SIDE  # a JPEG decoded straight to the thumbnail's size would alias


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """What is remembered of the pictures that decode, the training pictures first, then val, then test.

    Args:
        pictures: whose fingerprints these are.
        splits: the split of each.
        digests: SHA-256 of each file's bytes.
        thumbnails: each whole picture at 16 x 16 pixels, RGB.
    """

    pictures: tuple[Picture, ...]
    splits: tuple[str, ...]
    digests: tuple[bytes, ...]
    thumbnails: UInt8[np.ndarray, "n 16 16 3"]


def take_fingerprints(dataset: Dataset, advance: Callable[[int], None]) -> tuple[Fingerprints, tuple[Skipped, ...]]:
    """Read and decode every file once, on all cores.

    Args:
        dataset: whose pictures.
        advance: is called with 1 for each picture done.

    Returns:
        The fingerprints of the pictures that decode, and the files that do not.
    """
    listed = [(split, picture) for split in (TRAIN, VAL, TEST) for picture in dataset.splits.get(split, ())]
    thumbnails = np.empty((len(listed), _SIDE, _SIDE, 3), np.uint8)
    digests: list[bytes] = []
    kept: list[tuple[str, Picture]] = []
    skipped: list[Skipped] = []
    for item, read in zip(listed, map_ahead(_read, (picture for _, picture in listed)), strict=True):
        if isinstance(read, Skipped):
            skipped.append(read)
        else:
            digest, thumbnails[len(kept)] = read
            digests.append(digest)
            kept.append(item)
        advance(1)
    prints = Fingerprints(
        pictures=tuple(picture for _, picture in kept),
        splits=tuple(split for split, _ in kept),
        digests=tuple(digests),
        thumbnails=thumbnails[: len(kept)],
    )
    return prints, tuple(skipped)


def _read(picture: Picture) -> tuple[bytes, np.ndarray] | Skipped:
    try:
        data = picture.path.read_bytes()
        upright = decode(data, at_least=DECODED_SIDE)
    except (PictureError, OSError) as error:
        return Skipped(path=picture.path, reason=str(error))
    return hashlib.sha256(data).digest(), np.asarray(resize_and_crop(upright, _THUMBNAIL))

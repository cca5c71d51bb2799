"""Fingerprints of images in the feature store, so that images that did not change are not decoded again."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import PIL

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.images.depth import PixelRange
from unfreeze.tune.store.segments import KEY_LENGTH
from unfreeze.tune.store.store import FeatureStore

INSPECTION = "inspection"  # describes the space, instead of a backbone
_FORMAT = 2
_COLUMNS = ("thumbnail", "range", "size")
_MODES = ("I;16", "I", "F")
_NO_RANGE = (-1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprint:
    """The fingerprint of an image.

    Args:
        digest: SHA-256 of the file's bytes.
        thumbnail: the whole image at 16 x 16 pixels, RGB, uint8.
        used: the values that an image of more than 8 bits uses, None for others.
        size: width and height in pixels, as stored in the file.
    """

    digest: bytes
    thumbnail: UInt8[np.ndarray, "h w 3"]
    used: PixelRange | None
    size: tuple[int, int]


class StoredFingerprints:
    """The fingerprints that earlier runs took.

    Args:
        store: the store.
        keep_full: whether images of 32-bit integers or floating point cannot be decoded.
    """

    def __init__(self, store: FeatureStore, *, keep_full: bool) -> None:
        versions = {"unfreeze": version("unfreeze"), "pillow": PIL.__version__}
        self._space = store.space({"kind": INSPECTION, "format": _FORMAT, "full_range": keep_full, **versions})
        self._keys = self._space.keys(_COLUMNS)

    def has(self, digest: bytes) -> bool:
        """Return whether a fingerprint is stored."""
        return _key(digest) in self._keys

    def read(self, digests: Sequence[bytes]) -> list[Fingerprint] | None:
        """Read fingerprints; None if one of them cannot be read after all."""
        columns: dict[str, np.ndarray] = {}

        def receive(column: str, positions: np.ndarray, values: np.ndarray) -> None:
            rows = columns.setdefault(column, np.empty((len(digests), *values.shape[1:]), values.dtype))
            rows[positions] = values

        complete = self._space.read([_key(digest) for digest in digests], _COLUMNS, receive)
        if not complete.all():
            return None
        thumbnails, ranges, sizes = (columns.get(name, np.empty(0)) for name in _COLUMNS)
        return [
            Fingerprint(digest=digest, thumbnail=thumbnail, used=_to_range(used), size=(int(size[0]), int(size[1])))
            for digest, thumbnail, used, size in zip(digests, thumbnails, ranges, sizes, strict=True)
        ]

    def add(self, prints: Sequence[Fingerprint]) -> None:
        """Store fingerprints."""
        if prints and self._space.accepts_rows:
            columns = (
                np.stack([one.thumbnail for one in prints]),
                np.array([_to_row(one.used) for one in prints]),
                np.array([one.size for one in prints], np.float64),
            )
            self._space.add([_key(one.digest) for one in prints], dict(zip(_COLUMNS, columns, strict=True)))


def _key(digest: bytes) -> str:
    return digest.hex()[:KEY_LENGTH]


def _to_row(used: PixelRange | None) -> tuple[float, ...]:
    return _NO_RANGE if used is None else (_MODES.index(used.mode), used.low, used.high, used.bits_used)


def _to_range(row: np.ndarray) -> PixelRange | None:
    mode, low, high, bits = row.tolist()
    return None if mode < 0 else PixelRange(mode=_MODES[int(mode)], low=low, high=high, bits_used=int(bits))

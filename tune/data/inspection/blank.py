"""Find images without content."""

import numpy as np
from PIL import ImageStat

from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.inspection.duplicates import FLAT
from unfreeze.tune.data.inspection.fingerprints import Fingerprints


def find_blank(prints: Fingerprints) -> tuple[LabeledImage, ...]:
    """Find images that are nearly one color: no channel's standard deviation reaches 2 of 255.

    Args:
        prints: fingerprints of the images. Those with a uniform thumbnail are decoded again, in full resolution,
            because a fine texture has one too.
    """
    deviations = prints.thumbnails.std(axis=(1, 2)).max(axis=1, initial=0)
    return tuple(prints.images[row] for row in np.flatnonzero(deviations < FLAT) if _is_blank(prints, int(row)))


def _is_blank(prints: Fingerprints, row: int) -> bool:
    used = prints.ranges[row]
    if used is not None:
        return used.high <= used.low
    try:
        return max(ImageStat.Stat(decode(prints.images[row].path.read_bytes())).stddev) < FLAT
    except (ImageError, OSError):  # changed since its fingerprint was taken
        return False

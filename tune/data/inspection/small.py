"""Find images that are much smaller than the others."""

import numpy as np

from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.inspection.fingerprints import Fingerprints

_SHARE = 4  # of the median's shorter side


def find_small(prints: Fingerprints) -> tuple[tuple[LabeledImage, str], ...]:
    """Find images whose shorter side is less than a quarter of the median one: icons and previews among photographs.

    Args:
        prints: fingerprints of the images.

    Returns:
        The images, each with its size as text.
    """
    if not prints.images:
        return ()
    shorter = prints.sizes.min(axis=1)
    small = np.flatnonzero(shorter * _SHARE < np.median(shorter))
    return tuple((prints.images[row], "{} x {} pixels".format(*prints.sizes[row])) for row in small)

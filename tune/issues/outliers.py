"""Images that are far from every class in feature space."""

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.arrays import Float32, Int64

_FAR = 3.5  # recommended for modified z-scores by Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993
_NORMAL = 0.6745  # makes the median absolute deviation of normal values comparable to a standard deviation
_LEAST_SPREAD = 0.05  # of logarithms: if most images are alike, one that is 25 % farther away is no outlier
_BLOCK = 4096  # distances computed at a time


def far_from_every_class(features: Float32[Tensor, "n f"], labels: Int64[Tensor, " n"]) -> Int64[np.ndarray, " k"]:
    """Find images whose distance to the nearest class mean is unusually large, the farthest first.

    Features are standardized. An image does not count for the mean of its own class. The logarithm of a distance is
    unusual if its modified z-score, which uses medians instead of means, is above 3.5.

    Args:
        features: after the last block.
        labels: of the images, 0 to C - 1.
    """
    deviation = features.std(0, correction=0)
    standard = torch.where(deviation > 0, (features - features.mean(0)) / deviation, 0)
    counts = labels.bincount().float()
    sums = torch.zeros(len(counts), features.shape[1]).index_add_(0, labels, standard)
    blocks = zip(standard.split(_BLOCK), labels.split(_BLOCK), strict=True)
    nearest = torch.cat([_nearest(*block, sums, counts) for block in blocks])
    logarithms = nearest.clamp(min=1e-12).log()
    center = logarithms.median()
    spread = (logarithms - center).abs().median().clamp(min=_LEAST_SPREAD)
    scores = (_NORMAL * (logarithms - center) / spread).numpy()
    far = np.flatnonzero(scores > _FAR)
    return far[np.argsort(-scores[far], kind="stable")]


def _nearest(standard: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Return the distance of each image to the nearest class mean."""
    distances = torch.cdist(standard, sums / counts.clamp(min=1)[:, None])
    distances[:, counts == 0] = torch.inf
    others = counts[labels] - 1
    own = (sums[labels] - standard) / others.clamp(min=1)[:, None]
    away = torch.where(others > 0, (standard - own).norm(dim=1), torch.inf)
    distances[torch.arange(len(labels)), labels] = away
    return distances.min(1).values

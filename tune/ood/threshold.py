"""The threshold of a score, and what it is worth."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from unfreeze.contract.arrays import Float32

_CONFIDENCE = 0.9
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold and its false alarms.

    Args:
        value: images with a larger score are out of distribution.
        requested: wanted share of false alarms.
        expected: share of false alarms among new images like the validation images, in the mean.
        low: lower bound of that share.
        high: upper bound; the share is between both with 90 % probability.
        images: number of images that it comes from.
    """

    value: float
    requested: float
    expected: float
    low: float
    high: float
    images: int

    @property
    def message(self) -> str:
        """A sentence for users."""
        text = (
            f"of new images like the {self.images:,} validation images, {self.low:.1%} to {self.high:.1%} are "
            f"reported as out of distribution (90 % interval; wanted: {self.requested:.1%})"
        )
        if self.expected <= self.requested + _ROUNDING:
            return text
        fewest = math.ceil(1 / self.requested) - 1
        return f"{text}; at least {fewest} validation images are needed to keep the wanted share on average"


def threshold_of(scores: Float32[np.ndarray, " n"], false_alarms: float) -> Threshold:
    """Choose the threshold as a conformal predictor does (Vovk et al. 2005, https://doi.org/10.1007/b106715).

    With the k-th smallest of n scores as the threshold, the share of false alarms among new images of the same
    distribution has the Beta distribution of n + 1 - k and k, with the mean 1 - k / (n + 1): k is the smallest number
    for which that mean is not above the wanted share. With too few images for it, the largest score is the threshold.

    Args:
        scores: of validation images, at least one.
        false_alarms: wanted share, above 0 and below 1.
    """
    count = len(scores)
    # The product has rounding errors: without the subtraction, 0.95 of 20 would be the 20th.
    rank = min(count, math.ceil((count + 1) * (1 - false_alarms) - _ROUNDING))
    value = float(np.sort(scores)[rank - 1])
    low, high = beta.interval(_CONFIDENCE, count + 1 - rank, rank)
    expected = 1 - rank / (count + 1)
    return Threshold(
        value=value, requested=false_alarms, expected=expected, low=float(low), high=float(high), images=count
    )

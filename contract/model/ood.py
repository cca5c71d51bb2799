"""Images unlike those that a model was tuned on: the score in its graph, and the threshold."""

from dataclasses import dataclass
from typing import Literal, get_args

Method = Literal["max-softmax", "energy", "calibrated-energy", "mahalanobis", "relative-mahalanobis"]
METHODS: tuple[Method, ...] = get_args(Method)
BASELINE: Method = "max-softmax"


@dataclass(frozen=True, kw_only=True)
class OutOfDistribution:
    """How images unlike the training images are recognized: their score is above a threshold.

    Args:
        method: how the score is computed; the larger, the farther away.
        threshold: images with a larger score are out of distribution.
        false_alarms: the wanted share of images like the validation images that are, above 0 and below 1.
        false_alarms_low: lower bound of that share, as far as the validation images tell; see `images`.
        false_alarms_high: upper bound; a new sample of validation images has a share between both with 90 %
            probability.
        images: number of validation images that the threshold comes from.
        auroc: probability that an image of a class that was left out has a larger score than one of the other classes,
            0 to 1; None if there were too few classes to find out.
        baseline_auroc: that of the maximum softmax; None as before.

    Raises:
        ValueError: the share is out of its range.
    """

    method: Method
    threshold: float
    false_alarms: float
    false_alarms_low: float
    false_alarms_high: float
    images: int
    auroc: float | None = None
    baseline_auroc: float | None = None

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        if not 0 < self.false_alarms < 1:
            raise ValueError(f"false_alarms must be above 0 and below 1, got {self.false_alarms}")

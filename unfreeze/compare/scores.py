"""Cross-validated scores of a backbone, and their paired comparison."""

import math
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Bool, Float64, Int64
from unfreeze.tune.evaluation.accuracy import Estimate, accuracies, estimate
from unfreeze.tune.options import ACCURACY, BALANCED, Metric


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Which held-out images were classified correctly, fold after fold.

    Args:
        labels: of the images.
        correct: whether each was classified correctly.
        metric: what backbones are compared by.
    """

    labels: Int64[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    metric: Metric = ACCURACY

    @property
    def accuracy(self) -> float:
        """Accuracy."""
        return estimate(self.correct.astype(np.float64), self.labels, ACCURACY).mean

    @property
    def compared(self) -> Estimate:
        """The metric that backbones are compared by."""
        return estimate(self.correct.astype(np.float64), self.labels, self.metric)

    @property
    def accuracies(self) -> dict[str, float]:
        """Accuracy and balanced accuracy, with their standard errors."""
        return accuracies(self.correct, self.labels)


def lead(one: Scores, other: Scores) -> float:
    """Return by how much one backbone is better than another, in standard errors of the paired difference.

    Args:
        one: its scores.
        other: scores on the same folds; only the images that both classified are compared.

    Raises:
        ValueError: the scores are from different folds.
    """
    common = min(len(one.correct), len(other.correct))
    labels = one.labels[:common]
    if not np.array_equal(labels, other.labels[:common]):
        raise ValueError("the scores are from different folds")
    gains = (one.correct[:common].astype(np.float64) - other.correct[:common]) * _weights(labels, one.metric)
    mean, error = float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(common) if common > 1 else 0.0
    return mean / error if error else (math.copysign(math.inf, mean) if mean else 0.0)


def _weights(labels: Int64[np.ndarray, " n"], metric: Metric) -> Float64[np.ndarray, " n"]:
    """Return weights of the images, with a mean of 1, whose weighted mean of correct answers is the metric."""
    counts = np.bincount(labels)
    if metric == BALANCED:
        weights: np.ndarray = len(labels) / (counts[labels] * np.count_nonzero(counts))
        return weights
    return np.ones(len(labels))

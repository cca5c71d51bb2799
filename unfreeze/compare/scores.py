"""Cross-validated scores of a backbone, and their paired comparison."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unfreeze.contract.arrays import Bool, Float64, Int64
from unfreeze.tune.options import TuneOptions

MetricName = Literal["accuracy", "balanced accuracy"]


def metric_of(options: TuneOptions) -> MetricName:
    """Return what backbones are compared by: balanced accuracy if training weights the classes equally."""
    return "balanced accuracy" if options.class_weights == "balanced" else "accuracy"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share between 0 and 1, with its standard error."""

    value: float
    standard_error: float


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
    metric: MetricName = "accuracy"

    @property
    def accuracy(self) -> Estimate:
        """Share of correct images."""
        mean = float(self.correct.mean())
        return Estimate(value=mean, standard_error=math.sqrt(mean * (1 - mean) / len(self.correct)))

    @property
    def balanced_accuracy(self) -> Estimate:
        """Mean of the classes' recalls; their errors are independent."""
        counts = np.bincount(self.labels)
        recalls = np.bincount(self.labels, self.correct)[counts > 0] / counts[counts > 0]
        variance = float((recalls * (1 - recalls) / counts[counts > 0]).sum())
        return Estimate(value=float(recalls.mean()), standard_error=math.sqrt(variance) / len(recalls))

    @property
    def compared(self) -> Estimate:
        """The metric that backbones are compared by."""
        return self.accuracy if self.metric == "accuracy" else self.balanced_accuracy

    @property
    def weights(self) -> Float64[np.ndarray, " n"]:
        """Weights of the images, whose weighted mean of correct answers is the metric; their mean is 1."""
        if self.metric == "accuracy":
            return np.ones(len(self.labels))
        counts = np.bincount(self.labels)
        return len(self.labels) / (counts[self.labels] * np.count_nonzero(counts))


def lead(one: Scores, other: Scores) -> float:
    """Return by how much one backbone is better than another, in standard errors of the paired difference.

    Args:
        one: its scores.
        other: scores on the same folds; only the images that both classified are compared.
    """
    common = min(len(one.correct), len(other.correct))
    if not np.array_equal(one.labels[:common], other.labels[:common]):
        raise ValueError("the scores are from different folds")
    weights = Scores(labels=one.labels[:common], correct=one.correct[:common], metric=one.metric).weights
    difference = (one.correct[:common].astype(float) - other.correct[:common]) * weights
    mean, deviation = float(difference.mean()), float(difference.std(ddof=1)) if common > 1 else 0.0
    if mean == 0 or deviation == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (deviation / math.sqrt(common))

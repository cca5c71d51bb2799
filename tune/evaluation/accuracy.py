"""Accuracy and balanced accuracy, with their standard errors."""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Bool, Float64, Int64
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.options import ACCURACY, BALANCED, Metric

METRIC_NAMES: dict[Metric, str] = {ACCURACY: "accuracy", BALANCED: "balanced accuracy"}


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    standard_error: float


@runtime_checkable
class Scored(Protocol):
    """Has accuracy and balanced accuracy."""

    @property
    def accuracy(self) -> float: ...  # noqa: D102

    @property
    def standard_error(self) -> float: ...  # noqa: D102

    @property
    def balanced_accuracy(self) -> float: ...  # noqa: D102

    @property
    def balanced_standard_error(self) -> float: ...  # noqa: D102


def estimate(values: Float64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], metric: Metric) -> Estimate:
    """Estimate the mean of a value that each image has.

    Args:
        values: of the images, at least one.
        labels: of the images.
        metric: "accuracy" for the mean over the images; "balanced" for the mean over the classes that have images,
            so that an image counts inversely to the frequency of its class.

    Returns:
        The mean and its standard error. Classes are strata: only the variance inside of each one counts (Cochran 1977,
        Sampling Techniques, section 5.3). A class with one image gets the variance of all images.
    """
    strata = np.unique(labels, return_inverse=True)[1] if metric == BALANCED else np.zeros_like(labels)
    counts = np.bincount(strata)
    means = np.bincount(strata, values) / counts
    variances = np.bincount(strata, (values - means[strata]) ** 2) / np.maximum(counts - 1, 1)
    variances[counts == 1] = values.var(ddof=1) if len(values) > 1 else 0.0
    return Estimate(float(means.mean()), math.sqrt((variances / counts).sum()) / len(counts))


def accuracy_by(metric: Metric, evaluation: Evaluation) -> Estimate:
    """Return the accuracy of an evaluation, or its balanced accuracy: the mean recall of the classes with images."""
    labels = evaluation.labels.numpy()
    return estimate((evaluation.logits.argmax(1).numpy() == labels).astype(np.float64), labels, metric)


def accuracies(correct: Bool[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> dict[str, float]:
    """Return accuracy and balanced accuracy of images that were classified correctly or not: the fields of `Scored`."""
    plain, balanced = (estimate(correct.astype(np.float64), labels, metric) for metric in (ACCURACY, BALANCED))
    return {
        "accuracy": plain.mean,
        "standard_error": plain.standard_error,
        "balanced_accuracy": balanced.mean,
        "balanced_standard_error": balanced.standard_error,
    }


def by_metric(scored: Scored, metric: Metric) -> Estimate:
    """Return the accuracy that a metric stands for."""
    if metric == BALANCED:
        return Estimate(scored.balanced_accuracy, scored.balanced_standard_error)
    return Estimate(scored.accuracy, scored.standard_error)

"""Compare candidates on the images that both classified."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unfreeze.tune.backbones.link import negative_log_likelihoods
from unfreeze.tune.evaluation.accuracy import estimate
from unfreeze.tune.evaluation.evaluate import Evaluation, fit_temperature
from unfreeze.tune.options import BALANCED, Metric
from unfreeze.tune.training.optimization import class_weights


def correct(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Return which images were classified correctly: bool [n], fold after fold."""
    return np.concatenate([np.asarray(fold.logits.argmax(1) == fold.labels) for fold in evaluations])


def labels_of_folds(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Return the labels of the held-out images: int64 [n], fold after fold."""
    return np.concatenate([fold.labels.numpy() for fold in evaluations])


def lead(evaluations: Sequence[Evaluation], others: Sequence[Evaluation], metric: Metric) -> float:
    """Return by how much a candidate is better than another, in standard errors of the paired difference.

    The larger of two leads is returned: that in accuracy, which matters to users, and that in log loss after
    temperature scaling, which has more statistical power but penalizes a candidate that was trained only briefly.

    Args:
        evaluations: of the candidate, one per fold.
        others: of the other candidate, on the same folds.
        metric: "balanced" gives every class the same weight.
    """
    weights = _weights(torch.from_numpy(labels_of_folds(evaluations)), metric)
    in_loss = _losses(others) - _losses(evaluations)
    in_accuracy = torch.from_numpy(_gains(evaluations, others))
    return max(_standard_errors(weights * in_loss), _standard_errors(weights * in_accuracy))


def accuracy_gain(evaluations: Sequence[Evaluation], others: Sequence[Evaluation], metric: Metric) -> float:
    """Return by how much the accuracy, or the balanced accuracy, is higher on the same images."""
    return estimate(_gains(evaluations, others), labels_of_folds(evaluations), metric).mean


def mean_loss(evaluations: Sequence[Evaluation], metric: Metric) -> float:
    """Return the mean log loss at the best temperature; the mean over the classes if they are balanced."""
    weights = _weights(torch.from_numpy(labels_of_folds(evaluations)), metric)
    return float((weights * _losses(evaluations)).mean())


def _gains(evaluations: Sequence[Evaluation], others: Sequence[Evaluation]) -> np.ndarray:
    """Return +1 where only the candidate is correct and -1 where only the other is: float64 [n]."""
    gains: np.ndarray = correct(evaluations).astype(np.float64) - correct(others)
    return gains


def _weights(labels: Tensor, metric: Metric) -> Tensor:
    return class_weights(labels)[labels].double() if metric == BALANCED else torch.ones(len(labels)).double()


def _standard_errors(difference: Tensor) -> float:
    """Return the mean in standard errors.

    The variance is that over all images, which is larger than that inside of the classes: if all three images of a
    class are gained, the latter is 0.
    """
    error = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) / error if error else 0.0


def _losses(evaluations: Sequence[Evaluation]) -> Tensor:
    """Return the log loss of each image at the best temperature, float64 [n]."""
    whole = Evaluation(
        logits=torch.cat([fold.logits for fold in evaluations]),
        labels=torch.cat([fold.labels for fold in evaluations]),
        images=(),
        skipped=(),
        link=evaluations[0].link,
    )
    return negative_log_likelihoods(whole.logits, whole.labels, whole.link, fit_temperature(whole)).double()

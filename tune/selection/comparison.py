"""Compare candidates on the images that both classified."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unfreeze.tune.backbones.link import negative_log_likelihoods
from unfreeze.tune.evaluation.evaluate import Evaluation, fit_temperature


def correct(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Return which images were classified correctly: bool [n], fold after fold."""
    return np.concatenate([np.asarray(fold.logits.argmax(1) == fold.labels) for fold in evaluations])


def lead(evaluations: Sequence[Evaluation], others: Sequence[Evaluation], weights: Tensor) -> float:
    """Return by how much a candidate is better than another, in standard errors of the paired difference.

    The larger of two leads is returned: that in accuracy, which matters to users, and that in log loss after
    temperature scaling, which has more statistical power but penalizes a candidate that was trained only briefly.

    Args:
        evaluations: of the candidate, one per fold.
        others: of the other candidate, on the same folds.
        weights: of the images, float64 [n].
    """
    in_loss = (_losses(others) - _losses(evaluations)) * weights
    return max(_standard_errors(in_loss), _standard_errors(accuracy_gains(evaluations, others, weights)))


def accuracy_gains(evaluations: Sequence[Evaluation], others: Sequence[Evaluation], weights: Tensor) -> Tensor:
    """Return +1 where only the candidate is correct and -1 where only the other is, weighted: float64 [n]."""
    own, other = (torch.from_numpy(correct(each)).double() for each in (evaluations, others))
    return (own - other) * weights


def _standard_errors(difference: Tensor) -> float:
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

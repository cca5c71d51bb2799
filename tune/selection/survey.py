"""The survey: accuracy of a linear classifier on the frozen features at every cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.reporting import Reporter
from unfreeze.tune.backbones.network import HEAD, Network
from unfreeze.tune.data.folds import Fold
from unfreeze.tune.evaluation.accuracy import accuracies, estimate
from unfreeze.tune.options import ACCURACY, Metric

_STRENGTHS = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
_SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True, kw_only=True)
class DepthScore:
    """Accuracy of frozen features at a cut.

    Args:
        cut: where the features were taken; "head" is after the last block.
        accuracy: of a linear classifier, cross-validated, 0 to 1.
        standard_error: of the accuracy.
        balanced_accuracy: mean recall of the classes, 0 to 1.
        balanced_standard_error: of the balanced accuracy.
        regularization: the strength with the highest accuracy, or balanced accuracy if that is the metric.
        trained_parameters: number of parameters in the blocks after the cut.
    """

    cut: str
    accuracy: float
    standard_error: float
    balanced_accuracy: float
    balanced_standard_error: float
    regularization: float
    trained_parameters: int


def survey_cuts(
    network: Network,
    borders: Mapping[int, Tensor],
    labels: Tensor,
    folds: Sequence[Fold],
    reporter: Reporter,
    metric: Metric = ACCURACY,
) -> tuple[DepthScore, ...]:
    """Cross-validate a linear classifier at every border.

    The classifier is a ridge regression on one-hot labels, which has a closed form for all strengths at once.

    Args:
        network: the network that computed the features.
        borders: pooled features by position, float32 [S, V, 2 F].
        labels: of the S images, int64.
        folds: of the S images; all views of an image are in one fold, and only the first view is tested.
        reporter: shows progress.
        metric: by which the strength is chosen.

    Returns:
        One score per cut, from the input to "head".
    """
    advance = reporter.track("surveying every cut", len(borders))
    cuts = (*network.block_names[1:], HEAD)
    tested = labels.numpy()[np.concatenate([fold.held_out for fold in folds])]
    scores = []
    for position, features in sorted(borders.items()):
        correct = torch.cat([ridge_correct(features, labels, fold) for fold in folds], 1).numpy()
        best = int(np.argmax([estimate(each.astype(np.float64), tested, metric).mean for each in correct]))
        scores.append(
            DepthScore(
                cut=cuts[position - 1],
                **accuracies(correct[best], tested),
                regularization=_STRENGTHS[best],
                trained_parameters=sum(parameter.numel() for parameter in network.block_parameters(position)),
            )
        )
        advance(1)
    return tuple(scores)


def ridge_correct(features: Tensor, labels: Tensor, fold: Fold) -> Tensor:
    """Fit on a fold's training images; return which held-out images are correct, bool [strengths, n]."""
    train, held_out = torch.from_numpy(fold.train), torch.from_numpy(fold.held_out)
    x, y = features[train].flatten(0, 1), labels[train].repeat_interleave(features.shape[1])
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > _SMALLEST_DEVIATION, 1 / deviation, 0)
    # In float64, because the weakest strength is a millionth of the largest eigenvalue.
    x, tested = ((x - mean) * scale).double(), ((features[held_out, 0] - mean) * scale).double()
    targets = torch.nn.functional.one_hot(y, int(labels.max()) + 1).double()
    predicted = _ridge(x, targets - targets.mean(0), tested) + targets.mean(0)
    return predicted.argmax(2) == labels[held_out]


def _ridge(x: Tensor, targets: Tensor, tested: Tensor) -> Tensor:
    """Predict with all strengths, [strengths, n, C]; solve the primal or the dual, whichever is smaller."""
    dual = x.shape[0] < x.shape[1]
    gram = x @ x.T if dual else x.T @ x
    regularized = torch.stack([gram + strength * torch.eye(len(gram), dtype=gram.dtype) for strength in _STRENGTHS])
    factors = torch.linalg.cholesky(regularized)
    right = targets if dual else x.T @ targets
    solved = torch.cholesky_solve(right.expand(len(_STRENGTHS), -1, -1), factors)
    return (tested @ x.T if dual else tested) @ solved

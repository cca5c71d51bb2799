"""A linear probe: logistic regression on frozen features."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from tune.network import Head

_INVERSE_REGULARISATION = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
_FOLDS = 4
_ITERATIONS = 300


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier of standardised features.

    Args:
        mean: of the training features, float32 [F].
        inverse_std: of the training features, float32 [F]; 0 where a feature never varies.
        weight: float32 [C, F].
        bias: float32 [C].
    """

    mean: Tensor
    inverse_std: Tensor
    weight: Tensor
    bias: Tensor

    def put_into(self, head: Head) -> None:
        """Make a head give this probe's answers."""
        with torch.no_grad():
            head.mean.copy_(self.mean)
            head.inverse_std.copy_(self.inverse_std)
            head.linear.weight.copy_(self.weight)
            head.linear.bias.copy_(self.bias)


def fit_probe(features: Tensor, labels: Tensor, *, seed: int = 0) -> Probe:
    """Fit a multinomial logistic regression, its L2 regularisation chosen by stratified cross-validation.

    Of the strengths whose log loss is within one standard error of the best, the strongest is taken (the
    one-standard-error rule of Breiman et al. 1984).

    Args:
        features: float32 [N, F].
        labels: int64 [N], every class at least once.
        seed: of the folds.

    Returns:
        The probe.
    """
    x, y = features.numpy(), labels.numpy()
    with warnings.catch_warnings(), threadpool_limits(1):  # the matrices are small: threads cost three times the time
        # At weak regularisation the optimum is far away and of no use; cross-validation then prefers a stronger one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        scaler = StandardScaler().fit(x)
        regression = LogisticRegression(C=_choose_regularisation(x, y, seed), max_iter=_ITERATIONS)
        regression.fit(scaler.transform(x), y)
    varies = scaler.var_ > 0
    return Probe(
        mean=torch.from_numpy(scaler.mean_).float(),
        inverse_std=torch.from_numpy(varies / scaler.scale_).float(),
        weight=torch.from_numpy(_one_row_per_class(regression.coef_)).float(),
        bias=torch.from_numpy(_one_row_per_class(regression.intercept_)).float(),
    )


def _choose_regularisation(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    count = min(_FOLDS, int(np.bincount(y).min()))
    if count < 2:  # noqa: PLR2004
        return _INVERSE_REGULARISATION[2]
    split = StratifiedKFold(count, shuffle=True, random_state=seed).split(x, y)
    folds = [_Fold(x, y, train, held_out) for train, held_out in split]
    losses: list[np.ndarray] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for strength in _INVERSE_REGULARISATION:
            losses.append(np.concatenate(list(pool.map(_Fold.losses, folds, repeat(strength)))))
            if losses[-1].mean() > _bound(losses):
                break  # weaker regularisation costs the more time the worse it does
    bound = _bound(losses)
    return next(c for c, loss in zip(_INVERSE_REGULARISATION, losses, strict=False) if loss.mean() <= bound)


class _Fold:
    """One fold's regression, which starts each strength from the solution of the one before."""

    def __init__(self, x: np.ndarray, y: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> None:
        scaler = StandardScaler().fit(x[train])
        self._train = scaler.transform(x[train]), y[train]
        self._held_out = scaler.transform(x[held_out]), y[held_out]
        self._regression = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)

    def losses(self, inverse_regularisation: float) -> np.ndarray:
        """Log loss of every picture held out."""
        self._regression.set_params(C=inverse_regularisation).fit(*self._train)
        x, y = self._held_out
        probabilities = self._regression.predict_proba(x)
        return -np.log(np.maximum(probabilities[np.arange(len(y)), y], np.finfo(np.float32).tiny))


def _bound(losses: Sequence[np.ndarray]) -> float:
    """One standard error above the best mean."""
    best = min(losses, key=np.mean)
    return float(best.mean() + best.std(ddof=1) / np.sqrt(len(best)))


def _one_row_per_class(weights: np.ndarray) -> np.ndarray:
    """Two classes share one row in scikit-learn, which is the second's; halves of it give the same probabilities."""
    return np.concatenate([-weights, weights]) / 2 if len(weights) == 1 else weights

"""A linear probe: logistic regression on frozen features."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
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
    x, y = features.double().numpy(), labels.numpy()
    with warnings.catch_warnings(), threadpool_limits(1):  # the matrices are small: threads cost three times the time
        # At weak regularisation the optimum is far away and of no use; cross-validation then prefers a stronger one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        scaler, regression = _classifier(_choose_regularisation(x, y, seed)).fit(x, y).named_steps.values()
    varies = scaler.var_ > 0
    return Probe(
        mean=torch.from_numpy(scaler.mean_).float(),
        inverse_std=torch.from_numpy(varies / scaler.scale_).float(),
        weight=torch.from_numpy(_one_row_per_class(regression.coef_)).float(),
        bias=torch.from_numpy(_one_row_per_class(regression.intercept_)).float(),
    )


def _classifier(inverse_regularisation: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=inverse_regularisation, max_iter=_ITERATIONS))


def _choose_regularisation(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    folds = min(_FOLDS, int(np.bincount(y).min()))
    if folds < 2:  # noqa: PLR2004
        return _INVERSE_REGULARISATION[2]
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    losses = np.stack([_losses(_classifier(c), x, y, split) for c in _INVERSE_REGULARISATION])
    best = losses[losses.mean(1).argmin()]
    bound = best.mean() + best.std(ddof=1) / np.sqrt(len(y))
    return next(c for c, loss in zip(_INVERSE_REGULARISATION, losses.mean(1), strict=True) if loss <= bound)


def _losses(classifier: Pipeline, x: np.ndarray, y: np.ndarray, split: StratifiedKFold) -> np.ndarray:
    """Log loss of every picture, by a classifier that has not seen it."""
    probabilities = cross_val_predict(classifier, x, y, cv=split, method="predict_proba")
    return -np.log(np.maximum(probabilities[np.arange(len(y)), y], np.finfo(np.float64).tiny))


def _one_row_per_class(weights: np.ndarray) -> np.ndarray:
    """Two classes share one row in scikit-learn, which is the second's; halves of it give the same probabilities."""
    return np.concatenate([-weights, weights]) / 2 if len(weights) == 1 else weights

"""Solvers of linear classifiers on standardized features; each fit starts from the previous solution."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from unfreeze.contract.arrays import Float, Int64
from unfreeze.tune.recipes.recipe import Solution

_ITERATIONS = 300
_REDUCTION = 64 * np.finfo(np.float64).eps

Loss = Literal["logistic", "squared_hinge"]


class Multinomial:
    """scikit-learn's multinomial logistic regression.

    Args:
        tolerance: stop when no entry of the mean loss's gradient is larger.
    """

    def __init__(self, tolerance: float) -> None:
        self._regression = LogisticRegression(max_iter=_ITERATIONS, tol=tolerance, warm_start=True)

    def fit(
        self,
        x: Float[np.ndarray, "n f"],
        y: Int64[np.ndarray, " n"],
        weights: Float[np.ndarray, " n"],
        inverse_regularization: float,
    ) -> Solution:
        """Fit all classes jointly."""
        self._regression.set_params(C=inverse_regularization).fit(x, y, sample_weight=weights)
        return _one_row_per_class(self._regression.coef_), _one_row_per_class(self._regression.intercept_)


class OneVsRest:
    """One binary classifier per class, all fitted in one minimization of the sum of their objectives.

    The optimum is that of scikit-learn's `OneVsRestClassifier(LogisticRegression())` and of its `LinearSVC()`. Those
    fit the classes one after the other, which took 20 times as long for 15 classes of 512 features.

    Args:
        loss: "logistic", or "squared_hinge" for a support vector machine, whose bias is regularized as in LIBLINEAR
            (Fan et al. 2008).
        tolerance: stop when no entry of the mean loss's gradient is larger.
    """

    def __init__(self, loss: Loss, tolerance: float) -> None:
        self._loss = _LOSSES[loss]
        self._tolerance = tolerance
        self._regularized_bias = loss == "squared_hinge"
        self._solution: np.ndarray | None = None

    def fit(
        self,
        x: Float[np.ndarray, "n f"],
        y: Int64[np.ndarray, " n"],
        weights: Float[np.ndarray, " n"],
        inverse_regularization: float,
    ) -> Solution:
        """Fit every class against the rest."""
        signs = np.where(y[:, None] == np.arange(y.max() + 1), 1, -1).astype(x.dtype)
        shares = (weights / weights.sum()).astype(x.dtype)[:, None]
        shape = signs.shape[1], x.shape[1] + 1
        decay = np.full(shape[1], 1 / (inverse_regularization * weights.sum()))
        decay[-1] *= self._regularized_bias

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            rows = flat.reshape(shape)
            cast = rows.astype(x.dtype)
            loss, slope = self._loss(signs * (x @ cast[:, :-1].T + cast[:, -1]))
            slope *= signs * shares
            gradient = np.concatenate([slope.T @ x, slope.sum(0)[:, None]], axis=1) + decay * rows
            return float((loss * shares).sum(dtype=np.float64) + (decay * rows**2).sum() / 2), gradient.ravel()

        start = np.zeros(shape) if self._solution is None else self._solution
        limits = {"maxiter": _ITERATIONS, "gtol": self._tolerance, "ftol": _REDUCTION, "maxls": 50}
        self._solution = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=limits).x.reshape(
            shape
        )
        return self._solution[:, :-1], self._solution[:, -1]


def _logistic(margins: np.ndarray) -> Solution:
    decayed = np.exp(-np.abs(margins))  # of the absolute value, so that it never overflows
    return np.log1p(decayed) + np.maximum(-margins, 0), -np.where(margins >= 0, decayed, 1) / (1 + decayed)


def _squared_hinge(margins: np.ndarray) -> Solution:
    violation = np.maximum(1 - margins, 0)
    return violation**2, -2 * violation


# Each returns the loss and its derivative with respect to the margin: the decision value, negated for other classes.
_LOSSES: dict[Loss, Callable[[np.ndarray], Solution]] = {"logistic": _logistic, "squared_hinge": _squared_hinge}


def _one_row_per_class(weights: np.ndarray) -> np.ndarray:
    """Expand the single row of scikit-learn's binary classifier; halves of it give the same probabilities."""
    return np.concatenate([-weights, weights]) / 2 if len(weights) == 1 else weights

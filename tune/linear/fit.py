"""Linear classifiers of standardized features, each fit starting from the solution of the one before."""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from unfreeze.contract.arrays import Float, Int64

_ITERATIONS = 300
_REDUCTION = 64 * np.finfo(np.float64).eps

Loss = Literal["logistic", "squared_hinge"]
Solution = tuple[np.ndarray, np.ndarray]


@runtime_checkable
class Solver(Protocol):
    """Finds weight [C, F] and bias [C]; labels are 0 to C - 1, and each occurs."""

    def fit(
        self,
        x: Float[np.ndarray, "n f"],
        y: Int64[np.ndarray, " n"],
        weights: Float[np.ndarray, " n"],
        inverse_regularization: float,
    ) -> Solution:
        """Minimize the loss, times `weights` and the inverse regularization, plus half the squared norm."""


class Multinomial:
    """scikit-learn's multinomial logistic regression.

    Args:
        tolerance: the largest entry of the mean loss's gradient to stop at.
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
        """Fit all classes against each other."""
        self._regression.set_params(C=inverse_regularization).fit(x, y, sample_weight=weights)
        return _one_row_per_class(self._regression.coef_), _one_row_per_class(self._regression.intercept_)


class OneVsRest:
    """Each class against all others, in one minimization: the objective is the sum of the classes' own.

    The optimum is that of scikit-learn's `OneVsRestClassifier(LogisticRegression())` and of its `LinearSVC()`, which
    go through the classes one by one: that took 20 times as long for 15 classes of 512 features.

    Args:
        loss: "logistic", or "squared_hinge" for a support vector machine, whose bias is regularized as LIBLINEAR's is
            (Fan et al. 2008).
        tolerance: the largest entry of the mean loss's gradient to stop at.
    """

    def __init__(self, loss: Loss, tolerance: float) -> None:
        self._loss = _LOSSES[loss]
        self._tolerance = tolerance
        self._regularized_bias = loss == "squared_hinge"
        self._found: np.ndarray | None = None

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
            near = rows.astype(x.dtype)
            loss, slope = self._loss(signs * (x @ near[:, :-1].T + near[:, -1]))
            slope *= signs * shares
            gradient = np.concatenate([slope.T @ x, slope.sum(0)[:, None]], axis=1) + decay * rows
            return float((loss * shares).sum(dtype=np.float64) + (decay * rows**2).sum() / 2), gradient.ravel()

        start = np.zeros(shape) if self._found is None else self._found
        limits = {"maxiter": _ITERATIONS, "gtol": self._tolerance, "ftol": _REDUCTION, "maxls": 50}
        self._found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=limits).x.reshape(shape)
        return self._found[:, :-1], self._found[:, -1]


def _logistic(margins: np.ndarray) -> Solution:
    small = np.exp(-np.abs(margins))
    return np.log1p(small) + np.maximum(-margins, 0), -np.where(margins >= 0, small, 1) / (1 + small)


def _squared_hinge(margins: np.ndarray) -> Solution:
    short = np.maximum(1 - margins, 0)
    return short**2, -2 * short


# Loss and its slope for each margin: the decision, negated where the class is another.
_LOSSES: dict[Loss, Callable[[np.ndarray], Solution]] = {"logistic": _logistic, "squared_hinge": _squared_hinge}


def _one_row_per_class(weights: np.ndarray) -> np.ndarray:
    """Two classes share one row in scikit-learn, which is the second's; halves of it give the same probabilities."""
    return np.concatenate([-weights, weights]) / 2 if len(weights) == 1 else weights

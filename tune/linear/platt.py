"""Calibrate decision values of support vector machines: map them to probabilities."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from unfreeze.contract.arrays import Bool, Float, Int64


def fit_sigmoids(
    decisions: Float[np.ndarray, "n c"], y: Int64[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Fit a sigmoid to each class's decision values (Platt 1999), like scikit-learn's `CalibratedClassifierCV`.

    Args:
        decisions: decision values of held-out images.
        y: true labels.
        weights: sample weights.

    Returns:
        Slopes, 0 or more, and offsets: sigmoid(slope * decision + offset) is the probability of a class against the
        rest. If higher decision values do not make a class more likely, its slope is 0 and every image gets the share
        of the class.
    """
    fits = [_fit_class(decisions[:, label], y == label, weights) for label in range(decisions.shape[1])]
    slopes, offsets = np.array(fits).T
    return slopes, offsets


def _fit_class(
    decisions: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> np.ndarray:
    own, others = weights[positive].sum(), weights[~positive].sum()
    # Platt's prior keeps the targets away from 0 and 1: with separable classes the slope would otherwise be infinite.
    targets = np.where(positive, (own + 1) / (own + 2), 1 / (others + 2))

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters[0] * decisions + parameters[1]
        error = weights * (expit(logits) - targets)
        loss = weights * (np.logaddexp(0, logits) - targets * logits)
        return float(loss.sum()), np.array([error @ decisions, error.sum()])

    start = [0.0, np.log((own + 1) / (others + 1))]
    bounds = [(0, None), (None, None)]
    fitted: np.ndarray = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return fitted

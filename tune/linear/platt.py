"""Make decision values of support vector machines into probabilities."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from unfreeze.contract.arrays import Bool, Float, Int64


def fit_sigmoids(
    decisions: Float[np.ndarray, "n c"], y: Int64[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Fit a sigmoid of each class's decision values (Platt 1999), as scikit-learn's `CalibratedClassifierCV` does.

    Args:
        decisions: of images that the machine has not seen.
        y: the true labels.
        weights: what each image counts.

    Returns:
        Slopes and offsets: sigmoid(slope * decision + offset) is the probability of a class against the rest. A slope
        is 0 or more: where decisions are worse than none, each image gets the class's share.
    """
    fits = [_fit(decisions[:, label], y == label, weights) for label in range(decisions.shape[1])]
    slopes, offsets = np.array(fits).T
    return slopes, offsets


def _fit(
    decisions: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> np.ndarray:
    own, others = weights[positive].sum(), weights[~positive].sum()
    # Targets short of 0 and 1, by Platt's prior: decisions that tell all apart would make the slope infinite.
    targets = np.where(positive, (own + 1) / (own + 2), 1 / (others + 2))

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters[0] * decisions + parameters[1]
        error = weights * (expit(logits) - targets)
        loss = weights * (np.logaddexp(0, logits) - targets * logits)
        return float(loss.sum()), np.array([error @ decisions, error.sum()])

    start = [0.0, np.log((own + 1) / (others + 1))]
    return minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x

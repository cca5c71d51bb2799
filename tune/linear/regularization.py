"""Choose a linear classifier's regularization by cross-validation over images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.preprocessing import StandardScaler

from unfreeze.contract.arrays import Float, Float32, Float64, Int64
from unfreeze.contract.cores import usable_cores
from unfreeze.tune.data.folds import stratified_folds
from unfreeze.tune.linear.fit import Solver

_FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Features of labeled images.

    Args:
        features: float32 [N, V, F]; the first view is the image as served.
        labels: int64 [N], every class at least once.
        weights: what each image counts, float64 [N].
    """

    features: Float32[np.ndarray, "n v f"]
    labels: Int64[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]

    def take(self, images: Int64[np.ndarray, " m"]) -> "Examples":
        """Take some of the images."""
        return Examples(features=self.features[images], labels=self.labels[images], weights=self.weights[images])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one strength of regularization gave.

    Args:
        inverse_regularization: its inverse, for one view an image.
        decisions: of every image as served, by a classifier that has not seen it, [N, C].
        losses: of every image.
    """

    inverse_regularization: float
    decisions: Float[np.ndarray, "n c"]
    losses: Float[np.ndarray, " n"]


class Standardized:
    """A solver between features and decisions, which standardizes by the images that it fits.

    Args:
        examples: what it fits, with every view.
        solver: starts each fit from the solution of the one before.
    """

    def __init__(self, examples: Examples, solver: Solver) -> None:
        views = examples.features.shape[1]
        rows = examples.features.reshape(-1, examples.features.shape[2])
        self.scaler = StandardScaler().fit(rows)
        self._rows = self.scaler.transform(rows)
        self._labels, self._weights = examples.labels.repeat(views), examples.weights.repeat(views)
        self._views, self._solver = views, solver

    def fit(self, inverse_regularization: float) -> None:
        """Fit all rows; an image counts the same however many views it has."""
        strength = inverse_regularization / self._views
        self.weight, self.bias = self._solver.fit(self._rows, self._labels, self._weights, strength)

    def decide(self, features: Float32[np.ndarray, "n f"]) -> Float[np.ndarray, "n c"]:
        """Give the decision values of the last fit."""
        return self.scaler.transform(features) @ self.weight.T + self.bias


def choose_regularization(
    examples: Examples,
    solver: Callable[[], Solver],
    losses: Callable[[np.ndarray], np.ndarray],
    strengths: Sequence[float],
    seed: int,
) -> Trial | None:
    """Take the strongest regularization whose loss is within one standard error of the best (Breiman et al. 1984).

    Folds are of images, stratified by label: all views of an image are in one. What is held out is judged as served.

    Args:
        examples: the training images.
        solver: makes one for each fold.
        losses: of every image, from the decisions of all, [N, C] to [N].
        strengths: inverse regularizations to try, rising.
        seed: of the folds.

    Returns:
        What the chosen one gave; None where a class has a single image, so that none can be held out.
    """
    splits = stratified_folds(examples.labels, _FOLDS, seed)
    if not splits:
        return None
    tried: list[Trial] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        folds = [(Standardized(examples.take(train), solver()), held_out) for train, held_out in splits]
        for strength in strengths:
            decisions = np.empty((len(examples.labels), int(examples.labels.max()) + 1))
            parts = pool.map(partial(_decide, examples, strength), folds)
            for (_, held_out), part in zip(folds, parts, strict=True):
                decisions[held_out] = part
            tried.append(Trial(inverse_regularization=strength, decisions=decisions, losses=losses(decisions)))
            if tried[-1].losses.mean() > _bound(tried):
                break  # weaker regularization costs the more time the worse it does
    bound = _bound(tried)
    return next(trial for trial in tried if trial.losses.mean() <= bound)


def _decide(examples: Examples, strength: float, fold: tuple[Standardized, np.ndarray]) -> np.ndarray:
    classifier, held_out = fold
    classifier.fit(strength)
    return classifier.decide(examples.features[held_out, 0])


def _bound(tried: Sequence[Trial]) -> float:
    """One standard error above the best mean."""
    best = min((trial.losses for trial in tried), key=np.mean)
    return float(best.mean() + best.std(ddof=1) / np.sqrt(len(best)))

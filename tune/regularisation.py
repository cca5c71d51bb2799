"""Choose a linear classifier's regularisation by cross-validation over pictures."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.preprocessing import StandardScaler

from contract.arrays import Float, Float32, Float64, Int64
from tune.folds import stratified_folds
from tune.linear import Solver

_FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Features of labelled pictures.

    Args:
        features: float32 [N, V, F]; the first view is the picture as served.
        labels: int64 [N], every class at least once.
        weights: what each picture counts, float64 [N].
    """

    features: Float32[np.ndarray, "n v f"]
    labels: Int64[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]

    def take(self, pictures: Int64[np.ndarray, " m"]) -> "Examples":
        """Take some of the pictures."""
        return Examples(features=self.features[pictures], labels=self.labels[pictures], weights=self.weights[pictures])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one strength of regularisation gave.

    Args:
        inverse_regularisation: its inverse, for one view a picture.
        decisions: of every picture as served, by a classifier that has not seen it, [N, C].
        losses: of every picture.
    """

    inverse_regularisation: float
    decisions: Float[np.ndarray, "n c"]
    losses: Float[np.ndarray, " n"]


class Standardised:
    """A solver between features and decisions, which standardises by the pictures that it fits.

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

    def fit(self, inverse_regularisation: float) -> None:
        """Fit all rows; a picture counts the same however many views it has."""
        strength = inverse_regularisation / self._views
        self.weight, self.bias = self._solver.fit(self._rows, self._labels, self._weights, strength)

    def decide(self, features: Float32[np.ndarray, "n f"]) -> Float[np.ndarray, "n c"]:
        """Give the decision values of the last fit."""
        return self.scaler.transform(features) @ self.weight.T + self.bias


def choose_regularisation(
    examples: Examples,
    solver: Callable[[], Solver],
    losses: Callable[[np.ndarray], np.ndarray],
    strengths: Sequence[float],
    seed: int,
) -> Trial | None:
    """Take the strongest regularisation whose loss is within one standard error of the best (Breiman et al. 1984).

    Folds are of pictures, stratified by label: all views of a picture are in one. What is held out is judged as served.

    Args:
        examples: the training pictures.
        solver: makes one for each fold.
        losses: of every picture, from the decisions of all, [N, C] to [N].
        strengths: inverse regularisations to try, rising.
        seed: of the folds.

    Returns:
        What the chosen one gave; None where a class has a single picture, so that none can be held out.
    """
    splits = stratified_folds(examples.labels, _FOLDS, seed)
    if not splits:
        return None
    tried: list[Trial] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        folds = [(Standardised(examples.take(train), solver()), held_out) for train, held_out in splits]
        for strength in strengths:
            decisions = np.empty((len(examples.labels), int(examples.labels.max()) + 1))
            parts = pool.map(partial(_decide, examples, strength), folds)
            for (_, held_out), part in zip(folds, parts, strict=True):
                decisions[held_out] = part
            tried.append(Trial(inverse_regularisation=strength, decisions=decisions, losses=losses(decisions)))
            if tried[-1].losses.mean() > _bound(tried):
                break  # weaker regularisation costs the more time the worse it does
    bound = _bound(tried)
    return next(trial for trial in tried if trial.losses.mean() <= bound)


def _decide(examples: Examples, strength: float, fold: tuple[Standardised, np.ndarray]) -> np.ndarray:
    classifier, held_out = fold
    classifier.fit(strength)
    return classifier.decide(examples.features[held_out, 0])


def _bound(tried: Sequence[Trial]) -> float:
    """One standard error above the best mean."""
    best = min((trial.losses for trial in tried), key=np.mean)
    return float(best.mean() + best.std(ddof=1) / np.sqrt(len(best)))

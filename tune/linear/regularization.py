"""Choose the regularization of a linear classifier by cross-validation over images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.preprocessing import StandardScaler

from unfreeze.contract.arrays import Float, Float32, Float64, Int64
from unfreeze.contract.cores import usable_cores
from unfreeze.tune.data.folds import stratified_folds
from unfreeze.tune.recipes.recipe import Solver

_FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Features of labeled images.

    Args:
        features: float32 [N, V, F]; the first view is the image as served.
        labels: int64 [N]; every class occurs.
        weights: sample weights, float64 [N].
    """

    features: Float32[np.ndarray, "n v f"]
    labels: Int64[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]

    def take(self, images: Int64[np.ndarray, " m"]) -> "Examples":
        """Return a subset of the images, by their indices."""
        return Examples(features=self.features[images], labels=self.labels[images], weights=self.weights[images])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Cross-validated results of one strength of regularization.

    Args:
        inverse_regularization: the strength, for one view per image.
        decisions: decision values of every image as served when it was held out, [N, C].
        losses: of every image when it was held out, [N].
    """

    inverse_regularization: float
    decisions: Float[np.ndarray, "n c"]
    losses: Float[np.ndarray, " n"]


class Standardized:
    """A solver on features that are standardized over the training images.

    Args:
        examples: training images, with all views.
        solver: starts each fit from its previous solution.
    """

    def __init__(self, examples: Examples, solver: Solver) -> None:
        views = examples.features.shape[1]
        rows = examples.features.reshape(-1, examples.features.shape[2])
        self.scaler = StandardScaler().fit(rows)
        self._rows = self.scaler.transform(rows)
        self._labels, self._weights = examples.labels.repeat(views), examples.weights.repeat(views)
        self._views, self._solver = views, solver

    def fit(self, inverse_regularization: float) -> None:
        """Fit all views; the weight of an image does not depend on the number of views."""
        strength = inverse_regularization / self._views
        self.weight, self.bias = self._solver.fit(self._rows, self._labels, self._weights, strength)

    def decide(self, features: Float32[np.ndarray, "n f"]) -> Float[np.ndarray, "n c"]:
        """Return the decision values of the last fit."""
        decisions: np.ndarray = self.scaler.transform(features) @ self.weight.T + self.bias
        return decisions


def choose_regularization(
    examples: Examples,
    solver: Callable[[], Solver],
    losses: Callable[[np.ndarray], np.ndarray],
    strengths: Sequence[float],
    seed: int,
) -> Trial | None:
    """Choose the strongest regularization whose loss is within one standard error of the best (Breiman et al. 1984).

    Folds are stratified by label and consist of whole images: all views of an image are in the same fold. Held-out
    images are evaluated as served.

    Args:
        examples: training images.
        solver: creates the solver of a fold.
        losses: maps the decision values of all images, [N, C], to their losses, [N].
        strengths: inverse regularizations to try, ascending.
        seed: random seed of the folds.

    Returns:
        The results of the chosen one; None if a class has a single image, so that none can be held out.
    """
    splits = stratified_folds(examples.labels, _FOLDS, seed)
    if not splits:
        return None
    tried: list[Trial] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        folds = [(Standardized(examples.take(train), solver()), held_out) for train, held_out in splits]
        for strength in strengths:
            decisions = np.empty((len(examples.labels), int(examples.labels.max()) + 1))
            found = pool.map(partial(_decide, examples, strength), folds)
            for (_, held_out), held_out_decisions in zip(folds, found, strict=True):
                decisions[held_out] = held_out_decisions
            tried.append(Trial(inverse_regularization=strength, decisions=decisions, losses=losses(decisions)))
            if tried[-1].losses.mean() > _bound(tried):
                break  # weaker regularization is slower to fit, and not better from here on
    bound = _bound(tried)
    return next(trial for trial in tried if trial.losses.mean() <= bound)


def _decide(examples: Examples, strength: float, fold: tuple[Standardized, np.ndarray]) -> np.ndarray:
    classifier, held_out = fold
    classifier.fit(strength)
    return classifier.decide(examples.features[held_out, 0])


def _bound(tried: Sequence[Trial]) -> float:
    """Return the best mean loss plus one standard error."""
    best = min((trial.losses for trial in tried), key=np.mean)
    return float(best.mean() + best.std(ddof=1) / np.sqrt(len(best)))

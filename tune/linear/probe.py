"""Linear classifiers on frozen features: one linear layer after a standardization."""

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from unfreeze.contract.arrays import Float32, Int64
from unfreeze.contract.errors import DataError
from unfreeze.tune.backbones.link import negative_log_likelihoods
from unfreeze.tune.backbones.network import Head
from unfreeze.tune.linear.platt import fit_sigmoids
from unfreeze.tune.linear.regularization import Examples, Standardized, choose_regularization
from unfreeze.tune.recipes import probe
from unfreeze.tune.recipes.recipe import LinearRecipe

_STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
_DEFAULT_STRENGTH = 1e-2  # when none can be chosen
# The search needs a tenth of the digits that scikit-learn gives by default, and takes half of the time with them.
_SEARCH_TOLERANCE, _FINAL_TOLERANCE = 1e-3, 1e-5


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier on standardized features.

    Args:
        mean: of the training features, float32 [F].
        inverse_std: of the training features, float32 [F]; 0 for constant features.
        weight: float32 [C, F].
        bias: float32 [C].
        link: how its logits become probabilities, "softmax" or "sigmoid".
        inverse_regularization: the value that it was fitted with, for one view per image.
    """

    mean: Tensor
    inverse_std: Tensor
    weight: Tensor
    bias: Tensor
    link: str
    inverse_regularization: float

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits of features, [..., F], as a head with this classifier does: [..., C]."""
        return nn.functional.linear((features - self.mean) * self.inverse_std, self.weight, self.bias)

    def put_into(self, head: Head) -> None:
        """Copy the classifier into a network's head."""
        head.link = self.link
        with torch.no_grad():
            head.mean.copy_(self.mean)
            head.inverse_std.copy_(self.inverse_std)
            head.linear.weight.copy_(self.weight)
            head.linear.bias.copy_(self.bias)


def fit_probe(
    features: Float32[Tensor, "n v f"],
    labels: Int64[Tensor, " n"],
    *,
    recipe: LinearRecipe = probe.RECIPE,
    seed: int = 0,
    balanced: bool = False,
    inverse_regularization: float | None = None,
) -> Probe:
    """Fit a linear classifier whose L2 regularization is chosen by cross-validation over the images.

    Args:
        features: of all views of all images; the first view is the image as served.
        labels: 0 to C - 1; every class occurs, and there are two or more.
        recipe: which classifier to fit. If a class has a single image, a calibrated one is calibrated on the
            training images, because none can be held out.
        seed: random seed of the folds.
        balanced: give every class the same total weight, however many images it has.
        inverse_regularization: above 0; use this value instead of choosing one.

    Raises:
        DataError: there are images of one class only.
    """
    y = labels.numpy()
    if len(np.unique(y)) < 2:  # noqa: PLR2004
        raise DataError("a linear classifier needs images of 2 or more classes, got 1; add images of other classes")
    weights = compute_sample_weight("balanced" if balanced else None, y).astype(np.float64)
    examples = Examples(features=features.numpy(), labels=y, weights=weights)
    # One thread per fold: on such small matrices, BLAS with several threads takes three times as long.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Weak regularization may not converge; cross-validation then prefers a stronger one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _fit(examples, recipe, seed, inverse_regularization)


def _fit(examples: Examples, recipe: LinearRecipe, seed: int, wanted: float | None) -> Probe:
    trial = None
    if wanted is None or recipe.calibrated:
        strengths = _STRENGTHS if wanted is None else (wanted,)
        losses, solver = partial(_losses, examples, recipe), partial(recipe.make_solver, _SEARCH_TOLERANCE)
        trial = choose_regularization(examples, solver, losses, strengths, seed)
    strength = trial.inverse_regularization if trial else wanted or _DEFAULT_STRENGTH
    classifier = Standardized(examples, recipe.make_solver(_FINAL_TOLERANCE))
    classifier.fit(strength)
    weight, bias = classifier.weight, classifier.bias
    if recipe.calibrated:
        decisions = trial.decisions if trial else classifier.decide(examples.features[:, 0])
        slopes, offsets = fit_sigmoids(decisions, examples.labels, examples.weights)
        weight, bias = weight * slopes[:, None], bias * slopes + offsets
    varies = classifier.scaler.var_ > 0
    return Probe(
        mean=torch.from_numpy(classifier.scaler.mean_).float(),
        inverse_std=torch.from_numpy(varies / classifier.scaler.scale_).float(),
        weight=torch.from_numpy(weight).float(),
        bias=torch.from_numpy(bias).float(),
        link=recipe.link,
        inverse_regularization=strength,
    )


def _losses(examples: Examples, recipe: LinearRecipe, decisions: np.ndarray) -> np.ndarray:
    """Return the weighted log loss of every image, after calibration if the recipe is calibrated."""
    if recipe.calibrated:
        slopes, offsets = fit_sigmoids(decisions, examples.labels, examples.weights)
        decisions = decisions * slopes + offsets
    losses = negative_log_likelihoods(torch.from_numpy(decisions), torch.from_numpy(examples.labels), recipe.link)
    weighted: np.ndarray = losses.numpy() * examples.weights
    return weighted

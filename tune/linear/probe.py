"""A linear probe: one linear layer fitted on frozen features."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits
from torch import Tensor

from unfreeze.contract.arrays import Float32, Int64
from unfreeze.tune.backbones.link import SIGMOID, SOFTMAX, negative_log_likelihoods
from unfreeze.tune.backbones.network import Head
from unfreeze.tune.linear.fit import Multinomial, OneVsRest, Solver
from unfreeze.tune.linear.platt import fit_sigmoids
from unfreeze.tune.linear.regularization import Examples, Standardized, choose_regularization

Kind = Literal["probe", "one-vs-rest", "svm"]
_STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
_UNTRIED = 1e-2
_ROUGH, _FINE = 1e-4, 1e-5  # scikit-learn's own tolerance while choosing, a tenth of it for what is kept


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier of standardized features.

    Args:
        mean: of the training features, float32 [F].
        inverse_std: of the training features, float32 [F]; 0 where a feature never varies.
        weight: float32 [C, F].
        bias: float32 [C].
        link: how its logits become probabilities, "softmax" or "sigmoid".
        inverse_regularization: what it was fitted with, for one view an image.
    """

    mean: Tensor
    inverse_std: Tensor
    weight: Tensor
    bias: Tensor
    link: str
    inverse_regularization: float

    def put_into(self, head: Head) -> None:
        """Make a head give this probe's answers."""
        head.link = self.link
        with torch.no_grad():
            head.mean.copy_(self.mean)
            head.inverse_std.copy_(self.inverse_std)
            head.linear.weight.copy_(self.weight)
            head.linear.bias.copy_(self.bias)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    solver: Callable[[float], Solver]
    link: str
    calibrated: bool = False


_RECIPES: dict[Kind, _Recipe] = {
    "probe": _Recipe(solver=Multinomial, link=SOFTMAX),
    "one-vs-rest": _Recipe(solver=partial(OneVsRest, "logistic"), link=SIGMOID),
    "svm": _Recipe(solver=partial(OneVsRest, "squared_hinge"), link=SIGMOID, calibrated=True),
}


def fit_probe(
    features: Float32[Tensor, "n v f"],
    labels: Int64[Tensor, " n"],
    *,
    kind: Kind = "probe",
    seed: int = 0,
    balanced: bool = False,
    inverse_regularization: float | None = None,
) -> Probe:
    """Fit a linear classifier, its L2 regularization chosen by cross-validation over the images.

    Args:
        features: of every view of every image; the first view is the image as served.
        labels: every class at least once.
        kind: "probe" is a multinomial logistic regression; "one-vs-rest" a logistic regression for each class; "svm" a
            linear support vector machine with squared hinge loss for each class, made into probabilities by a sigmoid
            that is fitted on images held out (where a class has a single one, on those that it has seen).
        seed: of the folds.
        balanced: let every class count the same, however many images it has.
        inverse_regularization: take this one, above 0, instead of choosing.

    Returns:
        The probe.
    """
    recipe = _RECIPES[kind]
    y = labels.numpy()
    weights = compute_sample_weight("balanced" if balanced else None, y).astype(np.float64)
    examples = Examples(features=features.numpy(), labels=y, weights=weights)
    with warnings.catch_warnings(), threadpool_limits(1):  # the matrices are small: threads cost three times the time
        # At weak regularization the optimum is far away and of no use; cross-validation then prefers a stronger one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _fit(examples, recipe, seed, inverse_regularization)


def _fit(examples: Examples, recipe: _Recipe, seed: int, wanted: float | None) -> Probe:
    trial = None
    if wanted is None or recipe.calibrated:
        strengths = _STRENGTHS if wanted is None else (wanted,)
        losses, solver = partial(_losses, examples, recipe), partial(recipe.solver, _ROUGH)
        trial = choose_regularization(examples, solver, losses, strengths, seed)
    strength = trial.inverse_regularization if trial else wanted or _UNTRIED
    classifier = Standardized(examples, recipe.solver(_FINE))
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


def _losses(examples: Examples, recipe: _Recipe, decisions: np.ndarray) -> np.ndarray:
    """Log loss of every image, times what it counts."""
    if recipe.calibrated:
        slopes, offsets = fit_sigmoids(decisions, examples.labels, examples.weights)
        decisions = decisions * slopes + offsets
    losses = negative_log_likelihoods(torch.from_numpy(decisions), torch.from_numpy(examples.labels), recipe.link)
    return losses.numpy() * examples.weights

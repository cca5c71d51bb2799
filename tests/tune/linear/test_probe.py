"""Linear classifiers on frozen features: one linear layer with the probabilities of scikit-learn's classifiers."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from unfreeze.contract.errors import DataError
from unfreeze.tune.backbones.link import probabilities
from unfreeze.tune.backbones.network import Head
from unfreeze.tune.linear.platt import fit_sigmoids
from unfreeze.tune.linear.probe import Probe, fit_probe
from unfreeze.tune.recipes.registry import linear_recipe
from unfreeze.tune.recipes.solvers import OneVsRest

RECIPES = ("probe", "one-vs-rest", "svm")


def _images(classes: int, count: int = 200, features: int = 20, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, in order of decreasing frequency; features on different scales, one of them constant."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (classes, features))
    y = np.concatenate([np.arange(classes).repeat(6), (rng.random(count - 6 * classes) ** 1.5 * classes).astype(int)])
    x = (centers[y] + rng.normal(0, noise, (count, features))) * np.logspace(-3, 3, features) + 5
    x[:, 3] = 7.0
    return x.astype(np.float32), y


def _fit(x: np.ndarray, y: np.ndarray, recipe: str = "probe", **options: Any) -> Probe:
    features = torch.from_numpy(x if x.ndim == 3 else x[:, None])
    return fit_probe(features, torch.from_numpy(y), recipe=linear_recipe(recipe), **options)


def _probabilities(probe: Probe, x: np.ndarray) -> np.ndarray:
    head = Head(x.shape[1], len(probe.bias))
    probe.put_into(head)
    with torch.inference_mode():
        return probabilities(head.classify(torch.from_numpy(x)), head.link).numpy()


def _scikit_learns(recipe: str, x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Probabilities of scikit-learn: the probe uses the same solver; the others are compared with the exact optimum."""
    if recipe == "probe":
        scaled = StandardScaler().fit_transform(x)
        return LogisticRegression(C=strength, tol=1e-5, max_iter=300).fit(scaled, y).predict_proba(scaled)
    x = x.astype(float)
    if recipe == "svm":
        machine = make_pipeline(StandardScaler(), LinearSVC(C=strength, dual=False, tol=1e-8, max_iter=100_000))
        folds = list(StratifiedKFold(4, shuffle=True, random_state=0).split(x, y))
        return CalibratedClassifierCV(machine, cv=folds, ensemble=False).fit(x, y).predict_proba(x)
    scaled = StandardScaler().fit_transform(x)
    regression = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    return OneVsRestClassifier(regression).fit(scaled, y).predict_proba(scaled)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("recipe", "link", "tolerance"),
    [
        ("probe", "softmax", 1e-5),
        ("one-vs-rest", "sigmoid", 1e-4),
        ("svm", "sigmoid", 1e-3),
    ],
)
@pytest.mark.parametrize("strength", [None, 0.05])
def test_linear_layer_and_link_reproduce_scikit_learns_probabilities(
    recipe: str, link: str, tolerance: float, strength: float | None, classes: int
) -> None:
    """For every recipe, two and more classes, and regularization that is chosen or given."""
    x, y = _images(classes)
    probe = _fit(x, y, recipe=recipe, inverse_regularization=strength)
    assert probe.link == link
    assert probe.weight.shape == (classes, 20)
    assert strength in (None, probe.inverse_regularization)
    expected = _scikit_learns(recipe, x, y, probe.inverse_regularization)
    np.testing.assert_allclose(_probabilities(probe, x), expected, atol=tolerance)
    assert (expected.argmax(1) == y).mean() > 0.6


@pytest.mark.parametrize(
    ("loss", "machine"),
    [
        ("logistic", OneVsRestClassifier(LogisticRegression(C=0.3, tol=1e-12, max_iter=10_000))),
        ("squared_hinge", LinearSVC(C=0.3, dual=False, tol=1e-12, max_iter=100_000)),
    ],
)
def test_joint_minimization_finds_the_optimum_of_each_class(loss: str, machine: object) -> None:
    """In float64 the decision values agree with scikit-learn to six digits, from a cold and from a warm start."""
    x, y = _images(5)
    x = StandardScaler().fit_transform(x.astype(float))
    solver = OneVsRest(loss, 1e-9)
    for strength in (0.3, 3.0, 0.3):
        weight, bias = solver.fit(x, y, np.ones(len(y)), strength)
        near = np.abs(x @ weight.T + bias - machine.fit(x, y).decision_function(x)).max()
        assert (near < 1e-6) == (strength == 0.3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_identical_views_do_not_change_folds_or_regularization(recipe: str) -> None:
    """Three identical views give the probabilities of one view."""
    x, y = _images(4)
    one, three = _fit(x, y, recipe=recipe), _fit(np.stack([x] * 3, 1), y, recipe=recipe)
    assert three.inverse_regularization == one.inverse_regularization
    np.testing.assert_allclose(_probabilities(three, x), _probabilities(one, x), atol=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fits_every_view(recipe: str) -> None:
    """Features that vary only in the second view get weights of the same order as the others."""
    x, y = _images(3, noise=0.3)
    first = np.where(np.arange(20) < 10, x, x[0])
    weight = _fit(np.stack([first, x], 1), y, recipe=recipe).weight.norm(dim=0)
    assert weight[10:].mean() > weight[:10].mean() / 10
    assert _fit(first, y, recipe=recipe).weight[:, 10:].abs().max() == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_holds_out_all_views_of_an_image_together(recipe: str) -> None:
    """Random features that both views share do not leak between folds: the strongest regularization is chosen."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, (120, 200)).astype(np.float32), np.arange(120) % 3
    twice = np.stack([x, x + rng.normal(0, 0.05, x.shape).astype(np.float32)], 1)
    assert _fit(twice, y, recipe=recipe).inverse_regularization == 1e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_balanced_weights_raise_the_recall_of_a_rare_class(recipe: str) -> None:
    """Recall of the rare one of two overlapping classes rises; with equal counts nothing changes."""
    rng = np.random.default_rng(4)
    y = (np.arange(400) >= 370).astype(int)
    x = rng.normal(0, 1, (400, 4)).astype(np.float32) + y[:, None].astype(np.float32) * 0.8
    recall, balanced = (
        (_probabilities(_fit(x, y, recipe=recipe, balanced=balance), x).argmax(1) == y)[y == 1].mean()
        for balance in (False, True)
    )
    assert recall < 0.4
    assert balanced > 0.65
    even = slice(340, 400)
    plain, weighted = (_fit(x[even], y[even], recipe=recipe, balanced=balance) for balance in (False, True))
    assert torch.equal(plain.weight, weighted.weight)


def test_balanced_probe_equals_scikit_learns() -> None:
    """Balanced weights are scikit-learn's `class_weight="balanced"`."""
    x, y = _images(4)
    probe = _fit(x, y, balanced=True, inverse_regularization=0.1)
    scaled = StandardScaler().fit_transform(x)
    expected = LogisticRegression(C=0.1, tol=1e-5, max_iter=300, class_weight="balanced").fit(scaled, y)
    np.testing.assert_allclose(_probabilities(probe, x), expected.predict_proba(scaled), atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fits_a_class_with_a_single_image(recipe: str) -> None:
    """If no image can be held out, the default regularization is used, and probabilities sum to 1."""
    x, y = _images(3, noise=0.3)
    keep = np.flatnonzero(y < 2).tolist() + np.flatnonzero(y == 2)[:1].tolist()
    probe = _fit(x[keep], y[keep], recipe=recipe)
    found = _probabilities(probe, x[keep])
    assert probe.inverse_regularization == 1e-2
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert (found.argmax(1) == y[keep]).mean() > 0.95


def test_does_not_invert_decision_values_worse_than_chance() -> None:
    """If held-out decision values point the wrong way, every image gets the share of the class."""
    y = np.arange(40) % 4 // 3
    slopes, offsets = fit_sigmoids(np.stack([y, 1 - y], 1) * 2.0 - 1, y, np.ones(40))
    assert slopes.tolist() == [0, 0]
    np.testing.assert_allclose(expit(offsets), [0.75, 0.25], atol=0.02)


@pytest.mark.parametrize("recipe", RECIPES)
def test_rejects_images_of_one_class(recipe: str) -> None:
    """A classifier of one class is our error, with what to do, and not scikit-learn's."""
    with pytest.raises(DataError, match="needs images of 2 or more classes, got 1; add images of other classes"):
        _fit(np.ones((4, 3), np.float32), np.zeros(4, np.int64), recipe)

"""Linear classifiers on frozen features: scikit-learn's answers, out of one linear layer."""

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

from unfreeze.tune.backbones.link import probabilities
from unfreeze.tune.backbones.network import Head
from unfreeze.tune.linear.fit import OneVsRest
from unfreeze.tune.linear.platt import fit_sigmoids
from unfreeze.tune.linear.probe import Probe, fit_probe

KINDS = ("probe", "one-vs-rest", "svm")


def _images(classes: int, count: int = 200, features: int = 20, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, the later the rarer; features of very different scales, one of which never varies."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (classes, features))
    y = np.concatenate([np.arange(classes).repeat(6), (rng.random(count - 6 * classes) ** 1.5 * classes).astype(int)])
    x = (centers[y] + rng.normal(0, noise, (count, features))) * np.logspace(-3, 3, features) + 5
    x[:, 3] = 7.0
    return x.astype(np.float32), y


def _fit(x: np.ndarray, y: np.ndarray, **options: object) -> Probe:
    features = torch.from_numpy(x if x.ndim == 3 else x[:, None])
    return fit_probe(features, torch.from_numpy(y), **options)


def _answers(probe: Probe, x: np.ndarray) -> np.ndarray:
    head = Head(x.shape[1], len(probe.bias))
    probe.put_into(head)
    with torch.inference_mode():
        return probabilities(head.classify(torch.from_numpy(x)), head.link).numpy()


def _scikit_learns(kind: str, x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """The probe is its own, step for step; the others minimize in another way, so theirs is the exact optimum."""
    if kind == "probe":
        scaled = StandardScaler().fit_transform(x)
        return LogisticRegression(C=strength, tol=1e-5, max_iter=300).fit(scaled, y).predict_proba(scaled)
    x = x.astype(float)
    if kind == "svm":
        machine = make_pipeline(StandardScaler(), LinearSVC(C=strength, dual=False, tol=1e-8, max_iter=100_000))
        folds = list(StratifiedKFold(4, shuffle=True, random_state=0).split(x, y))
        return CalibratedClassifierCV(machine, cv=folds, ensemble=False).fit(x, y).predict_proba(x)
    scaled = StandardScaler().fit_transform(x)
    regression = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    return OneVsRestClassifier(regression).fit(scaled, y).predict_proba(scaled)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("kind", "link", "tolerance"),
    [
        ("probe", "softmax", 1e-5),
        ("one-vs-rest", "sigmoid", 1e-4),
        ("svm", "sigmoid", 1e-3),
    ],
)
@pytest.mark.parametrize("strength", [None, 0.05])
def test_one_linear_layer_and_its_link_give_scikit_learns_probabilities(
    kind: str, link: str, tolerance: float, strength: float | None, classes: int
) -> None:
    """Whichever kind, however many classes, regularization chosen or given: the head answers as scikit-learn does."""
    x, y = _images(classes)
    probe = _fit(x, y, kind=kind, inverse_regularization=strength)
    assert probe.link == link
    assert probe.weight.shape == (classes, 20)
    assert strength in (None, probe.inverse_regularization)
    expected = _scikit_learns(kind, x, y, probe.inverse_regularization)
    np.testing.assert_allclose(_answers(probe, x), expected, atol=tolerance)
    assert (expected.argmax(1) == y).mean() > 0.6


@pytest.mark.parametrize(
    ("loss", "machine"),
    [
        ("logistic", OneVsRestClassifier(LogisticRegression(C=0.3, tol=1e-12, max_iter=10_000))),
        ("squared_hinge", LinearSVC(C=0.3, dual=False, tol=1e-12, max_iter=100_000)),
    ],
)
def test_one_minimization_for_all_classes_finds_each_classs_own_optimum(loss: str, machine: object) -> None:
    """In float64 the decisions are scikit-learn's to six digits, from a cold start and from another solution."""
    x, y = _images(5)
    x = StandardScaler().fit_transform(x.astype(float))
    solver = OneVsRest(loss, 1e-9)
    for strength in (0.3, 3.0, 0.3):
        weight, bias = solver.fit(x, y, np.ones(len(y)), strength)
        near = np.abs(x @ weight.T + bias - machine.fit(x, y).decision_function(x)).max()
        assert (near < 1e-6) == (strength == 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_views_change_neither_folds_nor_regularization(kind: str) -> None:
    """An image that is there three times counts as one: copies for views give the answers of one view."""
    x, y = _images(4)
    one, three = _fit(x, y, kind=kind), _fit(np.stack([x] * 3, 1), y, kind=kind)
    assert three.inverse_regularization == one.inverse_regularization
    np.testing.assert_allclose(_answers(three, x), _answers(one, x), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_is_learned_from(kind: str) -> None:
    """Features that vary in the second view alone get weight, as much as the others within a factor of ten."""
    x, y = _images(3, noise=0.3)
    first = np.where(np.arange(20) < 10, x, x[0])
    weight = _fit(np.stack([first, x], 1), y, kind=kind).weight.norm(dim=0)
    assert weight[10:].mean() > weight[:10].mean() / 10
    assert _fit(first, y, kind=kind).weight[:, 10:].abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_views_of_an_image_are_held_out_together(kind: str) -> None:
    """Features of chance, the same in both views, are not taken for knowledge: the strongest regularization wins."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, (120, 200)).astype(np.float32), np.arange(120) % 3
    twice = np.stack([x, x + rng.normal(0, 0.05, x.shape).astype(np.float32)], 1)
    assert _fit(twice, y, kind=kind).inverse_regularization == 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_balanced_classes_count_the_same(kind: str) -> None:
    """Of two classes that overlap, the rare one is found far more often; with equal counts nothing changes."""
    rng = np.random.default_rng(4)
    y = (np.arange(400) >= 370).astype(int)
    x = rng.normal(0, 1, (400, 4)).astype(np.float32) + y[:, None].astype(np.float32) * 0.8
    recall, balanced = (
        (_answers(_fit(x, y, kind=kind, balanced=balance), x).argmax(1) == y)[y == 1].mean()
        for balance in (False, True)
    )
    assert recall < 0.4
    assert balanced > 0.65
    even = slice(340, 400)
    plain, weighted = (_fit(x[even], y[even], kind=kind, balanced=balance) for balance in (False, True))
    assert torch.equal(plain.weight, weighted.weight)


def test_the_balanced_probe_is_scikit_learns() -> None:
    """Balanced weights are scikit-learn's `class_weight="balanced"`."""
    x, y = _images(4)
    probe = _fit(x, y, balanced=True, inverse_regularization=0.1)
    scaled = StandardScaler().fit_transform(x)
    expected = LogisticRegression(C=0.1, tol=1e-5, max_iter=300, class_weight="balanced").fit(scaled, y)
    np.testing.assert_allclose(_answers(probe, x), expected.predict_proba(scaled), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_a_single_image_is_learned_without_holding_any_out(kind: str) -> None:
    """Where nothing can be held out, a middling regularization is taken, and the answers are probabilities."""
    x, y = _images(3, noise=0.3)
    keep = np.flatnonzero(y < 2).tolist() + np.flatnonzero(y == 2)[:1].tolist()
    probe = _fit(x[keep], y[keep], kind=kind)
    found = _answers(probe, x[keep])
    assert probe.inverse_regularization == 1e-2
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert (found.argmax(1) == y[keep]).mean() > 0.95


def test_decisions_worse_than_none_are_not_turned_around() -> None:
    """Where decisions on what is held out point the wrong way, every image gets the class's share."""
    y = np.arange(40) % 4 // 3
    slopes, offsets = fit_sigmoids(np.stack([y, 1 - y], 1) * 2.0 - 1, y, np.ones(40))
    assert slopes.tolist() == [0, 0]
    np.testing.assert_allclose(expit(offsets), [0.75, 0.25], atol=0.02)

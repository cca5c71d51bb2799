"""The survey: a ridge classifier at every cut, equal to scikit-learn's, on folds of whole images."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier
from support.tuning import small_network
from torch import Tensor

from unfreeze.contract.reporting import Silent
from unfreeze.tune.data.folds import Fold, stratified_folds
from unfreeze.tune.selection.survey import ridge_correct, survey_cuts

STRENGTHS = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5)


def _noisy(images: int, width: int, classes: int, *, views: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of classes that overlap, on scales from a hundredth to a hundred."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    image = rng.normal(0, 1, (classes, width))[labels] * 1.2 / math.sqrt(width / 8) + rng.normal(0, 1, (1, width))
    noise = rng.normal(0, 1.5, (images, 1, width)) + rng.normal(0, 0.5, (images, views, width))
    features = (image[:, None] + noise) * np.logspace(-2, 2, width) + 3
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def _fold(images: int) -> Fold:
    order = np.random.default_rng(5).permutation(images)
    return Fold(order[images // 3 :], order[: images // 3])


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(("images", "width"), [(120, 24), (60, 300)], ids=["primal", "dual"])
def test_predictions_equal_scikit_learns_ridge(images: int, width: int, views: int, classes: int) -> None:
    """At every strength, and with more rows than features and fewer, the same images are correct."""
    features, labels = _noisy(images, width, classes, views=views)
    fold = _fold(images)
    x, y = features[fold.train].flatten(0, 1).double().numpy(), labels[fold.train].repeat_interleave(views).numpy()
    mean, deviation = x.mean(0), x.std(0)
    tested = (features[fold.held_out, 0].double().numpy() - mean) / deviation
    found = ridge_correct(features, labels, fold)
    assert found.shape == (6, images // 3)
    for strength, correct in zip(STRENGTHS, found, strict=True):
        own = RidgeClassifier(alpha=strength).fit((x - mean) / deviation, y).predict(tested)
        regression = Ridge(alpha=strength).fit((x - mean) / deviation, np.eye(classes)[y]).predict(tested).argmax(1)
        truth = labels[fold.held_out].numpy()
        assert correct.tolist() == (own == truth).tolist()
        assert correct.tolist() == (regression == truth).tolist()
    accuracies = found.double().mean(1)
    assert accuracies.min() < accuracies.max() < 1
    assert accuracies.max() > 1.5 / classes - 0.2


def test_ignores_constant_features() -> None:
    """Constant features, and those that vary only in held-out images, change no prediction."""
    features, labels = _noisy(60, 10, 3)
    fold = _fold(60)
    constant = torch.full((60, 2, 2), 7.0)
    constant[fold.held_out, :, 1] = 1e6
    with_constant = torch.cat([features, constant], 2)
    assert torch.equal(ridge_correct(with_constant, labels, fold), ridge_correct(features, labels, fold))


def test_views_of_an_image_are_held_out_together() -> None:
    """Features that identify images but not classes have an accuracy of chance; leaked views would raise it."""
    rng = np.random.default_rng(3)
    count, network = 80, small_network()
    labels = torch.from_numpy(rng.permutation(np.arange(count) % 2))
    identity = torch.from_numpy(rng.normal(0, 1, (count, 1, 200))).float()
    features = identity + 0.01 * torch.from_numpy(rng.normal(0, 1, (count, 3, 200))).float()
    honest = survey_cuts(network, {1: features}, labels, stratified_folds(labels.numpy(), 4, 0), Silent())
    assert 0.3 < honest[0].accuracy < 0.7
    rows = torch.arange(count).repeat_interleave(2)  # images twice, with one view each: this leaks
    leaking = stratified_folds(labels[rows].numpy(), 4, 0)
    leaked = survey_cuts(network, {1: features[:, 1:].flatten(0, 1)[:, None]}, labels[rows], leaking, Silent())
    assert leaked[0].accuracy > 0.8


def test_only_the_first_view_is_tested() -> None:
    """Held-out views other than the image as served do not change the result."""
    features, labels = _noisy(90, 12, 3)
    fold = _fold(90)
    other = features.clone()
    other[fold.held_out, 1] = 1e4
    assert torch.equal(ridge_correct(features, labels, fold), ridge_correct(other, labels, fold))


def test_scores_every_cut_with_its_best_strength() -> None:
    """Each image is held out once; accuracy, strength and standard error are those of the best strength."""
    network = small_network("resnet18")
    good, labels = _noisy(90, 12, 3)
    poor = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (90, 2, 12))).float()
    folds = stratified_folds(labels.numpy(), 3, 0)
    scores = survey_cuts(network, {2: poor, 1: good, 5: good[..., :6]}, labels, folds, Silent())
    assert [score.cut for score in scores] == ["layer1", "layer2", "head"]
    means = [ridge_correct(good, labels, fold).sum(1) for fold in folds]
    accuracies = torch.stack(means).sum(0) / 90
    assert scores[0].accuracy == pytest.approx(float(accuracies.max()))
    assert scores[0].regularization == STRENGTHS[int(accuracies.argmax())]
    assert scores[0].standard_error == pytest.approx(math.sqrt(float(accuracies.max() * (1 - accuracies.max())) / 89))
    assert scores[1].accuracy < scores[0].accuracy - 0.1
    assert [score.trained_parameters for score in scores] == [
        sum(parameter.numel() for block in blocks for parameter in block.parameters())
        for blocks in ([network.model.layer1, network.model.layer2, network.model.layer3, network.model.layer4],
                       [network.model.layer2, network.model.layer3, network.model.layer4],
                       [])
    ]  # fmt: skip


def test_folds_are_stratified() -> None:
    """Every image is held out once, with a third of each class in each of three folds."""
    labels = np.array([0] * 30 + [1] * 12 + [2] * 6)
    folds = stratified_folds(labels, 3, 0)
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(48))
    for fold in folds:
        assert np.bincount(labels[fold.held_out]).tolist() == [10, 4, 2]
        assert sorted([*fold.train, *fold.held_out]) == list(range(48))
    again, other = stratified_folds(labels, 3, 0), stratified_folds(labels, 3, 1)
    assert all(np.array_equal(one.held_out, two.held_out) for one, two in zip(folds, again, strict=True))
    assert not all(np.array_equal(one.held_out, two.held_out) for one, two in zip(folds, other, strict=True))


@pytest.mark.parametrize(("smallest", "count"), [(1, 0), (2, 2), (3, 3), (9, 3)])
def test_a_small_class_reduces_the_number_of_folds(smallest: int, count: int) -> None:
    """There are no more folds than images in the smallest class, and none if it has one."""
    labels = np.array([0] * 20 + [1] * smallest)
    folds = stratified_folds(labels, 3, 0)
    assert len(folds) == count
    assert all(1 in labels[fold.held_out] and 1 in labels[fold.train] for fold in folds)

"""Suspected label errors and outliers, from features."""

import numpy as np
import pytest
import torch
from torch import Tensor

from unfreeze.tune.issues.confident_learning import suspected_labels
from unfreeze.tune.issues.out_of_fold import out_of_fold_probabilities
from unfreeze.tune.issues.outliers import far_from_every_class


def _clusters(count: int, classes: int = 4, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw features around a center for each class, 16 of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = 4 * torch.randn(classes, 16, generator=generator)
    return centers[labels] + spread * torch.randn(count, 16, generator=generator), labels


def _exchange(labels: Tensor, count: int, seed: int = 1) -> tuple[Tensor, set[int]]:
    """Give some images another label at random; return the labels, and the numbers of these images."""
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    rows = rng.choice(len(labels), count, replace=False)
    changed = labels.clone()
    changed[rows] = (changed[rows] + torch.from_numpy(rng.integers(1, classes, count))) % classes
    return changed, set(rows.tolist())


def test_suspects_as_many_images_as_labels_are_estimated_to_be_wrong() -> None:
    """Computed by hand.

    The thresholds are 0.6, 0.6 and 0.3. Of label 0, two images reach one, and one of them that of class 1: 3 x 1 / 2
    wrong labels. Of label 1, one image reaches one, its own: none. Of label 2, one of two: 2 x 1 / 2. Together 2.5,
    which is rounded to the even number.
    """
    probabilities = np.array(
        [
            [0.94, 0.06, 0.0],
            [0.3, 0.6, 0.1],  # labeled 0
            [0.56, 0.34, 0.1],
            [0.1, 0.9, 0.0],
            [0.5, 0.3, 0.2],  # labeled 1, reaches no threshold
            [0.9, 0.05, 0.05],  # labeled 2
            [0.1, 0.35, 0.55],
        ],
        np.float32,
    )
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    rows, suggested = suspected_labels(probabilities, labels)
    assert rows.tolist() == [5, 1]
    assert suggested.tolist() == [0, 1]


def test_nothing_is_suspected_where_labels_agree() -> None:
    """Whatever the probabilities are."""
    probabilities = np.full((6, 3), 0.1, np.float32)
    labels = np.arange(6) % 3
    probabilities[np.arange(6), labels] = 0.8
    assert suspected_labels(probabilities, labels)[0].size == 0


@pytest.mark.parametrize("spread", [1.0, 2.5])
def test_finds_exchanged_labels(spread: float) -> None:
    """Of 5 % exchanged labels, at least 80 % with a precision of at least 70 %, and the right ones are suggested."""
    features, right = _clusters(400, spread=spread)
    labels, exchanged = _exchange(right, 20)
    rows, probabilities = out_of_fold_probabilities(features, labels, 1e-2, 0)
    found, suggested = suspected_labels(probabilities, labels.numpy()[rows])
    hits = set(rows[found].tolist()) & exchanged
    assert len(hits) >= 16
    assert len(hits) >= 0.7 * len(found)
    correct = [right[row].item() == label for row, label in zip(rows[found], suggested, strict=True) if row in hits]
    assert sum(correct) >= 0.9 * len(correct)


def test_probabilities_are_of_probes_that_have_not_seen_the_image() -> None:
    """With random labels they are no better than chance, although a probe of so many features learns all of them."""
    generator = torch.Generator().manual_seed(3)
    features, labels = torch.randn(80, 200, generator=generator), torch.arange(80) % 2
    rows, probabilities = out_of_fold_probabilities(features, labels, 1.0, 0)
    assert rows.tolist() == list(range(80))
    assert (probabilities.argmax(1) == labels.numpy()).mean() < 0.75
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_rare_classes_have_no_probabilities() -> None:
    """A class of two images is left out; with one class left, nothing can be told apart."""
    features, labels = _clusters(62)
    labels[60:] = 4
    rows, probabilities = out_of_fold_probabilities(features, labels, 1e-2, 0)
    assert rows.tolist() == list(range(60))
    assert probabilities.shape == (60, 5)
    assert (probabilities[:, 4] == 0).all()
    assert len(out_of_fold_probabilities(features[:4], torch.tensor([0, 0, 0, 1]), 1e-2, 0)[0]) == 0


def test_finds_images_that_are_far_from_every_class() -> None:
    """The farthest first; an image of another class, which is near to one, is none."""
    features, labels = _clusters(200)
    features[7] += 60
    features[11] += 30
    labels[20] = (labels[20] + 1) % 4
    assert far_from_every_class(features, labels).tolist()[:2] == [7, 11]
    assert 20 not in far_from_every_class(features, labels)
    assert len(far_from_every_class(features, labels)) <= 4


def test_an_image_does_not_make_its_own_class_near() -> None:
    """A class of a single image says nothing about this image."""
    features, labels = _clusters(101)
    features[100] = features[:100].mean(0) + 40
    labels[100] = 4
    assert far_from_every_class(features, labels).tolist()[0] == 100


def test_equal_features_are_no_outliers() -> None:
    """Nothing deviates; nor is an image an outlier that is 15 % farther away than all others, which are equally far."""
    assert far_from_every_class(torch.ones(10, 4), torch.arange(10) % 2).size == 0
    labels = torch.arange(80) % 2
    features = torch.stack([(torch.arange(80) // 2 % 2) * 2.0 - 1, labels * 20.0], 1)
    features[:3, 0] *= 1.15
    assert far_from_every_class(features, labels).size == 0
    features[:3, 0] *= 8
    assert sorted(far_from_every_class(features, labels).tolist()) == [0, 1, 2]

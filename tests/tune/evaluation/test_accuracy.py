"""Accuracy, balanced accuracy and their standard errors, compared with values computed by hand and by simulation."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from unfreeze.tune.evaluation.accuracy import accuracies, accuracy_by, estimate
from unfreeze.tune.evaluation.evaluate import Evaluation


def test_both_accuracies_equal_values_computed_by_hand() -> None:
    """Six of eight images are correct, five of five and one of three: recalls of 1 and 1/3, variances of 0 and 1/3."""
    labels = np.array([0, 0, 1, 0, 1, 0, 0, 1])
    correct = np.array([1, 1, 1, 1, 0, 1, 1, 0], bool)
    found = accuracies(correct, labels)
    assert found == pytest.approx(
        {
            "accuracy": 6 / 8,
            "standard_error": math.sqrt(6 / 8 * 2 / 8 / 7),
            "balanced_accuracy": (1 + 1 / 3) / 2,
            "balanced_standard_error": math.sqrt(0 / 5 + 1 / 3 / 3) / 2,
        }
    )


def test_a_class_with_one_image_gets_the_variance_of_all() -> None:
    """A single image shows no spread: its class gets the variance of 3 of 4 correct images, 1/4, instead of 0."""
    found = estimate(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 0, 7]), "balanced")
    assert found == pytest.approx(((2 / 3 + 1) / 2, math.sqrt(1 / 3 / 3 + 1 / 4 / 1) / 2))
    assert estimate(np.ones(1), np.zeros(1, np.int64), "balanced") == (1.0, 0.0)


def test_balanced_accuracy_is_scikit_learns() -> None:
    """The mean recall over the classes that have images; the fourth class has none."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4], 60, p=[0.7, 0.2, 0.05, 0.05])
    logits = torch.from_numpy(rng.normal(0, 1, (60, 5))).float()
    logits[:, 3] = -9  # never predicted, because scikit-learn warns of predicted classes without images
    evaluation = Evaluation(logits=logits, labels=torch.from_numpy(labels), images=(), skipped=())
    assert accuracy_by("balanced", evaluation).mean == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert accuracy_by("accuracy", evaluation).mean == evaluation.accuracy


@pytest.mark.parametrize("metric", ["accuracy", "balanced"])
def test_standard_errors_are_the_spread_of_repeated_measurements(metric: str) -> None:
    """Over 4,000 simulated sets of 200, 20 and 5 images, the mean squared standard error is the variance."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [200, 20, 5])
    draws = rng.random((4000, len(labels))) < np.array([0.95, 0.7, 0.4])[labels]
    found = np.array([estimate(correct.astype(float), labels, metric) for correct in draws])
    spread = found[:, 0].var()
    # The variance between classes, whose sizes are fixed here, makes the plain standard error larger.
    within = spread if metric == "balanced" else draws.mean() * (1 - draws.mean()) / len(labels)
    assert (found[:, 1] ** 2).mean() == pytest.approx(within, rel=0.05)


def test_with_equal_classes_both_are_equal() -> None:
    """With ten images of each class, accuracy is the mean recall."""
    correct = np.random.default_rng(1).random(50) < 0.7
    found = accuracies(correct, np.arange(50) % 5)
    assert found["accuracy"] == pytest.approx(found["balanced_accuracy"])

"""Cross-validated scores and their paired comparison."""

import math

import numpy as np
import pytest

from unfreeze.compare.scores import Scores, lead
from unfreeze.tune.options import ACCURACY, BALANCED, Metric

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1])


def _scores(bits: str, metric: Metric = ACCURACY) -> Scores:
    return Scores(labels=LABELS[: len(bits)], correct=np.array([bit == "1" for bit in bits]), metric=metric)


def test_accuracy_and_balanced_accuracy() -> None:
    """Five of eight images are correct: four of six of one class, one of two of the other."""
    scores = _scores("11110010")
    assert scores.accuracy == 5 / 8
    assert scores.accuracies["balanced_accuracy"] == pytest.approx((4 / 6 + 1 / 2) / 2)
    assert scores.compared.mean == 5 / 8
    assert _scores("11110010", BALANCED).compared.mean == pytest.approx((4 / 6 + 1 / 2) / 2)


def test_lead_is_in_standard_errors_of_the_paired_difference() -> None:
    """By hand: of eight images, one backbone has three more and one less right than the other."""
    differences = np.array([1, 1, 1, -1, 0, 0, 0, 0])
    expected = differences.mean() / (differences.std(ddof=1) / math.sqrt(8))
    assert lead(_scores("11101100"), _scores("00011100")) == pytest.approx(expected)
    assert lead(_scores("00011100"), _scores("11101100")) == pytest.approx(-expected)


def test_lead_in_balanced_accuracy_weights_rare_classes() -> None:
    """Two images of the frequent class weigh less than one of the rare class."""
    frequent, rare = "11000000", "00000010"
    assert lead(_scores(frequent), _scores(rare)) > 0
    assert lead(_scores(frequent, BALANCED), _scores(rare, BALANCED)) < 0


def test_lead_is_taken_over_the_images_that_both_classified() -> None:
    """A trial that stopped early has the first folds only; equal answers lead by nothing."""
    assert lead(_scores("1010"), _scores("10101111")) == 0
    assert lead(_scores("11"), _scores("00111111")) == math.inf


def test_lead_refuses_other_folds() -> None:
    """Scores of different images cannot be paired."""
    other = Scores(labels=LABELS[::-1].copy(), correct=np.ones(8, bool))
    with pytest.raises(ValueError, match="different folds"):
        lead(_scores("11111111"), other)

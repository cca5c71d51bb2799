"""Predictions and the ranges of options."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges
from unfreeze.contract.prediction import Prediction, are_unsure, is_unsure, top_predictions


def test_most_probable_labels_come_first() -> None:
    """Labels are sorted by descending probability, each with its score and its index."""
    probabilities = np.array([0.2, 0.5, 0.3], np.float32)
    first, second = top_predictions(probabilities, ("ant", "bee", "cicada"), 2)
    assert first == Prediction(label="bee", score=0.5, index=1)
    assert (second.label, second.index) == ("cicada", 2)


def test_ties_keep_the_order_of_the_labels() -> None:
    """Equally probable labels are in the model's order; requesting more labels than there are returns all."""
    found = top_predictions(np.full(3, 1 / 3, np.float32), ("ant", "bee", "cicada"), 10)
    assert [prediction.label for prediction in found] == ["ant", "bee", "cicada"]


@pytest.mark.parametrize(("abstain_below", "unsure"), [(None, None), (0.5, False), (0.51, True), (0.0, False)])
def test_predictions_below_the_threshold_are_unsure(abstain_below: float | None, *, unsure: bool | None) -> None:
    """The top score counts; at the threshold the prediction is not unsure, and without one it is not known."""
    answer = top_predictions(np.array([0.2, 0.5, 0.3], np.float32), ("ant", "bee", "cicada"), 2)
    assert is_unsure(answer, abstain_below) is unsure


def test_many_images_are_compared_with_the_threshold_as_one_is() -> None:
    """Also where the threshold is between two neighbors in float32, the precision of probabilities."""
    probabilities = np.array([[0.2, 0.8], [0.7, 0.3], [0.6, 0.4]], np.float32)
    threshold = float(np.float32(0.7)) + 1e-9
    assert np.float32(threshold) == np.float32(0.7)
    expected = [is_unsure(top_predictions(row, ("ant", "bee"), 1), threshold) for row in probabilities]
    assert expected == [False, True, True]
    found = are_unsure(probabilities, threshold)
    assert (found.tolist(), found.dtype) == (expected, np.bool_)


@dataclass(frozen=True)
class _Options:
    max_batch: float


@pytest.mark.parametrize("value", [0, 4097, math.nan, math.inf, -math.inf])
def test_rejects_options_out_of_range(value: float) -> None:
    """The error names the flag; NaN is out of every range."""
    with pytest.raises(OptionsError, match=rf"--max-batch must be between 1 and 4,096, got {value}"):
        check_ranges(vars(_Options(value)), {"max_batch": (1, 4096)})


@pytest.mark.parametrize("value", [1, 4096])
def test_accepts_the_ends_of_a_range(value: int) -> None:
    """The lowest and the highest value are allowed."""
    check_ranges(vars(_Options(value)), {"max_batch": (1, 4096)})

import math
from dataclasses import dataclass

import numpy as np
import pytest

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges
from unfreeze.contract.prediction import Prediction, is_unsure, top_predictions


def test_most_probable_labels_come_first() -> None:
    """The labels come by falling probability, each with its score and its place."""
    probabilities = np.array([0.2, 0.5, 0.3], np.float32)
    first, second = top_predictions(probabilities, ("ant", "bee", "cicada"), 2)
    assert first == Prediction(label="bee", score=0.5, index=1)
    assert (second.label, second.index) == ("cicada", 2)


def test_equals_keep_their_order_and_more_than_all_is_all() -> None:
    """Of equally probable labels the first comes first; asking for more than there are gives all."""
    found = top_predictions(np.full(3, 1 / 3, np.float32), ("ant", "bee", "cicada"), 10)
    assert [prediction.label for prediction in found] == ["ant", "bee", "cicada"]


@pytest.mark.parametrize(("abstain_below", "unsure"), [(None, False), (0.5, False), (0.51, True), (0.0, False)])
def test_an_answer_is_unsure_below_the_threshold(abstain_below: float | None, *, unsure: bool) -> None:
    """The first score counts: at the threshold it is sure still, and without a threshold every answer is."""
    answer = top_predictions(np.array([0.2, 0.5, 0.3], np.float32), ("ant", "bee", "cicada"), 2)
    assert is_unsure(answer, abstain_below) is unsure


@dataclass(frozen=True)
class _Options:
    max_batch: float


@pytest.mark.parametrize("value", [0, 4097, math.nan, math.inf, -math.inf])
def test_options_out_of_range_are_refused(value: float) -> None:
    """A number outside its range, NaN among them, is refused under its flag's name."""
    with pytest.raises(OptionsError, match=rf"--max-batch goes from 1 to 4,096, found {value}"):
        check_ranges(vars(_Options(value)), {"max_batch": (1, 4096)})


@pytest.mark.parametrize("value", [1, 4096])
def test_ends_of_a_range_belong_to_it(value: int) -> None:
    """The lowest and the highest value are allowed."""
    check_ranges(vars(_Options(value)), {"max_batch": (1, 4096)})

"""The Pareto front."""

import pytest

from unfreeze.compare.pareto import pareto_front

LATENCIES = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


@pytest.mark.parametrize(
    ("accuracies", "front"),
    [
        ((0.1, 0.2, 0.3, 0.4), ("a", "b", "c", "d")),
        ((0.4, 0.3, 0.2, 0.1), ("a",)),
        ((0.5, 0.4, 0.9, 0.8), ("a", "c")),
        ((0.5, 0.5, 0.5, 0.6), ("a", "d")),
    ],
)
def test_front_is_what_no_other_is_better_than_in_both(accuracies: tuple[float, ...], front: tuple[str, ...]) -> None:
    """The fastest is always on it; a slower one only if it is more accurate than all faster ones."""
    assert pareto_front(LATENCIES, dict(zip(LATENCIES, accuracies, strict=True))) == front


def test_equal_ones_are_all_on_the_front() -> None:
    """Of two that are equal in both respects, none is better."""
    assert pareto_front({"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 0.5}) == ("a", "b")
    assert pareto_front({}, {}) == ()

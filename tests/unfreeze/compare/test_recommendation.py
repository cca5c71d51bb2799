"""The recommendation and its sentence."""

import pytest

from unfreeze.compare.recommendation import recommend
from unfreeze.compare.result import Row
from unfreeze.tune.options import ACCURACY, BALANCED


def _row(name: str, accuracy: float, latency: float, balanced: float = 0.5, status: str = "compared") -> Row:
    return Row(
        backbone=name,
        weights="none",
        status=status,  # type: ignore[arg-type]
        head="probe",
        precision="fp32",
        accuracy=accuracy,
        standard_error=0.02,
        balanced_accuracy=balanced,
        balanced_standard_error=0.02,
        latency_ms=latency,
    )


ROWS = (_row("fast", 0.80, 2.0), _row("middle", 0.90, 5.0), _row("slow", 0.91, 20.0, balanced=0.9))


def _lead(one: str, other: str) -> float:
    accuracies = {row.backbone: row.accuracy or 0 for row in ROWS}
    return (accuracies[one] - accuracies[other]) / 0.02


def test_fastest_that_is_not_clearly_worse_is_recommended() -> None:
    """The slow one leads the middle one by half a standard error, and the fast one by five and a half."""
    found = recommend(ROWS, _lead, ACCURACY, None)
    assert found.backbone == "middle"
    assert found.reason == (
        "Take middle (probe, fp32): accuracy 0.900 ± 0.020 at 5.0 ms per image; the most accurate, slow with 0.910, is "
        "not clearly better (at most one standard error of the difference) and takes 4.0 times as long."
    )


@pytest.mark.parametrize(
    ("budget", "backbone", "words"),
    [
        (30.0, "middle", "the most accurate within 30 ms, slow"),
        (10.0, "middle", "it is the most accurate within 10 ms, and every faster one is clearly less accurate"),
        (3.0, "fast", "it is the only one within 3 ms"),
        (1.0, None, "No backbone answers within 1 ms; the fastest that was compared, fast, takes 2.0 ms"),
    ],
)
def test_recommendation_is_within_the_budget(budget: float, backbone: str | None, words: str) -> None:
    """Only backbones within the budget are considered; if there is none, the fastest one's latency is reported."""
    found = recommend(ROWS, _lead, ACCURACY, budget)
    assert found.backbone == backbone
    assert words in found.reason


def test_metric_is_the_one_that_backbones_are_compared_by() -> None:
    """In balanced accuracy the slow one is far ahead."""
    found = recommend(ROWS, lambda one, other: 5.0 * (one == "slow") - 5.0 * (other == "slow"), BALANCED, None)
    assert found.backbone == "slow"
    assert "balanced accuracy 0.900 ± 0.020" in found.reason


def test_only_compared_backbones_are_recommended() -> None:
    """Estimates on few images, and failures, are no basis."""
    rows = (_row("lucky", 1.0, 1.0, status="dropped"), *ROWS)
    assert recommend(rows, _lead, ACCURACY, None).backbone == "middle"
    failed = (Row(backbone="broken", weights="none", status="failed", note="no weights"),)
    assert recommend(failed, _lead, ACCURACY, None).backbone is None

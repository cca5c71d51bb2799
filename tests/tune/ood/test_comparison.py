"""Which score is used: the one that recognizes classes that are left out."""

import numpy as np
import pytest
import torch

from unfreeze.contract.model.ood import BASELINE
from unfreeze.tune.ood.comparison import Comparison, compare_scores
from unfreeze.tune.ood.detector import ChosenScore
from unfreeze.tune.ood.gaussian import Gaussians

STRENGTH = 0.01


def _classes(count: int, *, spread: float, width: int = 12, per_class: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count).repeat_interleave(per_class)
    centers = spread * torch.randn(count, width, generator=generator)
    return centers[labels] + torch.randn(len(labels), width, generator=generator), labels


def test_distances_are_chosen_where_classes_are_compact() -> None:
    """A class that is far from the others, between two of them for a linear classifier, is recognized by distance."""
    features, labels = _classes(6, spread=3.0)
    found = compare_scores(features, labels, STRENGTH, 0)
    assert found is not None
    assert (found.groups, found.classes) == (5, 6)
    assert found.aurocs["mahalanobis"] > 0.95
    assert found.best in ("mahalanobis", "relative-mahalanobis")
    assert found.gains[BASELINE] == found.errors[BASELINE] == 0
    assert f"{found.best} is used" in found.message


def test_the_maximum_softmax_stays_where_nothing_is_better() -> None:
    """Classes that do not differ are not recognized, so that no gain is larger than chance."""
    features, labels = _classes(5, spread=0.0)
    found = compare_scores(features, labels, STRENGTH, 1)
    assert found is not None
    assert all(0.35 < auroc < 0.65 for auroc in found.aurocs.values())


def test_a_gain_within_its_error_is_no_reason() -> None:
    """The method with the highest area is used only if it is better by more than one standard error."""
    areas = {BASELINE: 0.8, "energy": 0.9, "calibrated-energy": 0.85}
    gains = {BASELINE: 0.0, "energy": 0.1, "calibrated-energy": 0.05}
    errors = {BASELINE: 0.0, "energy": 0.2, "calibrated-energy": 0.01}
    found = Comparison(aurocs=areas, gains=gains, errors=errors, groups=3, classes=3)
    assert found.best == "calibrated-energy"
    none = Comparison(aurocs=areas, gains=gains, errors=dict.fromkeys(areas, 0.2), groups=3, classes=3)
    assert none.best == BASELINE
    assert f"none is better than {BASELINE}" in none.message


@pytest.mark.parametrize("counts", [(20, 20), (20, 20, 3), (1, 1, 1, 1, 1)])
def test_too_few_classes_are_not_compared(counts: tuple[int, ...]) -> None:
    """Three classes with four images each are needed; otherwise the maximum softmax is used."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    features = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    assert compare_scores(features, labels, STRENGTH, 0) is None
    assert ChosenScore().method == BASELINE


def test_the_comparison_is_reproducible_and_survives_an_interruption() -> None:
    """Equal seeds give equal areas; the state of a run restores comparison and tensors."""
    features, labels = _classes(4, spread=1.0)
    first, second = (compare_scores(features, labels, STRENGTH, 3) for _ in range(2))
    assert first == second
    chosen = ChosenScore(comparison=first, gaussians=Gaussians.fit(features, labels))
    restored = ChosenScore.from_state(chosen.state())
    assert restored.comparison == first
    assert restored.gaussians is not None
    assert chosen.gaussians is not None
    expected = chosen.gaussians.distance(features, relative=True)
    np.testing.assert_array_equal(restored.gaussians.distance(features, relative=True), expected)

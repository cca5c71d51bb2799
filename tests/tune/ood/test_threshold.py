"""The threshold of a score has the false alarms that it promises."""

import numpy as np
import pytest

from unfreeze.tune.ood.threshold import threshold_of


@pytest.mark.parametrize(
    ("images", "share", "rank"),
    [(19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (100, 0.05, 96), (99, 0.1, 90), (9, 0.1, 9), (1000, 0.5, 501)],
)
def test_the_threshold_is_the_conformal_quantile(images: int, share: float, rank: int) -> None:
    """It is the smallest score that at most the wanted share of new scores exceeds in the mean."""
    scores = np.random.default_rng(images).permutation(images).astype(np.float32)
    found = threshold_of(scores, share)
    assert found.value == rank - 1
    assert found.expected == pytest.approx(1 - rank / (images + 1))
    assert found.expected <= share + 1e-12
    assert found.images == images


def test_the_interval_holds_for_nine_of_ten_samples() -> None:
    """Over many validation sets, the true share of false alarms is in the interval in 90 % of them."""
    rng = np.random.default_rng(0)
    thresholds = [threshold_of(rng.random(60, np.float32), 0.1) for _ in range(4000)]
    shares = np.array([1 - one.value for one in thresholds])
    assert np.mean(shares) == pytest.approx(thresholds[0].expected, abs=0.003)
    inside = (shares >= thresholds[0].low) & (shares <= thresholds[0].high)
    assert inside.mean() == pytest.approx(0.9, abs=0.02)


def test_too_few_images_are_reported() -> None:
    """With 5 images, the largest score is the threshold; the message says how many images are needed."""
    found = threshold_of(np.arange(5, dtype=np.float32), 0.05)
    assert found.value == 4
    assert found.expected == pytest.approx(1 / 6)
    assert found.high > 0.35
    assert "at least 19 validation images are needed" in found.message
    assert "at least" not in threshold_of(np.arange(19, dtype=np.float32), 0.05).message

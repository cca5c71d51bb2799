"""Features of a window are compared with those of validation images as statistics says."""

import numpy as np
import pytest

from unfreeze.contract.drift.features import FEWEST_IMAGES, FeatureDrift, feature_drift, no_products, products_of

K = 8


def _found(features: np.ndarray, validation_images: int = 400) -> FeatureDrift:
    parts = (products_of(features[at : at + 32].astype(np.float32)) for at in range(0, len(features), 32))
    return feature_drift(validation_images, sum(parts, no_products(features.shape[1])))


def test_distances_are_those_of_their_formulas() -> None:
    """Of the means, and of two normal distributions with diagonal covariance."""
    rng = np.random.default_rng(0)
    features = rng.normal(0.3, np.linspace(0.5, 2, K), (5000, K))
    found = _found(features)
    mean, spread = features.mean(0), np.sqrt(np.linalg.eigvalsh(np.cov(features.T, bias=True)))
    assert found.images == 5000
    assert found.mahalanobis == pytest.approx(np.linalg.norm(mean), rel=1e-4)
    assert found.frechet == pytest.approx((mean**2).sum() + ((spread - 1) ** 2).sum(), rel=1e-4)
    assert found.expected_mahalanobis == pytest.approx((K * (1 / 5000 + 1 / 400)) ** 0.5)


@pytest.mark.parametrize("validation_images", [40, 150, 1000])
@pytest.mark.parametrize("images", [50, 200, 1000])
def test_images_like_the_validation_images_raise_no_alarm(validation_images: int, images: int) -> None:
    """Also with few validation images, on which the scale of the features was estimated."""
    rng = np.random.default_rng((validation_images, images))
    for _ in range(100):
        validated = rng.normal(size=(validation_images, K))
        scale = np.linalg.inv(np.linalg.cholesky(np.cov(validated.T)))
        found = _found((rng.normal(size=(images, K)) - validated.mean(0)) @ scale.T, validation_images)
        assert not found.alarm


def test_a_shift_raises_an_alarm_and_few_images_do_not() -> None:
    """By 0.8 standard deviations, in any direction."""
    rng = np.random.default_rng(2)
    shift = rng.normal(size=K)
    shifted = rng.normal(size=(200, K)) + 0.8 * shift / np.linalg.norm(shift)
    assert _found(shifted).alarm
    assert not _found(shifted[: FEWEST_IMAGES - 1] + 10).alarm
    assert not _found(rng.normal(size=(200, K)) + 0.2 * shift / np.linalg.norm(shift)).alarm


def test_what_is_not_finite_is_left_out_and_an_empty_window_is_far_from_nothing() -> None:
    """A model may give anything."""
    features = np.zeros((3, K))
    features[1, 2] = np.nan
    features[2, 0] = np.inf
    assert _found(features).images == 1
    assert feature_drift(100, no_products(K)).images == 0
    assert not feature_drift(100, no_products(K)).alarm

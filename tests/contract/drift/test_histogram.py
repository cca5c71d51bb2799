"""Distances of histograms have the distributions that alarms rely on."""

import numpy as np
import pytest
from scipy.stats import chi2

from unfreeze.contract.drift.chi_square import chi_square_quantile
from unfreeze.contract.drift.histogram import Histogram, categories_of, distance, histogram_of, merged_rare


@pytest.mark.parametrize("freedom", [1, 2, 5, 9, 99])
@pytest.mark.parametrize("probability", [0.5, 0.99, 0.99999])
def test_quantiles_are_those_of_scipy(freedom: int, probability: float) -> None:
    """Within 4 % from five degrees of freedom."""
    allowed = 0.04 if freedom >= 5 else 0.16
    assert chi_square_quantile(probability, freedom) == pytest.approx(chi2.ppf(probability, freedom), rel=allowed)


def test_bins_have_equal_numbers_of_values() -> None:
    """Each of ten bins has a tenth, wherever the values lie."""
    values = np.exp(np.random.default_rng(0).normal(size=1000))
    made = histogram_of(values)
    assert made.counts == (100,) * 10
    assert made.count(values).tolist() == [100] * 10
    assert made.count(np.array([-1e9, 1e9, np.nan, np.inf])).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("values", [[0.5], [1.0] * 50, [0.0, 1.0] * 50, [1.0] * 90 + [0.5] * 10])
def test_equal_values_are_in_one_bin(values: list[float]) -> None:
    """Constant and nearly constant quantities have few bins, and every value is counted."""
    made = histogram_of(np.array(values))
    assert sum(made.counts) == len(values)
    assert min(made.counts) > 0
    assert made.count(np.array(values)).tolist() == list(made.counts)


@pytest.mark.parametrize(
    ("edges", "counts", "message"),
    [
        ((1.0,), (1,), "1 edges need 2 counts"),
        ((2.0, 1.0), (1, 1, 1), "must ascend"),
        (None, (), "at least one image"),
        (None, (0, 0), "at least one image"),
        (None, (-1, 2), "at least 0"),
    ],
)
def test_invalid_histograms_are_rejected(
    edges: tuple[float, ...] | None, counts: tuple[int, ...], message: str
) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match=message):
        Histogram(edges=edges, counts=counts)


def test_the_distance_of_two_samples_is_that_of_the_formula() -> None:
    """Without rare bins and with many images, smoothing does not show."""
    found = distance((100_000, 300_000), (200_000, 200_000))
    p, q = np.array([0.25, 0.75]), np.array([0.5, 0.5])
    middle = (p + q) / 2
    assert found.psi == pytest.approx(((p - q) * np.log(p / q)).sum(), rel=1e-4)
    assert found.js == pytest.approx((p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2, rel=1e-4)
    assert (found.freedom, found.expected_psi) == (1, pytest.approx(2 / 400_000))


@pytest.mark.parametrize(("images", "window"), [(150, 200), (400, 50), (5000, 1000)])
def test_without_drift_the_statistic_is_chi_square_distributed(images: int, window: int) -> None:
    """Its mean and its upper percentile, over 400 pairs of samples of a skewed distribution."""
    rng, shares = np.random.default_rng(0), np.arange(1, 11) / 55
    found = [
        distance(rng.multinomial(images, shares).tolist(), rng.multinomial(window, shares).tolist()) for _ in range(400)
    ]
    ratios = np.array([one.statistic / one.freedom for one in found])
    assert 0.85 < ratios.mean() < 1.5
    exceeding = np.mean([one.statistic > chi_square_quantile(0.99, one.freedom) for one in found])
    assert exceeding < 0.08


def test_rare_categories_are_merged() -> None:
    """A thousand labels, most of which a window cannot contain, leave those that it can."""
    reference = categories_of(np.repeat(np.arange(1000), [500, 300, *[1] * 998]), 1000)
    counts = np.array([50, 30, *[0] * 998])
    first, second = merged_rare(np.array(reference.counts, float), counts.astype(float))
    assert first.tolist() == [500, 300, 998]
    assert second.tolist() == [50, 30, 0]

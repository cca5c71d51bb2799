"""A rule takes a version back when chance does not explain its counts, and promotes it when all is well."""

import math

import pytest
from scipy.stats import binom

from unfreeze.contract.traffic import Action, Rule
from unfreeze.serve.scheduling.statistics import BUCKETS
from unfreeze.serve.traffic.counts import RequestCounts, ShadowCounts
from unfreeze.serve.traffic.rule import Trial, judge, upper_tail


@pytest.mark.parametrize(
    ("count", "total", "rate"),
    [(1, 1, 0.01), (5, 50, 0.05), (12, 100, 0.05), (130, 10_000, 0.01), (1_100, 100_000, 0.01), (100, 100, 0.5)],
)
def test_the_upper_tail_is_scipys(count: int, total: int, rate: float) -> None:
    """Of the binomial distribution, for few and for many trials."""
    assert upper_tail(count, total, rate) == pytest.approx(binom.sf(count - 1, total, rate), rel=1e-8)


def test_the_upper_tail_at_its_ends() -> None:
    """What is not above the mean is never rejected, and what cannot happen is rejected at once."""
    assert upper_tail(0, 0, 0.1) == upper_tail(10, 100, 0.1) == upper_tail(7, 7, 1.0) == 1.0
    assert upper_tail(1, 10, 0.0) == 0.0


def _requests(answered: int, errors: int = 0, bucket: int = 4) -> RequestCounts:
    latencies = [0] * (len(BUCKETS) + 1)
    latencies[bucket] = answered
    return RequestCounts(answered=answered, errors=errors, images=answered, latencies=tuple(latencies))


def _verdict(rule: Rule, canary: RequestCounts, shadow: ShadowCounts | None = None) -> tuple[bool, str] | None:
    trial = Trial(stable=_requests(10_000), canary=canary, shadow=shadow or ShadowCounts())
    found = judge(rule, trial)
    return None if found is None else (found.is_worse, found.reason)


@pytest.mark.parametrize(("errors", "expected"), [(1, None), (3, None), (12, True)])
def test_errors_beyond_chance(errors: int, *, expected: bool | None) -> None:
    """Of 200 requests at a limit of 1 %, three may fail by chance, twelve not."""
    found = _verdict(Rule(max_error_rate=0.01, minimum_images=500, action="both"), _requests(200 - errors, errors))
    assert (found and found[0]) == expected
    if found:
        assert found[1] == "12 of 200 requests failed, at most 1.00% may"


@pytest.mark.parametrize(("different", "expected"), [(10, None), (40, True)])
def test_disagreement_beyond_chance(different: int, *, expected: bool | None) -> None:
    """Of 100 images at a limit of 10 %, ten may differ."""
    rule = Rule(max_disagreement=0.1, action="take-back")
    found = _verdict(rule, RequestCounts(), ShadowCounts(same=100 - different, different=different))
    assert (found and found[0]) == expected


def test_a_shadow_that_fails() -> None:
    """Images that it cannot classify count as errors."""
    found = _verdict(Rule(max_error_rate=0.01), RequestCounts(), ShadowCounts(same=5, failed=5))
    assert found == (True, "5 of 10 shadowed images failed, at most 1.00% may")


@pytest.mark.parametrize(("bucket", "expected"), [(3, False), (4, False), (5, True)])
def test_slower_than_the_stable_version(bucket: int, *, expected: bool) -> None:
    """The stable version takes 5 to 10 ms; 10 to 25 ms is more than 1.5 times as long, and faster is well."""
    found = _verdict(Rule(max_p99_ratio=1.5, minimum_images=200, action="both"), _requests(200, bucket=bucket))
    assert found is not None
    assert found[0] is expected


@pytest.mark.parametrize(
    ("images", "action", "promotes"), [(499, "both", False), (500, "both", True), (500, "take-back", False)]
)
def test_promotion(images: int, action: Action, *, promotes: bool) -> None:
    """A version with enough images is promoted, if the rule may do that."""
    found = _verdict(Rule(max_error_rate=0.01, minimum_images=500, action=action), _requests(images))
    assert (found is not None and not found[0]) is promotes


def test_too_many_errors_for_promotion_too_few_to_take_back() -> None:
    """Above the limit, but not beyond chance: neither."""
    assert _verdict(Rule(max_error_rate=0.01, minimum_images=100, action="both"), _requests(197, 3)) is None


def test_only_promotion() -> None:
    """A rule that may only promote takes nothing back."""
    assert _verdict(Rule(max_error_rate=0.01, action="promote"), _requests(0, 100)) is None


def test_quantiles_as_prometheus_has_them() -> None:
    """Linear in the bucket; NaN without requests."""
    assert _requests(100, bucket=4).latency_s(0.5) == pytest.approx(0.0075)
    assert math.isnan(RequestCounts().latency_s(0.99))
    assert _requests(100, bucket=4).slower_than(0.0075) == 50

"""When a version on trial has proved itself, and when it is worse than allowed by more than chance explains."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from unfreeze.contract.traffic import Rule
from unfreeze.serve.traffic.counts import RequestCounts, ShadowCounts

_CHANCE = 0.001  # of taking a version back that is exactly as bad as allowed, at one look
_SLOW_SHARE = 0.01  # of requests above the 99th percentile
_MIN_REQUESTS = 100  # for a 99th percentile


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule says about a version.

    Args:
        is_worse: it is to be taken back; otherwise it is to be promoted.
        reason: the counts behind it.
    """

    is_worse: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is known of a version since its trial began.

    Args:
        stable: requests of the stable version.
        canary: requests of the version itself.
        shadow: its images as a shadow.
    """

    stable: RequestCounts
    canary: RequestCounts
    shadow: ShadowCounts

    @property
    def images(self) -> int:
        """Images that the version has classified."""
        return self.canary.images + self.shadow.compared


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A share that may not be above a limit.

    Args:
        text: what was counted.
        count: how often it happened.
        total: out of how many.
        limit: of the share, 0 to 1.
        fails: whether the limit is exceeded; False while it cannot be known.
    """

    text: str
    count: int
    total: int
    limit: float
    fails: bool

    @property
    def is_significant(self) -> bool:
        return upper_tail(self.count, self.total, self.limit) < _CHANCE


def judge(rule: Rule, trial: Trial) -> Verdict | None:
    """Say what is to be done with a version.

    Args:
        rule: the limits.
        trial: what is known of the version.

    Returns:
        Take it back, as soon as a count is above its limit by more than chance explains (one-sided binomial test);
        promote it, once it has classified enough images and no limit is exceeded; None for neither.
    """
    checks = list(_checks(rule, trial))
    if rule.action != "promote":
        for check in checks:
            if check.is_significant:
                return Verdict(is_worse=True, reason=check.text)
    if rule.action == "take-back" or trial.images < rule.minimum_images or any(check.fails for check in checks):
        return None
    found = "; ".join(check.text for check in checks) or "nothing else was to be checked"
    return Verdict(is_worse=False, reason=f"{trial.images:,} images classified; {found}")


def _checks(rule: Rule, trial: Trial) -> Iterator[_Check]:
    if rule.max_error_rate is not None:
        limit = rule.max_error_rate
        yield _rate("requests failed", trial.canary.errors, trial.canary.requests, limit)
        shadow = trial.shadow
        yield _rate("shadowed images failed", shadow.failed, shadow.failed + shadow.compared, limit)
    if rule.max_disagreement is not None:
        shadow = trial.shadow
        yield _rate("images got another top label", shadow.different, shadow.compared, rule.max_disagreement)
    if rule.max_p99_ratio is not None:
        stable, canary = trial.stable, trial.canary
        if min(stable.answered, canary.answered) >= _MIN_REQUESTS:
            yield _slowness(stable, canary, rule.max_p99_ratio)


def _rate(what: str, count: int, total: int, limit: float) -> _Check:
    text = f"{count:,} of {total:,} {what}, at most {limit:.2%} may"
    return _Check(text=text, count=count, total=total, limit=limit, fails=count > limit * total)


def _slowness(stable: RequestCounts, canary: RequestCounts, ratio: float) -> _Check:
    p99_s, own_s = stable.latency_s(1 - _SLOW_SHARE), canary.latency_s(1 - _SLOW_SHARE)
    text = f"p99 {1000 * own_s:.1f} ms, of the stable version {1000 * p99_s:.1f} ms, at most {ratio:g} times as long"
    return _Check(
        text=text,
        count=canary.slower_than(ratio * p99_s),
        total=canary.answered,
        limit=_SLOW_SHARE,
        fails=own_s > ratio * p99_s,
    )


def upper_tail(count: int, total: int, rate: float) -> float:
    """Return the probability of at least `count` events in `total` independent trials (binomial distribution).

    Args:
        count: number of events.
        total: number of trials.
        rate: probability of an event.

    Returns:
        The probability; 1 if `count` is not above the mean, which no test rejects.
    """
    if count <= total * rate or rate >= 1:
        return 1.0
    if rate <= 0:
        return 0.0
    log_term = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    term = math.exp(log_term + count * math.log(rate) + (total - count) * math.log1p(-rate))
    found = term
    for number in range(count, total):  # above the mean, the terms fall
        term *= (total - number) / (number + 1) * rate / (1 - rate)
        found += term
        if term < 1e-12 * found:
            break
    return found

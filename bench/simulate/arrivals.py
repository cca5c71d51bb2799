"""When requests arrive."""

import math
from collections.abc import Callable, Iterator

import numpy as np

DAY_S = 86400.0


def poisson(rate: Callable[[float], float], highest: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Draw the times of a Poisson process whose rate changes, by thinning (Lewis and Shedler, 1979).

    Args:
        rate: requests a second by time.
        highest: upper bound of the rate.
        seconds: duration.
        seed: random seed.

    Returns:
        Times, in order.
    """
    rng, now = np.random.default_rng(seed), 0.0
    while (now := now + rng.exponential(1 / highest)) < seconds:
        if rng.random() * highest < rate(now):
            yield now


def constant(rate: float) -> Callable[[float], float]:
    """Return a rate that does not change."""
    return lambda _: rate


def step(before: float, after: float, at_s: float) -> Callable[[float], float]:
    """Return a rate that jumps."""
    return lambda now: before if now < at_s else after


def diurnal(mean: float, peak_to_mean: float) -> Callable[[float], float]:
    """Return the rate of a day as a sine wave, with the peak after half of it.

    Args:
        mean: requests a second.
        peak_to_mean: highest rate relative to the mean, from 1 to 2.
    """
    return lambda now: mean * (1 - (peak_to_mean - 1) * math.cos(2 * math.pi * now / DAY_S))

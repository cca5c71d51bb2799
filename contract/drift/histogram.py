"""A distribution as counts in bins, and how far another one is from it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float64, Int64

_MOST_BINS = 10
_FEWEST = 5  # images of the reference in a bin
_SMOOTHING = 0.5  # images that are added to each bin (Jeffreys' prior)


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of the reference in bins.

    Args:
        edges: between the bins, ascending; values on an edge belong to the bin above it. None for a categorical
            quantity, whose values are the numbers of its bins.
        counts: images of the reference in each bin.

    Raises:
        ValueError: the edges do not ascend, their number does not fit that of the counts, or a count is negative.
    """

    edges: tuple[float, ...] | None
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        edges = () if self.edges is None else self.edges
        if self.edges is not None and len(self.counts) != len(edges) + 1:
            raise ValueError(f"{len(edges)} edges need {len(edges) + 1} counts, got {len(self.counts)}")
        if any(one >= other for one, other in itertools.pairwise(edges)):
            raise ValueError("the edges of a histogram must ascend")
        if not self.counts or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError("a histogram must have counts of at least 0, and at least one image")

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.counts)

    def count(self, values: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " bins"]:
        """Count values by bin; what is not finite is left out."""
        finite = values[np.isfinite(values)]
        numbers = finite.astype(np.int64) if self.edges is None else np.searchsorted(self.edges, finite, side="right")
        return np.bincount(numbers, minlength=self.bins).astype(np.int64)


def histogram_of(values: Float64[np.ndarray, " n"], *, beyond: float = 0.0) -> Histogram:
    """Build a histogram whose bins have about equal numbers of values, at most ten.

    Args:
        values: of the reference, at least one; equal ones are in one bin.
        beyond: if above 0, two more bins, which are empty: for values that are smaller than the smallest, or larger
            than the largest, by more than this share. Otherwise nothing differs from a reference with a single value.
    """
    bins = min(_MOST_BINS, max(2, len(values) // _FEWEST))
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="higher"))
    edges = edges[edges > values.min()]
    if beyond:
        edges = np.concatenate([[values.min() / (1 + beyond)], edges, [values.max() * (1 + beyond)]])
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def categories_of(numbers: Int64[np.ndarray, " n"], count: int) -> Histogram:
    """Build the histogram of a categorical quantity.

    Args:
        numbers: of the categories, from 0.
        count: number of categories.
    """
    return Histogram(edges=None, counts=tuple(np.bincount(numbers, minlength=count).tolist()))


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far counts are from a reference.

    Args:
        psi: population stability index.
        expected_psi: its mean for a sample of the reference's own distribution, of this size.
        js: Jensen-Shannon divergence in bits, 0 to 1.
        statistic: psi, scaled so that it is chi-square distributed for such a sample.
        freedom: degrees of freedom of that distribution.
    """

    psi: float
    expected_psi: float
    js: float
    statistic: float
    freedom: int


NO_DISTANCE = Distance(psi=0.0, expected_psi=0.0, js=0.0, statistic=0.0, freedom=1)


def distance(reference: Sequence[int], counts: Sequence[int]) -> Distance:
    """Compare counts with those of a reference.

    The population stability index is the sum of (p - q) ln(p / q). If both are samples of one distribution over B bins,
    of n and m images, then psi / (1/n + 1/m) is chi-square distributed with B - 1 degrees of freedom (Yurdakul and
    Naranjo 2020, https://doi.org/10.21314/JRMV.2020.227). Bins in which fewer than five images are expected are merged
    into one, since that does not hold for them.

    Args:
        reference: counts of the reference, by bin.
        counts: the counts to compare, of the same bins; at least one image.
    """
    first, second = merged_rare(np.asarray(reference, np.float64), np.asarray(counts, np.float64))
    n, m = first.sum(), second.sum()
    p, q = ((one + _SMOOTHING) / (one.sum() + _SMOOTHING * len(one)) for one in (first, second))
    psi = float(((p - q) * np.log(p / q)).sum())
    middle = (p + q) / 2
    js = float((p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2)
    noise, freedom = float(1 / n + 1 / m), max(1, len(first) - 1)
    return Distance(psi=psi, expected_psi=freedom * noise, js=js, statistic=psi / noise, freedom=freedom)


def merged_rare(
    reference: Float64[np.ndarray, " bins"], counts: Float64[np.ndarray, " bins"]
) -> tuple[Float64[np.ndarray, " kept"], Float64[np.ndarray, " kept"]]:
    """Merge the bins in which fewer than five images are expected.

    Args:
        reference: counts of the reference.
        counts: of a sample.

    Returns:
        Both with the other bins, and one more for all that are rare.
    """
    expected = (reference + counts) / (reference.sum() + counts.sum()) * min(reference.sum(), counts.sum())
    order = np.argsort(expected, kind="stable")
    rare = int((expected < _FEWEST).sum())
    if rare and expected[order[:rare]].sum() < _FEWEST and rare < len(order):
        rare += 1  # the rare ones together are still rare
    if rare < 2:  # noqa: PLR2004
        return reference, counts
    merged, kept = order[:rare], np.sort(order[rare:])
    first, second = (np.append(one[kept], one[merged].sum()) for one in (reference, counts))
    return first, second

"""What is known of a version: its requests, and how its answers as a shadow compare."""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field

from unfreeze.serve.scheduling.statistics import BUCKETS, Statistics

# Failures that the caller has caused, or the end of the server.
_NOT_THE_VERSIONS = frozenset({"CANCELED", "InvalidRequestError", "DrainingError", "RestartingError"})
_NO_LATENCIES = (0,) * (len(BUCKETS) + 1)


@dataclass(frozen=True, kw_only=True)
class RequestCounts:
    """The requests of a version.

    Args:
        answered: requests.
        errors: failed requests, other than those that the caller is to blame for.
        images: classified images.
        latencies: answered requests by latency, in the buckets of the metrics.
    """

    answered: int = 0
    errors: int = 0
    images: int = 0
    latencies: tuple[int, ...] = _NO_LATENCIES

    @classmethod
    def of(cls, statistics: Iterable[Statistics]) -> "RequestCounts":
        """Sum the counters of a version, for encoded images and for preprocessed ones."""
        found = list(statistics)
        return cls(
            answered=sum(one.success.count for one in found),
            errors=sum(
                duration.count
                for one in found
                for reason, duration in one.failures.copy().items()
                if reason not in _NOT_THE_VERSIONS
            ),
            images=sum(one.images for one in found),
            latencies=tuple(map(sum, zip(*(one.stages["request"].counts for one in found), strict=True)))
            or _NO_LATENCIES,
        )

    def since(self, before: "RequestCounts") -> "RequestCounts":
        """Return what was added since an earlier count; everything if a new file of the version has begun at 0."""
        if before.answered > self.answered or before.errors > self.errors:
            return self
        return RequestCounts(
            answered=self.answered - before.answered,
            errors=self.errors - before.errors,
            images=self.images - before.images,
            latencies=tuple(now - then for now, then in zip(self.latencies, before.latencies, strict=True)),
        )

    @property
    def requests(self) -> int:
        """Answered and failed requests."""
        return self.answered + self.errors

    def latency_s(self, share: float) -> float:
        """Estimate a quantile of the latency in seconds, linear in its bucket as Prometheus does; NaN without requests.

        Args:
            share: 0 to 1.
        """
        total, below = sum(self.latencies), 0
        for index, count in enumerate(self.latencies):
            if count and below + count >= share * total:
                low, high = _bounds(index)
                return low + (high - low) * (share * total - below) / count
            below += count
        return math.nan

    def slower_than(self, seconds: float) -> int:
        """Estimate how many requests took longer."""
        found = 0.0
        for index, count in enumerate(self.latencies):
            low, high = _bounds(index)
            found += count * min(1.0, max(0.0, (high - seconds) / (high - low)))
        return int(found)


def _bounds(index: int) -> tuple[float, float]:
    low = BUCKETS[index - 1] if index else 0.0
    return low, BUCKETS[index] if index < len(BUCKETS) else 2 * low


@dataclass(kw_only=True)
class ShadowCounts:
    """The images of a shadow.

    Args:
        same: images with the top label that the stable version gave.
        different: images with another top label.
        dropped: copies that were not classified, because the machine was busy.
        failed: images that it could not classify.
        difference: sum over the compared images of the mean absolute difference of a probability.
    """

    same: int = 0
    different: int = 0
    dropped: int = 0
    failed: int = 0
    difference: float = field(default=0.0)

    @property
    def compared(self) -> int:
        """Number of images that both versions classified."""
        return self.same + self.different

    @property
    def disagreement(self) -> float:
        """Share of the compared images with another top label; NaN if there are none."""
        return self.different / self.compared if self.compared else math.nan

    @property
    def mean_difference(self) -> float:
        """Mean absolute difference of a probability; NaN if nothing was compared."""
        return self.difference / self.compared if self.compared else math.nan

    def copy(self) -> "ShadowCounts":
        """Return what it is now."""
        return ShadowCounts(**vars(self))

    def since(self, before: "ShadowCounts") -> "ShadowCounts":
        """Return what was added since an earlier count."""
        names = vars(self)
        return ShadowCounts(
            **{name: now - then for name, now, then in zip(names, astuple(self), astuple(before), strict=True)}
        )

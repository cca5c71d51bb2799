"""Statistics of one model version: requests, batches and the time spent in each stage."""

import asyncio
import bisect
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from unfreeze.contract.errors import UnfreezeError
from unfreeze.serve.scheduling.request import RequestTiming

# Upper bounds of the histogram buckets, in seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAST = "last_ms"
STAGES = ("queue", "decode", "infer", "request")


@dataclass
class Duration:
    """How often something happened, and its total duration."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one event."""
        self.count += 1
        self.seconds += seconds


@dataclass
class Histogram:
    """Counts of durations by `BUCKETS`; the last count is for durations above all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Statistics:
    """Counters of one model version.

    Requests are counted in the event loop and batches in the threads that execute them. Each counter has one writer at
    a time; a reader may see a value that is one request old.
    """

    def __init__(self) -> None:
        self.success = Duration()
        self.failures: dict[str, Duration] = {}
        self.queue = Duration()
        self.decode = Duration()
        self.infer = Duration()
        self.batches: dict[int, Duration] = {}
        self.images = 0
        self.last_ms = 0
        self.stages = {stage: Histogram() for stage in STAGES}

    @property
    def executions(self) -> int:
        """Number of executed batches."""
        return sum(duration.count for duration in self.batches.copy().values())

    def add_batch(self, images: int, seconds: float) -> None:
        """Count an executed batch.

        Args:
            images: number of images in the batch.
            seconds: duration in the runtime.
        """
        self.batches.setdefault(images, Duration()).add(seconds)

    def add_success(self, images: int, timing: RequestTiming) -> None:
        """Count an answered request.

        Args:
            images: number of its images.
            timing: durations of its stages.
        """
        now = time.monotonic()
        self.images += images
        self.last_ms = time.time_ns() // 1_000_000
        queued_s, total_s = timing.started - timing.arrived, now - timing.arrived
        self.success.add(total_s)
        self.queue.add(queued_s)
        self.decode.add(timing.decode_s)
        self.infer.add(timing.infer_s)
        for stage, seconds in zip(STAGES, (queued_s, timing.decode_s, timing.infer_s, total_s), strict=True):
            self.stages[stage].add(seconds)

    def add_failure(self, reason: str, seconds: float) -> None:
        """Count a failed request.

        Args:
            reason: a short name of the error.
            seconds: time since its arrival.
        """
        self.failures.setdefault(reason, Duration()).add(seconds)

    def document(self) -> dict[str, Any]:
        """Return all counters as numbers in dictionaries and lists, for another process."""
        return {
            "success": vars(self.success).copy(),
            "failures": {reason: vars(duration).copy() for reason, duration in self.failures.copy().items()},
            "queue": vars(self.queue).copy(),
            "decode": vars(self.decode).copy(),
            "infer": vars(self.infer).copy(),
            "batches": {str(size): vars(duration).copy() for size, duration in self.batches.copy().items()},
            "images": self.images,
            _LAST: self.last_ms,
            "stages": {
                stage: {"counts": list(histogram.counts), "seconds": histogram.seconds}
                for stage, histogram in self.stages.items()
            },
        }


@contextmanager
def counted(statistics: Statistics, images: int, timing: RequestTiming) -> Iterator[None]:
    """Count a request as answered, or as failed by the error that the body raises.

    Args:
        statistics: counts it.
        images: number of its images.
        timing: durations of its stages, complete at the end of the body.
    """
    try:
        yield
    except asyncio.CancelledError:
        statistics.add_failure("CANCELED", time.monotonic() - timing.arrived)
        raise
    except UnfreezeError as error:
        statistics.add_failure(type(error).__name__, time.monotonic() - timing.arrived)
        raise
    except Exception:
        statistics.add_failure("BACKEND", time.monotonic() - timing.arrived)
        raise
    statistics.add_success(images, timing)


def merge_documents(documents: Iterable[Any]) -> Any:
    """Add up documents of counters: numbers that have the same place are summed, except for the time of the last one.

    Args:
        documents: dictionaries, lists or numbers, all of the same kind.
    """
    found = list(documents)
    if found and isinstance(found[0], dict):
        keys = dict.fromkeys(key for document in found for key in document)
        merged = {key: merge_documents(document[key] for document in found if key in document) for key in keys}
        if _LAST in merged:
            merged[_LAST] = max(document.get(_LAST, 0) for document in found)
        return merged
    if found and isinstance(found[0], list):
        return [sum(numbers) for numbers in zip(*found, strict=True)]
    return sum(found)


def statistics_from(document: dict[str, Any]) -> dict[bool, Statistics]:
    """Return the counters of a model version, separately for preprocessed (False) and encoded images (True).

    Args:
        document: of each, by "False" and "True", what `Statistics.document` returned.
    """
    return {encoded: _statistics_from(document.get(str(encoded), {})) for encoded in (False, True)}


def _statistics_from(document: dict[str, Any]) -> Statistics:
    statistics = Statistics()
    if not document:
        return statistics
    statistics.success, statistics.queue, statistics.decode, statistics.infer = (
        Duration(**document[name]) for name in ("success", "queue", "decode", "infer")
    )
    statistics.failures = {reason: Duration(**duration) for reason, duration in document["failures"].items()}
    statistics.batches = {int(size): Duration(**duration) for size, duration in document["batches"].items()}
    statistics.images, statistics.last_ms = document["images"], document[_LAST]
    statistics.stages = {stage: Histogram(**histogram) for stage, histogram in document["stages"].items()}
    return statistics

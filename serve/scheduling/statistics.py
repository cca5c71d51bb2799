"""Statistics of one model version: requests, batches and the time spent in each stage."""

import bisect
import time
from dataclasses import dataclass, field

from unfreeze.serve.scheduling.request import InferenceRequest

# Upper bounds of the histogram buckets, in seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
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

    def add_success(self, request: InferenceRequest) -> None:
        """Count an answered request."""
        timing, now = request.timing, time.monotonic()
        self.images += len(request.probabilities)
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

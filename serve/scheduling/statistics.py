"""What one version of a model has done: how many, how long, and where the time went."""

import bisect
import time
from dataclasses import dataclass, field

from unfreeze.serve.scheduling.request import InferenceRequest

# Seconds; the upper bounds of histograms.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGES = ("queue", "decode", "infer", "request")


@dataclass
class Duration:
    """How often something was done, and for how long altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.seconds += seconds


@dataclass
class Histogram:
    """How many took how long, by `BUCKETS`; the last is for all that took longer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Statistics:
    """Counts of one version of a model.

    Requests are counted in the event loop, batches by the threads that execute them: each number has one writer at a
    time, and a reader may be a request behind.
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
        """How many batches were executed."""
        return sum(duration.count for duration in self.batches.copy().values())

    def add_batch(self, images: int, seconds: float) -> None:
        """Count a batch, under the batcher's lock."""
        self.batches.setdefault(images, Duration()).add(seconds)

    def add_success(self, work: InferenceRequest) -> None:
        """Count a request that was answered."""
        times, now = work.times, time.monotonic()
        self.images += len(work.answers)
        self.last_ms = time.time_ns() // 1_000_000
        waited, took = times.began - times.arrived, now - times.arrived
        self.success.add(took)
        self.queue.add(waited)
        self.decode.add(times.decode_s)
        self.infer.add(times.infer_s)
        for stage, seconds in zip(STAGES, (waited, times.decode_s, times.infer_s, took), strict=True):
            self.stages[stage].add(seconds)

    def add_failure(self, reason: str, seconds: float) -> None:
        """Count a request that was refused or failed.

        Args:
            reason: a short name of the kind.
            seconds: since it came.
        """
        self.failures.setdefault(reason, Duration()).add(seconds)

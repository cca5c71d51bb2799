"""Measure a model's latency and throughput on this machine, without a server."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unfreeze.serve.runtimes.base import Runtime

_WARM_UP = 3
_MIN_RUNS, _MIN_SECONDS = 10, 3.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Latency and throughput of one batch size.

    Args:
        batch: images per batch.
        runs: number of measured batches.
        p50_ms: median latency of a batch, in milliseconds.
        p90_ms: 90th percentile of the latency.
        p99_ms: 99th percentile of the latency.
        images_per_second: throughput over all batches.
        peak_rss_mb: peak resident memory of the process, in MB.
    """

    batch: int
    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_second: float
    peak_rss_mb: float


def time_batches(runtime: Runtime, batch: int, advance: Callable[[int], None] = lambda _: None) -> Timing:
    """Classify random images for at least 3 seconds and 10 batches.

    Args:
        runtime: the loaded model.
        batch: images per batch.
        advance: called with 1 when the measurement is complete.
    """
    shape = runtime.manifest.preprocess.shape
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, *shape), np.uint8)
    for _ in range(_WARM_UP):
        runtime.run(pixels)
    latencies: list[float] = []
    while len(latencies) < _MIN_RUNS or sum(latencies) < _MIN_SECONDS:
        started = time.perf_counter()
        runtime.run(pixels)
        latencies.append(time.perf_counter() - started)
    advance(1)
    p50, p90, p99 = (float(value) for value in 1000 * np.percentile(latencies, (50, 90, 99)))
    return Timing(
        batch=batch,
        runs=len(latencies),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        images_per_second=batch * len(latencies) / sum(latencies),
        peak_rss_mb=_peak_rss_mb(),
    )


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6

"""How fast a model runs on this machine, without a server around it."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unfreeze.serve.runtimes import Runtime

_WARM_UP = 3
_FEWEST, _SECONDS = 10, 3.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast batches of one size are.

    Args:
        batch: images at once.
        runs: how many batches were timed.
        p50_ms: the median time of a batch, in milliseconds.
        p90_ms: nine of ten took no longer.
        p99_ms: 99 of 100 took no longer.
        images_per_second: over all of them.
        peak_rss_mb: of the process so far, in millions of bytes.
    """

    batch: int
    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_second: float
    peak_rss_mb: float


def time_batches(runtime: Runtime, batch: int, advance: Callable[[int], None] = lambda _: None) -> Timing:
    """Classify random images for three seconds, or ten batches where those take longer.

    Args:
        runtime: the loaded model.
        batch: images at once.
        advance: called with 1 when it is done.
    """
    shape = runtime.manifest.preprocess.shape
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, *shape), np.uint8)
    for _ in range(_WARM_UP):
        runtime.run(pixels)
    taken: list[float] = []
    while len(taken) < _FEWEST or sum(taken) < _SECONDS:
        started = time.perf_counter()
        runtime.run(pixels)
        taken.append(time.perf_counter() - started)
    advance(1)
    p50, p90, p99 = (float(value) for value in 1000 * np.percentile(taken, (50, 90, 99)))
    return Timing(
        batch=batch,
        runs=len(taken),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        images_per_second=batch * len(taken) / sum(taken),
        peak_rss_mb=_peak_rss_mb(),
    )


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6

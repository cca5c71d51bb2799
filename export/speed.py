"""Measure the latency of graphs on this machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from unfreeze.contract.reporting import Reporter
from unfreeze.export.session import Session

_ROUNDS = 15
_WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The latency of a graph at one batch size.

    Args:
        batch: the batch size.
        p50_ms: median latency of a batch, in milliseconds.
        images_per_second: throughput at that latency.
        times_fp32: speedup over the fp32 graph: the median of the ratios of consecutive runs.
    """

    batch: int
    p50_ms: float
    images_per_second: float
    times_fp32: float


def time_graphs(
    graphs: Mapping[str, bytes], shape: tuple[int, int, int], batches: tuple[int, ...], reporter: Reporter
) -> dict[str, tuple[Speed, ...]]:
    """Run graphs alternately, so that other load on the machine affects all of them alike.

    Args:
        graphs: contents of `model.onnx` by precision; the first is the baseline.
        shape: height, width and channels of a prepared image.
        batches: batch sizes.
        reporter: shows progress.

    Returns:
        One latency per batch size, by precision.
    """
    sessions = {precision: Session(graph, precision) for precision, graph in graphs.items()}
    advance = reporter.track("measuring latency", len(batches) * _ROUNDS)
    speeds: dict[str, list[Speed]] = {name: [] for name in graphs}
    for batch in batches:
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, *shape), np.uint8)
        runs = {name: partial(session.run, pixels) for name, session in sessions.items()}
        seconds = time_alternately(runs, _ROUNDS, advance)
        baseline = next(iter(seconds.values()))
        for name, own in seconds.items():
            ratios = [other / mine for other, mine in zip(baseline, own, strict=True)]
            p50 = median(own)
            speeds[name].append(
                Speed(batch=batch, p50_ms=1000 * p50, images_per_second=batch / p50, times_fp32=median(ratios))
            )
    return {name: tuple(own) for name, own in speeds.items()}


def time_alternately(
    runs: Mapping[str, Callable[[], object]], rounds: int, advance: Callable[[int], None] = lambda _: None
) -> dict[str, list[float]]:
    """Time functions alternately, after a warm-up, so that other load on the machine affects all of them alike.

    Args:
        runs: the functions by name.
        rounds: how often to run each.
        advance: called with 1 after each round.

    Returns:
        The seconds of each round, by name.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
        advance(1)
    return seconds

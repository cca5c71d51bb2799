"""Metrics of the processes of a server."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from unfreeze.serve.frontends.board import Board


def process_metrics(board: Board) -> Iterator[Metric]:
    """Yield how many front-end processes are connected, and how often processes were restarted.

    Args:
        board: counters of all processes.
    """
    yield GaugeMetricFamily("unfreeze_frontends", "Number of front-end processes that accept requests", board.connected)
    restarts = CounterMetricFamily(
        "unfreeze_process_restarts", "Number of times that a process ended and was restarted", labels=("process",)
    )
    for process, count in zip(("models", "frontend"), board.restarts, strict=True):
        restarts.add_metric((process,), count)
    yield restarts

"""Metrics of the processes of a server."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from unfreeze.serve.frontends.board import Board


class ProcessesCollector(Collector):
    """Collects how many front-end processes are connected, and how often processes were restarted.

    Args:
        board: counters of all processes.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield GaugeMetricFamily(
            "unfreeze_frontends", "Number of front-end processes that accept requests", self._board.connected
        )
        restarts = CounterMetricFamily(
            "unfreeze_process_restarts", "Number of times that a process ended and was restarted", labels=("process",)
        )
        for process, count in zip(("models", "frontend"), self._board.restarts, strict=True):
            restarts.add_metric((process,), count)
        yield restarts

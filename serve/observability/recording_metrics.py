"""Metrics of recorded images."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from unfreeze.serve.recording.recorder import RECORDED


def recording_metrics(counts: Mapping[str, int] | None = None) -> Iterator[Metric]:
    """Yield what became of the images that were to be recorded; nothing if none are.

    Args:
        counts: of all processes, by outcome; those of this process by default.
    """
    found = RECORDED.copy() if counts is None else counts
    if not found:
        return
    recorded = CounterMetricFamily(
        "unfreeze_recorded_images", "Images that were to be recorded, by what became of them", labels=("outcome",)
    )
    for outcome, count in found.items():
        recorded.add_metric((outcome,), count)
    yield recorded

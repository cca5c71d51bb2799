"""Metrics of drift: how far the latest images of each version are from the images that it was validated on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from unfreeze.contract.drift.window import Drift

_LABELS = ("model", "version", "quantity")
_GAUGES: dict[str, tuple[str, Callable[[Drift], float]]] = {
    "unfreeze_drift_psi": ("Population stability index of the window, less what its size explains", lambda d: d.excess),
    "unfreeze_drift_js": ("Jensen-Shannon divergence of the window in bits", lambda d: d.distance.js),
    "unfreeze_drift_alarm": ("1 if the difference is larger than chance explains, and relevant", lambda d: d.alarm),
    "unfreeze_drift_images": ("Images in the window", lambda d: d.images),
}


@runtime_checkable
class WatchedModel(Protocol):
    """A loaded version."""

    @property
    def name(self) -> str:
        """Its name in the repository."""

    @property
    def version(self) -> str:
        """Its version number."""

    @property
    def drift(self) -> tuple[Drift, ...]:
        """How far the latest images are from the validation images."""


def drift_metrics(models: Iterable[WatchedModel]) -> Iterator[Metric]:
    """Yield the metrics of all loaded versions."""
    found = [((model.name, model.version, drift.name), drift) for model in models for drift in model.drift]
    for name, (text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_LABELS)
        for labels, drift in found:
            gauge.add_metric(labels, value(drift))
        yield gauge

"""Metrics of drift: how far the latest images of each version are from the images that it was validated on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from unfreeze.contract.drift.features import FeatureDrift
from unfreeze.contract.drift.window import FEATURES, Drift, WindowDrift

_LABELS = ("model", "version", "quantity")
_GAUGES: dict[str, tuple[str, Callable[[Drift], float]]] = {
    "unfreeze_drift_psi": ("Population stability index of the window, less what its size explains", lambda d: d.excess),
    "unfreeze_drift_js": ("Jensen-Shannon divergence of the window in bits", lambda d: d.distance.js),
    "unfreeze_drift_alarm": ("1 if the difference is larger than chance explains, and relevant", lambda d: d.alarm),
    "unfreeze_drift_images": ("Images in the window", lambda d: d.images),
}
_OF_FEATURES: dict[str, Callable[[FeatureDrift], float]] = {
    "unfreeze_drift_alarm": lambda drift: drift.alarm,
    "unfreeze_drift_images": lambda drift: drift.images,
}
_FEATURE_GAUGES: dict[str, tuple[str, Callable[[FeatureDrift], float]]] = {
    "unfreeze_drift_mahalanobis": (
        "Mahalanobis distance of the mean features of the window from those of the validation images",
        lambda drift: drift.mahalanobis,
    ),
    "unfreeze_drift_frechet": (
        "Frechet distance of the features of the window from those of the validation images",
        lambda drift: drift.frechet,
    ),
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
    def drift(self) -> WindowDrift:
        """How far the latest images are from the validation images."""


def drift_metrics(models: Iterable[WatchedModel]) -> Iterator[Metric]:
    """Yield the metrics of all loaded versions."""
    found = [((model.name, model.version), model.drift) for model in models]
    for name, (text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_LABELS)
        for labels, drift in found:
            for one in drift.quantities:
                gauge.add_metric((*labels, one.name), value(one))
            if drift.features is not None and name in _OF_FEATURES:
                gauge.add_metric((*labels, FEATURES), _OF_FEATURES[name](drift.features))
        yield gauge
    for name, (text, distance) in _FEATURE_GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_LABELS[:-1])
        for labels, drift in found:
            if drift.features is not None:
                gauge.add_metric(labels, distance(drift.features))
        yield gauge

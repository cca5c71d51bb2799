"""Metrics of traffic: shares in force, what shadows found, and what rules decided."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from unfreeze.serve.models.registry import ModelRegistry

_LABELS = ("model", "version")
_OUTCOMES = ("same", "different", "dropped", "failed")


def traffic_metrics(models: ModelRegistry) -> Iterator[Metric]:
    """Yield the metrics of all models whose traffic was set.

    Args:
        models: the loaded models.
    """
    yield from _shares(models)
    yield from _shadows(models)
    decisions = CounterMetricFamily(
        "unfreeze_traffic_decisions", "Versions that a rule promoted or took back", labels=(*_LABELS, "action")
    )
    for about, count in models.served_traffic.control.decisions.copy().items():
        decisions.add_metric(about, count)
    yield decisions


def _shares(models: ModelRegistry) -> Iterator[Metric]:
    traffic = GaugeMetricFamily(
        "unfreeze_traffic_share", "Share of the version in the requests that name none", labels=_LABELS
    )
    shadow = GaugeMetricFamily(
        "unfreeze_shadow_share", "Share of the stable version's requests that are copied", labels=_LABELS
    )
    for name in models.served_traffic.control.names:
        if (route := models.route(name)) is None:
            continue
        for version in route.versions:
            traffic.add_metric((name, str(version)), route.share(version))
        if route.shadow:
            shadow.add_metric((name, str(route.shadow)), route.sampled)
    yield traffic
    yield shadow


def _shadows(models: ModelRegistry) -> Iterator[Metric]:
    images = CounterMetricFamily(
        "unfreeze_shadow_images",
        "Images of copied requests, by whether both versions gave the same top label",
        labels=(*_LABELS, "outcome"),
    )
    disagreement = GaugeMetricFamily(
        "unfreeze_shadow_disagreement",
        "Share of compared images with another top label, since the start",
        labels=_LABELS,
    )
    difference = GaugeMetricFamily(
        "unfreeze_shadow_mean_difference", "Mean absolute difference of a probability, since the start", labels=_LABELS
    )
    for about, counts in models.served_traffic.shadows.counts.copy().items():
        for outcome in _OUTCOMES:
            images.add_metric((*about, outcome), getattr(counts, outcome))
        if counts.compared:
            disagreement.add_metric(about, counts.disagreement)
            difference.add_metric(about, counts.mean_difference)
    yield images
    yield disagreement
    yield difference

"""Prometheus metrics over HTTP.

Counters that NVIDIA Triton has too use its names, so that dashboards for Triton work unchanged. All other metrics are
named `unfreeze_*`.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar, runtime_checkable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from unfreeze.contract.errors import ServingError
from unfreeze.serve.models.version_state import VersionState
from unfreeze.serve.observability.drift_metrics import WatchedModel, drift_metrics
from unfreeze.serve.protocol.model_statistics import protocol_name
from unfreeze.serve.scheduling.statistics import BUCKETS, STAGES, Histogram, Statistics
from unfreeze.serve.status import ERRORS_BY_STATUS

_LabeledStatistics = tuple[tuple[str, str], Statistics]  # of a model name and version
_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_LABELS = ("model", "version")
_UNTYPED = "unknown"  # prometheus_client adds the suffix _total to counters, which Triton's names do not have
_COUNTERS: dict[str, tuple[str, Callable[[Statistics], float]]] = {
    "nv_inference_request_success": ("Number of successful requests", lambda s: s.success.count),
    "nv_inference_count": ("Number of classified images", lambda s: s.images),
    "nv_inference_exec_count": ("Number of executed batches", lambda s: s.executions),
    "nv_inference_request_duration_us": ("Cumulative request duration", lambda s: 1e6 * s.success.seconds),
    "nv_inference_queue_duration_us": ("Cumulative queuing duration", lambda s: 1e6 * s.queue.seconds),
    "nv_inference_compute_input_duration_us": ("Cumulative decoding duration", lambda s: 1e6 * s.decode.seconds),
    "nv_inference_compute_infer_duration_us": ("Cumulative inference duration", lambda s: 1e6 * s.infer.seconds),
}
_STAGE_HELP = {
    "queue": "Time that requests wait in the queue",
    "decode": "Time to decode the images of a request",
    "infer": "Time that the runtime takes for the batches of a request",
    "request": "Time from the arrival of a request to its response",
}


@runtime_checkable
class MeasuredModel(WatchedModel, Protocol):
    """A loaded version."""

    @property
    def pending(self) -> int:
        """Number of images of accepted requests."""

    @property
    def statistics(self) -> dict[bool, Statistics]:
        """Its counters."""


@runtime_checkable
class MeasuredModels(Protocol):
    """What metrics need of the served models."""

    def __iter__(self) -> Iterator[MeasuredModel]:
        """Iterate over all loaded versions."""

    def states(self) -> tuple[VersionState, ...]:
        """Return the state of every version in the repository."""


class ModelCollector(Collector):
    """Collects the metrics of all models at the time of a scrape.

    Args:
        models: the served models.
        errors: returns the failed requests by the name of their status.
        more: returns further metrics.
    """

    def __init__(
        self,
        models: MeasuredModels,
        errors: Callable[[], Mapping[str, int]],
        more: Callable[[], Iterable[Metric]],
    ) -> None:
        self._models, self._errors, self._more = models, errors, more

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all loaded model versions."""
        loaded = _retry_if_modified(lambda: tuple(self._models))
        statistics = [
            (_labels(model, encoded=encoded), counts)
            for model in loaded
            for encoded, counts in model.statistics.items()
        ]
        yield from _counters(statistics)
        yield _failures(statistics)
        yield _errors_by_status(_retry_if_modified(self._errors))
        yield _pending(loaded)
        yield self._readiness()
        yield from drift_metrics(loaded)
        for stage in STAGES:
            yield _histogram(stage, statistics)
        yield from self._more()

    def _readiness(self) -> Metric:
        ready = GaugeMetricFamily("unfreeze_model_ready", "1 if the model version is ready, else 0", labels=_LABELS)
        for version in _retry_if_modified(self._models.states):
            ready.add_metric((version.name, version.version), version.state == "READY")
        return ready


def start_metrics(
    models: MeasuredModels,
    host: str,
    port: int,
    errors: Callable[[], Mapping[str, int]] = ERRORS_BY_STATUS.copy,
    more: Callable[[], Iterable[Metric]] = tuple,
) -> "MetricsServer":
    """Serve `GET /metrics` from a separate thread.

    Args:
        models: the served models.
        host: address to listen on.
        port: port to listen on; 0 for any free port.
        errors: returns the failed requests by the name of their status.
        more: returns further metrics.

    Raises:
        ServingError: the address is not available.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ModelCollector(models, errors, more))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    try:
        server = MetricsServer(*start_http_server(port, host, registry))
    except OSError as error:
        raise ServingError(
            f"cannot listen for metrics on {host}:{port}: {error.strerror}; change --metrics-port or --metrics-host, "
            "or disable metrics with --no-metrics"
        ) from None
    _log.info("metrics on http://%s:%d/metrics", f"[{host}]" if ":" in host else host, server.port)
    return server


class MetricsServer:
    """A running HTTP server for metrics.

    Args:
        server: HTTP server.
        thread: thread that runs it.
    """

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop the server and its thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _retry_if_modified(read: Callable[[], _T]) -> _T:
    """Read a dictionary that the event loop's thread may modify meanwhile."""
    while True:
        try:
            return read()
        except RuntimeError:  # dictionary changed size during iteration
            continue


def _labels(model: MeasuredModel, *, encoded: bool) -> tuple[str, str]:
    return protocol_name(model, encoded=encoded), model.version


def _counters(statistics: Iterable[_LabeledStatistics]) -> Iterator[Metric]:
    for name, (text, value) in _COUNTERS.items():
        counter = Metric(name, text, _UNTYPED)
        for labels, counts in statistics:
            counter.add_sample(name, dict(zip(_LABELS, labels, strict=True)), value(counts))
        yield counter


def _failures(statistics: Iterable[_LabeledStatistics]) -> Metric:
    failures = Metric("nv_inference_request_failure", "Number of failed requests, by reason", _UNTYPED)
    for labels, counts in statistics:
        for reason, duration in counts.failures.copy().items():
            sample_labels = dict(zip(_LABELS, labels, strict=True)) | {"reason": reason}
            failures.add_sample(failures.name, sample_labels, duration.count)
    return failures


def _errors_by_status(counts: Mapping[str, int]) -> Metric:
    errors = CounterMetricFamily(
        "unfreeze_request_errors",
        "Number of failed requests to any model, by gRPC status; includes requests rejected before they were read",
        labels=("status",),
    )
    for status, count in counts.items():
        errors.add_metric((status,), count)
    return errors


def _pending(models: Iterable[MeasuredModel]) -> Metric:
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count", "Number of images in the queue or in a batch", labels=_LABELS
    )
    for model in models:
        pending.add_metric(_labels(model, encoded=False), model.pending)
    return pending


def _histogram(stage: str, statistics: Iterable[_LabeledStatistics]) -> Metric:
    family = HistogramMetricFamily(f"unfreeze_{stage}_duration_seconds", _STAGE_HELP[stage], labels=_LABELS)
    for labels, counts in statistics:
        histogram = counts.stages[stage]
        family.add_metric(labels, list(_cumulative(histogram)), histogram.seconds)
    return family


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts.copy(), strict=True):
        total += count
        yield bound, total

"""Prometheus metrics over HTTP: NVIDIA Triton's names where it has one, so that its dashboards work, and histograms."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from unfreeze.contract.errors import ServingError
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.model_statistics import shown_name
from unfreeze.serve.scheduling.statistics import BUCKETS, STAGES, Histogram, Statistics
from unfreeze.serve.status import REFUSED

_log = logging.getLogger(__name__)
_TYPE = "unknown"  # the client library writes counters with a suffix that Triton's do not have
_COUNTERS: dict[str, tuple[str, Callable[[Statistics], float]]] = {
    "nv_inference_request_success": ("Requests that were answered", lambda told: told.success.count),
    "nv_inference_count": ("Images that were classified", lambda told: told.images),
    "nv_inference_exec_count": ("Batches that were executed", lambda told: told.executions),
    "nv_inference_request_duration_us": ("Requests, from arrival to answer", lambda told: 1e6 * told.success.seconds),
    "nv_inference_queue_duration_us": ("Requests, waiting", lambda told: 1e6 * told.queue.seconds),
    "nv_inference_compute_input_duration_us": ("Requests, decoding", lambda told: 1e6 * told.decode.seconds),
    "nv_inference_compute_infer_duration_us": ("Requests, in the runtime", lambda told: 1e6 * told.infer.seconds),
}


class ModelCollector(Collector):
    """Tells Prometheus what the models have done, at the moment that it asks.

    Args:
        models: what is served.
    """

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Give every metric of every version that is served or was, as long as its counts are known."""
        served = _seen(lambda: tuple(self._models))
        models = [(_of(model, encoded=encoded), told) for model in served for encoded, told in model.statistics.items()]
        for name, (text, value) in _COUNTERS.items():
            counter = Metric(name, text, _TYPE)
            for labels, told in models:
                counter.add_sample(name, labels, value(told))
            yield counter
        yield _failures(models)
        refused = Metric("unfreeze_refused", "Requests that were refused, for whatever model, also unread", _TYPE)
        for status, count in _seen(REFUSED.copy).items():
            refused.add_sample(refused.name, {"status": status}, count)
        yield refused
        pending = Metric("nv_inference_pending_request_count", "Images that wait", "gauge")
        for model in served:
            pending.add_sample(pending.name, _of(model, encoded=False), model.pending)
        yield pending
        ready = Metric("unfreeze_model_ready", "1 for a version that can be asked, 0 for one that cannot", "gauge")
        for state in _seen(self._models.states):
            ready.add_sample(ready.name, {"model": state.name, "version": state.version}, state.state == "READY")
        yield ready
        for stage in STAGES:
            yield _histogram(stage, models)


def start_metrics(models: ModelRegistry, host: str, port: int) -> "MetricsServer":
    """Answer `GET /metrics` from a thread of its own.

    Args:
        models: what is served.
        host: the address to listen on.
        port: to listen on; 0 for any free one.

    Raises:
        ServingError: the address cannot be listened on.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ModelCollector(models))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    try:
        server = MetricsServer(*start_http_server(port, host, registry))
    except OSError as error:
        raise ServingError(
            f"cannot listen for metrics on {host}:{port}: {error.strerror}; choose another --metrics-port or "
            "--metrics-host, or --no-metrics"
        ) from None
    _log.info("metrics on http://%s:%d/metrics", f"[{host}]" if ":" in host else host, server.port)
    return server


class MetricsServer:
    """A running HTTP server of metrics.

    Args:
        server: that answers.
        thread: that it runs in.
    """

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_Told = tuple[dict[str, str], Statistics]
_T = TypeVar("_T")


def _seen(look: Callable[[], _T]) -> _T:
    """Look at what the event loop's thread may change meanwhile; then look again."""
    while True:
        try:
            return look()
        except RuntimeError:  # a dictionary changed its size
            continue


def _of(model: LoadedModel, *, encoded: bool) -> dict[str, str]:
    return {"model": shown_name(model, encoded=encoded), "version": model.version}


def _failures(models: Iterable[_Told]) -> Metric:
    failures = Metric("nv_inference_request_failure", "Requests that were refused or failed", _TYPE)
    for labels, told in models:
        for reason, duration in told.failures.copy().items():
            failures.add_sample(failures.name, {**labels, "reason": reason}, duration.count)
    return failures


def _histogram(stage: str, models: Iterable[_Told]) -> Metric:
    family = HistogramMetricFamily(f"unfreeze_{stage}_seconds", f"Requests: {stage}", labels=("model", "version"))
    for labels, told in models:
        histogram = told.stages[stage]
        family.add_metric(tuple(labels.values()), list(_cumulative(histogram)), histogram.seconds)
    return family


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts.copy(), strict=True):
        total += count
        yield bound, total

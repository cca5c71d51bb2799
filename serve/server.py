"""The gRPC server: starts, serves and drains."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server
from prometheus_client.metrics_core import Metric

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from unfreeze.protos.unfreeze_pb2_grpc import add_ClassifierServicer_to_server
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.models.served import ServedModels
from unfreeze.serve.models.watching import watch_repository
from unfreeze.serve.observability.metrics import MetricsServer, start_metrics
from unfreeze.serve.observability.recording_metrics import recording_metrics
from unfreeze.serve.observability.tracing import Tracing
from unfreeze.serve.observability.traffic_metrics import traffic_metrics
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.protocol.classifier import ClassifierService
from unfreeze.serve.protocol.dispatch import Dispatcher
from unfreeze.serve.protocol.health import HealthService
from unfreeze.serve.protocol.listening import listen_on_port, listen_on_socket
from unfreeze.serve.protocol.open_inference import InferenceService
from unfreeze.serve.protocol.receiving import Receiver
from unfreeze.serve.protocol.reflection import reflection_service, service_names
from unfreeze.serve.protocol.shared_memory import RegionTable, SharedMemoryRegions
from unfreeze.serve.protocol.transport import channel_options
from unfreeze.serve.recording.recorder import Recorder
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget
from unfreeze.serve.security.auth import Authentication, Tokens, read_tokens
from unfreeze.serve.security.tls import tls_credentials
from unfreeze.serve.status import ERRORS_BY_STATUS

if TYPE_CHECKING:
    from unfreeze.serve.http.http_server import HttpServer

_HTTP_PACKAGES = "starlette", "uvicorn", "httptools", "python_multipart"
_QUIET_S, _MAX_REJECTING_S = 0.05, 0.5
_log = logging.getLogger(__name__)


class Server:
    """A server and its models; `async with` starts and drains it.

    Args:
        options: what to serve, and how.
        connect: returns the models, and takes a function to call when they have changed; loads them in this process by
            default.
        budget: memory of requests that are being received; by default, this process has all of it.
        regions: where registrations of shared memory are kept; in this process by default.
        shares_ports: other processes of the same server listen on the same ports.

    Attributes:
        port: the gRPC port.
        http: the HTTP server; None without one.
        answered: number of answered requests, after the server was drained.

    Raises:
        OptionsError: a certificate or the token file cannot be used, or --record cannot be written.
        RepositoryError: the repository has no models.
        ModelError: none of the models can be loaded.
    """

    def __init__(
        self,
        options: ServeOptions,
        connect: Callable[[Callable[[], None]], ServedModels] | None = None,
        budget: ReceiveBudget | None = None,
        regions: RegionTable | None = None,
        *,
        shares_ports: bool = False,
    ) -> None:
        self._options, self._shares_ports = options, shares_ports
        files = options.tls_files
        self._credentials = None if files is None else tls_credentials(files)
        self._metrics: MetricsServer | None = None
        self._models: ServedModels = (
            ModelRegistry(options, self._update_health) if connect is None else connect(self._update_health)
        )
        self._budget = budget or ReceiveBudget(options.max_queue_mib * 2**20)
        self._receiver = Receiver(self._models, self._budget, options.max_message_mib * 2**20)
        tokens = None if options.token_file is None else Tokens(read_tokens(options.token_file))
        self._dispatcher = Dispatcher(self._receiver, None if tokens is None else Authentication(tokens))
        self._tracing = Tracing(self._dispatcher.accepts) if options.tracing else None
        self._regions = SharedMemoryRegions(
            options.shared_memory_prefix, options.max_message_mib * 2**20, self._budget, regions
        )
        self._recorder = None if options.record is None else Recorder(options.record, options)
        self.http = None
        if options.http is not None:
            common = options, self._models, self._regions, tokens, self._budget
            self.http = _http_server(*common, lambda: self.port, self._recorder, shares_ports=shares_ports)
        self._health = HealthService()
        self._server: grpc.aio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.unix_socket = options.unix_socket
        self.port = self.answered = 0

    async def __aenter__(self) -> Self:
        """Load the models, then listen.

        Raises:
            ServingError: the address is in use or not available.
        """
        if self._options.metrics:
            host = self._options.metrics_host
            # Front-end processes, whose models are elsewhere, have no metrics.
            more = partial(_more_metrics, self._models) if isinstance(self._models, ModelRegistry) else tuple
            self._metrics = start_metrics(self._models, host.strip("[]"), self._options.metrics_port, more=more)
        try:
            await self._start()
        except BaseException:
            if self._server is not None:
                await self._server.stop(0)
            self._remove_socket()
            await self._stop_http()
            await self._models.close()
            await self._close_monitoring()
            raise
        return self

    @property
    def http_address(self) -> str | None:
        """URL of the HTTP server; None without one."""
        return None if self.http is None else self.http.address

    async def _start(self) -> None:
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.open)
        await self._models.open()
        admin, recorder = self._options.admin, self._recorder
        inference = InferenceService(self._models, self._regions, admin=admin, recorder=recorder)
        add_GRPCInferenceServiceServicer_to_server(inference, self._dispatcher)
        classifier = ClassifierService(self._models, recorder, admin=self._options.admin)
        add_ClassifierServicer_to_server(classifier, self._dispatcher)
        add_HealthServicer_to_server(self._health, self._dispatcher)
        add_ServerReflectionServicer_to_server(reflection_service(), self._dispatcher)
        server = grpc.aio.server(
            handlers=[self._dispatcher],
            interceptors=None if self._tracing is None else [self._tracing.interceptor],
            options=channel_options(self._options.max_message_mib, shares_ports=self._shares_ports),
        )
        self._server = server
        self._listen(server)
        await server.start()
        if self.http is not None:
            await self.http.start()
        self._update_health()
        if self._options.poll_s:
            watching = watch_repository(self._models, self._options.poll_s)
            self._watcher = asyncio.create_task(watching, name="watch the repository")

    async def __aexit__(self, *_: object) -> None:
        """Report NOT_SERVING, finish the accepted requests, then close the models."""
        self._health.close()
        if self._watcher is not None:
            self._watcher.cancel()
        if self.http is not None:
            self.http.reject_new_requests()
        if self._server is not None:
            await self._reject_new_calls()
            await asyncio.gather(self._server.stop(self._options.drain_s), self._stop_http())
        self._remove_socket()
        statistics = [counts for model in self._models for counts in model.own_statistics.values()]
        self.answered = sum(counts.success.count for counts in statistics)
        if not self._shares_ports:
            _log.info("drained: requests answered: %d, rejected: %d", self.answered, ERRORS_BY_STATUS.total())
        await self._models.close()
        await self._close_monitoring()

    def _remove_socket(self) -> None:
        if self.unix_socket is not None:
            self.unix_socket.remove()

    async def _stop_http(self) -> None:
        if self.http is not None:
            await self.http.close()

    async def _reject_new_calls(self) -> None:
        """Reject calls until no more arrive: `stop` would cancel those that gRPC has received but not started."""
        self._receiver.draining, before = True, -1
        until = time.monotonic() + _MAX_REJECTING_S
        while before < self._receiver.rejected_calls and time.monotonic() < until:
            before = self._receiver.rejected_calls
            await asyncio.sleep(_QUIET_S)

    async def _close_monitoring(self) -> None:
        for exporter in (self._recorder, self._metrics, self._tracing):
            if exporter is not None:
                await asyncio.to_thread(exporter.close)

    def _update_health(self) -> None:
        models = [name + suffix for name in self._models.names for suffix in ("", ENCODED_SUFFIX)]
        self._health.set_serving(["", *service_names(), *models] if self._models.available else [])

    def _listen(self, server: grpc.aio.Server) -> None:
        if not self._options.uds_only:
            self.port = listen_on_port(server, self._options.host, self._options.port, self._credentials)
        if self.unix_socket is not None:
            listen_on_socket(server, self.unix_socket)


def freeze_objects() -> None:
    """Exempt the objects that exist now from garbage collection: those of a server that is ready live as long as it."""
    gc.collect()
    gc.freeze()


def _more_metrics(models: ModelRegistry) -> Iterator[Metric]:
    yield from recording_metrics()
    yield from traffic_metrics(models)


def _http_server(  # noqa: PLR0913 - as `HttpServer`
    options: ServeOptions,
    models: ServedModels,
    regions: SharedMemoryRegions,
    tokens: Tokens | None,
    budget: ReceiveBudget,
    grpc_port: Callable[[], int],
    recorder: Recorder | None,
    *,
    shares_ports: bool,
) -> "HttpServer":
    """Create the HTTP server; nothing of it is imported without `--http`."""
    if missing := [name for name in _HTTP_PACKAGES if find_spec(name) is None]:
        raise OptionsError(f"--http needs {', '.join(missing)}: pip install 'unfreeze[http]'")
    from unfreeze.serve.http.http_server import HttpServer

    return HttpServer(options, models, regions, tokens, budget, grpc_port, recorder=recorder, shares_ports=shares_ports)

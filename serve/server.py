"""The gRPC server: starts, serves and drains."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from unfreeze.protos.unfreeze_pb2_grpc import add_ClassifierServicer_to_server
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.observability.metrics import MetricsServer, start_metrics
from unfreeze.serve.observability.request_ids import RequestIdInterceptor
from unfreeze.serve.observability.systemd import SystemdNotifier
from unfreeze.serve.observability.tracing import Tracing
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.protocol.classifier import ClassifierService
from unfreeze.serve.protocol.early_rejection import EarlyRejectionInterceptor
from unfreeze.serve.protocol.error_interceptor import ErrorInterceptor
from unfreeze.serve.protocol.health import HealthService
from unfreeze.serve.protocol.listening import listen_on_port, listen_on_socket
from unfreeze.serve.protocol.open_inference import InferenceService
from unfreeze.serve.protocol.reflection import enable_reflection, service_names
from unfreeze.serve.protocol.shared_memory import SharedMemoryRegions
from unfreeze.serve.protocol.transport import channel_options
from unfreeze.serve.security.auth import AuthInterceptor, Tokens, read_tokens
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

    Raises:
        OptionsError: a certificate or the token file cannot be used.
        RepositoryError: the repository has no models.
        ModelError: none of the models can be loaded.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        files = options.tls_files
        self._credentials = None if files is None else tls_credentials(files)
        self._tracing = Tracing() if options.tracing else None
        self._metrics: MetricsServer | None = None
        self._models = ModelRegistry(options, self._update_health)
        self._early_rejection = EarlyRejectionInterceptor(self._models)
        tokens = None if options.token_file is None else Tokens(read_tokens(options.token_file))
        self._interceptors = _interceptors(tokens, self._tracing, self._early_rejection)
        self._regions = SharedMemoryRegions(options.shared_memory_prefix, options.max_message_mib * 2**20)
        self.http = None
        if options.http is not None:
            self.http = _http_server(options, self._models, self._regions, tokens, lambda: self.port)
        self._health = HealthService()
        self._server: grpc.aio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.unix_socket = options.unix_socket
        self.port = 0

    async def __aenter__(self) -> Self:
        """Load the models, then listen.

        Raises:
            ServingError: the address is in use or not available.
        """
        if self._options.metrics:
            host = self._options.metrics_host
            self._metrics = start_metrics(self._models, host.strip("[]"), self._options.metrics_port)
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

    async def _start(self) -> None:
        await self._models.open()
        server = grpc.aio.server(
            interceptors=self._interceptors, options=channel_options(self._options.max_message_mib)
        )
        inference = InferenceService(self._models, self._regions, admin=self._options.admin)
        add_GRPCInferenceServiceServicer_to_server(inference, server)
        add_ClassifierServicer_to_server(ClassifierService(self._models), server)
        add_HealthServicer_to_server(self._health, server)
        enable_reflection(server)
        self._server = server
        self._listen(server)
        await server.start()
        if self.http is not None:
            await self.http.start()
        self._update_health()
        if self._options.poll_s:
            self._watcher = asyncio.create_task(self._watch_repository(), name="watch the repository")

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
        statistics = [counts for model in self._models for counts in model.statistics.values()]
        answered = sum(counts.success.count for counts in statistics)
        _log.info("drained: requests answered: %d, rejected: %d", answered, ERRORS_BY_STATUS.total())
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
        self._early_rejection.draining, before = True, -1
        until = time.monotonic() + _MAX_REJECTING_S
        while before < self._early_rejection.rejected_calls and time.monotonic() < until:
            before = self._early_rejection.rejected_calls
            await asyncio.sleep(_QUIET_S)

    async def _close_monitoring(self) -> None:
        for exporter in (self._metrics, self._tracing):
            if exporter is not None:
                await asyncio.to_thread(exporter.close)

    async def _watch_repository(self) -> None:
        while True:
            await asyncio.sleep(self._options.poll_s)
            try:
                await self._models.refresh()
            except (UnfreezeError, OSError) as error:
                _log.warning("cannot check the repository for new versions: %s", error)
            except Exception:  # noqa: BLE001 - the next check may succeed
                _log.exception("cannot check the repository for new versions")

    def _update_health(self) -> None:
        models = [name + suffix for name in self._models.names for suffix in ("", ENCODED_SUFFIX)]
        self._health.set_serving(["", *service_names(), *models])

    def _listen(self, server: grpc.aio.Server) -> None:
        if not self._options.uds_only:
            self.port = listen_on_port(server, self._options.host, self._options.port, self._credentials)
        if self.unix_socket is not None:
            listen_on_socket(server, self.unix_socket)


async def serve(options: ServeOptions, ready: Callable[[Server], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT, then drain: health reports NOT_SERVING and accepted requests are finished.

    Args:
        options: what to serve, and how.
        ready: called when the server accepts calls.

    Raises:
        UnfreezeError: the server cannot be started.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # Windows' event loop has no signal handlers
            loop.add_signal_handler(number, stop.set)
    notifier = SystemdNotifier()
    async with notifier.watchdog(), AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(Server(options)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            _log.info("stopped before the server was ready")
            return
        ready(await starting)
        notifier.notify("READY=1")
        await stopping
        notifier.notify("STOPPING=1")
        _log.info("draining: finishing accepted requests")


def _http_server(
    options: ServeOptions,
    models: ModelRegistry,
    regions: SharedMemoryRegions,
    tokens: Tokens | None,
    grpc_port: Callable[[], int],
) -> "HttpServer":
    """Create the HTTP server; nothing of it is imported without `--http`."""
    if missing := [name for name in _HTTP_PACKAGES if find_spec(name) is None]:
        raise OptionsError(f"--http needs {', '.join(missing)}: pip install 'unfreeze[http]'")
    from unfreeze.serve.http.http_server import HttpServer

    return HttpServer(options, models, regions, tokens, grpc_port)


def _interceptors(
    tokens: Tokens | None, tracing: Tracing | None, early_rejection: EarlyRejectionInterceptor
) -> list[grpc.aio.ServerInterceptor]:
    """Return the interceptors, outermost first; nothing is read of calls without a valid token."""
    auth = [AuthInterceptor(tokens)] if tokens is not None else []
    traces = [tracing.interceptor] if tracing is not None else []
    return [RequestIdInterceptor(), *auth, *traces, ErrorInterceptor(), early_rejection]

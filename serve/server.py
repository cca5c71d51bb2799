"""The gRPC server: what listens, from the first model loaded to the last answer sent."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Self

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2

from unfreeze.contract.errors import ServingError, UnfreezeError
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos import open_inference_pb2, unfreeze_pb2
from unfreeze.protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from unfreeze.protos.unfreeze_pb2_grpc import add_ClassifierServicer_to_server
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.observability.metrics import MetricsServer, start_metrics
from unfreeze.serve.observability.request_ids import RequestIdInterceptor
from unfreeze.serve.observability.systemd import Notifier
from unfreeze.serve.observability.tracing import Tracing
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.protocol.classifier import ClassifierService
from unfreeze.serve.protocol.early_rejection import EarlyRejectionInterceptor
from unfreeze.serve.protocol.error_interceptor import ErrorInterceptor
from unfreeze.serve.protocol.health import HealthService
from unfreeze.serve.protocol.open_inference import InferenceService
from unfreeze.serve.security.auth import AuthInterceptor, read_tokens
from unfreeze.serve.security.tls import TlsFiles, tls_credentials
from unfreeze.serve.status import REFUSED

_FILES = (open_inference_pb2, unfreeze_pb2, health_pb2, reflection_pb2)
_NEVER = 2**31 - 1
_QUIET_S, _MOST_TURNING_AWAY_S = 0.05, 0.5
_LOOKAHEAD_BYTES = 2**18  # a usual image
_log = logging.getLogger(__name__)


class Server:
    """A server and its models; `async with` starts it and drains it.

    Args:
        options: what to serve, and how.

    Raises:
        OptionsError: a certificate or a file of tokens cannot be used.
        RepositoryError: the repository holds no model.
        ModelError: not one model can be loaded.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._credentials = _credentials(options)
        self._tracing = Tracing() if options.tracing else None
        self._metrics: MetricsServer | None = None
        self._models = ModelRegistry(options, self._tell_health)
        self._room = EarlyRejectionInterceptor(self._models)
        self._interceptors = _interceptors(options, self._tracing, self._room)
        self._health = HealthService()
        self._server: grpc.aio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        """Warm up, then listen.

        Raises:
            ServingError: the address cannot be listened on.
        """
        if self._options.metrics:
            host = self._options.metrics_host
            self._metrics = start_metrics(self._models, host.strip("[]"), self._options.metrics_port)
        try:
            await self._start()
        except BaseException:
            await self._models.close()
            await self._stop_telling()
            raise
        return self

    async def _start(self) -> None:
        await self._models.open()
        self._server = grpc.aio.server(interceptors=self._interceptors, options=_channel_options(self._options))
        inference = InferenceService(self._models, admin=self._options.admin)
        add_GRPCInferenceServiceServicer_to_server(inference, self._server)
        add_ClassifierServicer_to_server(ClassifierService(self._models), self._server)
        add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(_service_names(), self._server, pool=_whole_pool())
        self.port = await self._listen(self._server)
        self._tell_health()
        if self._options.poll_s:
            self._watcher = asyncio.create_task(self._watch(), name="watch the repository")

    async def __aexit__(self, *_: object) -> None:
        """Say that it is going, finish what is in flight, then let go."""
        self._health.close()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._server is not None:
            await self._turn_away()
            await self._server.stop(self._options.drain_s)
        told = [told for model in self._models for told in model.statistics.values()]
        answered = sum(one.success.count for one in told)
        _log.info("drained: %d requests were answered, %d refused", answered, REFUSED.total())
        await self._models.close()
        await self._stop_telling()

    async def _turn_away(self) -> None:
        """Answer calls that come until none does: those that gRPC has when it is stopped, it cancels."""
        self._room.draining, before = True, -1
        until = time.monotonic() + _MOST_TURNING_AWAY_S
        while before < self._room.turned_away and time.monotonic() < until:
            before = self._room.turned_away
            await asyncio.sleep(_QUIET_S)

    async def _stop_telling(self) -> None:
        for teller in (self._metrics, self._tracing):
            if teller is not None:
                await asyncio.to_thread(teller.close)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._options.poll_s)
            try:
                await self._models.refresh()
            except (UnfreezeError, OSError) as error:
                _log.warning("the repository cannot be looked at: %s", error)
            except Exception:  # noqa: BLE001 - whatever it is, the next look may find better
                _log.exception("the repository cannot be looked at")

    def _tell_health(self) -> None:
        models = [name + suffix for name in self._models.names for suffix in ("", ENCODED_SUFFIX)]
        self._health.set_serving(["", *_service_names(), *models])

    async def _listen(self, server: grpc.aio.Server) -> int:
        host = self._options.host
        plain_ipv6 = ":" in host and not host.startswith("[")
        address = f"[{host}]:{self._options.port}" if plain_ipv6 else f"{host}:{self._options.port}"
        try:
            port: int = (
                server.add_insecure_port(address)
                if self._credentials is None
                else server.add_secure_port(address, self._credentials)
            )
            await server.start()
        except RuntimeError as error:
            await server.stop(0)
            raise ServingError(
                f"cannot listen on {address}: is another server there already? Choose another --port, or 0 for any "
                f"free one; and --host must be an address of this machine ({error})"
            ) from None
        return port


async def serve(options: ServeOptions, ready: Callable[[Server], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT, then drain: health says NOT_SERVING, work in flight is finished.

    Args:
        options: what to serve, and how.
        ready: called once the server answers.

    Raises:
        UnfreezeError: it cannot be started.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # Windows has no handlers in its loop
            loop.add_signal_handler(number, stop.set)
    notifier = Notifier()
    async with notifier.alive(), AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(Server(options)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            _log.info("stopped before it was ready")
            return
        ready(await starting)
        notifier.tell("READY=1")
        await stopping
        notifier.tell("STOPPING=1")
        _log.info("draining")


def _credentials(options: ServeOptions) -> grpc.ServerCredentials | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    return tls_credentials(TlsFiles(cert=options.tls_cert, key=options.tls_key, client_ca=options.tls_client_ca))


def _interceptors(
    options: ServeOptions, tracing: Tracing | None, room: EarlyRejectionInterceptor
) -> list[grpc.aio.ServerInterceptor]:
    """Give what calls pass through, the first of it first: nothing is read of those that carry no token."""
    checks = [AuthInterceptor(read_tokens(options.token_file))] if options.token_file is not None else []
    traces = [tracing.interceptor] if tracing is not None else []
    return [RequestIdInterceptor(), *checks, *traces, ErrorInterceptor(), room]


def _channel_options(options: ServeOptions) -> list[tuple[str, int]]:
    size = options.max_message_mib * 2**20
    return [
        # Of a call that is refused unread no more comes than this. Windows that grow with the line let all of it come.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        ("grpc.keepalive_time_ms", 60_000),  # devices vanish without a word, and routers forget what is long silent
        ("grpc.keepalive_timeout_ms", 20_000),  # a mobile network may be away for seconds
        ("grpc.keepalive_permit_without_calls", 1),  # a device that classifies now and then keeps its connection
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # by default 5 minutes, too rare for devices
        ("grpc.max_connection_idle_ms", _NEVER),  # a new TLS handshake costs a small device more than we pay to wait
    ]


def _service_names() -> tuple[str, ...]:
    return tuple(service.full_name for file in _FILES for service in file.DESCRIPTOR.services_by_name.values())


def _whole_pool() -> DescriptorPool:
    """Put every service into one pool, for reflection: ours stand in different ones."""
    pool = DescriptorPool()
    for file in _FILES:
        _add(pool, file.DESCRIPTOR)
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor) -> None:
    for dependency in file.dependencies:
        _add(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)

"""The HTTP server: listens, serves and drains, in the event loop of the gRPC server."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from unfreeze.contract.errors import ServingError
from unfreeze.serve.http.app import http_application
from unfreeze.serve.http.bodies import BodyLimits
from unfreeze.serve.http.connection import LimitedConnection
from unfreeze.serve.http.handlers import Handlers
from unfreeze.serve.models.served import ServedModels
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.protocol.shared_memory import SharedMemoryRegions
from unfreeze.serve.recording.recorder import Recorder
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget
from unfreeze.serve.security.auth import Tokens
from unfreeze.serve.security.binding import bracketed, is_loopback
from unfreeze.serve.security.tls import tls_context

_BACKLOG = 2048
_WILDCARD = "::"
_log = logging.getLogger(__name__)


class HttpServer:
    """A server for the same models.

    Args:
        options: address, limits and security, which are those of gRPC.
        models: the served models.
        regions: of shared memory.
        tokens: valid tokens; None if none are needed.
        budget: memory of all requests that are being received.
        grpc_port: returns the port of the gRPC server.
        recorder: keeps images; None keeps none.
        shares_ports: other processes of the same server listen on the same port.
    """

    def __init__(  # noqa: PLR0913 - all that it shares with the gRPC server
        self,
        options: ServeOptions,
        models: ServedModels,
        regions: SharedMemoryRegions,
        tokens: Tokens | None,
        budget: ReceiveBudget,
        grpc_port: Callable[[], int],
        *,
        recorder: Recorder | None = None,
        shares_ports: bool = False,
    ) -> None:
        self._options, self._shares_ports = options, shares_ports
        files = options.tls_files
        self._context = None if files is None else tls_context(files)
        self._handlers = Handlers(
            models,
            regions,
            admin=options.admin,
            limits=BodyLimits(most_bytes=options.max_message_mib * 2**20, budget=budget),
            grpc_port=grpc_port,
            tls=self._context is not None,
            recorder=recorder,
        )
        only_local = is_loopback(options.host) and self._context is None and not options.insecure
        self._app = http_application(self._handlers, tokens, only_local=only_local)
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ServingError: the address is in use or not available.
        """
        listeners, context = self._listen(), self._context
        self.port = listeners[0].getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=LimitedConnection,
            ws="none",
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=max(1, round(self._options.drain_s)),
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._server = _Uvicorn(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=listeners), name="HTTP server")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({listening, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            listening.cancel()
            self._serving.result()
        _log.info("HTTP on %s", self.address)

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        return f"{'http' if self._context is None else 'https'}://{bracketed(self._options.host)}:{self.port}/"

    def reject_new_requests(self) -> None:
        """Answer new requests with 503."""
        self._handlers.draining = True

    async def close(self) -> None:
        """Finish the accepted requests, and stop."""
        if self._server is None or self._serving is None:
            return
        self.reject_new_requests()
        self._server.should_exit = True
        try:
            await self._serving
        except Exception:  # noqa: BLE001 - the models are closed all the same
            _log.exception("the HTTP server failed")

    def _listen(self) -> list[socket.socket]:
        """Listen on all addresses of the host, on the same port."""
        host, port = self._options.host.strip("[]"), self._options.http or 0
        listeners: list[socket.socket] = []
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, *_, address in dict.fromkeys(found):
                both = family == socket.AF_INET6 and host == _WILDCARD and socket.has_dualstack_ipv6()
                where = (address[0], port, *address[2:]) if family == socket.AF_INET6 else (address[0], port)
                listeners.append(
                    socket.create_server(
                        where,
                        family=family,
                        backlog=_BACKLOG,
                        reuse_port=self._shares_ports,
                        dualstack_ipv6=both,
                    )
                )
                port = listeners[0].getsockname()[1]
        except OSError as error:
            for listener in listeners:
                listener.close()
            raise ServingError(
                f"cannot listen for HTTP on {self._options.host}:{port}: {error.strerror or error}; choose another "
                "--http port, or 0 for any free port"
            ) from None
        return listeners


class _Uvicorn(uvicorn.Server):
    """A server that leaves signals to the process.

    Attributes:
        listening: set when it accepts connections.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

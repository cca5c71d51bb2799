"""Run a server until it is asked to stop."""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Protocol, runtime_checkable

from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.observability.systemd import SystemdNotifier
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.server import Server, freeze_objects

_log = logging.getLogger(__name__)


@runtime_checkable
class Running(Protocol):
    """A running server, of one process or several."""

    port: int

    @property
    def http_address(self) -> str | None:
        """URL of the HTTP server; None without one."""


async def serve(options: ServeOptions, ready: Callable[[Running], None], logs: LogOptions) -> None:
    """Serve until SIGTERM or SIGINT, then drain: health reports NOT_SERVING and accepted requests are finished.

    Args:
        options: what to serve, and how.
        ready: called when the server accepts calls.
        logs: format and level of the log, for other processes of the server.

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
        starting = asyncio.create_task(stack.enter_async_context(_server(options, logs)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            _log.info("stopped before the server was ready")
            return
        ready(await starting)
        freeze_objects()
        notifier.notify("READY=1")
        await stopping
        notifier.notify("STOPPING=1")
        _log.info("draining: finishing accepted requests")


def _server(options: ServeOptions, logs: LogOptions) -> AbstractAsyncContextManager[Running]:
    """Create a server in this process, or one of several processes."""
    if options.frontends_used == 1:
        return Server(options)
    from unfreeze.serve.frontends.supervisor import Supervisor

    return Supervisor(options, logs)

"""Serve the page of a review on this machine until the person has finished."""

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.review.app import review_application
from unfreeze.review.session import Session
from unfreeze.serve.security.binding import bracketed, is_loopback


def serve_page(session: Session, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the person presses Done, or SIGINT or SIGTERM comes.

    Args:
        session: what is reviewed.
        host: a loopback address.
        port: 0 for any free port.
        ready: called with the address of the page when it can be opened.

    Raises:
        OptionsError: other machines could reach the host.
        UnfreezeError: the address is in use or not available.
    """
    if not is_loopback(host):
        raise OptionsError(
            f"--host {host} is reachable from other machines; use 127.0.0.1, and ssh -L to review from elsewhere"
        )
    asyncio.run(_serve(session, host.strip("[]"), port, ready))


async def _serve(session: Session, host: str, port: int, ready: Callable[[str], None]) -> None:
    token = secrets.token_urlsafe(24)
    with _listening(host, port) as listener:
        server: _Uvicorn | None = None

        def stop() -> None:
            if server is not None:
                server.should_exit = True

        app = review_application(session, token, stop)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        server = _Uvicorn(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
                loop.add_signal_handler(number, stop)
        ready(f"http://{bracketed(host)}:{listener.getsockname()[1]}/{token}/")
        await server.serve(sockets=[listener])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UnfreezeError(
            f"cannot listen on {bracketed(host)}:{port}: {error.strerror or error}; choose another --port"
        ) from None
    with listener:
        yield listener


class _Uvicorn(uvicorn.Server):
    """A server that leaves signals to its caller."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

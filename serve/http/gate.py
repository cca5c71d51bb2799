"""What happens to every HTTP request before and after its handler: request ID, origin, token, headers of the answer."""

import asyncio
import ipaddress
import logging
import random
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unfreeze.contract.errors import DrainingError
from unfreeze.serve.http.errors import RefusedError, error_response
from unfreeze.serve.protocol.request_ids import HEADER, id_from_metadata, request_id
from unfreeze.serve.security.auth import Tokens
from unfreeze.serve.traffic.routing import keep_sticky_header

_PUBLIC = ("/v2/health/live", "/v2/health/ready", "/openapi.json")  # probes have no token, as over gRPC
_DRAINED = "the server is shutting down, and the request was not finished in time; retry on another server"
_HOW = "send the header `Authorization: Bearer TOKEN`"
_log = logging.getLogger(__name__)
_Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gate:
    """An ASGI application around another one.

    A browser sends the requests of any page to a server on the same machine. Requests from pages of another origin are
    therefore refused, and so are those under a foreign name for this machine (DNS rebinding) where nothing else
    protects it.

    Args:
        app: the application.
        tokens: valid tokens; None if none are needed.
        page: paths of the page, which have no secrets and need no token.
        only_local: refuse requests whose `Host` is not a name of the local machine.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens | None, page: frozenset[str], *, only_local: bool) -> None:
        self._app, self._tokens, self._only_local = app, tokens, only_local
        self._public = page.union(_PUBLIC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return
        started, headers = time.monotonic(), Headers(scope=scope)
        assigned = id_from_metadata(headers.items()) or f"{random.getrandbits(64):016x}"
        request_id.set(assigned)
        keep_sticky_header(headers.items())
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added[HEADER] = assigned
                added["x-content-type-options"] = "nosniff"
                added.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self._check(scope["path"], headers)
            await self._app(scope, receive, send_with_headers)
        except RefusedError as error:
            await error_response(error)(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the time to drain is over
            if not status:
                await error_response(DrainingError(_DRAINED))(scope, receive, send_with_headers)
        finally:
            _log_request(scope, status, started)

    def _check(self, path: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._only_local and not _is_local(host):
            raise RefusedError(
                403,
                f"the server answers to names of this machine only, not to {host!r:.100}; if a proxy forwards this "
                "request, start the server with --insecure",
            )
        if origin is not None and headers.get("sec-fetch-site") != "same-origin" and _host_of(origin) != host:
            raise RefusedError(403, f"requests from pages of another origin are refused, here {origin!r:.100}")
        if self._tokens is None or path in self._public:
            return
        authorization = headers.get("authorization")
        if authorization is None or not self._tokens.accept(authorization):
            problem = "invalid token" if authorization else "a token is required, and the request has none"
            raise RefusedError(401, f"{problem}; {_HOW}", {"www-authenticate": "Bearer"})


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _log_request(scope: Scope, status: int, started: float) -> None:
    if not _log.isEnabledFor(logging.DEBUG):
        return
    duration_ms = round(1000 * (time.monotonic() - started), 3)
    method = f"{scope['method']} {scope['path']}"
    _log.debug(
        "%s: %d in %.1f ms",
        method,
        status,
        duration_ms,
        extra={"method": method, "status": str(status), "duration_ms": duration_ms},
    )

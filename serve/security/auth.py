"""Who may ask: callers send a token that the server knows."""

import hmac
import logging
import os
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import grpc

from unfreeze.contract.errors import OptionsError

_OPEN = "/grpc.health.v1.Health/"  # what watches over servers has no token, and learns nothing but names
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
_SCHEME = "bearer "
_HOW = "send the metadata `authorization: Bearer TOKEN`"
_MISSING = f"this server asks for a token, and the request has none: {_HOW}"
_WRONG = f"the request's token is none that this server knows: {_HOW} with one that it does"
_log = logging.getLogger(__name__)


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a file of tokens, one a line; empty lines are skipped.

    Args:
        path: of the file; a warning is logged where every user of the machine can read it.

    Raises:
        OptionsError: it cannot be read, holds no token, or a line is none.
    """
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
        readable = os.name == "posix" and path.stat().st_mode & stat.S_IROTH
    except OSError as error:
        raise OptionsError(f"--token-file {path} cannot be read: {error.strerror}") from None
    if readable:
        _log.warning("every user of this machine can read the tokens in %s: chmod 600 keeps them to yours", path)
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, token in numbered:
        if not _TOKEN.fullmatch(token):  # the message must not show it
            raise OptionsError(
                f"--token-file {path}, line {number}: a token is made of letters, digits and -._~+/ alone, with = "
                "at its end; put one on each line, and nothing else"
            )
    if not numbered:
        raise OptionsError(f"--token-file {path} holds no token; put one on each line")
    return tuple(token for _, token in numbered)


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Lets calls pass that carry a token, and all those to `grpc.health.v1`.

    Args:
        tokens: any of them will do.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Let a call pass, or refuse it before anything of the request is read.

        Args:
            continuation: finds the method.
            handler_call_details: its name, and the call's metadata.

        Returns:
            What answers the call; None where there is no such method.
        """
        if handler_call_details.method.startswith(_OPEN):
            return await continuation(handler_call_details)
        sent = [value for key, value in handler_call_details.invocation_metadata or () if key == "authorization"]
        if not sent:
            return _refusing(_MISSING)
        if not (len(sent) == 1 and self._knows(sent[0])):
            return _refusing(_WRONG)
        return await continuation(handler_call_details)

    def _knows(self, authorization: str | bytes) -> bool:
        text = authorization if isinstance(authorization, str) else authorization.decode("latin-1")
        scheme, token = text[: len(_SCHEME)].lower(), text[len(_SCHEME) :].strip().encode()
        # All are compared, each for as long whether it differs early or late: time tells nothing.
        same = [hmac.compare_digest(known, token) for known in self._tokens]
        return scheme == _SCHEME and any(same)


def _refusing(message: str) -> grpc.RpcMethodHandler:
    async def refuse(_requests: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
        yield b""  # never comes to pass

    # Whatever the method is: a handler of streams is the one that does not wait for the caller's message.
    return grpc.stream_stream_rpc_method_handler(refuse)

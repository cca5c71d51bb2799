"""A name for every request, by which its log lines are found: the caller's own, or one made here."""

import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any

import grpc

from unfreeze.serve.protocol.handlers import Behavior, wrapped

HEADER = "x-request-id"
request_id: ContextVar[str] = ContextVar("request_id", default="")

_MOST = 128
_STRANGE = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_log = logging.getLogger(__name__)


class RequestIdInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Names every request, tells its caller the name in the trailing metadata, and logs it at the level debug.

    The name is the metadata's `x-request-id`, else the `id` of the Open Inference Protocol's message, else a new one.
    In a stream, messages that have an `id` are logged under it.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Wrap the method that was called.

        Args:
            continuation: finds it.
            handler_call_details: its name, and the caller's metadata.

        Returns:
            What answers the call; None where there is no such method.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method, given = handler_call_details.method, given_id(handler_call_details.invocation_metadata)
        one, many = partial(_one, method=method, given=given), partial(_many, method=method, given=given)
        return wrapped(handler, one, many, handler.request_deserializer)


def given_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Find the name that a caller gave to a request.

    Args:
        metadata: of the call.

    Returns:
        At most 128 characters, each a letter, a digit or one of `._:/+=@-`; others are replaced. Empty where there is
        none.
    """
    for key, value in metadata:
        if key == HEADER and isinstance(value, str):
            return _cleaned(value)
    return ""


def _one(behave: Behavior, method: str, given: str) -> Behavior:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        started = time.monotonic()
        named = _name(request, context, given, single=True)
        try:
            return await behave(named, context)
        finally:
            _tell(method, context, started)

    return answer


def _many(behave: Behavior, method: str, given: str) -> Behavior:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        started = time.monotonic()
        named = _name(request, context, given, single=False)
        try:
            answering = behave(named, context)
            if not hasattr(answering, "__aiter__"):  # it writes by itself, or refuses
                await answering
                return
            async for response in answering:
                yield response
        finally:
            _tell(method, context, started)

    return answer


def _name(request: Any, context: grpc.aio.ServicerContext, given: str, *, single: bool) -> Any:
    """Name a request; gives it back, and a stream so that each of its messages is named as it is read."""
    streamed = hasattr(request, "__aiter__")
    name = given or ("" if streamed else _own_id(request)) or f"{random.getrandbits(64):016x}"
    request_id.set(name)
    context.set_trailing_metadata(((HEADER, name),))
    if not streamed:
        return request
    if single and not given:  # a call of one message, which is read later
        return _each_named(request, name, lambda own: context.set_trailing_metadata(((HEADER, own),)))
    return _each_named(request, name, lambda _own: None)


async def _each_named(requests: AsyncIterator[Any], name: str, tell: Callable[[str], None]) -> AsyncIterator[Any]:
    async for request in requests:
        if own := _own_id(request):
            tell(own)
        request_id.set(own or name)  # of the task that reads the stream, and of those that it starts next
        yield request


def _own_id(message: object) -> str:
    own = getattr(message, "id", "")
    return _cleaned(own) if own and isinstance(own, str) else ""


def _cleaned(text: str) -> str:
    return _STRANGE.sub("_", text[:_MOST])


def _tell(method: str, context: grpc.aio.ServicerContext, started: float) -> None:
    if not _log.isEnabledFor(logging.DEBUG):
        return
    code = grpc.StatusCode.CANCELLED if context.cancelled() else context.code()
    status = code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK.name
    duration_ms = round(1000 * (time.monotonic() - started), 3)
    _log.debug(
        "%s: %s in %.1f ms",
        method,
        status,
        duration_ms,
        extra={"method": method, "status": status, "duration_ms": duration_ms},
    )

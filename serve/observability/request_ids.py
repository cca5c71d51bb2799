"""Request IDs: each request has an ID, sent by the client or generated, that is added to its log lines."""

import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any

import grpc

from unfreeze.serve.protocol.handlers import Method, wrap_handler

HEADER = "x-request-id"
request_id: ContextVar[str] = ContextVar("request_id", default="")

_MAX_LENGTH = 128
_DISALLOWED = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_log = logging.getLogger(__name__)


class RequestIdInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Assigns an ID to each request, returns it in the trailing metadata, and logs each request at level debug.

    The ID is the metadata `x-request-id`, else the `id` of an Open Inference Protocol message, else a random one. In a
    stream, log lines about a message with its own `id` have that ID.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Wrap the handler of a call.

        Args:
            continuation: looks up the handler.
            handler_call_details: method name and metadata of the call.

        Returns:
            The wrapped handler, or None if the method does not exist.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method_name = handler_call_details.method
        client_id = id_from_metadata(handler_call_details.invocation_metadata)
        return wrap_handler(
            handler,
            partial(_wrap_unary, method_name=method_name, client_id=client_id),
            partial(_wrap_stream, method_name=method_name, client_id=client_id),
            handler.request_deserializer,
        )


def id_from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Read the request ID from the metadata of a call.

    Args:
        metadata: metadata of the call.

    Returns:
        At most 128 characters, each a letter, a digit or one of `._:/+=@-`; other characters are replaced by `_`.
        Empty if the metadata has no request ID.
    """
    for key, value in metadata:
        if key == HEADER and isinstance(value, str):
            return _sanitize(value)
    return ""


def _wrap_unary(method: Method, method_name: str, client_id: str) -> Method:
    async def handle(request: Any, context: grpc.aio.ServicerContext) -> Any:
        started = time.monotonic()
        request = _assign_id(request, context, client_id, returns_stream=False)
        try:
            return await method(request, context)
        finally:
            _log_request(method_name, context, started)

    return handle


def _wrap_stream(method: Method, method_name: str, client_id: str) -> Method:
    async def handle(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        started = time.monotonic()
        request = _assign_id(request, context, client_id, returns_stream=True)
        try:
            responses = method(request, context)
            if not hasattr(responses, "__aiter__"):  # a coroutine that writes to the context, or rejects the call
                await responses
                return
            async for response in responses:
                yield response
        finally:
            _log_request(method_name, context, started)

    return handle


def _assign_id(request: Any, context: grpc.aio.ServicerContext, client_id: str, *, returns_stream: bool) -> Any:
    """Set the ID of a call; returns the request, with a stream wrapped so that it sets the ID of each message."""
    is_stream = hasattr(request, "__aiter__")
    assigned = client_id or ("" if is_stream else _message_id(request)) or f"{random.getrandbits(64):016x}"
    request_id.set(assigned)
    _return_id(context, assigned)
    if not is_stream:
        return request
    if returns_stream or client_id:
        return _with_message_ids(request, assigned, lambda _id: None)
    return _with_message_ids(request, assigned, partial(_return_id, context))  # a unary call that is read late


def _return_id(context: grpc.aio.ServicerContext, assigned: str) -> None:
    context.set_trailing_metadata(((HEADER, assigned),))


async def _with_message_ids(
    requests: AsyncIterator[Any], stream_id: str, on_message_id: Callable[[str], None]
) -> AsyncIterator[Any]:
    async for request in requests:
        if message_id := _message_id(request):
            on_message_id(message_id)
        request_id.set(message_id or stream_id)  # for the task that reads the stream and the tasks it starts next
        yield request


def _message_id(message: object) -> str:
    message_id = getattr(message, "id", "")
    return _sanitize(message_id) if message_id and isinstance(message_id, str) else ""


def _sanitize(text: str) -> str:
    return _DISALLOWED.sub("_", text[:_MAX_LENGTH])


def _log_request(method_name: str, context: grpc.aio.ServicerContext, started: float) -> None:
    if not _log.isEnabledFor(logging.DEBUG):
        return
    code = grpc.StatusCode.CANCELLED if context.cancelled() else context.code()
    status = code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK.name
    duration_ms = round(1000 * (time.monotonic() - started), 3)
    _log.debug(
        "%s: %s in %.1f ms",
        method_name,
        status,
        duration_ms,
        extra={"method": method_name, "status": status, "duration_ms": duration_ms},
    )

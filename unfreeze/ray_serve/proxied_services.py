"""What Ray Serve's gRPC proxies need of the services: which methods there are.

A proxy forwards the bytes of a message without parsing it, so messages are parsed once, in the replica, by the code of
a server. Calls that fail are ended by `abort`: Ray Serve returns an empty message and sets the status, and gRPC clients
do not retry a call after a message.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from unfreeze.contract.errors import DrainingError, QueueFullError, ServingError
from unfreeze.ray_serve.services import TIMEOUT_METADATA, methods
from unfreeze.serve.protocol.dispatch import Method
from unfreeze.serve.status import INTERNAL_MESSAGE, abort, status_of

_PUSHBACK = "grpc-retry-pushback-ms"
_OK, _INTERNAL, _EXHAUSTED = (
    int(code.value[0]) for code in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED)
)


def add_services(_: object, server: grpc.aio.Server) -> None:
    """Add the services to a proxy's server; the function for `gRPCOptions.grpc_servicer_functions`."""
    server.add_generic_rpc_handlers((_ProxiedServices(),))


class _ProxiedServices(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Finds the handlers of the methods, without deserializers and serializers.

    Ray Serve replaces their functions, which it finds in the attribute `_method_handlers` of gRPC's own class.
    """

    def __init__(self) -> None:
        self._method_handlers = {path: _handler(method) for path, method in methods()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call; None if the method does not exist."""
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        return handler._replace(unary_unary=_unary(handler.unary_unary), stream_stream=_stream(handler.stream_stream))


def _handler(method: Any) -> grpc.RpcMethodHandler:
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(_refused_stream)
    return grpc.unary_unary_rpc_method_handler(_refused)


async def _refused(_: object, context: grpc.aio.ServicerContext) -> None:
    """End a call of a method that Ray Serve does not replace: earlier versions do not know streams of requests."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this version of Ray Serve does not forward this method")


async def _refused_stream(requests: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    await _refused(requests, context)
    yield b""  # makes this a generator


def _unary(method: Method) -> Method:
    async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        response: bytes = await method(request, _ProxyContext(context))
        await _end(context)
        return response

    return handle


def _stream(method: Method) -> Method:
    async def handle(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for response in method(requests, _ProxyContext(context)):
            if _number(context.code()) == _OK:  # a replica ends a stream that fails with an empty message
                yield response
        await _end(context)

    return handle


class _ProxyContext:
    """The context of a call, whose metadata also tells the replica how much time is left."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the metadata of the call."""
        metadata = tuple(self._context.invocation_metadata() or ())
        remaining = self._context.time_remaining()
        return metadata if remaining is None else (*metadata, (TIMEOUT_METADATA, f"{remaining:.3f}"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


async def _end(context: grpc.aio.ServicerContext) -> None:
    """End a call with the status that was set, if that is an error."""
    code = _number(context.code())
    if code == _OK:
        return
    if (error := _own_error(context, code)) is not None:
        await abort(context, status_of(error))
    await context.abort(code, context.details(), context.trailing_metadata())


def _own_error(context: grpc.aio.ServicerContext, code: int) -> ServingError | None:
    """Return our error for one of Ray Serve's own, so that clients know whether to retry."""
    if code == _INTERNAL and context.details() != INTERNAL_MESSAGE:
        return DrainingError("the replica that had this request was lost; retry")
    has_hint = any(key == _PUSHBACK for key, _ in context.trailing_metadata() or ())
    if code == _EXHAUSTED and not has_hint:
        return QueueFullError("all replicas are busy and the queue for them is full")
    return None


def _number(code: Any) -> int:
    return int(code.value[0]) if isinstance(code, grpc.StatusCode) else int(code or 0)

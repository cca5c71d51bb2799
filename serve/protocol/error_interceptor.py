"""Error handling for every service: malformed messages, and exceptions that a service does not handle.

Without it, gRPC would respond to both with UNKNOWN and the text of the Python exception, and would log a traceback for
every malformed message.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.serve.protocol.handlers import Method, wrap_handler
from unfreeze.serve.status import abort

_MALFORMED = "the request cannot be parsed: it is not a valid protobuf message of this method's request type"
_MAX_FIELDS = 100_000
_TOO_MANY_FIELDS = f"the request message has more than {_MAX_FIELDS:,} fields; send fewer images per request"
_MIN_FIELD_BYTES = 2
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Rejects malformed messages, and maps exceptions of the services to a gRPC status.

    Every service method must be a coroutine function or, if it returns a stream, an asynchronous generator.
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
        return wrap_handler(handler, _wrap_unary, _wrap_stream, _safe_deserializer(handler.request_deserializer))


def _safe_deserializer(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return the error instead of raising it, because gRPC would respond to an exception raised here itself."""

    def deserialize_or_error(data: bytes) -> Any:
        try:
            # An empty field takes 2 bytes in a message and some hundred bytes in memory, so a message of 64 MiB could
            # take gigabytes.
            if len(data) > _MIN_FIELD_BYTES * _MAX_FIELDS and _has_too_many_fields(data):
                return InvalidRequestError(_TOO_MANY_FIELDS)
            return deserialize(data)
        except (DecodeError, IndexError):
            return InvalidRequestError(_MALFORMED)

    return deserialize_or_error


def _has_too_many_fields(data: bytes) -> bool:
    """Check the number of top-level fields of a serialized message; nested fields are not counted.

    Raises:
        DecodeError: a varint is longer than 10 bytes.
        IndexError: the message is truncated.
    """
    offset = 0
    for _ in range(_MAX_FIELDS):
        if offset >= len(data):
            return False
        tag, offset = _read_varint(data, offset)
        wire_type = tag & 7
        if wire_type in (_VARINT, _LENGTH_DELIMITED):
            value, offset = _read_varint(data, offset)
            offset += value if wire_type == _LENGTH_DELIMITED else 0
        else:
            offset += {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)  # group start and end tags have no payload
    return offset < len(data)


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Decode a base-128 varint; returns its value and the offset of the next byte."""
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        value |= (data[offset] & 0x7F) << shift
        offset += 1
        if data[offset - 1] < 0x80:  # noqa: PLR2004 - the last byte has no continuation bit
            return value, offset
    raise DecodeError(f"a varint is longer than {_MAX_VARINT_BYTES} bytes")


def _checked(request: Any) -> Any:
    """Return a request, or a stream that checks each of its messages.

    Raises:
        InvalidRequestError: the message is malformed.
    """
    if isinstance(request, InvalidRequestError):
        raise request
    return _checked_stream(request) if hasattr(request, "__aiter__") else request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _wrap_unary(method: Method) -> Method:
    async def handle(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await method(_checked(request), context)
        except (grpc.aio.AbortError, grpc.aio.InternalError):  # gRPC has already ended the call
            raise
        except Exception as error:  # noqa: BLE001 - no exception may reach the caller as a traceback
            await abort(context, error)

    return handle


def _wrap_stream(method: Method) -> Method:
    async def handle(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            async for response in method(_checked(request), context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            await abort(context, error)

    return handle

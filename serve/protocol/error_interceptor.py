"""What stands between the wire and every service: messages that cannot be read, and failures that no service has met.

gRPC itself would answer both with UNKNOWN and Python's own words, and log a trace for every broken message.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.serve.protocol.handlers import Behavior, wrapped
from unfreeze.serve.status import refuse

_UNREADABLE = "the message cannot be read; it is no serialized message of the type that this method takes"
_MOST_FIELDS = 100_000
_TOO_MANY = f"the message holds more than {_MOST_FIELDS:,} fields; send fewer images at a time"
_LEAST_BYTES = 2  # of a field
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST_VARINT = 10


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Lets services see only messages that can be read; refuses others, and whatever a service let through.

    Every method of the services is a coroutine function or, where it answers a stream, an asynchronous generator.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Wrap the method that was called.

        Args:
            continuation: finds it.
            handler_call_details: its name.

        Returns:
            What answers the call; None where there is no such method.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return wrapped(handler, _one, _many, _reader(handler.request_deserializer))


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Read a message, or give the error in its place: gRPC would answer what is raised here by itself."""

    def read(data: bytes) -> Any:
        try:
            # Two bytes of an empty field become some hundred in memory: a message of 64 MiB would take gigabytes.
            if len(data) > _LEAST_BYTES * _MOST_FIELDS and _has_too_many_fields(data):
                return InvalidRequestError(_TOO_MANY)
            return deserialize(data)
        except (DecodeError, IndexError):
            return InvalidRequestError(_UNREADABLE)

    return read


def _has_too_many_fields(data: bytes) -> bool:
    """Count a message's own fields, not those of what it holds; DecodeError or IndexError where it cannot be."""
    at = 0
    for _ in range(_MOST_FIELDS):
        if at >= len(data):
            return False
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind in (_VARINT, _LENGTH):
            value, at = _varint(data, at)
            at += value if kind == _LENGTH else 0
        else:
            at += {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind, 0)  # a group's begin and end have no content
    return at < len(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number, seven bits a byte, the lowest first; gives where the next byte stands."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:  # noqa: PLR2004 - the last one has no eighth bit
            return value, at
    raise DecodeError("a number that does not end")


def _readable(request: Any) -> Any:
    """Give a message, or each of a stream's; raises where it cannot be read."""
    if isinstance(request, InvalidRequestError):
        raise request
    return _each_readable(request) if hasattr(request, "__aiter__") else request


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _one(behave: Behavior) -> Behavior:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await behave(_readable(request), context)
        except (grpc.aio.AbortError, grpc.aio.InternalError):  # gRPC has ended the call itself
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets no trace of it
            await refuse(context, error)

    return answer


def _many(behave: Behavior) -> Behavior:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            async for response in behave(_readable(request), context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            await refuse(context, error)

    return answer

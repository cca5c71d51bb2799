"""Request IDs: each request has an ID, sent by the client or generated, that is added to its log lines."""

import logging
import random
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from typing import Any

import grpc

from unfreeze.serve.protocol.deserializing import SplitMessage
from unfreeze.serve.status import RpcStatus
from unfreeze.serve.traffic.routing import keep_sticky_header

HEADER = "x-request-id"
request_id: ContextVar[str] = ContextVar("request_id", default="")

_MAX_LENGTH = 128
_DISALLOWED = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_log = logging.getLogger(__name__)


def assign_id(context: grpc.aio.ServicerContext, request: object = None) -> bool:
    """Set the ID of a call, and return it to the caller in the trailing metadata.

    It is the metadata `x-request-id`, else the `id` of an Open Inference Protocol message, else a random one. The key
    of a caller that wants to stay with one version of a model is kept too.

    Args:
        context: the call.
        request: its message, if it has been received.

    Returns:
        Whether the client sent the ID.
    """
    metadata = context.invocation_metadata()
    keep_sticky_header(metadata)
    sent = id_from_metadata(metadata) or _message_id(request)
    assigned = sent or f"{random.getrandbits(64):016x}"
    request_id.set(assigned)
    context.set_trailing_metadata(((HEADER, assigned),))
    return bool(sent)


async def with_message_ids(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Pass on the messages of a stream; log lines about a message with its own `id` have that ID."""
    stream_id = request_id.get()
    async for request in requests:
        request_id.set(_message_id(request) or stream_id)  # for the task that reads and the tasks it starts next
        yield request


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


def _message_id(message: object) -> str:
    message_id = getattr(message.message if isinstance(message, SplitMessage) else message, "id", "")
    return _sanitize(message_id) if message_id and isinstance(message_id, str) else ""


def _sanitize(text: str) -> str:
    return _DISALLOWED.sub("_", text[:_MAX_LENGTH])


def log_request(method_name: str, context: grpc.aio.ServicerContext, started: float, status: RpcStatus | None) -> None:
    """Log a call at level debug when it ends.

    Args:
        method_name: full name of the method.
        context: the call.
        started: when it began, on the clock of `time.monotonic`.
        status: that it will be ended with; None if it did not fail.
    """
    if not _log.isEnabledFor(logging.DEBUG):
        return
    code = grpc.StatusCode.CANCELLED if context.cancelled() else context.code()
    code = code if status is None else status.code
    name = code.name if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK.name
    duration_ms = round(1000 * (time.monotonic() - started), 3)
    _log.debug(
        "%s: %s in %.1f ms",
        method_name,
        name,
        duration_ms,
        extra={"method": method_name, "status": name, "duration_ms": duration_ms},
    )

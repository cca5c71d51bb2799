"""Which gRPC status each error of ours is: the one table of the server's refusals."""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from unfreeze.contract.errors import (
    DeadlineError,
    DrainingError,
    ForbiddenError,
    ImageError,
    InvalidRequestError,
    ModelUnavailableError,
    QueueFullError,
    UnfreezeError,
    UnknownModelError,
)

STATUS: dict[type[UnfreezeError], grpc.StatusCode] = {
    ImageError: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    DrainingError: grpc.StatusCode.UNAVAILABLE,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    ModelUnavailableError: grpc.StatusCode.FAILED_PRECONDITION,
}
_AGAIN_S = 0.1
_RETRYABLE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
_INTERNAL = "the server failed; its log says why"
_log = logging.getLogger(__name__)
REFUSED = Counter({status.name: 0 for status in (*STATUS.values(), grpc.StatusCode.INTERNAL)})  # by this process


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a caller is told.

    Args:
        status: gRPC's.
        message: with no trace of this machine.
        retry_s: when to try again, in seconds; None where that would not help.
    """

    status: grpc.StatusCode
    message: str
    retry_s: float | None = None

    @property
    def code(self) -> int:
        """The status's number on the wire."""
        return int(self.status.value[0])

    @property
    def trailing(self) -> tuple[tuple[str, str | bytes], ...]:
        """GRPC's own hint, which its clients follow when they retry, and google.rpc.RetryInfo, for people's."""
        if self.retry_s is None:
            return ()
        detail = Any()
        detail.Pack(RetryInfo(retry_delay=Duration(nanos=int(1e9 * self.retry_s))))
        status = Status(code=self.code, message=self.message, details=[detail])
        return (
            ("grpc-retry-pushback-ms", str(int(1000 * self.retry_s))),
            ("grpc-status-details-bin", status.SerializeToString()),
        )


def refusal_of(error: BaseException) -> Refusal:
    """Say what a caller is told of an error, and count it; what is our fault is logged whole and told bare."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), None)
    REFUSED[(status or grpc.StatusCode.INTERNAL).name] += 1
    if status is None:
        _log.error("a request failed for a reason of ours", exc_info=error)
        return Refusal(status=grpc.StatusCode.INTERNAL, message=_INTERNAL)
    _log.debug("refused with %s: %s", status.name, error)
    retry_s = error.retry_s if isinstance(error, QueueFullError) else _AGAIN_S if status in _RETRYABLE else None
    return Refusal(status=status, message=str(error), retry_s=retry_s)


async def refuse(context: grpc.aio.ServicerContext, error: Exception) -> None:
    """End a call with what `refusal_of` says; never returns.

    Args:
        context: of the call.
        error: why.
    """
    refusal = refusal_of(error)
    try:
        await context.abort(refusal.status, refusal.message, (*context.trailing_metadata(), *refusal.trailing))
    except grpc.aio.InternalError:  # gRPC has ended the call itself, as one whose message is too large
        raise asyncio.CancelledError from None


def deadline_of(context: grpc.aio.ServicerContext, timeout_us: int = 0) -> float | None:
    """Say when the caller stops waiting, on `time.monotonic`'s clock; None where it waits for ever.

    Args:
        context: of the call.
        timeout_us: of the request itself, in microseconds; 0 for none.
    """
    remaining = context.time_remaining()
    limits = [float(remaining)] if remaining is not None else []
    limits += [timeout_us / 1e6] if timeout_us else []
    return time.monotonic() + min(limits) if limits else None

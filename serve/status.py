"""The one table that maps errors to gRPC status, and how a call is ended with one."""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import NoReturn

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
    RegionExistsError,
    RestartingError,
    UnfreezeError,
    UnknownModelError,
    UnknownRegionError,
    UnsupportedRequestError,
)

STATUS: dict[type[UnfreezeError], grpc.StatusCode] = {
    ImageError: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    UnknownRegionError: grpc.StatusCode.NOT_FOUND,
    RegionExistsError: grpc.StatusCode.ALREADY_EXISTS,
    UnsupportedRequestError: grpc.StatusCode.UNIMPLEMENTED,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    DrainingError: grpc.StatusCode.UNAVAILABLE,
    RestartingError: grpc.StatusCode.UNAVAILABLE,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    ModelUnavailableError: grpc.StatusCode.FAILED_PRECONDITION,
}
_RETRY_S = 0.1
_RETRYABLE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
INTERNAL_MESSAGE = "internal error; see the server's log"
_log = logging.getLogger(__name__)
# Failed requests of this process, by the name of their status.
ERRORS_BY_STATUS = Counter({code.name: 0 for code in (*STATUS.values(), grpc.StatusCode.INTERNAL)})


@dataclass(frozen=True, kw_only=True)
class RpcStatus:
    """The status that a failed call is ended with.

    Args:
        code: gRPC status code.
        message: message for the caller, without paths or other details of the server.
        retry_s: seconds after which a retry may succeed; None if a retry would not help.
    """

    code: grpc.StatusCode
    message: str
    retry_s: float | None = None

    @property
    def number(self) -> int:
        """The numeric status code."""
        return int(self.code.value[0])

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The retry hint in both standard forms.

        `grpc-retry-pushback-ms` is read by gRPC's own retries, `google.rpc.RetryInfo` by applications.
        """
        if self.retry_s is None:
            return ()
        delay, detail = Duration(), Any()
        delay.FromNanoseconds(int(1e9 * self.retry_s))
        detail.Pack(RetryInfo(retry_delay=delay))
        status = Status(code=self.number, message=self.message, details=[detail])
        return (
            ("grpc-retry-pushback-ms", str(int(1000 * self.retry_s))),
            ("grpc-status-details-bin", status.SerializeToString()),
        )


def status_of(error: BaseException) -> RpcStatus:
    """Map an error to a status, and count it.

    Errors that are not in the table are logged with their traceback and reported as a bare INTERNAL.
    """
    code = next((code for kind, code in STATUS.items() if isinstance(error, kind)), None)
    ERRORS_BY_STATUS[(code or grpc.StatusCode.INTERNAL).name] += 1
    if code is None:
        _log.error("unexpected error in a request", exc_info=error)
        return RpcStatus(code=grpc.StatusCode.INTERNAL, message=INTERNAL_MESSAGE)
    _log.debug("request failed with %s: %s", code.name, error)
    retry_s = error.retry_s if isinstance(error, QueueFullError) else _RETRY_S if code in _RETRYABLE else None
    return RpcStatus(code=code, message=str(error), retry_s=retry_s)


async def abort(context: grpc.aio.ServicerContext, status: RpcStatus) -> NoReturn:
    """End a call with the status of an error; never returns.

    Call it after the error was handled: gRPC keeps the exception that ends the call, and with it an error that is still
    being handled, and everything that its frames refer to.

    Args:
        context: the call.
        status: of the error.
    """
    try:
        await context.abort(status.code, status.message, (*context.trailing_metadata(), *status.trailing_metadata))
        raise AssertionError("a call was not ended")
    except grpc.aio.InternalError:  # gRPC has already ended the call, for example because its message is too large
        raise asyncio.CancelledError from None


def deadline_of(context: grpc.aio.ServicerContext, timeout_us: int = 0) -> float | None:
    """Compute a call's deadline on the clock of `time.monotonic`; None without one.

    Args:
        context: the call.
        timeout_us: the timeout in the request itself, in microseconds; 0 for none.
    """
    remaining = context.time_remaining()
    limits = [float(remaining)] if remaining is not None else []
    limits += [timeout_us / 1e6] if timeout_us else []
    return time.monotonic() + min(limits) if limits else None

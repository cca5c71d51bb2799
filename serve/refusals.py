"""Which gRPC status each error of ours is: the one table of the server's refusals."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from contract.errors import (
    DeadlineError,
    DrainingError,
    InvalidRequestError,
    PictureError,
    QueueFullError,
    UnfreezeError,
    UnknownModelError,
)

STATUS: dict[type[UnfreezeError], grpc.StatusCode] = {
    PictureError: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    DrainingError: grpc.StatusCode.UNAVAILABLE,
}
_log = logging.getLogger(__name__)


@asynccontextmanager
async def refusing(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Answer errors of ours with their status and text, and any other as a bare INTERNAL, logged whole.

    Args:
        context: of the call that the body answers.
    """
    try:
        yield
    except UnfreezeError as error:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), None)
        if status is None:
            await _internal(context)
        else:
            await context.abort(status, str(error))
    except grpc.aio.AbortError:
        raise
    except Exception:  # noqa: BLE001 - a server answers whatever happens
        await _internal(context)


def deadline_of(context: grpc.aio.ServicerContext) -> float | None:
    """Say when the caller stops waiting, on `time.monotonic`'s clock; None where it waits for ever."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + float(remaining)


async def _internal(context: grpc.aio.ServicerContext) -> None:
    _log.exception("a request failed for a reason of ours")
    await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why")

"""The context of a call in a replica."""

import time
from collections.abc import Sequence
from typing import NoReturn

import grpc
from ray.serve.grpc_util import RayServegRPCContext

from unfreeze.ray_serve.services import TIMEOUT_METADATA

_Metadata = Sequence[tuple[str, str | bytes]]


class CallContext:
    """What the services use of a `grpc.aio.ServicerContext`.

    Args:
        context: Ray Serve's context, which carries the status to the proxy.
    """

    def __init__(self, context: RayServegRPCContext) -> None:
        self._context = context
        found = [value for key, value in context.invocation_metadata() if key == TIMEOUT_METADATA]
        self._deadline = time.monotonic() + float(found[-1]) if found else None

    def time_remaining(self) -> float | None:
        """Return the seconds until the call's deadline, from the moment at which the proxy forwarded it."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def invocation_metadata(self) -> _Metadata:
        """Return the metadata of the call."""
        return tuple(self._context.invocation_metadata())

    def set_trailing_metadata(self, _: _Metadata) -> None:
        """Do nothing: Ray Serve itself keeps its request ID in the trailing metadata."""

    def trailing_metadata(self) -> _Metadata:
        """Return nothing: Ray Serve itself keeps its request ID in the trailing metadata."""
        return ()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: _Metadata = ()) -> NoReturn:
        """End the call with a status.

        Raises:
            AbortError: always, as gRPC's own context does.
        """
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailing_metadata))
        raise grpc.aio.AbortError

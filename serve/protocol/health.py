"""`grpc.health.v1`: Check and Watch, for the server and for each service and model.

grpcio's own servicer never ends a watch, so that one watcher holds a server that is going down until its grace is
over, and it forgets the other watchers of a service when one of them leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthServicer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(HealthServicer):  # type: ignore[misc]  # grpcio-health-checking has no types
    """Answers `grpc.health.v1.Health`; use it in the event loop that it serves in."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._closing = False

    def set_serving(self, services: Iterable[str]) -> None:
        """Say SERVING of these, and NOT_SERVING of those before them; the empty name stands for the server."""
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING) | dict.fromkeys(services, SERVING)
        self._tell()

    def close(self) -> None:
        """Say NOT_SERVING of everything, then end all watches."""
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._closing = True
        self._tell()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or model {request.service!r:.200}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told: int | None = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, UNKNOWN)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if self._closing:
                return
            await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

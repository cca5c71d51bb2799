"""The gRPC health checking protocol `grpc.health.v1`: Check and Watch for the server and for each service and model.

It replaces grpcio's own servicer, which never ends a watch, so that one watching client delays the shutdown until the
drain timeout; and which forgets all other watchers of a service when one of them disconnects.
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
    """Implements `grpc.health.v1.Health`; not thread-safe, use it in the server's event loop only."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._closing = False

    def set_serving(self, services: Iterable[str]) -> None:
        """Set these services to SERVING and all others to NOT_SERVING.

        Args:
            services: names of services and models; the empty name stands for the whole server.
        """
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING) | dict.fromkeys(services, SERVING)
        self._notify_watchers()

    def close(self) -> None:
        """Set all services to NOT_SERVING, then end all watches."""
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._closing = True
        self._notify_watchers()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service or model {request.service!r:.200}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last_sent: int | None = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, UNKNOWN)
            if status != last_sent:
                yield health_pb2.HealthCheckResponse(status=status)
                last_sent = status
            if self._closing:
                return
            await changed.wait()

    def _notify_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

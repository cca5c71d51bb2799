"""A server with a failing service: logs in JSON, and prints the status that its client receives."""

import asyncio
import json

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthServicer, HealthStub, add_HealthServicer_to_server

from unfreeze.serve.observability.logs import LogOptions, start_logging
from unfreeze.serve.protocol.dispatch import Dispatcher


class _Failing(HealthServicer):  # type: ignore[misc]  # grpcio-health-checking has no types
    async def Check(self, _request: object, _context: grpc.aio.ServicerContext) -> None:  # noqa: N802
        raise ZeroDivisionError("division in a service")


async def _call() -> None:
    dispatcher = Dispatcher()
    add_HealthServicer_to_server(_Failing(), dispatcher)
    server = grpc.aio.server(handlers=[dispatcher])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await HealthStub(channel).Check(HealthCheckRequest(), metadata=(("x-request-id", "failing-request"),))
        except grpc.aio.AioRpcError as error:
            print(json.dumps([error.code().name, error.details(), dict(error.trailing_metadata())]))  # noqa: T201
    await server.stop(0)


start_logging(LogOptions(log_format="json"))
asyncio.run(_call())

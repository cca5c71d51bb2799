"""A replica: the models of a repository and the services of a server, called by Ray Serve."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import ray
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.metrics import Counter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from unfreeze.contract.cores import limit_cores
from unfreeze.contract.errors import ModelUnavailableError
from unfreeze.ray_serve.call_context import CallContext
from unfreeze.ray_serve.handlers import Handlers, wrapped_handlers
from unfreeze.ray_serve.services import methods
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.models.watching import watch_repository
from unfreeze.serve.options import ServeOptions


class ClassifierReplica:
    """Answers the calls that a proxy forwards; has a method for each method of the services.

    Args:
        options: what to load, and how.

    Raises:
        RepositoryError: the repository has no models.
        ModelError: none of the models can be loaded.
    """

    async def __init__(self, options: ServeOptions) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        _log_to_serve()
        if cores := ray.get_runtime_context().get_assigned_resources().get("CPU"):
            limit_cores(cores)
        self._models = ModelRegistry(options)
        await self._models.open()
        self._handlers: Handlers = wrapped_handlers(self._models)
        self._errors = Counter("unfreeze_request_errors", description="Failed requests.", tag_keys=("status",))
        watching = watch_repository(self._models, options.poll_s)
        self._watcher = asyncio.create_task(watching) if options.poll_s else None

    async def __call__(self, _: Request) -> Response:
        """Answer HTTP, for which Ray Serve reserves a route."""
        return PlainTextResponse("this application answers gRPC only, on the port of grpc_options\n", status_code=404)

    def check_health(self) -> None:
        """Tell Ray Serve whether this replica can answer; it replaces one that cannot.

        Raises:
            ModelUnavailableError: no model is loaded.
        """
        if not self._models.names:
            raise ModelUnavailableError("no model is loaded: the repository has none that can be loaded")

    async def _answer(self, path: str, request: bytes, grpc_context: RayServegRPCContext) -> Message:
        """Answer a unary call; one that fails gets an empty message, and its status in the context.

        Ray Serve would log an exception with its traceback, and would not forward the hint when to retry.
        """
        handler = self._handlers[path]
        try:
            parsed = handler.request_deserializer(request)
            response: Message = await handler.unary_unary(parsed, CallContext(grpc_context))
        except grpc.aio.AbortError:
            return self._failed(grpc_context)
        return response

    async def _answer_stream(
        self, path: str, requests: AsyncIterator[bytes], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[Message]:
        """Answer a stream; one that fails ends with an empty message, which the proxy drops, and its status."""
        handler = self._handlers[path]
        parsed = (handler.request_deserializer(request) async for request in requests)
        try:
            async for response in handler.stream_stream(parsed, CallContext(grpc_context)):
                yield response
        except grpc.aio.AbortError:
            yield self._failed(grpc_context)

    def _failed(self, grpc_context: RayServegRPCContext) -> Message:
        self._errors.inc(tags={"status": grpc_context.code().name})
        return Empty()


def _unary(path: str) -> Callable[..., Any]:
    async def answer(self: ClassifierReplica, request: bytes, grpc_context: RayServegRPCContext) -> Message:
        return await self._answer(path, request, grpc_context)

    return answer


def _stream(path: str) -> Callable[..., Any]:
    async def answer(
        self: ClassifierReplica, requests: AsyncIterator[bytes], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[Message]:
        async for response in self._answer_stream(path, requests, grpc_context):
            yield response

    return answer


for _path, _method in methods():
    setattr(ClassifierReplica, _method.name, (_stream if _method.client_streaming else _unary)(_path))


def _log_to_serve() -> None:
    """Write our log events where Ray Serve writes its own."""
    ours = logging.getLogger("unfreeze")
    ours.setLevel(logging.INFO)
    for handler in logging.getLogger("ray.serve").handlers:
        ours.addHandler(handler)

"""Refusing before a request is received: under overload, reading what will be refused takes the time of the rest."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from unfreeze.contract.errors import DrainingError, InvalidRequestError
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.handlers import Behavior
from unfreeze.serve.status import deadline_of

_METHODS = frozenset({"/inference.GRPCInferenceService/ModelInfer", "/unfreeze.v1.Classifier/Predict"})


class EarlyRejectionInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Refuses calls that no model has room or time for, by their deadline alone; their messages are never read.

    While something waits, a call of one message is served as gRPC serves a stream: its method runs first, and reads the
    message when it wants it. What a call asks for is known only then, so one is refused here only where not a single
    model could take one image more, at the usual priority. A server that is going down turns all of them away so.

    Args:
        models: what is served.
    """

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models
        self.draining = False
        self.turned_away = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Put the check before methods that take images.

        Args:
            continuation: finds the method.
            handler_call_details: its name.
        """
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in _METHODS:
            return handler
        if not self.draining and not self._models.are_busy():
            return handler
        return grpc.stream_unary_rpc_method_handler(
            self._checked(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _checked(self, behave: Behavior) -> Behavior:
        async def answer(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
            if self.draining:
                self.turned_away += 1
                raise DrainingError("the server is shutting down; ask another one")
            await asyncio.sleep(0)  # who gives a call up and asks again at once finds its room free
            self._models.check_room(deadline_of(context))
            async for request in requests:
                return await behave(request, context)
            if context.done():
                raise asyncio.CancelledError  # its message was too large, or its caller is gone
            raise InvalidRequestError("the call holds no message")

        return answer

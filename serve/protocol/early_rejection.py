"""Load shedding before a request is received: under overload, reading requests that are rejected wastes CPU time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from unfreeze.contract.errors import DrainingError, InvalidRequestError
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.handlers import Method
from unfreeze.serve.status import deadline_of

_METHODS = frozenset({"/inference.GRPCInferenceService/ModelInfer", "/unfreeze.v1.Classifier/Predict"})


class EarlyRejectionInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Rejects inference calls that no model can accept or finish in time, without reading their messages.

    While requests are queued, unary inference calls are handled as client streams: gRPC then starts the method before
    it receives the message. The requested model and priority are in the message and so not yet known. Therefore a
    call is rejected only if no model could accept one more image at the default priority before the call's deadline.
    A server that is shutting down rejects all inference calls here.

    Args:
        models: the served models.
    """

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models
        self.draining = False
        self.rejected_calls = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Add the check to inference methods while the server is busy or shutting down.

        Args:
            continuation: looks up the handler.
            handler_call_details: method name and metadata of the call.

        Returns:
            The handler, or None if the method does not exist.
        """
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in _METHODS:
            return handler
        if not self.draining and not self._models.are_busy():
            return handler
        return grpc.stream_unary_rpc_method_handler(
            self._check_before_reading(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _check_before_reading(self, method: Method) -> Method:
        async def handle(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
            if self.draining:
                self.rejected_calls += 1
                raise DrainingError("the server is shutting down; retry on another server")
            await asyncio.sleep(0)  # lets cancelled calls release their queue slots before the check
            self._models.check_capacity(deadline_of(context))
            async for request in requests:
                return await method(request, context)
            if context.done():
                raise asyncio.CancelledError  # the message exceeded the size limit, or the caller has disconnected
            raise InvalidRequestError("the call has no request message")

        return handle

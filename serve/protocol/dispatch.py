"""The handlers of all RPC methods: every call passes one of four functions here, whatever its service.

They replace gRPC's interceptors, each of which creates several objects and coroutines for every call.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.protos import open_inference_pb2, unfreeze_pb2
from unfreeze.serve.protocol.deserializing import safe_deserializer
from unfreeze.serve.protocol.receiving import INFERENCE_METHODS, Receiver
from unfreeze.serve.protocol.request_ids import assign_id, log_request, with_message_ids
from unfreeze.serve.security.auth import Authentication
from unfreeze.serve.status import abort, status_of

Method: TypeAlias = Callable[[Any, grpc.aio.ServicerContext], Any]
_RAW_CONTENTS = open_inference_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_IMAGES = unfreeze_pb2.PredictRequest.IMAGES_FIELD_NUMBER
_SPLIT_FIELDS = {
    "/inference.GRPCInferenceService/ModelInfer": _RAW_CONTENTS,
    "/inference.GRPCInferenceService/ModelStreamInfer": _RAW_CONTENTS,
    "/unfreeze.v1.Classifier/Predict": _IMAGES,
    "/unfreeze.v1.Classifier/PredictStream": _IMAGES,
}
_ENDED = (grpc.aio.AbortError, grpc.aio.InternalError)  # gRPC has already ended the call


class Dispatcher(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Finds the handler of a call, and rejects calls without a valid token.

    Generated functions such as `add_ClassifierServicer_to_server` take it as their server. Every service method must be
    a coroutine function or, if it returns a stream, an asynchronous generator. Errors that it raises are mapped to a
    gRPC status, malformed messages are rejected, and the call gets a request ID.

    Args:
        receiver: receives the messages of unary inference calls; None leaves it to gRPC.
        authentication: checks tokens; None accepts every call.

    Attributes:
        handlers: the wrapped handler of each method, by the method's path.
    """

    def __init__(self, receiver: Receiver | None = None, authentication: Authentication | None = None) -> None:
        self._receiver, self._authentication = receiver, authentication
        self.handlers: dict[str, grpc.RpcMethodHandler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Do nothing: `add_registered_method_handlers` adds the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Add the methods of a service.

        Args:
            service: its full name.
            handlers: by name of the method.
        """
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self.handlers[method] = self._wrapped(method, handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call; None if the method does not exist."""
        if rejection := self._rejection(handler_call_details):
            return _rejecting(rejection)
        return self.handlers.get(handler_call_details.method)

    def accepts(self, handler_call_details: grpc.HandlerCallDetails) -> bool:
        """Return whether a call has a valid token, or needs none."""
        return not self._rejection(handler_call_details)

    def _rejection(self, details: grpc.HandlerCallDetails) -> str:
        if self._authentication is None:
            return ""
        return self._authentication.rejection(details.method, details.invocation_metadata)

    def _wrapped(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        deserializer = safe_deserializer(handler.request_deserializer, _SPLIT_FIELDS.get(method))
        serializer = handler.response_serializer
        if handler.unary_unary is None:
            if handler.stream_stream is None:
                function = _unary_stream(method, handler.unary_stream)
                return grpc.unary_stream_rpc_method_handler(function, deserializer, serializer)
            function = _stream_stream(method, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(function, deserializer, serializer)
        if self._receiver is not None and method in INFERENCE_METHODS:
            function = _received_unary(method, handler.unary_unary, self._receiver)
            return grpc.stream_unary_rpc_method_handler(function, deserializer, serializer)
        return grpc.unary_unary_rpc_method_handler(_unary(method, handler.unary_unary), deserializer, serializer)


def _received_unary(method: str, function: Method, receiver: Receiver) -> Method:
    """Handle a unary call that gRPC handles as a client stream."""

    async def handle(_requests: object, context: grpc.aio.ServicerContext) -> Any:
        started, status = time.monotonic(), None
        has_id = assign_id(context)
        request = None
        try:
            request = _checked(await receiver.receive(context))
            if not has_id:
                assign_id(context, request)
            return await function(request, context)
        except _ENDED:
            raise
        except Exception as error:  # noqa: BLE001 - no exception may reach the caller as a traceback
            status = status_of(error)
        finally:
            del request  # gRPC keeps the exception that ends the call, which refers to this frame
            log_request(method, context, started, status)
        return await abort(context, status)

    return handle


def _unary(method: str, function: Method) -> Method:
    async def handle(request: Any, context: grpc.aio.ServicerContext) -> Any:
        started, status = time.monotonic(), None
        assign_id(context, request)
        try:
            return await function(_checked(request), context)
        except _ENDED:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            status = status_of(error)
        finally:
            del request  # as above
            log_request(method, context, started, status)
        return await abort(context, status)

    return handle


def _unary_stream(method: str, function: Method) -> Method:
    async def handle(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        started, status = time.monotonic(), None
        assign_id(context, request)
        try:
            async for response in function(_checked(request), context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            status = status_of(error)
        else:
            return
        finally:
            log_request(method, context, started, status)
        await abort(context, status)

    return handle


def _stream_stream(method: str, function: Method) -> Method:
    async def handle(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        started, status = time.monotonic(), None
        assign_id(context)
        try:
            async for response in function(_checked_stream(with_message_ids(requests)), context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            status = status_of(error)
        else:
            return
        finally:
            log_request(method, context, started, status)
        await abort(context, status)

    return handle


def _rejecting(message: str) -> grpc.RpcMethodHandler:
    async def reject(_requests: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        assign_id(context)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message, context.trailing_metadata())
        yield b""  # unreachable; makes this function a generator

    # A stream handler, also for unary methods, because it does not wait for the request message.
    return grpc.stream_stream_rpc_method_handler(reject)


def _checked(request: Any) -> Any:
    """Return a request.

    Raises:
        InvalidRequestError: the message is malformed.
    """
    if isinstance(request, InvalidRequestError):
        raise request
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)

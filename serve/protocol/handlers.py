"""Wrap RPC method handlers, whether requests and responses are single messages or streams."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

Method: TypeAlias = Callable[[Any, grpc.aio.ServicerContext], Any]
_Wrapper: TypeAlias = Callable[[Method], Method]


def wrap_handler(
    handler: grpc.RpcMethodHandler,
    wrap_unary: _Wrapper,
    wrap_stream: _Wrapper,
    deserializer: Callable[[bytes], Any] | None,
) -> grpc.RpcMethodHandler:
    """Replace the method of a handler with a wrapped one.

    Args:
        handler: handler to wrap.
        wrap_unary: wraps a method that returns one response.
        wrap_stream: wraps a method that returns a stream of responses.
        deserializer: parses request messages.

    Returns:
        A handler of the same cardinality.
    """
    serializer = handler.response_serializer
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(wrap_unary(handler.unary_unary), deserializer, serializer)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(wrap_stream(handler.unary_stream), deserializer, serializer)
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(wrap_unary(handler.stream_unary), deserializer, serializer)
    return grpc.stream_stream_rpc_method_handler(wrap_stream(handler.stream_stream), deserializer, serializer)

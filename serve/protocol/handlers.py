"""Wrap a method of gRPC, whatever of it is a stream."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

Behavior: TypeAlias = Callable[[Any, grpc.aio.ServicerContext], Any]
_Wrap: TypeAlias = Callable[[Behavior], Behavior]


def wrapped(
    handler: grpc.RpcMethodHandler, one: _Wrap, many: _Wrap, read: Callable[[bytes], Any] | None
) -> grpc.RpcMethodHandler:
    """Put something around a method.

    Args:
        handler: the method.
        one: wraps what answers with one message.
        many: wraps what answers with a stream.
        read: reads a message.
    """
    write = handler.response_serializer
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(one(handler.unary_unary), read, write)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(many(handler.unary_stream), read, write)
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(one(handler.stream_unary), read, write)
    return grpc.stream_stream_rpc_method_handler(many(handler.stream_stream), read, write)

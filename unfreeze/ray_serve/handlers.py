"""The handlers of the services, as a server wraps them: malformed messages and errors get the same status."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TypeAlias

import grpc

from unfreeze.protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from unfreeze.protos.unfreeze_pb2_grpc import add_ClassifierServicer_to_server
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.classifier import ClassifierService
from unfreeze.serve.protocol.error_interceptor import ErrorInterceptor
from unfreeze.serve.protocol.open_inference import InferenceService

Handlers: TypeAlias = Mapping[str, grpc.RpcMethodHandler]


async def wrapped_handlers(models: ModelRegistry) -> Handlers:
    """Return the handler of each method, by the method's path.

    Args:
        models: the served models.
    """
    collected = _CollectingServer()
    add_ClassifierServicer_to_server(ClassifierService(models), collected)
    add_GRPCInferenceServiceServicer_to_server(InferenceService(models, admin=False), collected)
    interceptor = ErrorInterceptor()
    wrapped = {}
    for path, handler in collected.handlers.items():

        async def find(_: object, handler: grpc.RpcMethodHandler = handler) -> grpc.RpcMethodHandler:
            return handler

        details = SimpleNamespace(method=path, invocation_metadata=())
        wrapped[path] = await interceptor.intercept_service(find, details)
    return wrapped


class _CollectingServer:
    """Stands in for a server, for the functions that add services to one."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore the handlers, which are also registered by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Keep the handlers of a service."""
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

"""The handlers of the services, as a server wraps them: malformed messages and errors get the same status."""

from collections.abc import Mapping
from typing import TypeAlias

import grpc

from unfreeze.protos.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from unfreeze.protos.unfreeze_pb2_grpc import add_ClassifierServicer_to_server
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.classifier import ClassifierService
from unfreeze.serve.protocol.dispatch import Dispatcher
from unfreeze.serve.protocol.open_inference import InferenceService
from unfreeze.serve.protocol.shared_memory import SharedMemoryRegions
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget

Handlers: TypeAlias = Mapping[str, grpc.RpcMethodHandler]


def wrapped_handlers(models: ModelRegistry) -> Handlers:
    """Return the handler of each method, by the method's path.

    Args:
        models: the served models.
    """
    dispatcher = Dispatcher()
    add_ClassifierServicer_to_server(ClassifierService(models), dispatcher)
    add_GRPCInferenceServiceServicer_to_server(
        InferenceService(models, SharedMemoryRegions(None, 0, ReceiveBudget(0)), admin=False), dispatcher
    )
    return dispatcher.handlers

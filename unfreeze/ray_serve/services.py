"""The gRPC services that an application answers."""

from collections.abc import Iterator
from typing import Any

from unfreeze.protos import open_inference_pb2, unfreeze_pb2

TIMEOUT_METADATA = "unfreeze-timeout-s"  # a proxy's call to a replica has no deadline of its own
_SERVICES = (
    unfreeze_pb2.DESCRIPTOR.services_by_name["Classifier"],
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
)


def methods() -> Iterator[tuple[str, Any]]:
    """Yield the path of each method and its descriptor; Ray Serve finds methods by their last name, which is unique."""
    for service in _SERVICES:
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", method

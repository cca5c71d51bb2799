"""Server reflection: describes every service to tools that have no .proto files."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from unfreeze.protos import open_inference_pb2, unfreeze_pb2

_FILES = (open_inference_pb2, unfreeze_pb2, health_pb2, reflection_pb2)


def service_names() -> tuple[str, ...]:
    """Return the full names of all services of the server."""
    return tuple(service.full_name for file in _FILES for service in file.DESCRIPTOR.services_by_name.values())


def reflection_service() -> reflection_pb2_grpc.ServerReflectionServicer:
    """Return the reflection service."""
    return reflection.aio.ReflectionServicer(service_names(), pool=_merged_pool())


def _merged_pool() -> Any:  # protobuf's C implementation has a descriptor pool of another class
    """Copy the descriptors into one pool, because the generated modules register them in different ones."""
    pool = DescriptorPool()
    for file in _FILES:
        for descriptor in _with_dependencies(file.DESCRIPTOR):
            pool.AddSerializedFile(descriptor.serialized_pb)
    return pool


def _with_dependencies(file: Any) -> Iterator[Any]:
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency)
    yield file

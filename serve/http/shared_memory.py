"""The handlers of shared memory: Triton's extension, as `tritonclient.http` uses it."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.http.bodies import BodyLimits, read_document
from unfreeze.serve.http.json_messages import to_json
from unfreeze.serve.protocol.open_inference import InferenceService

_UINT64 = 2**64


class SharedMemoryHandlers:
    """The handlers of shared memory.

    Args:
        inference: the service that answers the same calls over gRPC.
        limits: of the bodies of requests.
    """

    def __init__(self, inference: InferenceService, limits: BodyLimits) -> None:
        self._inference, self._limits = inference, limits

    async def status(self, request: Request) -> Response:
        """List the registered regions, or one of them."""
        message = pb.SystemSharedMemoryStatusRequest(name=_name(request))
        found = await self._inference.SystemSharedMemoryStatus(message, None)
        return JSONResponse([to_json(region) for region in found.regions.values()])

    async def register(self, request: Request) -> Response:
        """Register a region of a shared memory object."""
        document = await read_document(request, self._limits)
        message = pb.SystemSharedMemoryRegisterRequest(
            name=_name(request),
            key=_key(document),
            offset=_integer(document, "offset"),
            byte_size=_integer(document, "byte_size"),
        )
        await self._inference.SystemSharedMemoryRegister(message, None)
        return Response()

    async def unregister(self, request: Request) -> Response:
        """Forget a region, or all."""
        message = pb.SystemSharedMemoryUnregisterRequest(name=_name(request))
        await self._inference.SystemSharedMemoryUnregister(message, None)
        return Response()

    async def cuda_status(self, request: Request) -> Response:
        """List the regions of CUDA shared memory: none."""
        await self._inference.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(name=_name(request)), None)
        return JSONResponse([])

    async def cuda_register(self, request: Request) -> Response:
        """Refuse to register a region of CUDA shared memory."""
        await self._inference.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name=_name(request)), None)
        return Response()

    async def cuda_unregister(self, request: Request) -> Response:
        """Do nothing."""
        message = pb.CudaSharedMemoryUnregisterRequest(name=_name(request))
        await self._inference.CudaSharedMemoryUnregister(message, None)
        return Response()


def _name(request: Request) -> str:
    return str(request.path_params.get("name", ""))


def _key(document: dict[str, Any]) -> str:
    key = document.get("key")
    if not isinstance(key, str) or any("\ud800" <= letter <= "\udfff" for letter in key):
        raise InvalidRequestError(f"'key' must be the name of a shared memory object, got {key!r:.100}")
    return key


def _integer(document: dict[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if type(value) is not int or not 0 <= value < _UINT64:
        raise InvalidRequestError(f"{name!r} must be a number of bytes, got {value!r:.50}")
    return value

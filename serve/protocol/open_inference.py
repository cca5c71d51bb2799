"""The service `inference.GRPCInferenceService` of the Open Inference Protocol.

Each model of the repository is available under two names: `NAME` accepts preprocessed images, with the same inputs and
outputs as NVIDIA Triton serves from the same repository; `NAME.encoded` accepts encoded images of any size, and has the
outputs `unsure`, `ood_score` and `out_of_distribution` too if the model has the thresholds for them. The methods raise
errors; `Dispatcher` maps them to a gRPC status.
"""

from collections.abc import AsyncIterator, Iterable
from importlib.metadata import version
from typing import TypeAlias

import grpc

from unfreeze.contract.errors import (
    ForbiddenError,
    InvalidRequestError,
    UnknownModelError,
    UnknownRegionError,
    UnsupportedRequestError,
)
from unfreeze.contract.model.manifest import INPUT, OUTPUT
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from unfreeze.serve.models.served import ServedModel, ServedModels
from unfreeze.serve.protocol.deserializing import SplitMessage, contents_of
from unfreeze.serve.protocol.model_infer import ENCODED_INPUT, infer, split_model_name
from unfreeze.serve.protocol.model_statistics import model_statistics, protocol_name
from unfreeze.serve.protocol.outputs import OOD_SCORE, declared_outputs
from unfreeze.serve.protocol.recording import recording_of
from unfreeze.serve.protocol.shared_memory import SharedMemoryRegions
from unfreeze.serve.protocol.streams import map_in_order
from unfreeze.serve.recording.recorder import Recorder
from unfreeze.serve.status import deadline_of, status_of

_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
_EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")
_Context: TypeAlias = grpc.aio.ServicerContext


class InferenceService(GRPCInferenceServiceServicer):
    """Implements `inference.GRPCInferenceService`.

    Args:
        models: the served models.
        regions: of shared memory.
        admin: whether clients may load and unload models.
        recorder: keeps images; None keeps none.
    """

    def __init__(
        self, models: ServedModels, regions: SharedMemoryRegions, *, admin: bool, recorder: Recorder | None = None
    ) -> None:
        self._models, self._regions, self._admin, self._recorder = models, regions, admin, recorder

    async def ServerLive(self, request: pb.ServerLiveRequest, context: _Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: _Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=bool(self._models.names))  # the port is opened after warm-up

    async def ModelReady(self, request: pb.ModelReadyRequest, context: _Context) -> pb.ModelReadyResponse:
        try:
            self._find(request.name, request.version)
        except UnknownModelError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: _Context) -> pb.ServerMetadataResponse:
        extensions = [*_EXTENSIONS, "system_shared_memory"] if self._regions.enabled else _EXTENSIONS
        return pb.ServerMetadataResponse(name="unfreeze", version=version("unfreeze"), extensions=extensions)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: _Context) -> pb.ModelMetadataResponse:
        model, encoded = self._find(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        input_ = (
            tensor(name=ENCODED_INPUT, datatype="BYTES", shape=[-1, 1])
            if encoded
            else tensor(name=INPUT, datatype="UINT8", shape=[-1, *model.manifest.preprocess.shape])
        )
        outputs = [tensor(name=OUTPUT, datatype="FP32", shape=[-1, len(model.manifest.labels)])]
        outputs += [
            tensor(name=name, datatype="FP32" if name == OOD_SCORE else "BOOL", shape=[-1])
            for name in declared_outputs(model.manifest, encoded=encoded)[1:]
        ]
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[number for number in self._models.versions(model.name) if request.version in ("", number)],
            platform=_PLATFORM,
            inputs=[input_],
            outputs=outputs,
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: _Context) -> pb.ModelConfigResponse:
        model, encoded = self._find(request.name, request.version)
        input_ = (
            pb.ModelInput(name=ENCODED_INPUT, data_type=pb.TYPE_STRING, dims=[1])
            if encoded
            else pb.ModelInput(
                name=INPUT,
                data_type=pb.TYPE_UINT8,
                format=pb.ModelInput.FORMAT_NHWC,
                dims=model.manifest.preprocess.shape,
            )
        )
        outputs = [
            pb.ModelOutput(
                name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(model.manifest.labels)], label_filename="labels.txt"
            )
        ]
        for name in declared_outputs(model.manifest, encoded=encoded)[1:]:  # one value an image: no dimensions
            kind = pb.TYPE_FP32 if name == OOD_SCORE else pb.TYPE_BOOL
            outputs.append(pb.ModelOutput(name=name, data_type=kind))
        config = pb.ModelConfig(
            name=request.name,
            platform=_PLATFORM,
            backend=_BACKEND,
            max_batch_size=model.max_batch,
            input=[input_],
            output=outputs,
            dynamic_batching=pb.ModelDynamicBatching(),
        )
        return pb.ModelConfigResponse(config=config)

    async def ModelInfer(
        self, request: pb.ModelInferRequest | SplitMessage, context: _Context
    ) -> pb.ModelInferResponse:
        return await self._infer(request, context)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest | SplitMessage], context: _Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def handle(request: pb.ModelInferRequest | SplitMessage) -> pb.ModelStreamInferResponse:
            try:
                response = await self._infer(request, context)
                return pb.ModelStreamInferResponse(infer_response=response)
            except Exception as error:  # noqa: BLE001 - the error of one request does not end the stream
                # The response without outputs identifies the request that failed.
                message, _ = contents_of(request, "raw_input_contents")
                return pb.ModelStreamInferResponse(
                    error_message=status_of(error).message,
                    infer_response=pb.ModelInferResponse(model_name=message.model_name, id=message.id),
                )

        async for response in map_in_order(requests, handle):
            yield response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: _Context
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            self._find(request.name, request.version)
        await self._models.synchronize()
        models = [
            (model, encoded)
            for model in self._models
            for encoded in model.statistics
            if request.name in ("", protocol_name(model, encoded=encoded)) and request.version in ("", model.version)
        ]
        return pb.ModelStatisticsResponse(
            model_stats=[model_statistics(model, encoded=encoded) for model, encoded in models]
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: _Context
    ) -> pb.RepositoryIndexResponse:
        await self._models.synchronize()
        entry = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                entry(name=version.name, version=version.version, state=version.state, reason=version.reason)
                for version in self._models.states()
                if version.state == "READY" or not request.ready
            ]
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: _Context
    ) -> pb.RepositoryModelLoadResponse:
        self._check_admin(request.parameters.keys())
        await self._models.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: _Context
    ) -> pb.RepositoryModelUnloadResponse:
        self._check_admin(request.parameters.keys() - {"unload_dependents"})
        await self._models.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: _Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        status = pb.SystemSharedMemoryStatusResponse.RegionStatus
        regions = {
            one.name: status(name=one.name, key=one.key, offset=one.offset, byte_size=one.size)
            for one in self._regions.registered(request.name)
        }
        return pb.SystemSharedMemoryStatusResponse(regions=regions)

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: _Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: _Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, context: _Context
    ) -> pb.CudaSharedMemoryStatusResponse:
        if request.name:
            raise UnknownRegionError(f"there is no CUDA shared memory region {request.name!r:.100}")
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest, context: _Context
    ) -> pb.CudaSharedMemoryRegisterResponse:
        raise UnsupportedRequestError("CUDA shared memory is not supported; use system shared memory")

    async def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: _Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        return pb.CudaSharedMemoryUnregisterResponse()  # clients call it before they start, and when they are done

    async def _infer(self, request: pb.ModelInferRequest | SplitMessage, context: _Context) -> pb.ModelInferResponse:
        record = recording_of(self._recorder, context)
        return await infer(
            self._models, request, lambda timeout_us: deadline_of(context, timeout_us), self._regions, record
        )

    def _check_admin(self, unsupported_parameters: Iterable[str]) -> None:
        if not self._admin:
            raise ForbiddenError("clients may not load or unload models on this server (it runs with --no-admin)")
        if unsupported := sorted(unsupported_parameters):
            raise InvalidRequestError(
                f"models are loaded from the server's repository only; unsupported parameters {unsupported!r:.200}"
            )

    def _find(self, name: str, version_number: str) -> tuple[ServedModel, bool]:
        """Find a model; also returns whether the name is the one for encoded images."""
        repository_name, encoded = split_model_name(name)
        return self._models.find(repository_name, version_number), encoded

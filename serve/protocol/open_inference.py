"""The Open Inference Protocol, translated.

Each model of the repository appears twice: `NAME` takes prepared images, exactly as NVIDIA Triton shows the same
folder, and `NAME.encoded` takes encoded images of any size. The error interceptor answers what is raised here.
"""

from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import TypeAlias

import grpc

from unfreeze.contract.errors import ForbiddenError, InvalidRequestError, UnknownModelError
from unfreeze.contract.model.manifest import INPUT, OUTPUT
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.model_infer import ENCODED_INPUT, infer, model_named
from unfreeze.serve.protocol.model_statistics import model_statistics, shown_name
from unfreeze.serve.protocol.streams import in_order
from unfreeze.serve.status import deadline_of, refusal_of

_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
_EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")
_Context: TypeAlias = grpc.aio.ServicerContext


class InferenceService(GRPCInferenceServiceServicer):
    """Answers `inference.GRPCInferenceService`.

    Args:
        models: what is served.
        admin: whether callers may load and unload models.
    """

    def __init__(self, models: ModelRegistry, *, admin: bool) -> None:
        self._models, self._admin = models, admin

    async def ServerLive(self, request: pb.ServerLiveRequest, context: _Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: _Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=bool(self._models.names))  # the port opens only when models are warm

    async def ModelReady(self, request: pb.ModelReadyRequest, context: _Context) -> pb.ModelReadyResponse:
        try:
            self._find(request.name, request.version)
        except UnknownModelError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: _Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="unfreeze", version=version("unfreeze"), extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: _Context) -> pb.ModelMetadataResponse:
        model, encoded = self._find(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        takes = (
            tensor(name=ENCODED_INPUT, datatype="BYTES", shape=[-1, 1])
            if encoded
            else tensor(name=INPUT, datatype="UINT8", shape=[-1, *model.manifest.preprocess.shape])
        )
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[one for one in self._models.versions(model.name) if request.version in ("", one)],
            platform=_PLATFORM,
            inputs=[takes],
            outputs=[tensor(name=OUTPUT, datatype="FP32", shape=[-1, len(model.manifest.labels)])],
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: _Context) -> pb.ModelConfigResponse:
        model, encoded = self._find(request.name, request.version)
        takes = (
            pb.ModelInput(name=ENCODED_INPUT, data_type=pb.TYPE_STRING, dims=[1])
            if encoded
            else pb.ModelInput(name=INPUT, data_type=pb.TYPE_UINT8, dims=model.manifest.preprocess.shape)
        )
        gives = pb.ModelOutput(
            name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(model.manifest.labels)], label_filename="labels.txt"
        )
        config = pb.ModelConfig(
            name=request.name,
            platform=_PLATFORM,
            backend=_BACKEND,
            max_batch_size=model.max_batch,
            input=[takes],
            output=[gives],
            dynamic_batching=pb.ModelDynamicBatching(),
        )
        return pb.ModelConfigResponse(config=config)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: _Context) -> pb.ModelInferResponse:
        return await infer(self._models, request, lambda timeout_us: deadline_of(context, timeout_us))

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: _Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                response = await infer(self._models, request, lambda timeout_us: deadline_of(context, timeout_us))
                return pb.ModelStreamInferResponse(infer_response=response)
            except Exception as error:  # noqa: BLE001 - one request's error does not end the stream
                # A response without outputs, beside the message, tells which request it belongs to.
                return pb.ModelStreamInferResponse(
                    error_message=refusal_of(error).message,
                    infer_response=pb.ModelInferResponse(model_name=request.model_name, id=request.id),
                )

        async for response in in_order(requests, answer):
            yield response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: _Context
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            self._find(request.name, request.version)
        models = [
            (model, encoded)
            for model in self._models
            for encoded in model.statistics
            if request.name in ("", shown_name(model, encoded=encoded)) and request.version in ("", model.version)
        ]
        return pb.ModelStatisticsResponse(
            model_stats=[model_statistics(model, encoded=encoded) for model, encoded in models]
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: _Context
    ) -> pb.RepositoryIndexResponse:
        entry = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                entry(name=one.name, version=one.version, state=one.state, reason=one.reason)
                for one in self._models.states()
                if one.state == "READY" or not request.ready
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

    def _check_admin(self, parameters: object) -> None:
        if not self._admin:
            raise ForbiddenError("this server loads and unloads no models for its callers; it was started so")
        if parameters:
            raise InvalidRequestError(f"this server takes models from its repository alone, found {parameters!r:.200}")

    def _find(self, name: str, wanted: str) -> tuple[LoadedModel, bool]:
        """Find a model and whether it was asked for by its name for encoded images."""
        plain, encoded = model_named(name)
        return self._models.find(plain, wanted), encoded

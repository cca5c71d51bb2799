"""The Open Inference Protocol, translated.

Each model of the repository appears twice: `NAME` takes prepared pictures, exactly as NVIDIA Triton shows the same
folder, and `NAME.encoded` takes encoded pictures of any size.
"""

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import TypeAlias, TypeVar

import grpc
import numpy as np

from contract.arrays import Float32
from contract.errors import InvalidRequestError, UnknownModelError
from contract.manifest import INPUT, OUTPUT
from contract.repository import ENCODED_SUFFIX
from protos import open_inference_pb2 as pb
from protos.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from serve.models import ModelSet, ServedModel
from serve.refusals import deadline_of, refusing
from serve.tensors import read_encoded, read_pixels

ENCODED_INPUT = "image"
_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
_LARGE = 2**20
_Context: TypeAlias = grpc.aio.ServicerContext
_T = TypeVar("_T")


class InferenceService(GRPCInferenceServiceServicer):
    """Answers `inference.GRPCInferenceService`.

    Args:
        models: what is served.
    """

    def __init__(self, models: ModelSet) -> None:
        self._models = models

    async def ServerLive(self, request: pb.ServerLiveRequest, context: _Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: _Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)  # the port opens only when every model is warm

    async def ModelReady(self, request: pb.ModelReadyRequest, context: _Context) -> pb.ModelReadyResponse:
        async with refusing(context):
            try:
                self._find(request.name, request.version)
            except UnknownModelError:
                return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: _Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="unfreeze", version=version("unfreeze"), extensions=["model_configuration"]
        )

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: _Context) -> pb.ModelMetadataResponse:
        async with refusing(context):
            model, encoded = self._find(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        takes = (
            tensor(name=ENCODED_INPUT, datatype="BYTES", shape=[-1, 1])
            if encoded
            else tensor(name=INPUT, datatype="UINT8", shape=[-1, *model.manifest.preprocess.shape])
        )
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[model.version],
            platform=_PLATFORM,
            inputs=[takes],
            outputs=[tensor(name=OUTPUT, datatype="FP32", shape=[-1, len(model.manifest.labels)])],
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: _Context) -> pb.ModelConfigResponse:
        async with refusing(context):
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
        async with refusing(context):
            model, encoded = self._find(request.model_name, request.model_version)
            _check_outputs(request)
            deadline = deadline_of(context)
            model.check_size(_pictures(request))
            if encoded:
                pictures = await _off_the_loop(request, read_encoded, ENCODED_INPUT)
                answers = await model.classify_encoded(pictures, deadline)
            else:
                pixels = await _off_the_loop(request, read_pixels, INPUT, model.manifest.preprocess.shape)
                answers = await model.classify_pixels(pixels, deadline)
        return _response(request, model, answers)

    def _find(self, name: str, wanted: str) -> tuple[ServedModel, bool]:
        """Find a model and whether it was asked for by its name for encoded pictures."""
        if not name:
            raise InvalidRequestError("the request names no model")
        encoded = name.endswith(ENCODED_SUFFIX)
        if name == ENCODED_SUFFIX:
            raise UnknownModelError(f"there is no model {name!r}")
        return self._models.find(name.removesuffix(ENCODED_SUFFIX), wanted), encoded


async def _off_the_loop(request: pb.ModelInferRequest, read: Callable[..., _T], *arguments: object) -> _T:
    """Read a large request in a thread, so that other callers are not kept waiting."""
    if request.ByteSize() < _LARGE:
        return read(request, *arguments)
    return await asyncio.to_thread(read, request, *arguments)


def _pictures(request: pb.ModelInferRequest) -> int:
    """Say how many pictures the request claims to hold, before anything is read; what is malformed is found later."""
    return request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 0


def _check_outputs(request: pb.ModelInferRequest) -> None:
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidRequestError(f"the one output is {OUTPUT!r}, found {output.name!r:.200}")
        unknown = sorted(output.parameters.keys() - {"binary_data"})
        if unknown:
            raise InvalidRequestError(f"this server does not know the output parameters {unknown!r:.200}")


def _response(
    request: pb.ModelInferRequest, model: ServedModel, answers: Float32[np.ndarray, "n c"]
) -> pb.ModelInferResponse:
    output = pb.ModelInferResponse.InferOutputTensor(name=OUTPUT, datatype="FP32", shape=answers.shape)
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=model.version,
        id=request.id,
        outputs=[output],
        raw_output_contents=[np.ascontiguousarray(answers, "<f4").tobytes()],
    )

"""The service `unfreeze.v1.Classifier`: encoded images in, labels out.

Its methods raise errors; `Dispatcher` maps them to a gRPC status.
"""

from collections.abc import AsyncIterator

import grpc
import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import ForbiddenError, InvalidRequestError
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.prediction import is_unsure, top_predictions
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierServicer
from unfreeze.serve.models.served import ServedModels
from unfreeze.serve.protocol.deserializing import SplitMessage, contents_of
from unfreeze.serve.protocol.streams import map_in_order
from unfreeze.serve.protocol.traffic import get_traffic, set_traffic
from unfreeze.serve.status import deadline_of, status_of

_DEFAULT_TOP_K = 5


class ClassifierService(ClassifierServicer):
    """Implements `unfreeze.v1.Classifier`.

    Args:
        models: the served models.
        admin: whether clients may set the traffic of a model.
    """

    def __init__(self, models: ServedModels, *, admin: bool = False) -> None:
        self._models, self._admin = models, admin

    async def Predict(
        self, request: pb.PredictRequest | SplitMessage, context: grpc.aio.ServicerContext
    ) -> pb.PredictResponse:
        return await self._predict(request, deadline_of(context))

    async def PredictStream(
        self, requests: AsyncIterator[pb.PredictRequest | SplitMessage], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        deadline = deadline_of(context)

        async def handle(request: pb.PredictRequest | SplitMessage) -> pb.PredictStreamResponse:
            try:
                return pb.PredictStreamResponse(response=await self._predict(request, deadline))
            except Exception as error:  # noqa: BLE001 - the error of one request does not end the stream
                status = status_of(error)
                return pb.PredictStreamResponse(error=pb.Error(code=status.number, message=status.message))

        async for response in map_in_order(requests, handle):
            yield response

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        await self._models.synchronize()
        return pb.ListModelsResponse(
            models=[
                pb.ModelVersion(name=version.name, version=version.version, state=version.state, reason=version.reason)
                for version in self._models.states()
            ]
        )

    async def DescribeModel(
        self, request: pb.DescribeModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeModelResponse:
        model = self._models.find(self._model_name(request.model), request.version)
        manifest = model.manifest
        height, width, _ = manifest.preprocess.shape
        return pb.DescribeModelResponse(
            name=model.name,
            version=model.version,
            labels=manifest.labels,
            input_height=height,
            input_width=width,
            precision=manifest.precision,
            sha256=manifest.sha256,
            metrics=manifest.metrics,
            abstain_below=manifest.abstain_below,
            max_batch_size=model.max_batch,
            execution_plan=str(model.plan),
        )

    async def GetTraffic(self, request: pb.GetTrafficRequest, context: grpc.aio.ServicerContext) -> pb.Traffic:
        return await get_traffic(self._models, self._model_name(request.model))

    async def SetTraffic(self, request: pb.SetTrafficRequest, context: grpc.aio.ServicerContext) -> pb.Traffic:
        if not self._admin:
            raise ForbiddenError("clients may not set the traffic of models on this server (it runs with --no-admin)")
        return await set_traffic(self._models, self._model_name(request.model), request)

    async def _predict(self, received: pb.PredictRequest | SplitMessage, deadline: float | None) -> pb.PredictResponse:
        request: pb.PredictRequest
        request, images = contents_of(received, "images")
        with self._models.use(self._model_name(request.model), request.version) as model:
            probabilities = await model.classify(images, deadline)
            top_k = request.top_k or _DEFAULT_TOP_K
            return pb.PredictResponse(
                model=model.name,
                version=model.version,
                predictions=[_prediction(row, model.manifest, top_k) for row in probabilities],
            )

    def _model_name(self, name: str) -> str:
        if not name and len(self._models.names) > 1:
            raise InvalidRequestError(
                "the request has no model name; it is required because the server has several models"
            )
        return name


def _prediction(probabilities: Float32[np.ndarray, " c"], manifest: Manifest, top_k: int) -> pb.Prediction:
    predictions = top_predictions(probabilities, manifest.labels, top_k)
    return pb.Prediction(
        labels=[pb.ScoredLabel(label=one.label, score=one.score, index=one.index) for one in predictions],
        unsure=is_unsure(predictions, manifest.abstain_below),
    )

"""The service `unfreeze.v1.Classifier`: encoded images in, labels out. The error interceptor answers what it raises."""

from collections.abc import AsyncIterator

import grpc
import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import InvalidRequestError
from unfreeze.contract.prediction import top_predictions
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierServicer
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.streams import in_order
from unfreeze.serve.status import deadline_of, refusal_of

_DEFAULT_TOP = 5


class ClassifierService(ClassifierServicer):
    """Answers `unfreeze.v1.Classifier`.

    Args:
        models: what is served.
    """

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    async def Predict(self, request: pb.PredictRequest, context: grpc.aio.ServicerContext) -> pb.PredictResponse:
        return await self._predict(request, deadline_of(context))

    async def PredictStream(
        self, requests: AsyncIterator[pb.PredictRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        deadline = deadline_of(context)

        async def answer(request: pb.PredictRequest) -> pb.PredictStreamResponse:
            try:
                return pb.PredictStreamResponse(response=await self._predict(request, deadline))
            except Exception as error:  # noqa: BLE001 - one request's error does not end the stream
                refusal = refusal_of(error)
                return pb.PredictStreamResponse(error=pb.Refusal(code=refusal.code, message=refusal.message))

        async for response in in_order(requests, answer):
            yield response

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[
                pb.ModelVersion(name=one.name, version=one.version, state=one.state, reason=one.reason)
                for one in self._models.states()
            ]
        )

    async def DescribeModel(
        self, request: pb.DescribeModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeModelResponse:
        model = self._models.find(self._named(request.model), request.version)
        manifest = model.manifest
        height, width, _ = manifest.preprocess.shape
        return pb.DescribeModelResponse(
            name=model.name,
            version=model.version,
            labels=manifest.labels,
            height=height,
            width=width,
            precision=manifest.precision,
            sha256=manifest.sha256,
            metrics=manifest.metrics,
            abstain_below=manifest.abstain_below,
            max_batch=model.max_batch,
            plan=str(model.plan),
        )

    async def _predict(self, request: pb.PredictRequest, deadline: float | None) -> pb.PredictResponse:
        with self._models.use(self._named(request.model), request.version) as model:
            answers = await model.classify(request.images, deadline)
            top = request.top or _DEFAULT_TOP
            return pb.PredictResponse(
                model=model.name,
                version=model.version,
                predictions=[_prediction(row, model.manifest.labels, top) for row in answers],
            )

    def _named(self, name: str) -> str:
        if not name and len(self._models.names) > 1:
            raise InvalidRequestError("the request names no model, and there are several")
        return name


def _prediction(row: Float32[np.ndarray, " c"], labels: tuple[str, ...], top: int) -> pb.Prediction:
    named = top_predictions(row, labels, top)
    return pb.Prediction(labels=[pb.ScoredLabel(label=one.label, score=one.score, index=one.index) for one in named])

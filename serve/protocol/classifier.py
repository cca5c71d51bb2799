"""The service `unfreeze.v1.Classifier`: encoded images in, labels out.

Its methods raise errors; `Dispatcher` maps them to a gRPC status.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict

import grpc
import numpy as np

from unfreeze.contract.answers import read_answer
from unfreeze.contract.arrays import Float32
from unfreeze.contract.drift.features import FeatureDrift
from unfreeze.contract.drift.window import Drift
from unfreeze.contract.errors import ForbiddenError, InvalidRequestError
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.ood import OutOfDistribution
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierServicer
from unfreeze.serve.models.served import ServedModels
from unfreeze.serve.protocol.deserializing import SplitMessage, contents_of
from unfreeze.serve.protocol.recording import recording_of
from unfreeze.serve.protocol.streams import map_in_order
from unfreeze.serve.protocol.traffic import get_traffic, set_traffic
from unfreeze.serve.recording.recorder import Record, Recorder
from unfreeze.serve.status import deadline_of, status_of

_DEFAULT_TOP_K = 5


class ClassifierService(ClassifierServicer):
    """Implements `unfreeze.v1.Classifier`.

    Args:
        models: the served models.
        recorder: keeps images; None keeps none.
        admin: whether clients may set the traffic of a model.
    """

    def __init__(self, models: ServedModels, recorder: Recorder | None = None, *, admin: bool = False) -> None:
        self._models, self._recorder, self._admin = models, recorder, admin

    async def Predict(
        self, request: pb.PredictRequest | SplitMessage, context: grpc.aio.ServicerContext
    ) -> pb.PredictResponse:
        return await self._predict(request, deadline_of(context), recording_of(self._recorder, context))

    async def PredictStream(
        self, requests: AsyncIterator[pb.PredictRequest | SplitMessage], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.PredictStreamResponse]:
        deadline, record = deadline_of(context), recording_of(self._recorder, context)

        async def handle(request: pb.PredictRequest | SplitMessage) -> pb.PredictStreamResponse:
            try:
                return pb.PredictStreamResponse(response=await self._predict(request, deadline, record))
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
        await self._models.synchronize()
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
            drift=[_drift(one) for one in model.drift.quantities],
            feature_drift=_feature_drift(model.drift.features),
            out_of_distribution=_out_of_distribution(manifest.ood),
        )

    async def GetTraffic(self, request: pb.GetTrafficRequest, context: grpc.aio.ServicerContext) -> pb.Traffic:
        return await get_traffic(self._models, self._model_name(request.model))

    async def SetTraffic(self, request: pb.SetTrafficRequest, context: grpc.aio.ServicerContext) -> pb.Traffic:
        if not self._admin:
            raise ForbiddenError("clients may not set the traffic of models on this server (it runs with --no-admin)")
        return await set_traffic(self._models, self._model_name(request.model), request)

    async def _predict(
        self, received: pb.PredictRequest | SplitMessage, deadline: float | None, record: Record | None
    ) -> pb.PredictResponse:
        request: pb.PredictRequest
        request, images = contents_of(received, "images")
        with self._models.use(self._model_name(request.model), request.version) as model:
            rows = await model.classify(images, deadline)
            if record is not None:
                record(model, images, rows)
            top_k = request.top_k or _DEFAULT_TOP_K
            return pb.PredictResponse(
                model=model.name,
                version=model.version,
                predictions=[_prediction(row, model.manifest, top_k) for row in rows],
            )

    def _model_name(self, name: str) -> str:
        if not name and len(self._models.names) > 1:
            raise InvalidRequestError(
                "the request has no model name; it is required because the server has several models"
            )
        return name


def _drift(drift: Drift) -> pb.Drift:
    away = drift.distance
    return pb.Drift(
        quantity=drift.name,
        images=drift.images,
        psi=away.psi,
        expected_psi=away.expected_psi,
        js=away.js,
        alarm=drift.alarm,
    )


def _feature_drift(drift: FeatureDrift | None) -> pb.FeatureDrift | None:
    return None if drift is None else pb.FeatureDrift(**asdict(drift))


def _prediction(row: Float32[np.ndarray, " a"], manifest: Manifest, top_k: int) -> pb.Prediction:
    answer = read_answer(row, manifest, top_k)
    return pb.Prediction(
        labels=[pb.ScoredLabel(label=one.label, score=one.score, index=one.index) for one in answer.predictions],
        unsure=answer.unsure,
        ood_score=answer.ood_score,
        out_of_distribution=answer.out_of_distribution,
    )


def _out_of_distribution(ood: OutOfDistribution | None) -> pb.OutOfDistribution | None:
    if ood is None:
        return None
    return pb.OutOfDistribution(
        method=ood.method, threshold=ood.threshold, false_alarms=ood.false_alarms, auroc=ood.auroc
    )

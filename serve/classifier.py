"""`unfreeze.v1.Classifier`, translated: encoded pictures in, labels out."""

import grpc
import numpy as np

from contract.arrays import Float32
from contract.errors import InvalidRequestError
from contract.prediction import top_predictions
from protos import unfreeze_pb2 as pb
from protos.unfreeze_pb2_grpc import ClassifierServicer
from serve.models import ModelSet
from serve.refusals import deadline_of, refusing

_DEFAULT_TOP = 5


class ClassifierService(ClassifierServicer):
    """Answers `unfreeze.v1.Classifier`.

    Args:
        models: what is served.
    """

    def __init__(self, models: ModelSet) -> None:
        self._models = models

    async def Predict(self, request: pb.PredictRequest, context: grpc.aio.ServicerContext) -> pb.PredictResponse:
        async with refusing(context):
            if not request.model and len(list(self._models)) > 1:
                raise InvalidRequestError("the request names no model, and there are several")
            model = self._models.find(request.model, request.version)
            answers = await model.classify_encoded(request.pictures, deadline_of(context))
        top = request.top or _DEFAULT_TOP
        return pb.PredictResponse(
            model=model.name,
            version=model.version,
            predictions=[_prediction(row, model.manifest.labels, top) for row in answers],
        )


def _prediction(row: Float32[np.ndarray, " c"], labels: tuple[str, ...], top: int) -> pb.Prediction:
    named = top_predictions(row, labels, top)
    return pb.Prediction(labels=[pb.ScoredLabel(label=one.label, score=one.score, index=one.index) for one in named])

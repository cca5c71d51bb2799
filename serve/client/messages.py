"""What clients ask `unfreeze.v1.Classifier` and what it answers, without the asking."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from unfreeze.contract.errors import (
    DeadlineError,
    DrainingError,
    ForbiddenError,
    InvalidRequestError,
    QueueFullError,
    ServingError,
)
from unfreeze.contract.prediction import MOST_LABELS, Prediction
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.serve.client.channel import Connection
from unfreeze.serve.status import STATUS

_ERRORS = {code: kind for kind, code in STATUS.items() if issubclass(kind, ServingError)}
_TOO_LARGE = re.compile(r"message larger than max")


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What is known of one image: its labels, or why there are none.

    Args:
        name: the file's path; "image 3" where encoded images were given.
        predictions: the most probable first; empty where there is an error.
        error: names the image and says why it cannot be used; None where it could.
    """

    name: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of a model that a server has.

    Args:
        name: the model's.
        version: its number.
        state: "READY", "LOADING", "UNLOADING" or "UNAVAILABLE".
        reason: why it is in that state.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What a server tells of one version of a model.

    Args:
        name: the model's.
        version: its number.
        labels: in the order of `Prediction.index`.
        height: of the images that the network takes, in pixels.
        width: likewise.
        precision: "fp32", "fp16" or "int8".
        sha256: of the model file.
        metrics: measured on the validation images, by name.
        abstain_below: an answer whose first score is below this is unsure; None where no answer is.
        max_batch: the largest batch.
        plan: how the server executes it.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    height: int
    width: int
    precision: str
    sha256: str
    metrics: Mapping[str, float]
    abstain_below: float | None
    max_batch: int
    plan: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every image.

    Args:
        model: its name; may be empty where the server has only one.
        version: of the model; empty for the newest.
        top: how many labels to name.

    Raises:
        InvalidRequestError: `top` is out of its range.
    """

    model: str
    version: str
    top: int

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        if not 1 <= self.top <= MOST_LABELS:
            raise InvalidRequestError(f"top goes from 1 to {MOST_LABELS:,}, found {self.top}")

    def of(self, images: list[bytes]) -> pb.PredictRequest:
        """Ask it of some encoded images."""
        return pb.PredictRequest(model=self.model, version=self.version, images=images, top=self.top)


def predictions_of(prediction: pb.Prediction) -> tuple[Prediction, ...]:
    """Read the labels of one image."""
    return tuple(Prediction(label=one.label, score=one.score, index=one.index) for one in prediction.labels)


def models_of(response: pb.ListModelsResponse) -> tuple[ModelVersion, ...]:
    """Read what a server has."""
    return tuple(
        ModelVersion(name=one.name, version=one.version, state=one.state, reason=one.reason) for one in response.models
    )


def description_of(response: pb.DescribeModelResponse) -> ModelDescription:
    """Read what a server tells of a model."""
    return ModelDescription(
        name=response.name,
        version=response.version,
        labels=tuple(response.labels),
        height=response.height,
        width=response.width,
        precision=response.precision,
        sha256=response.sha256,
        metrics=dict(response.metrics),
        abstain_below=response.abstain_below if response.HasField("abstain_below") else None,
        max_batch=response.max_batch,
        plan=response.plan,
    )


def error_of(error: grpc.RpcError, connection: Connection) -> ServingError:
    """Make an error of ours of gRPC's.

    Args:
        error: what a call ended with.
        connection: how it was made.
    """
    found = _error_of(error.code(), error.details() or "", connection)
    if isinstance(found, QueueFullError):
        hints = [value for key, value in error.trailing_metadata() or () if key == "grpc-retry-pushback-ms"]
        found.retry_s = int(hints[0]) / 1000 if hints and str(hints[0]).isdecimal() else 0.0
    found.__cause__ = error
    return found


def _error_of(code: grpc.StatusCode, details: str, connection: Connection) -> ServingError:
    if code == grpc.StatusCode.UNAVAILABLE:
        how = "with TLS" if connection.secure else "without TLS"
        return DrainingError(f"no server answers at {connection.target} {how}; `unfreeze serve` starts one ({details})")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(f"{connection.target} did not answer within {connection.timeout_s:g} s ({details})")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details):
        return InvalidRequestError(
            f"the server takes no message of this size: send smaller images, or start it with a higher "
            f"--max-message-mib and ask with the same max_message_mib ({details})"
        )
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return ForbiddenError(f"{connection.target} wants to know who asks, and does not take this: {details}")
    return _ERRORS.get(code, ServingError)(details)

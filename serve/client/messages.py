"""Conversion between the messages of `unfreeze.v1.Classifier` and the classes that clients return."""

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
from unfreeze.serve.client.channel import ClientOptions
from unfreeze.serve.status import STATUS

# Of several errors with the same status, the first one is the most common.
_ERRORS = {code: kind for kind, code in reversed(STATUS.items()) if issubclass(kind, ServingError)}
_TOO_LARGE = re.compile(r"message larger than max")


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The result for one image: its labels, or an error.

    Args:
        name: path of the file; "image 3" for the third of encoded images.
        predictions: ordered by score, the highest first; empty if there is an error.
        unsure: whether the top score is below the model's confidence threshold, or the image is out of distribution;
            None if the model has no such threshold, there is an error, or the server is too old to say so.
        ood_score: how far the image is from the training images; None if the model has no such score, or as before.
        out_of_distribution: whether that score is above the model's threshold; None as before.
        error: name of the image and why it cannot be classified; None if it was classified.
    """

    name: str
    predictions: tuple[Prediction, ...] = ()
    unsure: bool | None = None
    ood_score: float | None = None
    out_of_distribution: bool | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A model version of a server.

    Args:
        name: name of the model.
        version: version number.
        state: "READY", "LOADING", "UNLOADING" or "UNAVAILABLE".
        reason: why the version is in this state; empty for "READY".
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Metadata of a model version.

    Args:
        name: name of the model.
        version: version number.
        labels: class labels, in the order of `Prediction.index`.
        input_height: height of the network's input image, in pixels.
        input_width: width of the network's input image, in pixels.
        precision: "fp32", "fp16" or "int8".
        sha256: SHA-256 of the model file, in hexadecimal.
        metrics: metrics on the validation images, by name.
        abstain_below: predictions with a top score below this threshold are uncertain; None without a threshold.
        max_batch_size: maximum batch size.
        execution_plan: how the server executes the model.
        ood_method: how images unlike the training images are recognized; None if they are not.
        ood_threshold: images with a larger score are out of distribution; None as before.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    input_height: int
    input_width: int
    precision: str
    sha256: str
    metrics: Mapping[str, float]
    abstain_below: float | None
    max_batch_size: int
    execution_plan: str
    ood_method: str | None = None
    ood_threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class PredictParameters:
    """The parameters that all requests of a call have in common.

    Args:
        model: name of the model; may be empty if the server has only one.
        version: version of the model; empty for the newest.
        top_k: number of labels to return for each image.

    Raises:
        InvalidRequestError: `top_k` is out of range.
    """

    model: str
    version: str
    top_k: int

    def __post_init__(self) -> None:
        """Validate the parameters."""
        if not 1 <= self.top_k <= MOST_LABELS:
            raise InvalidRequestError(f"top_k must be between 1 and {MOST_LABELS:,}, got {self.top_k}")

    def to_request(self, images: list[bytes]) -> pb.PredictRequest:
        """Build a request for encoded images."""
        return pb.PredictRequest(model=self.model, version=self.version, images=images, top_k=self.top_k)


def parse_prediction(name: str, prediction: pb.Prediction) -> Classification:
    """Convert the prediction of one image, which has a name."""
    return Classification(
        name=name,
        predictions=tuple(Prediction(label=one.label, score=one.score, index=one.index) for one in prediction.labels),
        unsure=prediction.unsure if prediction.HasField("unsure") else None,
        ood_score=prediction.ood_score if prediction.HasField("ood_score") else None,
        out_of_distribution=prediction.out_of_distribution if prediction.HasField("out_of_distribution") else None,
    )


def parse_models(response: pb.ListModelsResponse) -> tuple[ModelVersion, ...]:
    """Convert the response of ListModels."""
    return tuple(
        ModelVersion(name=one.name, version=one.version, state=one.state, reason=one.reason) for one in response.models
    )


def parse_description(response: pb.DescribeModelResponse) -> ModelDescription:
    """Convert the response of DescribeModel."""
    has_ood, ood = response.HasField("out_of_distribution"), response.out_of_distribution
    return ModelDescription(
        name=response.name,
        version=response.version,
        labels=tuple(response.labels),
        input_height=response.input_height,
        input_width=response.input_width,
        precision=response.precision,
        sha256=response.sha256,
        metrics=dict(response.metrics),
        abstain_below=response.abstain_below if response.HasField("abstain_below") else None,
        max_batch_size=response.max_batch_size,
        execution_plan=response.execution_plan,
        ood_method=ood.method if has_ood else None,
        ood_threshold=ood.threshold if has_ood else None,
    )


def to_serving_error(error: grpc.RpcError, options: ClientOptions) -> ServingError:
    """Convert a failed call to the error class of its status.

    Args:
        error: error of the call.
        options: options of the client, for the message.

    Returns:
        The error, with the retry delay that the server requested if its queue is full.
    """
    converted = _from_status(error.code(), error.details() or "", options)
    if isinstance(converted, QueueFullError):
        hints = [value for key, value in error.trailing_metadata() or () if key == "grpc-retry-pushback-ms"]
        converted.retry_s = int(hints[0]) / 1000 if hints and str(hints[0]).isdecimal() else 0.0
    converted.__cause__ = error
    return converted


def _from_status(code: grpc.StatusCode, details: str, options: ClientOptions) -> ServingError:
    if code == grpc.StatusCode.UNAVAILABLE:
        tls = "with TLS" if options.uses_tls else "without TLS"
        return DrainingError(
            f"cannot connect to a server at {options.target} {tls}; start one with `unfreeze serve` ({details})"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(f"{options.target} did not respond within {options.timeout_s:g} s ({details})")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details):
        return InvalidRequestError(
            f"the request exceeds the server's message size limit: send smaller images, or raise --max-message-mib of "
            f"the server and max_message_mib of the client ({details})"
        )
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return ForbiddenError(f"{options.target} rejected the authentication: {details}")
    return _ERRORS.get(code, ServingError)(details)

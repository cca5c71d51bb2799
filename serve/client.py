"""Ask a server: `unfreeze.v1.Classifier` from Python."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from contract.errors import (
    DeadlineError,
    DrainingError,
    InvalidRequestError,
    PictureError,
    QueueFullError,
    ServingError,
    UnknownModelError,
)
from contract.prediction import MOST_LABELS, Prediction
from protos import unfreeze_pb2 as pb
from protos.unfreeze_pb2_grpc import ClassifierStub

Encoded = bytes | str | os.PathLike[str]
_PICTURES_A_REQUEST = 32
_BYTES_A_REQUEST = 32 * 2**20
_MESSAGE_BYTES = 64 * 2**20
_NUMBERED = re.compile(r"picture (\d+) of \d+: ")
_ERRORS: dict[grpc.StatusCode, type[ServingError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: UnknownModelError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QueueFullError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAVAILABLE: DrainingError,
}


class Client:
    """A connection to a server; a context manager.

    Args:
        target: "host:port".
        timeout_s: for each request, in seconds.
    """

    def __init__(self, target: str, *, timeout_s: float = 30.0) -> None:
        self._target = target
        self._timeout_s = timeout_s
        sizes = [("grpc.max_send_message_length", _MESSAGE_BYTES), ("grpc.max_receive_message_length", _MESSAGE_BYTES)]
        self._channel = grpc.insecure_channel(target, options=sizes)
        self._stub = ClassifierStub(self._channel)

    def predict(
        self, pictures: Sequence[Encoded], *, model: str = "", version: str = "", top: int = 5
    ) -> list[tuple[Prediction, ...]]:
        """Name the most probable labels of each picture.

        Many pictures go in several requests.

        Args:
            pictures: encoded ones (bytes), or files' paths.
            model: its name; may be empty where the server has only one.
            version: of the model; empty for the newest.
            top: how many labels to name, at least 1.

        Returns:
            For each picture its labels, the most probable first.

        Raises:
            PictureError: a file cannot be read.
            InvalidRequestError: a picture cannot be used; the message says which and why.
            UnknownModelError: there is no such model.
            ServingError: the server refused, or there is none.
        """
        if not 1 <= top <= MOST_LABELS:
            raise InvalidRequestError(f"top goes from 1 to {MOST_LABELS:,}, found {top}")
        answers: list[tuple[Prediction, ...]] = []
        for part in _requests([_read(picture) for picture in pictures]):
            request = pb.PredictRequest(model=model, version=version, pictures=part, top=top)
            try:
                response = self._stub.Predict(request, timeout=self._timeout_s)
            except grpc.RpcError as error:
                raise self._error(error, pictures[len(answers) : len(answers) + len(part)]) from error
            answers += [_predictions(prediction) for prediction in response.predictions]
        return answers

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _error(self, error: grpc.RpcError, asked: Sequence[Encoded]) -> ServingError:
        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.UNAVAILABLE:
            details = f"no server answers at {self._target}; `unfreeze serve` starts one ({details})"
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return InvalidRequestError(f"the server takes no message of this size: {details}")
        named = _NUMBERED.match(details)
        picture = asked[int(named[1]) - 1] if named and int(named[1]) <= len(asked) else b""
        name = "" if isinstance(picture, bytes) else f"{picture}: "
        return _ERRORS.get(code, ServingError)(name + details)


def _read(picture: Encoded) -> bytes:
    if isinstance(picture, bytes):
        return picture
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        raise PictureError(f"{picture} cannot be read: {error.strerror}") from error


def _requests(pictures: Sequence[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for picture in pictures:
        if part and (len(part) == _PICTURES_A_REQUEST or size + len(picture) > _BYTES_A_REQUEST):
            yield part
            part, size = [], 0
        part.append(picture)
        size += len(picture)
    if part:
        yield part


def _predictions(prediction: pb.Prediction) -> tuple[Prediction, ...]:
    return tuple(Prediction(label=one.label, score=one.score, index=one.index) for one in prediction.labels)

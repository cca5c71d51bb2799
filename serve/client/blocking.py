"""Blocking client of `unfreeze.v1.Classifier`; `unfreeze.serve.client.asynchronous` is its asyncio version."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any, TypeAlias, Unpack

import grpc

from unfreeze.contract.closing import Closing
from unfreeze.contract.prediction import Prediction
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.channel import Connection, ConnectionKeywords
from unfreeze.serve.client.messages import (
    Classification,
    ModelDescription,
    ModelVersion,
    Question,
    description_of,
    error_of,
    models_of,
)
from unfreeze.serve.client.request_batching import (
    IMAGES_A_REQUEST,
    Encoded,
    LabeledImage,
    Reply,
    Round,
    Rounds,
    batches,
    listed,
    rounds,
)

_Asked: TypeAlias = pb.PredictRequest | grpc.Future


class Client(Closing):
    """A connection to a server; a context manager. Threads may share it.

    The first call fails soon where no server answers. Once one has answered, calls wait for it to come back, as long as
    their deadline allows.

    Args:
        target: "host:port".
        options: as `Connection` takes them: `timeout_s`, `attempts`, `in_flight`, `tls`, `tls_ca`, `token` and more.

    Raises:
        OptionsError: see `Connection`.
    """

    def __init__(self, target: str, **options: Unpack[ConnectionKeywords]) -> None:
        self._connection = how = Connection(target=target, **options)
        self._channel = (
            grpc.secure_channel(target, how.credentials(), options=how.channel_options())
            if how.secure
            else grpc.insecure_channel(target, options=how.channel_options())
        )
        self._stub = ClassifierStub(self._channel)
        self._met = False

    def predict(
        self, images: Encoded | Iterable[Encoded], *, model: str = "", version: str = "", top: int = 5
    ) -> list[tuple[Prediction, ...]]:
        """Name the most probable labels of each image, all or none.

        Args:
            images: encoded ones (bytes), or files' paths; or one of them, or a folder.
            model: its name; may be empty where the server has only one.
            version: of the model; empty for the newest.
            top: how many labels to name, at least 1.

        Returns:
            For each image its labels, the most probable first.

        Raises:
            ImageError: a file cannot be read.
            InvalidRequestError: an image cannot be used; the message says which and why.
            UnknownModelError: there is no such model.
            ServingError: the server refused, or there is none.
        """
        answers = self.classify(images, model=model, version=version, top=top, strict=True)
        return [answer.predictions for answer in answers]

    def classify(
        self,
        images: Encoded | Iterable[Encoded],
        *,
        model: str = "",
        version: str = "",
        top: int = 5,
        strict: bool = False,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Iterator[Classification]:
        """Name the most probable labels of many images, in their order; one that cannot be used harms no other.

        Files are read as their turn comes, and several requests are at work at a time.

        Args:
            images: as in `predict`.
            model: likewise.
            version: likewise.
            top: likewise.
            strict: raise where an image cannot be used, in place of an answer that says so.
            progress: told how many images are done since it was told last.

        Yields:
            An answer for each image.

        Raises:
            ImageError: a file cannot be read, and `strict`.
            InvalidRequestError: an image cannot be used, and `strict`; or `top` is out of its range.
            UnknownModelError: there is no such model.
            ServingError: the server refused, or there is none.
        """
        question = Question(model=model, version=version, top=top)
        begin = partial(rounds, question=question, attempts=self._connection.attempts, strict=strict)
        return self._classify(listed(images), begin, progress)

    def list_models(self) -> tuple[ModelVersion, ...]:
        """Name the models of the server, and say in what state each version is.

        Raises:
            ServingError: the server refused, or there is none.
        """
        return models_of(self._call(self._stub.ListModels, pb.ListModelsRequest()))

    def describe_model(self, model: str = "", version: str = "") -> ModelDescription:
        """Tell what the server knows of one model.

        Args:
            model: its name; may be empty where the server has only one.
            version: empty for the newest.

        Raises:
            UnknownModelError: there is no such model.
            ServingError: the server refused, or there is none.
        """
        return description_of(
            self._call(self._stub.DescribeModel, pb.DescribeModelRequest(model=model, version=version))
        )

    def close(self) -> None:
        """Hang up; what is at work is cancelled."""
        self._channel.close()

    def _classify(
        self,
        images: Iterable[Encoded],
        begin: Callable[[list[LabeledImage]], Rounds],
        progress: Callable[[int], object],
    ) -> Iterator[Classification]:
        how, at_work = self._connection, deque[tuple[Rounds, list[_Asked]]]()
        few = isinstance(images, Sized) and len(images) <= IMAGES_A_REQUEST
        most = 1 if few else how.in_flight
        try:
            for batch in batches(images, how.max_message_bytes):
                steps = begin(batch)
                at_work.append((steps, self._ask(next(steps), wait=most == 1)))
                if len(at_work) == most:
                    yield from self._finished(*at_work.popleft(), progress)
            while at_work:
                yield from self._finished(*at_work.popleft(), progress)
        finally:
            for _, asked in at_work:
                _cancel(asked)

    def _finished(self, steps: Rounds, asked: list[_Asked], progress: Callable[[int], object]) -> list[Classification]:
        """Go on until all images of a request have their answers."""
        while True:
            try:
                following = steps.send([self._reply(one) for one in asked])
            except StopIteration as done:
                answers: list[Classification] = done.value
                progress(len(answers))
                return answers
            finally:
                _cancel(asked)
            time.sleep(following.pause_s)
            asked = self._ask(following, wait=len(following.requests) == 1)

    def _ask(self, what: Round, *, wait: bool) -> list[_Asked]:
        """Send requests; where there is nothing to do meanwhile, they wait for `_reply`: that takes half the time."""
        if wait:
            return [*what.requests]
        return [self._stub.Predict.future(request, **self._call_options()) for request in what.requests]

    def _reply(self, asked: _Asked) -> Reply:
        try:
            if isinstance(asked, pb.PredictRequest):
                reply: Reply = self._stub.Predict(asked, **self._call_options())
            else:
                reply = asked.result()
        except grpc.RpcError as error:
            return error_of(error, self._connection)
        self._met = True
        return reply

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Any) -> Any:
        try:
            response = method(request, **self._call_options())
        except grpc.RpcError as error:
            raise error_of(error, self._connection) from error
        self._met = True
        return response

    def _call_options(self) -> dict[str, Any]:
        how = self._connection
        return {"timeout": how.timeout_s, "metadata": how.metadata, "wait_for_ready": self._met or None}


def _cancel(asked: list[_Asked]) -> None:
    for one in asked:
        if isinstance(one, grpc.Future):
            one.cancel()

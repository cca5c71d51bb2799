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
from unfreeze.serve.client.channel import ClientKeywords, ClientOptions
from unfreeze.serve.client.images import (
    MAX_IMAGES_PER_REQUEST,
    ImageEntry,
    ImageSource,
    InputImage,
    expand_images,
    read_batches,
)
from unfreeze.serve.client.messages import (
    Classification,
    ModelDescription,
    ModelVersion,
    PredictParameters,
    parse_description,
    parse_models,
    to_serving_error,
)
from unfreeze.serve.client.request_batching import BatchExchange, Outcome, PendingRequests, batch_exchange

_Call: TypeAlias = pb.PredictRequest | grpc.Future  # not started yet, or in flight


class Client(Closing):
    """Blocking client; thread-safe, and a context manager.

    If the server is not reachable, the first call fails soon. After the first successful call, calls wait for an
    unreachable server until their deadline, for example while it restarts.

    Args:
        target: address of the server, "host:port" or "unix:///path".
        options: keyword arguments of `ClientOptions`: `timeout_s`, `max_attempts`, `max_in_flight`, `tls`, `tls_ca`,
            `token` and others.

    Raises:
        OptionsError: an option is invalid; see `ClientOptions`.
    """

    def __init__(self, target: str, **options: Unpack[ClientKeywords]) -> None:
        self._options = ClientOptions(target=target, **options)
        self._channel = self._options.open_channel(grpc)
        self._stub = ClassifierStub(self._channel)
        self._has_connected = False

    def predict(
        self, images: ImageSource | Iterable[ImageEntry], *, model: str = "", version: str = "", top_k: int = 5
    ) -> list[tuple[Prediction, ...]]:
        """Classify images; raises if one of them cannot be classified.

        Args:
            images: encoded images (bytes) or paths of files; also a single one, or the path of a folder.
            model: name of the model; may be empty if the server has only one.
            version: version of the model; empty for the newest.
            top_k: number of labels to return for each image, at least 1.

        Returns:
            The labels of each image, ordered by score, the highest first. `classify` also returns whether an image's
            top score is below the model's confidence threshold.

        Raises:
            ImageError: a file cannot be read.
            InvalidRequestError: an image cannot be decoded, and the message names it; or `top_k` is out of range.
            UnknownModelError: the server has no such model or version.
            ServingError: the call failed, for example because the server is not reachable.
        """
        results = self.classify(images, model=model, version=version, top_k=top_k, strict=True)
        return [result.predictions for result in results]

    def classify(
        self,
        images: ImageSource | Iterable[ImageEntry],
        *,
        model: str = "",
        version: str = "",
        top_k: int = 5,
        strict: bool = False,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Iterator[Classification]:
        """Classify any number of images lazily; an image that cannot be classified does not affect the others.

        Files are read lazily, and up to `max_in_flight` requests are sent concurrently.

        Args:
            images: as for `predict`; also an iterator.
            model: as for `predict`.
            version: as for `predict`.
            top_k: as for `predict`.
            strict: raise if an image cannot be classified, instead of yielding a result with an error.
            progress: called with the number of images completed since the last call.

        Yields:
            One result per image, in the order of the images.

        Raises:
            ImageError: a file cannot be read, and `strict`.
            InvalidRequestError: an image cannot be decoded, and `strict`; or `top_k` is out of range.
            UnknownModelError: the server has no such model or version.
            ServingError: the call failed, for example because the server is not reachable.
        """
        parameters = PredictParameters(model=model, version=version, top_k=top_k)
        begin = partial(batch_exchange, parameters=parameters, max_attempts=self._options.max_attempts, strict=strict)
        return self._classify(expand_images(images), begin, progress)

    def list_models(self) -> tuple[ModelVersion, ...]:
        """List the models and versions of the server with their state.

        Raises:
            ServingError: the call failed, for example because the server is not reachable.
        """
        return parse_models(self._call(self._stub.ListModels, pb.ListModelsRequest()))

    def describe_model(self, model: str = "", version: str = "") -> ModelDescription:
        """Return the metadata of a model.

        Args:
            model: name of the model; may be empty if the server has only one.
            version: version of the model; empty for the newest.

        Raises:
            UnknownModelError: the server has no such model or version.
            ServingError: the call failed, for example because the server is not reachable.
        """
        request = pb.DescribeModelRequest(model=model, version=version)
        return parse_description(self._call(self._stub.DescribeModel, request))

    def close(self) -> None:
        """Close the channel; pending calls are cancelled."""
        self._channel.close()

    def _classify(
        self,
        images: Iterable[ImageEntry],
        begin: Callable[[list[InputImage]], BatchExchange],
        progress: Callable[[int], object],
    ) -> Iterator[Classification]:
        in_flight = deque[tuple[BatchExchange, list[_Call]]]()
        single_request = isinstance(images, Sized) and len(images) <= MAX_IMAGES_PER_REQUEST
        max_in_flight = 1 if single_request else self._options.max_in_flight
        try:
            for batch in read_batches(images, self._options.max_message_bytes):
                exchange = begin(batch)
                in_flight.append((exchange, self._send(next(exchange), blocking=max_in_flight == 1)))
                if len(in_flight) == max_in_flight:
                    yield from self._complete(*in_flight.popleft(), progress)
            while in_flight:
                yield from self._complete(*in_flight.popleft(), progress)
        finally:
            for _, calls in in_flight:
                _cancel(calls)

    def _complete(
        self, exchange: BatchExchange, calls: list[_Call], progress: Callable[[int], object]
    ) -> list[Classification]:
        """Receive outcomes and send further requests until all images of a batch have a result."""
        while True:
            try:
                pending = exchange.send([self._outcome(call) for call in calls])
            except StopIteration as done:
                results: list[Classification] = done.value
                progress(len(results))
                return results
            finally:
                _cancel(calls)
            time.sleep(pending.delay_s)
            calls = self._send(pending, blocking=len(pending.requests) == 1)

    def _send(self, pending: PendingRequests, *, blocking: bool) -> list[_Call]:
        """Send requests; blocking ones are sent by `_outcome`, as grpcio's blocking calls have half the overhead."""
        if blocking:
            return [*pending.requests]
        return [self._stub.Predict.future(request, **self._call_arguments()) for request in pending.requests]

    def _outcome(self, call: _Call) -> Outcome:
        try:
            if isinstance(call, pb.PredictRequest):
                outcome: Outcome = self._stub.Predict(call, **self._call_arguments())
            else:
                outcome = call.result()
        except grpc.RpcError as error:
            return to_serving_error(error, self._options)
        self._has_connected = True
        return outcome

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Any) -> Any:
        try:
            response = method(request, **self._call_arguments())
        except grpc.RpcError as error:
            raise to_serving_error(error, self._options) from error
        self._has_connected = True
        return response

    def _call_arguments(self) -> dict[str, Any]:
        return self._options.call_arguments(wait_for_ready=self._has_connected)


def _cancel(calls: list[_Call]) -> None:
    for call in calls:
        if isinstance(call, grpc.Future):
            call.cancel()

"""Asyncio client of `unfreeze.v1.Classifier`, with the same methods as `unfreeze.serve.client.blocking`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from unfreeze.contract.errors import ServingError
from unfreeze.contract.prediction import Prediction
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.channel import ClientKeywords, ClientOptions
from unfreeze.serve.client.images import ImageEntry, ImageSource, InputImage, expand_images, read_batches
from unfreeze.serve.client.messages import (
    Classification,
    ModelDescription,
    ModelVersion,
    PredictParameters,
    parse_description,
    parse_models,
    to_serving_error,
)
from unfreeze.serve.client.request_batching import BatchExchange, Outcome, batch_exchange


class AsyncClient:
    """Asyncio client; an async context manager. Create it in the event loop that uses it.

    Unreachable servers are handled as by `Client`.

    Args:
        target: address of the server, "host:port" or "unix:///path".
        options: keyword arguments of `ClientOptions`: `timeout_s`, `max_attempts`, `max_in_flight`, `tls`, `tls_ca`,
            `token` and others.

    Raises:
        OptionsError: an option is invalid; see `ClientOptions`.
    """

    def __init__(self, target: str, **options: Unpack[ClientKeywords]) -> None:
        self._options = ClientOptions(target=target, **options)
        self._channel = self._options.open_channel(grpc.aio)
        self._stub = ClassifierStub(self._channel)
        self._has_connected = False

    async def predict(
        self, images: ImageSource | Iterable[ImageEntry], *, model: str = "", version: str = "", top_k: int = 5
    ) -> list[tuple[Prediction, ...]]:
        """Classify images; raises if one of them cannot be classified. See `Client.predict`."""
        results = self.classify(images, model=model, version=version, top_k=top_k, strict=True)
        return [result.predictions async for result in results]

    def classify(
        self,
        images: ImageSource | Iterable[ImageEntry],
        *,
        model: str = "",
        version: str = "",
        top_k: int = 5,
        strict: bool = False,
        progress: Callable[[int], object] = lambda _: None,
    ) -> AsyncIterator[Classification]:
        """Classify any number of images lazily, in order. See `Client.classify`.

        Files are read in a thread; an iterator of images is also advanced in that thread.
        """
        parameters = PredictParameters(model=model, version=version, top_k=top_k)
        begin = partial(batch_exchange, parameters=parameters, max_attempts=self._options.max_attempts, strict=strict)
        return self._classify(images, begin, progress)

    async def list_models(self) -> tuple[ModelVersion, ...]:
        """List the models and versions of the server. See `Client.list_models`."""
        return parse_models(await self._call(self._stub.ListModels, pb.ListModelsRequest()))

    async def describe_model(self, model: str = "", version: str = "") -> ModelDescription:
        """Return the metadata of a model. See `Client.describe_model`."""
        request = pb.DescribeModelRequest(model=model, version=version)
        return parse_description(await self._call(self._stub.DescribeModel, request))

    async def close(self) -> None:
        """Close the channel; pending calls are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _classify(
        self,
        images: ImageSource | Iterable[ImageEntry],
        begin: Callable[[list[InputImage]], BatchExchange],
        progress: Callable[[int], object],
    ) -> AsyncIterator[Classification]:
        in_flight = deque[asyncio.Task[list[Classification]]]()
        batches = read_batches(await asyncio.to_thread(expand_images, images), self._options.max_message_bytes)
        try:
            while batch := await asyncio.to_thread(next, batches, None):
                in_flight.append(asyncio.create_task(self._complete(begin(batch))))
                if len(in_flight) == self._options.max_in_flight:
                    for result in await _oldest(in_flight, progress):
                        yield result
            while in_flight:
                for result in await _oldest(in_flight, progress):
                    yield result
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)

    async def _complete(self, exchange: BatchExchange) -> list[Classification]:
        """Send requests until all images of a batch have a result."""
        pending = next(exchange)
        while True:
            await asyncio.sleep(pending.delay_s)
            outcomes = await asyncio.gather(*(self._outcome(request) for request in pending.requests))
            try:
                pending = exchange.send(outcomes)
            except StopIteration as done:
                results: list[Classification] = done.value
                return results

    async def _outcome(self, request: pb.PredictRequest) -> Outcome:
        try:
            outcome: Outcome = await self._call(self._stub.Predict, request)
        except ServingError as error:
            return error
        return outcome

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable, request: Any) -> Any:
        try:
            response = await method(request, **self._options.call_arguments(wait_for_ready=self._has_connected))
        except grpc.aio.AioRpcError as error:
            raise to_serving_error(error, self._options) from error
        self._has_connected = True
        return response


async def _oldest(
    in_flight: deque[asyncio.Task[list[Classification]]], progress: Callable[[int], object]
) -> list[Classification]:
    """Wait for the oldest request."""
    results = await in_flight.popleft()
    progress(len(results))
    return results

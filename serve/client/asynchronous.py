"""Ask a server from asyncio: what `unfreeze.serve.client.blocking` does, without blocking the event loop."""

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
from unfreeze.serve.client.request_batching import Encoded, LabeledImage, Reply, Rounds, batches, listed, rounds


class AsyncClient:
    """A connection to a server; an async context manager. Make it in the event loop that uses it.

    As with `Client`, the first call fails soon where no server answers, and later ones wait for it to come back.

    Args:
        target: "host:port".
        options: as `Connection` takes them: `timeout_s`, `attempts`, `in_flight`, `tls`, `tls_ca`, `token` and more.

    Raises:
        OptionsError: see `Connection`.
    """

    def __init__(self, target: str, **options: Unpack[ConnectionKeywords]) -> None:
        self._connection = how = Connection(target=target, **options)
        self._channel = (
            grpc.aio.secure_channel(target, how.credentials(), options=how.channel_options())
            if how.secure
            else grpc.aio.insecure_channel(target, options=how.channel_options())
        )
        self._stub = ClassifierStub(self._channel)
        self._met = False

    async def predict(
        self, images: Encoded | Iterable[Encoded], *, model: str = "", version: str = "", top: int = 5
    ) -> list[tuple[Prediction, ...]]:
        """Name the most probable labels of each image, all or none; see `Client.predict`."""
        answers = self.classify(images, model=model, version=version, top=top, strict=True)
        return [answer.predictions async for answer in answers]

    def classify(
        self,
        images: Encoded | Iterable[Encoded],
        *,
        model: str = "",
        version: str = "",
        top: int = 5,
        strict: bool = False,
        progress: Callable[[int], object] = lambda _: None,
    ) -> AsyncIterator[Classification]:
        """Name the most probable labels of many images, in their order; see `Client.classify`.

        Files are read in a thread, as their turn comes; so is the iterable, if it is one.
        """
        question = Question(model=model, version=version, top=top)
        begin = partial(rounds, question=question, attempts=self._connection.attempts, strict=strict)
        return self._classify(images, begin, progress)

    async def list_models(self) -> tuple[ModelVersion, ...]:
        """Name the models of the server; see `Client.list_models`."""
        return models_of(await self._call(self._stub.ListModels, pb.ListModelsRequest()))

    async def describe_model(self, model: str = "", version: str = "") -> ModelDescription:
        """Tell what the server knows of one model; see `Client.describe_model`."""
        request = pb.DescribeModelRequest(model=model, version=version)
        return description_of(await self._call(self._stub.DescribeModel, request))

    async def close(self) -> None:
        """Hang up; what is at work is cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _classify(
        self,
        images: Encoded | Iterable[Encoded],
        begin: Callable[[list[LabeledImage]], Rounds],
        progress: Callable[[int], object],
    ) -> AsyncIterator[Classification]:
        how, at_work = self._connection, deque[asyncio.Task[list[Classification]]]()
        reading = batches(await asyncio.to_thread(listed, images), how.max_message_bytes)
        try:
            while batch := await asyncio.to_thread(next, reading, None):
                at_work.append(asyncio.create_task(self._finished(begin(batch))))
                if len(at_work) == how.in_flight:
                    for answer in await _first(at_work, progress):
                        yield answer
            while at_work:
                for answer in await _first(at_work, progress):
                    yield answer
        finally:
            for task in at_work:
                task.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)

    async def _finished(self, steps: Rounds) -> list[Classification]:
        """Go on until all images of a request have their answers."""
        following = next(steps)
        while True:
            await asyncio.sleep(following.pause_s)
            replies = await asyncio.gather(*(self._reply(request) for request in following.requests))
            try:
                following = steps.send(replies)
            except StopIteration as done:
                answers: list[Classification] = done.value
                return answers

    async def _reply(self, request: pb.PredictRequest) -> Reply:
        try:
            reply: Reply = await self._call(self._stub.Predict, request)
        except ServingError as error:
            return error
        return reply

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable, request: Any) -> Any:
        how = self._connection
        try:
            response = await method(
                request, timeout=how.timeout_s, metadata=how.metadata, wait_for_ready=self._met or None
            )
        except grpc.aio.AioRpcError as error:
            raise error_of(error, how) from error
        self._met = True
        return response


async def _first(
    at_work: deque[asyncio.Task[list[Classification]]], progress: Callable[[int], object]
) -> list[Classification]:
    """Wait for the request that was asked first."""
    answers = await at_work.popleft()
    progress(len(answers))
    return answers

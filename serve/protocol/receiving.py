"""Receive the messages of inference calls: only of those that can be answered, and not too many at a time.

Reading a request only to reject it wastes CPU time, and a message takes memory from its first byte. Unary inference
calls are therefore handled as client streams: gRPC then starts the method before it receives the message.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc

from unfreeze.contract.errors import DrainingError, InvalidRequestError, QueueFullError
from unfreeze.serve.models.served import ServedModels
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget
from unfreeze.serve.status import deadline_of

INFERENCE_METHODS = frozenset({"/inference.GRPCInferenceService/ModelInfer", "/unfreeze.v1.Classifier/Predict"})
_RECEIVE_S, _CONTENDED_RECEIVE_S = 60.0, 10.0
_CHECK_S = 1.0
_RETRY_S = 0.1
_TOO_SLOW = "the request was received too slowly, and others wait for memory to be received; retry later"


class Receiver:
    """Receives the messages of inference calls.

    The requested model and priority are in the message and so not yet known. Therefore a call is rejected only if no
    model could accept one more image at the default priority before the call's deadline. A server that is shutting
    down rejects all calls.

    Args:
        models: the served models.
        budget: memory of all messages that are being received.
        max_message_bytes: size limit of a message.
    """

    def __init__(self, models: ServedModels, budget: ReceiveBudget, max_message_bytes: int) -> None:
        self._models, self._budget, self._max_message_bytes = models, budget, max_message_bytes
        self._reading: set[_Reading] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.draining = False
        self.rejected_calls = 0

    async def receive(self, context: grpc.aio.ServicerContext) -> Any:
        """Check a call, then receive its message.

        Args:
            context: the call; its message has not been read.

        Returns:
            What the deserializer returned.

        Raises:
            ServingError: the call is rejected.
            InvalidRequestError: the call ends without a message.
        """
        deadline = deadline_of(context)
        await self._check(deadline)
        if self._budget.is_exhausted(self._max_message_bytes):
            self._hurry()
        await self._budget.reserve(self._max_message_bytes, deadline)
        try:
            request = await self._read(context)
        finally:
            self._budget.give(self._max_message_bytes)
        if request is grpc.aio.EOF:
            if context.done():
                raise asyncio.CancelledError  # the message exceeded the size limit, or the caller has disconnected
            raise InvalidRequestError("the call has no request message")
        return request

    async def _check(self, deadline: float | None) -> None:
        if self.draining:
            self.rejected_calls += 1
            raise DrainingError("the server is shutting down; retry on another server")
        if self._models.are_busy():
            await asyncio.sleep(0)  # lets cancelled calls release their queue slots before the check
            self._models.check_capacity(deadline)

    async def _read(self, context: grpc.aio.ServicerContext) -> Any:
        """Read the message; a call that takes too long is ended by a timer that all calls share."""
        loop = asyncio.get_running_loop()
        reading = _Reading(asyncio.current_task(), loop.time() + _RECEIVE_S)
        self._reading.add(reading)
        if self._timer is None:
            self._timer = loop.call_later(_CHECK_S, self._end_slow_calls)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if reading.expired:
                if reading.task is not None:
                    reading.task.uncancel()
                raise QueueFullError(_TOO_SLOW, _RETRY_S) from None
            raise
        finally:
            self._reading.discard(reading)

    def _end_slow_calls(self) -> None:
        loop = asyncio.get_running_loop()
        for reading in self._reading:
            if loop.time() > reading.until and reading.task is not None:
                reading.expired = True
                reading.task.cancel()
        self._timer = loop.call_later(_CHECK_S, self._end_slow_calls) if self._reading else None

    def _hurry(self) -> None:
        """Give the calls that are being received ten more seconds, because others wait for their memory."""
        latest = asyncio.get_running_loop().time() + _CONTENDED_RECEIVE_S
        for reading in self._reading:
            reading.until = min(reading.until, latest)


@dataclass(slots=True, eq=False)
class _Reading:
    """A call whose message is being received.

    Args:
        task: handles it.
        until: on the event loop's clock, when it is ended.
        expired: whether it was ended.
    """

    task: "asyncio.Task[Any] | None"
    until: float
    expired: bool = False

"""An inference request, from admission to response, and the slices of it that go into batches."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import DeadlineError

EncodedImage: TypeAlias = bytes | memoryview  # a view of the bytes that were received
DEFAULT_PRIORITY = 1000


class InferenceRequest:
    """The images of one request and the future that its caller awaits.

    Create it in the caller's event loop. Worker threads write `probabilities` and decrement `remaining`.

    Args:
        images: encoded images, or preprocessed ones, uint8 [N, H, W, 3].
        width: number of values per image in the answer.
        deadline: on the clock of `time.monotonic`; the request is dropped if it is still queued then.
        priority: requests with lower numbers are executed first.
    """

    def __init__(
        self,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        width: int,
        *,
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        self.images = images
        self.encoded = not isinstance(images, np.ndarray)
        self.sent_encoded = self.encoded  # differs for images that another process has decoded
        self.deadline = deadline
        self.priority = priority
        self.probabilities = np.empty((len(images), width), np.float32)
        self.remaining = len(images)
        self.finished = False  # answered, failed or cancelled: its remaining images are skipped
        self.timing = RequestTiming()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[np.ndarray] = self.loop.create_future()

    async def result(self) -> np.ndarray:
        """Wait for the probabilities, then release images and error.

        An error refers to the frames that it passes on its way to the caller, and one of them to this request. If the
        request kept the error, the images would stay in memory until the next garbage collection.
        """
        try:
            return await self.future
        finally:
            self.images = self.images[:0]
            self.future = self.loop.create_future()
            self.future.cancel()

    def encoded_image(self, index: int) -> bytes:
        """Return an encoded image, copied if it is a view."""
        return bytes(self.images[index])

    def cancel(self) -> None:
        """Skip the remaining images and release their memory, because the caller has stopped waiting."""
        self.finished = True
        self.images = self.images[:0]

    def is_pending(self) -> bool:
        """Check whether the caller still waits; fails the request if its deadline has passed."""
        if not self.finished and self.deadline is not None and time.monotonic() > self.deadline:
            self.fail_from_thread(DeadlineError("the deadline passed while the request was waiting"))
        return not self.finished

    def fail_from_thread(self, error: Exception) -> None:
        """Raise an error in the caller and skip the remaining images."""
        self.finished = True
        with suppress(RuntimeError):  # the event loop is closed, so no caller waits
            self.loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def complete_from_thread(requests: Sequence[InferenceRequest]) -> None:
    """Return the probabilities to the callers of complete requests, in one iteration of their event loop."""
    for request in requests:
        request.finished = True
    with suppress(RuntimeError):  # the event loop is closed, so no caller waits
        requests[0].loop.call_soon_threadsafe(_complete, requests)


def _complete(requests: Sequence[InferenceRequest]) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_result(request.probabilities)


@dataclass
class RequestTiming:
    """Durations of a request's stages, in seconds, and times on the clock of `time.monotonic`.

    Args:
        arrived: when the request was created.
        started: when its first image joined a batch; 0 before that.
        decode_s: time spent decoding, summed over all images.
        infer_s: time in the runtime, summed over the request's batches.
    """

    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    decode_s: float = 0.0
    infer_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class RequestSlice:
    """Images of one request that go into the same batch: one encoded image, or several preprocessed ones.

    Args:
        request: the request.
        start: index of the first image.
        stop: index after the last image.
    """

    request: InferenceRequest
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def split_request(request: InferenceRequest, max_batch: int) -> list[RequestSlice]:
    """Split a request into slices that fit into a batch.

    Args:
        request: the request.
        max_batch: images in the largest batch.
    """
    step = 1 if request.encoded else max_batch
    count = len(request.images)
    return [RequestSlice(request, start, min(start + step, count)) for start in range(0, count, step)]

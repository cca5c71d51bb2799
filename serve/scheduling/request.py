"""The images of one request, from their admission to the answer."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import DeadlineError

DEFAULT_PRIORITY = 1000


class InferenceRequest:
    """One request's images; it owns the future that its caller waits for.

    Make it in the event loop of the caller. Worker threads fill `answers` in and count `left` down.

    Args:
        images: encoded ones, or prepared ones, uint8 [N, H, W, 3].
        classes: how many probabilities each image gets.
        deadline: on `time.monotonic`'s clock; work that is late is not begun.
        priority: lower numbers go first.
    """

    def __init__(
        self,
        images: Sequence[bytes] | UInt8[np.ndarray, "n h w 3"],
        classes: int,
        *,
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        self.images = images
        self.encoded = not isinstance(images, np.ndarray)
        self.deadline = deadline
        self.priority = priority
        self.answers = np.empty((len(images), classes), np.float32)
        self.left = len(images)
        self.over = False  # answered, failed or given up: what is left of it is not worth computing
        self.times = Times()
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[np.ndarray] = self.loop.create_future()

    def give_up(self) -> None:
        """Forget the images: nobody waits for them any more."""
        self.over = True
        self.images = self.images[:0]

    def is_wanted(self) -> bool:
        """Tell whether somebody still waits for it; where its deadline has passed meanwhile, it is refused."""
        if not self.over and self.deadline is not None and time.monotonic() > self.deadline:
            self.fail_from_thread(DeadlineError("the deadline passed while the request was waiting"))
        return not self.over

    def fail_from_thread(self, error: Exception) -> None:
        """Give an error to the caller; what is left of the request is not begun."""
        self.over = True
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def finish_from_thread(works: Sequence[InferenceRequest]) -> None:
    """Give their answers to the callers of complete requests, all in one turn of their event loop."""
    for work in works:
        work.over = True
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        works[0].loop.call_soon_threadsafe(_finish, works)


def _finish(works: Sequence[InferenceRequest]) -> None:
    for work in works:
        if not work.answer.done():
            work.answer.set_result(work.answers)


@dataclass
class Times:
    """Where a request's time went, in seconds; `time.monotonic`'s clock.

    Args:
        arrived: when it was made.
        began: when the first of its images was taken up; 0 until then.
        decode_s: spent on decoding, over all images.
        infer_s: of the batches that they were in.
    """

    arrived: float = field(default_factory=time.monotonic)
    began: float = 0.0
    decode_s: float = 0.0
    infer_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class RequestSlice:
    """Some images of one request that go into one batch: a single encoded one, or some prepared ones.

    Args:
        work: the request.
        start: its first image.
        stop: the one after its last.
    """

    work: InferenceRequest
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def slices_of(work: InferenceRequest, most: int) -> list[RequestSlice]:
    """Take a request apart.

    Args:
        work: the request.
        most: images of one batch.
    """
    step = 1 if work.encoded else most
    return [
        RequestSlice(work, start, min(start + step, len(work.images))) for start in range(0, len(work.images), step)
    ]

"""Dynamic batching: batches form while the runtime is busy, and leave the moment that an instance is free."""

import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.errors import DeadlineError, DrainingError, ImageError, InvalidRequestError
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan, Run
from unfreeze.serve.scheduling.queue import RequestQueue
from unfreeze.serve.scheduling.request import (
    DEFAULT_PRIORITY,
    InferenceRequest,
    RequestSlice,
    finish_from_thread,
    slices_of,
)

Prepare = Callable[[bytes], np.ndarray]
_SMOOTHING, _SURPRISE = 0.05, 8.0
_Taken = tuple[RequestSlice, int, Sequence[bytes] | np.ndarray]


@dataclass(eq=False)
class _Batch:
    """Images that go through the runtime together."""

    pixels: np.ndarray
    parts: list[tuple[RequestSlice, int]] = field(default_factory=list)
    decodes: "list[Future[None]]" = field(default_factory=list)
    rows: int = 0
    since: float = 0.0


class Batcher:
    """The instances of one version of a model: threads that take what waits, decode and classify it.

    One instance at a time forms a batch. Where the plan is fused it takes its share of what waits and leaves, and
    decodes what it took; otherwise a pool decodes each image straight into its row while the other instances are
    busy, and the batch leaves when one of them is free.

    Args:
        run: from images, uint8 [N, H, W, 3], to probabilities, float32 [N, C]; called from several threads.
        prepare: from an encoded image to uint8 [H, W, 3].
        buffer: allocates memory for so many prepared images; each instance's batches form in its own.
        plan: how many instances, and the largest batch.
        decoders: decode for plans that are not fused.
        max_delay_ms: how long the first image of a batch waits for others.
        on_batch: told of each batch: whether encoded images, prepared ones or both were in it, how many, and the
            seconds that the runtime took.
    """

    def __init__(
        self,
        run: Run,
        prepare: Prepare,
        buffer: Callable[[int], np.ndarray],
        plan: ExecutionPlan,
        decoders: ThreadPoolExecutor,
        *,
        max_delay_ms: float = 0.0,
        on_batch: Callable[[AbstractSet[bool], int, float], None] = lambda _kinds, _images, _seconds: None,
    ) -> None:
        self.plan = plan
        self._run, self._prepare = run, prepare
        self._decoders, self._max_delay_s, self._on_batch = decoders, max_delay_ms / 1000, on_batch
        self._waiting = RequestQueue()
        # To form a batch. Where instances decode what they take, they need not wait for each other.
        self._turn: AbstractContextManager[object] = nullcontext() if plan.fused else threading.Lock()
        self._free = plan.instances
        self._closing = False
        self._working = 0  # images in batches
        self._image_s = plan.image_s / plan.instances
        count = plan.instances if plan.fused else plan.instances + 1
        self._threads = [
            threading.Thread(target=self._serve, args=(buffer(plan.batch),), name=f"instance-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Begin to take work."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what waits, then stop; waits for that."""
        with self._waiting.changed:
            self._closing = True
            self._waiting.changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def seconds_until(self, images: int) -> float:
        """Estimate how long a request of so many images would take, by what is waiting and how long images took."""
        return (self._waiting.images + self._working + images) * self._image_s

    def check_time(self, images: int, deadline: float | None, priority: int = DEFAULT_PRIORITY) -> None:
        """Refuse what cannot be done in time, by what goes before it; where nothing does, it is tried.

        Args:
            images: of the request.
            deadline: on `time.monotonic`'s clock, if there is one.
            priority: lower numbers go first.

        Raises:
            DeadlineError: the answer would come too late.
        """
        if deadline is None or not (self._waiting.images or self._working):
            return
        with self._waiting.changed:
            before = self._waiting.before(priority) + self._working
        seconds = (before + images) * self._image_s
        if time.monotonic() + seconds > deadline:
            raise DeadlineError(f"the answer would take about {1000 * seconds:.0f} ms, longer than the deadline leaves")

    async def submit(self, work: InferenceRequest) -> Float32[np.ndarray, "n c"]:
        """Classify images, in one batch with others' or, where they are many, in several.

        A caller that is cancelled leaves the queue, and its batch-mates are not harmed.

        Args:
            work: the request.

        Returns:
            Probabilities.

        Raises:
            InvalidRequestError: an image cannot be used; the message says which and why.
            DeadlineError: the deadline will pass, or passed, before the answer.
            DrainingError: the batcher is closing.
        """
        parts = slices_of(work, self.plan.batch)
        self.check_time(len(work.images), work.deadline, work.priority)
        with self._waiting.changed:
            if self._closing:
                raise DrainingError("the server is shutting down; ask another one")
            self._waiting.put(work, parts)
        try:
            return await work.answer
        finally:
            if not work.over:
                work.give_up()
                with self._waiting.changed:
                    self._waiting.forget()

    def _serve(self, buffer: np.ndarray) -> None:
        while True:
            with self._turn:
                batch = self._form(buffer)
            if batch is None:
                return
            try:
                self._execute(batch)
            finally:
                with self._waiting.changed:
                    self._free += 1
                    self._working -= batch.rows
                    self._waiting.changed.notify_all()

    def _form(self, buffer: np.ndarray) -> _Batch | None:
        """Collect a batch; gives it when an instance is free, and None when there will be no more."""
        batch, changed = _Batch(pixels=buffer), self._waiting.changed
        with changed:
            while True:
                self._fill(batch)
                left = batch.since + self._max_delay_s - time.monotonic() if batch.rows else 0.0
                ready = batch.rows == self.plan.batch or left <= 0 or self._closing
                if batch.rows and self._free and ready:
                    self._free -= 1
                    return batch
                if self._closing and not batch.rows and not self._waiting:
                    return None
                changed.wait(left if batch.rows and self._free else None)

    def _fill(self, batch: _Batch) -> None:
        """Take what waits: in a fused plan this instance's share of it, else all that fits."""
        most = self.plan.batch
        if self.plan.fused and not self._max_delay_s:
            most = min(most, max(1, -(-len(self._waiting) // self.plan.instances)))
        early = not self._free  # what is prepared already can wait, and be overtaken
        while batch.rows < most and (part := self._waiting.take(self.plan.batch - batch.rows, encoded=early)):
            now = time.monotonic()
            batch.since = batch.since or now
            part.work.times.began = part.work.times.began or now
            batch.parts.append((part, batch.rows))
            if part.work.encoded and not self.plan.fused:
                batch.decodes.append(self._decoders.submit(self._decode, part, batch.pixels, batch.rows))
            batch.rows += len(part)
            self._working += len(part)

    def _execute(self, batch: _Batch) -> None:
        started = time.monotonic()
        for decode in batch.decodes:
            decode.result()
        if self.plan.fused:
            for part, row in batch.parts:
                if part.work.encoded:
                    self._decode(part, batch.pixels, row)
        wanted = _wanted(batch)
        if not wanted:
            return
        parts = [(part, row) for part, row, _ in wanted]
        try:
            pixels = _gathered(batch, wanted)
            before = time.monotonic()
            answers = self._run(pixels)
            now = time.monotonic()
            self._on_batch({part.work.encoded for part, _ in parts}, len(pixels), now - before)
            self._deliver(parts, answers, now - before)
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises goes to those who wait for it
            for part, _ in parts:
                part.work.fail_from_thread(error)
            return
        self._learn((now - started) / batch.rows / self.plan.instances)

    def _learn(self, image_s: float) -> None:
        """Remember how long images take; one batch that was held up says little of the next ones."""
        most = _SURPRISE * self._image_s or image_s
        self._image_s += _SMOOTHING * (min(image_s, most) - self._image_s)

    def _decode(self, part: RequestSlice, pixels: UInt8[np.ndarray, "n h w 3"], row: int) -> None:
        """Decode an image into its row; where that cannot be done, its request fails, and only that."""
        work, number = part.work, part.start
        if not work.is_wanted():
            return
        started = time.monotonic()
        try:
            pixels[row] = self._prepare(work.images[number])
        except ImageError as error:
            work.fail_from_thread(InvalidRequestError(f"image {number + 1} of {len(work.images)}: {error}"))
        except Exception as error:  # noqa: BLE001 - as above
            work.fail_from_thread(error)
        work.times.decode_s += time.monotonic() - started

    def _deliver(
        self, parts: list[tuple[RequestSlice, int]], answers: Float32[np.ndarray, "n c"], infer_s: float
    ) -> None:
        """Write answers to their requests, and wake up the callers of those that are complete."""
        finished = []
        with self._waiting.changed:
            for part, row in parts:
                work = part.work
                work.answers[part.start : part.stop] = answers[row : row + len(part)]
                work.times.infer_s += infer_s
                work.left -= len(part)
                if work.left == 0:
                    finished.append(work)
        if finished:
            finish_from_thread(finished)


def _wanted(batch: _Batch) -> list[_Taken]:
    """Give the parts that somebody still waits for, each with its row and its request's images.

    Who gives a request up says so before its images go, in another thread. So they are taken first.
    """
    taken = [(part, row, part.work.images) for part, row in batch.parts]
    return [one for one in taken if one[0].work.is_wanted()]


def _gathered(batch: _Batch, wanted: list[_Taken]) -> UInt8[np.ndarray, "n h w 3"]:
    """Put prepared images beside the decoded ones; a part that is alone stays where it is."""
    if len(batch.parts) == 1 and not wanted[0][0].work.encoded:
        part, _, images = wanted[0]
        return np.asarray(images[part.start : part.stop])
    for part, row, images in wanted:
        if not part.work.encoded:
            batch.pixels[row : row + len(part)] = images[part.start : part.stop]
    return batch.pixels[: batch.rows]

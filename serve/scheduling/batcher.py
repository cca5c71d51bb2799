"""Dynamic batching: a batch forms while the runtime is busy and starts as soon as an instance is free."""

import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.errors import DeadlineError, DrainingError, ImageError, InvalidRequestError
from unfreeze.serve.runtimes.throughput import Run
from unfreeze.serve.scheduling.batch import Batch
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan
from unfreeze.serve.scheduling.queue import RequestQueue
from unfreeze.serve.scheduling.request import (
    DEFAULT_PRIORITY,
    InferenceRequest,
    RequestSlice,
    complete_from_thread,
    split_request,
)

Preprocess = Callable[[bytes], np.ndarray]
_SMOOTHING = 0.05  # weight of the newest batch in the moving average of latency
_MAX_OUTLIER = 8.0  # a batch counts as at most this many times the average


class Batcher:
    """The instances of one model version: threads that take queued images, decode and classify them.

    One instance at a time forms a batch. If the plan is fused, it takes its share of the queue, starts at once and
    decodes its images itself. Otherwise a thread pool decodes each image into its row while the other instances are
    busy, and the batch starts when one of them is free.

    Args:
        run: maps images, uint8 [N, H, W, 3], to probabilities, float32 [N, C]; called from several threads.
        preprocess: maps an encoded image to uint8 [H, W, 3].
        allocate: allocates a buffer for a number of preprocessed images; each instance has its own.
        plan: number of instances and the largest batch.
        decoders: thread pool for plans that are not fused.
        max_delay_ms: how long the first image of a batch waits for others.
        on_batch: called after each batch with the kinds of images in it (True for encoded), their number and the
            seconds in the runtime.
    """

    def __init__(
        self,
        run: Run,
        preprocess: Preprocess,
        allocate: Callable[[int], np.ndarray],
        plan: ExecutionPlan,
        decoders: ThreadPoolExecutor,
        *,
        max_delay_ms: float = 0.0,
        on_batch: Callable[[AbstractSet[bool], int, float], None] = lambda _kinds, _images, _seconds: None,
    ) -> None:
        self.plan = plan
        self._run, self._preprocess = run, preprocess
        self._decoders, self._max_delay_s, self._on_batch = decoders, max_delay_ms / 1000, on_batch
        self._queue = RequestQueue()
        # Held while forming a batch. Instances that decode their own images need not wait for each other.
        self._forming: AbstractContextManager[object] = nullcontext() if plan.fused else threading.Lock()
        self._free_instances = plan.instances
        self._closing = False
        self._images_in_batches = 0
        self._image_s = plan.image_s / plan.instances
        count = plan.instances if plan.fused else plan.instances + 1
        self._threads = [
            threading.Thread(
                target=self._serve, args=(allocate(plan.max_batch),), name=f"instance-{number}", daemon=True
            )
            for number in range(count)
        ]

    def start(self) -> None:
        """Start the instances."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Execute what is queued, then stop the instances; blocks until they have stopped."""
        with self._queue.changed:
            self._closing = True
            self._queue.changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def image_s(self) -> float:
        """Seconds per image, as measured lately; 0 if not measured."""
        return self._image_s

    def estimate_s(self, images: int) -> float:
        """Estimate the latency of a request, in seconds, from the queue and the measured time per image."""
        return (self._queue.images + self._images_in_batches + images) * self._image_s

    def check_deadline(self, images: int, deadline: float | None, priority: int = DEFAULT_PRIORITY) -> None:
        """Check that a request can meet its deadline behind the requests before it; always passes if there are none.

        Args:
            images: number of images in the request.
            deadline: on the clock of `time.monotonic`; None for none.
            priority: requests with lower numbers are executed first.

        Raises:
            DeadlineError: the estimated completion is after the deadline.
        """
        if deadline is None or not (self._queue.images or self._images_in_batches):
            return
        with self._queue.changed:
            before = self._queue.images_before(priority) + self._images_in_batches
        seconds = (before + images) * self._image_s
        if time.monotonic() + seconds > deadline:
            raise DeadlineError(f"the request would take about {1000 * seconds:.0f} ms, which is after its deadline")

    async def submit(self, request: InferenceRequest) -> Float32[np.ndarray, "n c"]:
        """Classify the images of a request, batched with those of other requests.

        If the caller is cancelled, the request leaves the queue and the rest of its batch is not affected.

        Args:
            request: the request.

        Returns:
            Probabilities.

        Raises:
            InvalidRequestError: an image cannot be decoded; the message says which one and why.
            DeadlineError: the deadline cannot be met, or has passed.
            DrainingError: the batcher is closing.
        """
        self.enqueue(request)
        try:
            return await request.result()
        finally:
            self.cancel(request)

    def enqueue(self, request: InferenceRequest) -> None:
        """Add a request to the queue.

        Raises:
            DeadlineError: the deadline cannot be met.
            DrainingError: the batcher is closing.
        """
        slices = split_request(request, self.plan.max_batch)
        self.check_deadline(len(request.images), request.deadline, request.priority)
        with self._queue.changed:
            if self._closing:
                raise DrainingError("the server is shutting down; retry on another server")
            self._queue.put(slices)

    def cancel(self, request: InferenceRequest) -> None:
        """Skip the images of a request that are not classified yet, because its caller has stopped waiting."""
        if not request.finished:
            request.cancel()
            with self._queue.changed:
                self._queue.note_cancelled()

    def _serve(self, buffer: np.ndarray) -> None:
        while True:
            with self._forming:
                batch = self._form_batch(buffer)
            if batch is None:
                return
            try:
                self._execute(batch)
            finally:
                with self._queue.changed:
                    self._free_instances += 1
                    self._images_in_batches -= batch.rows
                    if not self.plan.fused:  # the thread that forms the next batch waits for a free instance
                        self._queue.changed.notify_all()

    def _form_batch(self, buffer: np.ndarray) -> Batch | None:
        """Return a batch when an instance is free, or None when the batcher is closed and its queue is empty."""
        batch, changed = Batch(pixels=buffer), self._queue.changed
        with changed:
            while True:
                self._fill(batch)
                delay_s = batch.started + self._max_delay_s - time.monotonic() if batch.rows else 0.0
                ready = batch.rows == self.plan.max_batch or delay_s <= 0 or self._closing
                if batch.rows and self._free_instances and ready:
                    self._free_instances -= 1
                    return batch
                if self._closing and not batch.rows and not self._queue:
                    return None
                changed.wait(delay_s if batch.rows and self._free_instances else None)

    def _fill(self, batch: Batch) -> None:
        """Take slices from the queue: this instance's share if the plan is fused, otherwise all that fit."""
        target = self.plan.max_batch
        if self.plan.fused and not self._max_delay_s:
            target = min(target, max(1, -(-len(self._queue) // self.plan.instances)))
        # While all instances are busy only encoded images are taken, to be decoded; others can still be overtaken.
        encoded_only = not self._free_instances
        while batch.rows < target and (
            request_slice := self._queue.take(self.plan.max_batch - batch.rows, encoded_only=encoded_only)
        ):
            now, request = time.monotonic(), request_slice.request
            request.timing.started = request.timing.started or now
            row = batch.add(request_slice, now)
            if request.encoded and not self.plan.fused:
                batch.decodes.append(self._decoders.submit(self._decode, request_slice, batch.pixels, row))
            self._images_in_batches += len(request_slice)

    def _execute(self, batch: Batch) -> None:
        started = time.monotonic()
        for decode in batch.decodes:
            decode.result()
        if self.plan.fused:
            for request_slice, row in batch.slices:
                if request_slice.request.encoded:
                    self._decode(request_slice, batch.pixels, row)
        pending = batch.pending()
        if not pending:
            return
        try:
            pixels = batch.assemble(pending)
            infer_started = time.monotonic()
            probabilities = self._run(pixels)
            now = time.monotonic()
            infer_s = now - infer_started
            self._on_batch(
                {request_slice.request.sent_encoded for request_slice, _, _ in pending}, len(pixels), infer_s
            )
            with self._queue.changed:
                complete = batch.deliver(pending, probabilities, infer_s)
            if complete:
                complete_from_thread(complete)
        except Exception as error:  # noqa: BLE001 - any error of the runtime is raised in the callers
            for request_slice, _, _ in pending:
                request_slice.request.fail_from_thread(error)
            return
        self._update_estimate((now - started) / batch.rows / self.plan.instances)

    def _update_estimate(self, image_s: float) -> None:
        """Update the moving average of seconds per image; an outlier counts as a bounded multiple of it."""
        limit = _MAX_OUTLIER * self._image_s or image_s
        self._image_s += _SMOOTHING * (min(image_s, limit) - self._image_s)

    def _decode(self, request_slice: RequestSlice, pixels: UInt8[np.ndarray, "n h w 3"], row: int) -> None:
        """Decode an image into its row; an error fails its request only."""
        request, index = request_slice.request, request_slice.start
        if not request.is_pending():
            return
        started = time.monotonic()
        try:
            pixels[row] = self._preprocess(request.encoded_image(index))
        except ImageError as error:
            request.fail_from_thread(InvalidRequestError(f"image {index + 1} of {len(request.images)}: {error}"))
        except Exception as error:  # noqa: BLE001 - any other error is raised in the caller as well
            request.fail_from_thread(error)
        request.timing.decode_s += time.monotonic() - started

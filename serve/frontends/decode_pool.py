"""Threads of a front-end process that decode images into shared memory, by priority."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import ImageError, InvalidRequestError
from unfreeze.serve.scheduling.queue import RequestQueue
from unfreeze.serve.scheduling.request import (
    EncodedImage,
    InferenceRequest,
    RequestSlice,
    complete_from_thread,
    split_request,
)

Preprocess = Callable[[bytes], np.ndarray]
_SMOOTHING = 0.05  # weight of the newest image in the moving average


class DecodePool:
    """Decodes the images of requests, those of urgent requests first.

    Args:
        threads: number of threads.
    """

    def __init__(self, threads: int) -> None:
        self._queue = RequestQueue()
        self._targets: dict[InferenceRequest, tuple[int, np.ndarray, Preprocess]] = {}
        self._closing = False
        self._image_s = 0.0
        self._threads = [
            threading.Thread(target=self._serve, name=f"decode-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def estimate_s(self, images: int) -> float:
        """Estimate the seconds until as many more images are decoded."""
        return (self._queue.images + images) * self._image_s / len(self._threads)

    async def decode(
        self,
        images: Sequence[EncodedImage],
        rows: UInt8[np.ndarray, "n h w 3"],
        preprocess: Preprocess,
        deadline: float | None,
        priority: int,
    ) -> float:
        """Decode the images of a request.

        Args:
            images: encoded images.
            rows: receives them, prepared.
            preprocess: maps an encoded image to a row.
            deadline: on the clock of `time.monotonic`; None for none.
            priority: requests with lower numbers are decoded first.

        Returns:
            The seconds that it took, summed over all images.

        Raises:
            InvalidRequestError: an image cannot be decoded; the message says which one and why.
            DeadlineError: the deadline passed before all were decoded.
        """
        request = InferenceRequest(images, 0, deadline=deadline, priority=priority)
        with self._queue.changed:
            self._targets[request] = len(images), rows, preprocess
            self._queue.put(split_request(request, 1))
        try:
            await request.result()
        finally:
            with self._queue.changed:
                del self._targets[request]
                if not request.finished:
                    request.cancel()
                    self._queue.note_cancelled()
        return request.timing.decode_s

    def close(self) -> None:
        """Stop the threads after the images that they decode."""
        with self._queue.changed:
            self._closing = True
            self._queue.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (item := self._next()) is not None:
            request_slice, count, rows, preprocess = item
            started = time.monotonic()
            try:
                prepared = preprocess(request_slice.request.encoded_image(request_slice.start))
            except ImageError as error:
                position = f"image {request_slice.start + 1} of {count}"
                request_slice.request.fail_from_thread(InvalidRequestError(f"{position}: {error}"))
            except IndexError:  # cancelled meanwhile: its images have been released
                continue
            except Exception as error:  # noqa: BLE001 - any other error is raised in the caller as well
                request_slice.request.fail_from_thread(error)
            else:
                self._finish(request_slice, rows, prepared, time.monotonic() - started)

    def _next(self) -> tuple[RequestSlice, int, np.ndarray, Preprocess] | None:
        with self._queue.changed:
            while not self._closing:
                if (request_slice := self._queue.take(1, encoded_only=True)) is not None:
                    return request_slice, *self._targets[request_slice.request]
                self._queue.changed.wait()
        return None

    def _finish(self, request_slice: RequestSlice, rows: np.ndarray, prepared: np.ndarray, seconds: float) -> None:
        request = request_slice.request
        with self._queue.changed:
            self._image_s += (_SMOOTHING if self._image_s else 1.0) * (seconds - self._image_s)
            if request.finished:  # its rows may belong to another request already
                return
            rows[request_slice.start] = prepared
            request.timing.decode_s += seconds
            request.remaining -= 1
            complete = request.remaining == 0
        if complete:
            complete_from_thread([request])

"""One batch: rows of a pixel buffer and the request slices that fill them."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.serve.scheduling.request import EncodedImage, InferenceRequest, RequestSlice

PendingSlice = tuple[RequestSlice, int, Sequence[EncodedImage] | np.ndarray]


@dataclass(eq=False)
class Batch:
    """Images that are executed together.

    Args:
        pixels: buffer of preprocessed images, one per row.
        slices: request slices, each with its first row.
        decodes: pending decoding tasks.
        rows: number of rows in use.
        started: when the first image joined, on the clock of `time.monotonic`; 0 while the batch is empty.
    """

    pixels: np.ndarray
    slices: list[tuple[RequestSlice, int]] = field(default_factory=list)
    decodes: "list[Future[None]]" = field(default_factory=list)
    rows: int = 0
    started: float = 0.0

    def add(self, request_slice: RequestSlice, now: float) -> int:
        """Add a slice and return its first row."""
        row = self.rows
        self.started = self.started or now
        self.slices.append((request_slice, row))
        self.rows += len(request_slice)
        return row

    def pending(self) -> list[PendingSlice]:
        """Return the slices whose callers still wait, each with its first row and its request's images.

        A cancelled request is marked as finished before its images are released, in another thread. Therefore the
        images are read before the mark.
        """
        slices = [(request_slice, row, request_slice.request.images) for request_slice, row in self.slices]
        return [item for item in slices if item[0].request.is_pending()]

    def assemble(self, pending: list[PendingSlice]) -> UInt8[np.ndarray, "n h w 3"]:
        """Copy preprocessed images into the rows between the decoded ones.

        A single slice of preprocessed images is not copied.

        Args:
            pending: the slices whose callers still wait; at least one.

        Returns:
            The pixels to classify.
        """
        if len(self.slices) == 1 and not pending[0][0].request.encoded:
            request_slice, _, images = pending[0]
            return np.asarray(images[request_slice.start : request_slice.stop])
        for request_slice, row, images in pending:
            if not request_slice.request.encoded:
                self.pixels[row : row + len(request_slice)] = images[request_slice.start : request_slice.stop]
        return self.pixels[: self.rows]

    def deliver(
        self, pending: list[PendingSlice], probabilities: Float32[np.ndarray, "n c"], infer_s: float
    ) -> list[InferenceRequest]:
        """Copy probabilities to their requests.

        Args:
            pending: the slices whose callers still wait.
            probabilities: one row per row of the batch.
            infer_s: duration in the runtime.

        Returns:
            The requests that are complete.
        """
        complete = []
        for request_slice, row, _ in pending:
            request = request_slice.request
            request.probabilities[request_slice.start : request_slice.stop] = probabilities[
                row : row + len(request_slice)
            ]
            request.timing.infer_s += infer_s
            request.remaining -= len(request_slice)
            if request.remaining == 0:
                complete.append(request)
        return complete

"""The queue of one model version: ordered by priority, then by arrival, and bounded by admission."""

import heapq
import itertools
import threading
from collections import Counter

from unfreeze.serve.scheduling.request import InferenceRequest, RequestSlice

_MAX_CANCELLED = 64


class RequestQueue:
    """Slices of requests that are not in a batch yet.

    Not thread-safe: hold `changed` around every call. It is notified when slices are added.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.images = 0
        self._heap: list[tuple[int, int, RequestSlice]] = []
        self._sequence = itertools.count()
        self._cancelled = 0
        self._images_by_priority: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, slices: list[RequestSlice]) -> None:
        """Add the slices of a request."""
        for request_slice in slices:
            heapq.heappush(self._heap, (request_slice.request.priority, next(self._sequence), request_slice))
            self._count(request_slice, len(request_slice))
        self.changed.notify(len(slices))

    def take(self, max_images: int, *, encoded_only: bool) -> RequestSlice | None:
        """Remove and return the first slice whose caller still waits.

        Args:
            max_images: return None if the slice has more images.
            encoded_only: return None if the slice's images are preprocessed already.
        """
        while self._heap:
            first = self._heap[0][2]
            pending = first.request.is_pending()
            if pending and (len(first) > max_images or (encoded_only and not first.request.encoded)):
                return None
            heapq.heappop(self._heap)
            self._count(first, -len(first))
            if pending:
                return first
        return None

    def images_before(self, priority: int) -> int:
        """Count the images that are executed before a new request of this priority."""
        return sum(count for queued, count in self._images_by_priority.items() if queued <= priority)

    def requests(self) -> set[InferenceRequest]:
        """Return the requests that have slices in the queue."""
        return {entry[2].request for entry in self._heap}

    def note_cancelled(self) -> None:
        """Count a cancelled request; after several, remove the slices of finished requests."""
        self._cancelled += 1
        if self._cancelled > _MAX_CANCELLED:
            self._heap = [entry for entry in self._heap if not entry[2].request.finished]
            heapq.heapify(self._heap)
            self.images = 0
            self._images_by_priority.clear()
            for entry in self._heap:
                self._count(entry[2], len(entry[2]))
            self._cancelled = 0

    def _count(self, request_slice: RequestSlice, images: int) -> None:
        priority = request_slice.request.priority
        self.images += images
        self._images_by_priority[priority] += images
        if not self._images_by_priority[priority]:
            del self._images_by_priority[priority]

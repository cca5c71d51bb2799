"""What waits for one version of a model: by priority, then by arrival, bounded by what admission lets in."""

import heapq
import itertools
import threading
from collections import Counter

from unfreeze.serve.scheduling.request import InferenceRequest, RequestSlice

_FEW = 64


class RequestQueue:
    """Parts of requests that no batch has taken yet.

    Not safe by itself: hold `changed` around every call. It is told whenever something is put in.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._heap: list[tuple[int, int, RequestSlice]] = []
        self._numbers = itertools.count()
        self._given_up = 0
        self.images = 0
        self._by_priority: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, work: InferenceRequest, parts: list[RequestSlice]) -> None:
        """Let a request wait."""
        for part in parts:
            heapq.heappush(self._heap, (work.priority, next(self._numbers), part))
            self._count(part, len(part))
        self.changed.notify(len(parts))

    def take(self, room: int, *, encoded: bool) -> RequestSlice | None:
        """Take the first part that is worth its work; what is late is refused on the way.

        Args:
            room: None is given where the first part has more images.
            encoded: None is given where its images are prepared already.
        """
        while self._heap:
            part = self._heap[0][2]
            wanted = part.work.is_wanted()
            if wanted and (len(part) > room or (encoded and not part.work.encoded)):
                return None
            heapq.heappop(self._heap)
            self._count(part, -len(part))
            if wanted:
                return part
        return None

    def before(self, priority: int) -> int:
        """Count the images that go before a request of this priority, were it put in now."""
        return sum(count for urgency, count in self._by_priority.items() if urgency <= priority)

    def requests(self) -> set[InferenceRequest]:
        """Give those that wait."""
        return {entry[2].work for entry in self._heap}

    def forget(self) -> None:
        """Note that a request was given up; after some, what is left of them is swept out."""
        self._given_up += 1
        if self._given_up > _FEW:
            self._heap = [entry for entry in self._heap if not entry[2].work.over]
            heapq.heapify(self._heap)
            self.images = 0
            self._by_priority.clear()
            for entry in self._heap:
                self._count(entry[2], len(entry[2]))
            self._given_up = 0

    def _count(self, part: RequestSlice, images: int) -> None:
        self.images += images
        self._by_priority[part.work.priority] += images
        if not self._by_priority[part.work.priority]:
            del self._by_priority[part.work.priority]

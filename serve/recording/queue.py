"""A queue between an event loop, which never waits, and one thread."""

import threading
from collections import deque
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class BoundedQueue(Generic[_Item]):
    """A queue that refuses what does not fit.

    Args:
        most_items: number of items.
        most_bytes: of all items.
    """

    def __init__(self, most_items: int, most_bytes: int) -> None:
        self._most_items, self._most_bytes = most_items, most_bytes
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def offer(self, item: _Item, size: int) -> bool:
        """Add an item of so many bytes; return whether it fits."""
        with self._changed:
            if self._closed or len(self._items) == self._most_items or self._bytes + size > self._most_bytes:
                return False
            self._items.append(item)
            self._bytes += size
            self._changed.notify()
            return True

    def take(self, timeout_s: float) -> list[_Item] | None:
        """Wait for items and return all of them; none after the timeout, None when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            if not self._items and self._closed:
                return None
            items, self._items, self._bytes = list(self._items), deque(), 0
            return items

    def close(self) -> None:
        """Refuse further items."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

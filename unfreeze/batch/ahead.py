"""Read items in a thread, some ahead of the consumer, as many as fit into a number of bytes."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unfreeze.batch.sources.entry import Item

_MOST_ITEMS, _MOST_BYTES = 64, 64 << 20


class _Queue:
    """A queue from one thread to another that holds at most so many items and bytes."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._bytes = 0
        self._is_closed = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Add an item when there is space; return False if nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_space())
            if not self._is_closed:
                self._items.append(item)
                self._bytes += len(item.data)
                self._changed.notify_all()
            return not self._is_closed

    def _has_space(self) -> bool:
        return not self._items or (len(self._items) < _MOST_ITEMS and self._bytes < _MOST_BYTES)

    def close(self, error: BaseException | None = None) -> None:
        """End the queue: what is in it can still be taken."""
        with self._changed:
            self._is_closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def take(self) -> Iterator[Item]:
        """Yield the items until the end; raise the error that ended it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or bool(self._items))
                if not self._items:
                    break
                item = self._items.popleft()
                self._bytes -= len(item.data)
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error


@contextmanager
def read_ahead(read: Callable[[], Iterator[Item]]) -> Iterator[Iterator[Item]]:
    """Read in a thread while the consumer works on what was read before.

    Args:
        read: begins to read; called in the thread.

    Yields:
        The items, in order; an error of `read` is raised behind those that were read before.
    """
    queue = _Queue()

    def run() -> None:
        try:
            for item in read():
                if not queue.put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that consumes
            queue.close(error)
        else:
            queue.close()

    thread = threading.Thread(target=run, name="read ahead", daemon=True)
    thread.start()
    try:
        yield queue.take()
    finally:
        queue.close()
        thread.join()

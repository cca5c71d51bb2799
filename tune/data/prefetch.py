"""Map a function over items in threads, a few items ahead of the consumer."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from unfreeze.contract.cores import usable_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_READ_AHEAD = 64


def map_ahead(work: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int = _READ_AHEAD) -> Iterator[_Result]:
    """Apply a function to each item in threads, one per usable core.

    Args:
        work: the function, which is called from any thread.
        items: its arguments.
        ahead: largest number of results that are not consumed yet.

    Yields:
        The results, in the order of the items.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

"""Read the images of a block."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from unfreeze.batch.blocks import Block
from unfreeze.batch.sources import read
from unfreeze.batch.sources.entry import IMAGE, Entry, Item
from unfreeze.batch.storage import is_url

_REQUESTS = 32  # at the same time, for images behind URLs


def read_block(block: Block, base: str) -> Iterator[Item]:
    """Read the images of a block, in order; those behind URLs several at a time.

    Args:
        block: the block.
        base: folder that local paths are relative to.

    Raises:
        UnfreezeError: a file that holds many images can no longer be read.
    """
    if not any(_is_request(entry) for entry in block.entries):
        for entry in block.entries:
            yield from read(entry, base)
        return
    waiting: deque[Entry | Future[list[Item]]] = deque()
    try:
        for entry in block.entries:
            waiting.append(_pool().submit(_read_all, entry, base) if _is_request(entry) else entry)
            if len(waiting) >= _REQUESTS:
                yield from _results(waiting.popleft(), base)
        while waiting:
            yield from _results(waiting.popleft(), base)
    finally:
        for future in waiting:
            if isinstance(future, Future):
                future.cancel()


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads of all blocks: drivers keep connections for each thread."""
    return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="requests")


def _is_request(entry: Entry) -> bool:
    return entry.kind == IMAGE and is_url(entry.path)


def _read_all(entry: Entry, base: str) -> list[Item]:
    return list(read(entry, base))


def _results(waiting: Entry | Future[list[Item]], base: str) -> Iterator[Item]:
    yield from waiting.result() if isinstance(waiting, Future) else read(waiting, base)

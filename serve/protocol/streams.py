"""Bidirectional streams: process several requests of one stream concurrently and respond in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

_MAX_CONCURRENT = 64
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


async def map_in_order(
    requests: AsyncIterator[_Request], handle: Callable[[_Request], Awaitable[_Response]]
) -> AsyncIterator[_Response]:
    """Handle the requests of a stream, up to 64 at a time, and yield the responses in the order of the requests.

    If the stream ends early, pending requests are cancelled.

    Args:
        requests: incoming requests.
        handle: returns the response to a request; must not raise.
    """
    tasks: asyncio.Queue[asyncio.Task[_Response] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(_MAX_CONCURRENT)
    pending: set[asyncio.Task[_Response]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await slots.acquire()
                task = asyncio.ensure_future(handle(request))
                pending.add(task)
                task.add_done_callback(pending.discard)
                tasks.put_nowait(task)
        finally:
            tasks.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await tasks.get()) is not None:
            yield await task
            slots.release()
        await reader
    finally:
        reader.cancel()
        for task in pending:
            task.cancel()

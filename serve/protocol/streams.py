"""Streams: several requests of one caller at work, answered in their order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

_MOST_AT_WORK = 64
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


async def in_order(
    requests: AsyncIterator[_Request], answer: Callable[[_Request], Awaitable[_Response]]
) -> AsyncIterator[_Response]:
    """Answer a stream's requests, up to 64 at a time, in the order in which they came.

    When the stream ends early, what is still at work is cancelled.

    Args:
        requests: as they come.
        answer: gives a response to each, and never fails.
    """
    tasks: asyncio.Queue[asyncio.Task[_Response] | None] = asyncio.Queue()
    room = asyncio.Semaphore(_MOST_AT_WORK)
    begun: set[asyncio.Task[_Response]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                task = asyncio.ensure_future(answer(request))
                begun.add(task)
                task.add_done_callback(begun.discard)
                tasks.put_nowait(task)
        finally:
            tasks.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (first := await tasks.get()) is not None:
            yield await first
            room.release()
        await reader
    finally:
        reader.cancel()
        for task in begun:
            task.cancel()

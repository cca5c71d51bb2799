"""Dynamic batching: what is waiting leaves the moment the runtime is free."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from contract.arrays import Float32, UInt8
from contract.errors import DeadlineError, DrainingError

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Item:
    """Some pictures of one request; it owns the future that its caller waits for."""

    pixels: np.ndarray
    deadline: float | None
    since: float = field(default_factory=time.monotonic)
    answer: "asyncio.Future[np.ndarray]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Collects pictures of many callers into batches for one runtime.

    `start` and `close` it in the event loop that uses it.

    Args:
        run: from pictures, uint8 [N, H, W, 3], to probabilities, float32 [N, C]; called in a thread of its own.
        max_batch: the largest N.
        max_delay_ms: how long the first picture of a batch waits for others.
    """

    def __init__(self, run: Run, *, max_batch: int, max_delay_ms: float = 0.0) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_delay_s = max_delay_ms / 1000
        self._waiting: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runtime")
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begin to take work."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="batcher")

    async def close(self) -> None:
        """Finish what is waiting, then stop."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def submit(
        self, pixels: UInt8[np.ndarray, "n h w 3"], *, deadline: float | None = None
    ) -> Float32[np.ndarray, "n c"]:
        """Classify prepared pictures, in one batch with others' or, where they are many, in several.

        A caller that is cancelled leaves the queue, and its batch-mates are not harmed.

        Args:
            pixels: at least one picture.
            deadline: on `time.monotonic`'s clock; work whose deadline has passed is not begun.

        Returns:
            Probabilities.

        Raises:
            DeadlineError: the deadline passed while the pictures waited.
            DrainingError: the batcher is closing.
        """
        if self._closing:
            raise DrainingError("the server is shutting down; ask another one")
        parts = [pixels[start : start + self._max_batch] for start in range(0, len(pixels), self._max_batch)]
        items = [_Item(pixels=part, deadline=deadline) for part in parts]
        self._waiting.extend(items)
        self._arrived.set()
        try:
            return np.concatenate(await asyncio.gather(*(item.answer for item in items)))
        finally:
            for item in items:
                if not item.answer.done():
                    item.answer.cancel()
                    with suppress(ValueError):  # it is in a batch already
                        self._waiting.remove(item)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                continue
            await self._let_it_fill()
            batch = self._take()
            if batch:
                await self._answer(batch)

    async def _let_it_fill(self) -> None:
        """Wait for a full batch until the first picture's delay is over."""
        until = self._waiting[0].since + self._max_delay_s
        while not self._closing and self._count() < self._max_batch:
            remaining = until - time.monotonic()
            if remaining <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), remaining)
            except TimeoutError:
                self._arrived.set()

    def _count(self) -> int:
        return sum(len(item.pixels) for item in self._waiting)

    def _take(self) -> list[_Item]:
        """Take as many as fit a batch, in their order; drop those that nobody waits for any more."""
        batch: list[_Item] = []
        count = 0
        while self._waiting and count + len(self._waiting[0].pixels) <= self._max_batch:
            item = self._waiting.popleft()
            if item.answer.done():
                continue
            if item.deadline is not None and time.monotonic() > item.deadline:
                item.answer.set_exception(DeadlineError("the deadline passed while the request was waiting"))
                continue
            batch.append(item)
            count += len(item.pixels)
        return batch

    async def _answer(self, batch: list[_Item]) -> None:
        loop = asyncio.get_running_loop()
        try:
            pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([item.pixels for item in batch])
            answers = await loop.run_in_executor(self._thread, self._run, pixels)
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises goes to those who wait for it
            for item in batch:
                if not item.answer.done():
                    item.answer.set_exception(error)
            return
        start = 0
        for item in batch:
            end = start + len(item.pixels)
            if not item.answer.done():
                item.answer.set_result(answers[start:end])
            start = end

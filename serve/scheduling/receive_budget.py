"""The memory of requests that are being received: bounded over all calls and protocols."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from unfreeze.contract.errors import DeadlineError, QueueFullError

_MAX_WAIT_S = 10.0
_RETRY_S = 0.5
_POLL_S = 0.005


class ReceiveBudget:
    """Counts the bytes that requests may take while they are received; use it in one event loop.

    The size of a gRPC message is unknown until it has been received, so its call reserves the size of the largest one
    allowed, and waits for it. An HTTP request declares its size, and takes that much or is refused.

    Args:
        max_bytes: limit of all together; a single reservation is always possible.
        held_elsewhere: returns the bytes that other processes of the same server hold.
        on_change: called with the bytes that are held here, after each change.
    """

    def __init__(
        self,
        max_bytes: int,
        held_elsewhere: Callable[[], int] = lambda: 0,
        on_change: Callable[[int], None] = lambda _held: None,
    ) -> None:
        self._max_bytes, self._held_elsewhere, self._on_change = max_bytes, held_elsewhere, on_change
        self._held = 0
        self._turn = asyncio.Lock()  # first come, first served
        self._freed = asyncio.Event()

    def is_exhausted(self, size: int) -> bool:
        """Whether a call has to wait for this many bytes."""
        return self._turn.locked() or not self._fits(size)

    def take(self, size: int) -> None:
        """Take bytes that will be received at once.

        Raises:
            QueueFullError: there are too few.
        """
        if self._held + self._held_elsewhere() + size > self._max_bytes:
            raise self._full()
        self._change(size)

    async def reserve(self, size: int, deadline: float | None) -> None:
        """Wait until bytes are available, and take them; `give` returns them.

        Args:
            size: number of bytes.
            deadline: on the clock of `time.monotonic`; None for none.

        Raises:
            QueueFullError: none became available within ten seconds.
            DeadlineError: none became available before the deadline.
        """
        if not self.is_exhausted(size):
            self._change(size)
            return
        latest = time.monotonic() + _MAX_WAIT_S
        until = latest if deadline is None else min(latest, deadline)
        try:
            async with asyncio.timeout_at(until), self._turn:
                while not self._fits(size):
                    self._freed.clear()
                    with suppress(TimeoutError):  # what other processes give back is not announced
                        await asyncio.wait_for(self._freed.wait(), _POLL_S)
                self._change(size)
        except TimeoutError:
            if until == latest:
                raise self._full() from None
            raise DeadlineError("the deadline passed before the request could be received") from None

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._change(-size)
        self._freed.set()

    def _fits(self, size: int) -> bool:
        held = self._held + self._held_elsewhere()
        return not held or held + size <= self._max_bytes

    def _change(self, size: int) -> None:
        self._held += size
        self._on_change(self._held)

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"the requests that are being received may take up to {self._max_bytes / 2**20:.0f} MiB together; "
            "retry later",
            _RETRY_S,
        )

"""A thread of low priority for work that nobody waits for, and how much it had to wait for a core."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unfreeze.serve.scheduling.low_priority import lower_priority

_Work = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class SideThread:
    """Does one thing after the other; a daemon, because the process must be able to exit while a runtime hangs.

    Attributes:
        contention: share of the time of the last work in which the thread was ready and had no core, 0 to 1; 0 where
            the system does not tell.
    """

    def __init__(self) -> None:
        self.contention = 0.0
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._serve, name="shadow", daemon=True).start()

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do some work in the thread."""
        future = self._loop.create_future()
        self._work.put((work, future))
        return await future

    def close(self) -> None:
        """End the thread after what it does now."""
        self._work.put(None)

    def _serve(self) -> None:
        lower_priority()
        scheduled = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        while (item := self._work.get()) is not None:
            work, future = item
            started, before = time.monotonic(), _waited_s(scheduled)
            try:
                result, error = work(), None
            except BaseException as raised:  # noqa: BLE001 - raised in the event loop
                result, error = None, raised
            self.contention = (_waited_s(scheduled) - before) / max(time.monotonic() - started, 1e-9)
            try:
                self._loop.call_soon_threadsafe(_finish, future, result, error)
            except RuntimeError:  # the event loop is closed
                return


def _waited_s(scheduled: Path) -> float:
    """Read how long a thread was ready to run and had no core; 0 where the kernel does not count it."""
    try:
        return int(scheduled.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _finish(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)

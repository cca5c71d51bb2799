"""Load a model in a separate thread, optionally at low priority, so that a version in use keeps the cores."""

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.scheduling.low_priority import lower_priority

_THREAD_NAME = "load"


async def run_load(load: Callable[[], LoadedModel], *, low_priority: bool) -> LoadedModel:
    """Run a load in a new thread and wait for it.

    Args:
        load: loads a model; blocks.
        low_priority: lower the thread's priority; only on Linux, where threads have their own.
    """
    result: Future[LoadedModel] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            if low_priority and sys.platform == "linux":
                lower_priority()
            result.set_result(load())
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            result.set_exception(error)

    # A daemon thread, because the process must be able to exit while a load is still running.
    threading.Thread(target=run, name=_THREAD_NAME, daemon=True).start()
    return await asyncio.wrap_future(result)


def is_loading() -> bool:
    """Check whether a thread of this process is still loading a model, even if its caller has given up."""
    return any(thread.name == _THREAD_NAME for thread in threading.enumerate())

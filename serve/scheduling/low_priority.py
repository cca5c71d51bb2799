"""Threads that leave the cores to others."""

import os
import threading
from contextlib import suppress

# With a larger step, another process could keep this thread from running for seconds while it holds Python's lock.
_NICENESS_STEP = 5


def lower_priority() -> None:
    """Lower the priority of this thread, on Linux, where threads have their own; it cannot be raised again."""
    thread = threading.get_native_id()
    with suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS_STEP)

"""The thread of shadows knows when it has to wait for a core."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unfreeze.serve.traffic.side_thread import SideThread

pytestmark = [
    pytest.mark.xdist_group("serve"),
    pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count waiting threads"),
]


def _measured(work: Callable[[], object]) -> float:
    """Return the contention of some work."""

    async def run() -> float:
        thread = SideThread()
        await thread.run(work)
        thread.close()
        return thread.contention

    return asyncio.run(run())


def _busy() -> None:
    """Compute for half a second, on one core."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(threading.get_native_id(), {core})
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass


def test_a_core_that_another_program_takes() -> None:
    """Next to a program of higher priority on the same core, most of the time is waiting."""
    core = min(os.sched_getaffinity(0))
    program = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        try:
            assert 0.4 < _measured(_busy) <= 1
        finally:
            other.kill()


def test_waiting_for_something_else_is_not_contention() -> None:
    """A device that computes, for example."""
    assert _measured(lambda: time.sleep(0.2)) < 0.2


def test_errors_are_raised_in_the_event_loop() -> None:
    """As those of a runtime."""
    with pytest.raises(ZeroDivisionError):
        _measured(lambda: 1 / 0)

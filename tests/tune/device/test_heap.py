"""Freed memory stays in the process with glibc."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, psutil
from unfreeze.tune.device.heap import keep_freed_memory

if {configured}:
    assert keep_freed_memory()
before = psutil.Process().memory_info().rss
blocks = [np.ones(1_250_000) for _ in range(20)]
held = psutil.Process().memory_info().rss
del blocks
print(held - before, psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("configured", [True, False])
def test_freed_memory_stays_resident(configured: bool) -> None:  # noqa: FBT001
    """20 freed blocks of 10 MB stay resident with the setting, and do not without it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(configured=configured)], check=True, capture_output=True, text=True
    )
    held, left = map(int, done.stdout.split())
    assert held > 190_000_000
    assert (left > 190_000_000) is configured

"""Freed memory stays with the process, where the C library can be told so."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, psutil
from unfreeze.tune.device.heap import keep_freed_memory

if {told}:
    assert keep_freed_memory()
before = psutil.Process().memory_info().rss
blocks = [np.ones(1_250_000) for _ in range(20)]
held = psutil.Process().memory_info().rss
del blocks
print(held - before, psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("told", [True, False])
def test_what_is_freed_is_kept(told: bool) -> None:  # noqa: FBT001
    """20 blocks of 10 MB that were freed are still resident afterwards; they are not where nothing was told."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(told=told)], check=True, capture_output=True, text=True)
    held, left = map(int, done.stdout.split())
    assert held > 190_000_000
    assert (left > 190_000_000) is told

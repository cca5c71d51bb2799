"""Measure a runtime's throughput in a fraction of a second."""

import threading
import time
from collections.abc import Callable

import numpy as np

from unfreeze.contract.arrays import UInt8

Run = Callable[[np.ndarray], np.ndarray]
MEASURED_BATCH = 8  # of larger ones, few images more are classified per second
_MEASURED_S = 0.06


def measure_throughput(run: Run, pixels: UInt8[np.ndarray, "n h w 3"], instances: int) -> float:
    """Classify a batch again and again: for 60 ms, and at least twice in each thread.

    Args:
        run: the runtime.
        pixels: the batch.
        instances: threads that do so at the same time.

    Returns:
        Images per second, of all threads together.
    """
    counts = [0] * instances
    started = time.perf_counter()

    def run_instance(number: int) -> None:
        while counts[number] < 2 * len(pixels) or time.perf_counter() - started < _MEASURED_S:
            run(pixels)
            counts[number] += len(pixels)

    threads = [threading.Thread(target=run_instance, args=(number,)) for number in range(instances)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)

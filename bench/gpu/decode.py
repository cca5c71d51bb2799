"""Measure how many images a second the cores of this machine decode and prepare when nothing else runs."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare

_state: dict[str, Barrier] = {}


def images_per_second(encoded: Sequence[bytes], spec: PreprocessSpec, seconds: float) -> float:
    """Prepare images in one process per core.

    Args:
        encoded: encoded images, prepared in turn.
        spec: preprocessing.
        seconds: duration.
    """
    context, count = multiprocessing.get_context("spawn"), usable_cores()
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, _remember, (barrier,)) as pool:
        return sum(pool.map(partial(_prepare_for, encoded, spec, seconds), range(count)))


def _remember(barrier: Barrier) -> None:
    _state["barrier"] = barrier


def _prepare_for(encoded: Sequence[bytes], spec: PreprocessSpec, seconds: float, worker: int) -> float:
    _state["barrier"].wait(timeout=60)  # until all processes have started
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        prepare(encoded[(worker + done) % len(encoded)], spec)
        done += 1
    return done / (time.perf_counter() - begun)

"""How a model is executed on this machine: measured once at warm-up, then kept."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.contract.cores import usable_cores
from unfreeze.serve.options import ServeOptions

Run = Callable[[np.ndarray], np.ndarray]
_SECONDS = 0.06
_BATCH = 8  # a usual one, at which batches are timed
_FUSED_BATCH = 4  # more would keep the first image waiting and win nothing
_ON_GPU = 2  # one batch is copied while another is computed
_CGROUP = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """How many batches are executed at once, by how many threads each, and how large they may be.

    Args:
        instances: batches that are executed at the same time.
        threads: of the runtime, for each of them.
        batch: the most images in one.
        fused: each instance decodes its images itself, one after the other; else a pool of threads decodes them while
            the runtime is busy.
        image_s: seconds that an image took in the runtime when this was measured; 0 where it was not.
    """

    instances: int
    threads: int
    batch: int
    fused: bool
    image_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.instances} instances of {self.threads} threads, batches of up to {self.batch}, "
            f"{'decoding in each instance' if self.fused else 'decoding in a pool beside them'}"
        )


def possible_plans(options: ServeOptions, max_batch: int) -> tuple[ExecutionPlan, ...]:
    """List the plans that are worth measuring: on a CPU, one thread for each image or all of them for a batch.

    Args:
        options: may leave nothing to be measured.
        max_batch: what the model's manifest says.
    """
    batch, count = options.max_batch or max_batch, usable_cores()
    if options.device != "cpu":
        return (
            ExecutionPlan(
                instances=options.instances or _ON_GPU, threads=options.threads or 1, batch=batch, fused=False
            ),
        )
    if options.instances or options.threads:
        instances = options.instances or max(1, count // options.threads)
        threads = options.threads or max(1, count // instances)
        return (_on_cpu(instances, threads, batch),)
    alone, together = _on_cpu(count, 1, batch), _on_cpu(1, count, batch)
    return (alone,) if count == 1 else (alone, together)


def _on_cpu(instances: int, threads: int, batch: int) -> ExecutionPlan:
    fused = instances >= usable_cores()
    return ExecutionPlan(
        instances=instances, threads=threads, batch=min(batch, _FUSED_BATCH) if fused else batch, fused=fused
    )


def images_per_second(run: Run, plan: ExecutionPlan, shape: tuple[int, int, int]) -> float:
    """Time a plan: all of its instances at once, for a few hundredths of a second, and at least twice each.

    Args:
        run: the runtime, with as many threads as the plan says.
        plan: what to time.
        shape: of a prepared image.
    """
    size = 1 if plan.fused else min(plan.batch, _BATCH)
    pixels = np.zeros((size, *shape), np.uint8)
    counts = [0] * plan.instances
    started = time.perf_counter()

    def work(number: int) -> None:
        while counts[number] < 2 * size or time.perf_counter() - started < _SECONDS:
            run(pixels)
            counts[number] += size

    threads = [threading.Thread(target=work, args=(number,)) for number in range(plan.instances)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)

"""How a model is executed on this machine: instances, threads and batch size, measured at warm-up."""

from dataclasses import dataclass

import numpy as np

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.counted import counted
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes.registry import RuntimeName, find_runtime
from unfreeze.serve.runtimes.throughput import MEASURED_BATCH, Run, measure_throughput

_FUSED_BATCH = 4  # larger batches would delay their first image without a gain in throughput
_DEVICE_INSTANCES = 2  # one batch is copied to the device while another is computed


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """How many batches run at the same time, on how many threads, and how large they may be.

    Args:
        instances: batches executed at the same time.
        threads: CPU threads of the runtime per instance.
        max_batch: images in the largest batch.
        fused: each instance decodes its own images, one after the other; otherwise a thread pool decodes them while the
            runtime is busy.
        image_s: measured seconds per image and instance; 0 if not measured.
        runtime: what executes the model; empty until it is loaded.
    """

    instances: int
    threads: int
    max_batch: int
    fused: bool
    image_s: float = 0.0
    runtime: RuntimeName = ""

    def __str__(self) -> str:
        return (
            f"{counted(self.instances, 'instance')} with {counted(self.threads, 'thread')} each, batches of up to "
            f"{self.max_batch}, images decoded {'by the instances' if self.fused else 'in a thread pool'}"
        )


def candidate_plans(options: ServeOptions, max_batch: int) -> tuple[ExecutionPlan, ...]:
    """List the plans to measure: on a CPU, many single-threaded instances or one that uses all cores.

    Args:
        options: server options; explicit ones leave a single plan.
        max_batch: the manifest's largest batch.
    """
    max_batch, cores = options.max_batch or max_batch, usable_cores()
    if not find_runtime(options.device).uses_cpu:
        instances, threads = options.instances or _DEVICE_INSTANCES, options.threads or 1
        return (ExecutionPlan(instances=instances, threads=threads, max_batch=max_batch, fused=False),)
    if options.instances or options.threads:
        instances = options.instances or max(1, cores // options.threads)
        threads = options.threads or max(1, cores // instances)
        return (_cpu_plan(instances, threads, max_batch),)
    throughput, latency = _cpu_plan(cores, 1, max_batch), _cpu_plan(1, cores, max_batch)
    return (throughput,) if cores == 1 else (throughput, latency)


def _cpu_plan(instances: int, threads: int, max_batch: int) -> ExecutionPlan:
    fused = instances >= usable_cores()
    largest = min(max_batch, _FUSED_BATCH) if fused else max_batch
    return ExecutionPlan(instances=instances, threads=threads, max_batch=largest, fused=fused)


def images_per_second(run: Run, plan: ExecutionPlan, shape: tuple[int, int, int]) -> float:
    """Measure a plan's throughput with all instances at once: for 60 ms, and at least two batches per instance.

    Args:
        run: the runtime, with the plan's number of threads.
        plan: the plan to measure.
        shape: height, width and channels of a preprocessed image.
    """
    size = 1 if plan.fused else min(plan.max_batch, MEASURED_BATCH)
    return measure_throughput(run, np.zeros((size, *shape), np.uint8), plan.instances)

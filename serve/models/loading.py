"""Load a version of a model: see that it is what was exported and answers so here, and find out how to execute it."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.verification import verify_answers
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes import Runtime, open_runtime
from unfreeze.serve.runtimes.onnx_cpu import RuntimeOptions, read_checked
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan, images_per_second, possible_plans

_BETTER = 1.2  # a plan that decodes in a pool has to be this much faster in the runtime
_ROUNDS = 3
_log = logging.getLogger(__name__)


def load(
    name: str,
    version: int,
    path: Path,
    decoders: ThreadPoolExecutor,
    options: ServeOptions,
    plan: ExecutionPlan | None = None,
) -> LoadedModel:
    """Load a version of a model and warm it up; blocks, so keep it off the event loop.

    Args:
        name: in the repository.
        version: its number.
        path: of its `model.onnx`.
        decoders: decode images.
        options: the runtime, and sizes and limits.
        plan: of the version before; measuring anew would take the cores from those who ask it.

    Raises:
        ModelError: it cannot be loaded, was changed, or does not answer here what it was exported with.
    """
    runtime, plan = (
        _planned(path, options) if plan is None else (open_runtime(path, options.device, _told(options, plan)), plan)
    )
    try:
        if runtime.manifest.golden:
            verify_answers(runtime, str(path))
        runtime.run(np.zeros((plan.batch, *runtime.manifest.preprocess.shape), np.uint8))
    except BaseException:
        runtime.close()
        raise
    _log.info("loaded %s version %d on %s: %s", name, version, options.device, plan)
    return LoadedModel(name, version, runtime, plan, decoders, options)


def _planned(path: Path, options: ServeOptions) -> tuple[Runtime, ExecutionPlan]:
    """Open the runtime as it was asked to be executed, or else as is fastest here."""
    checked = read_checked(path)  # once, for all
    plans = possible_plans(options, checked[1].max_batch)
    runtimes = [open_runtime(path, options.device, _told(options, plan), checked=checked) for plan in plans]
    if len(plans) == 1:
        return runtimes[0], plans[0]
    # In turn, and the best of several: what else the machine does meanwhile only slows down.
    shape = checked[1].preprocess.shape
    rounds = [
        [images_per_second(runtime.run, plan, shape) for runtime, plan in zip(runtimes, plans, strict=True)]
        for _ in range(_ROUNDS)
    ]
    speeds = [max(measured) for measured in zip(*rounds, strict=True)]
    chosen = max(range(len(plans)), key=lambda number: speeds[number] * (_BETTER if number == 0 else 1))
    for runtime in runtimes:
        if runtime is not runtimes[chosen]:
            runtime.close()
    return runtimes[chosen], replace(plans[chosen], image_s=plans[chosen].instances / speeds[chosen])


def _told(options: ServeOptions, plan: ExecutionPlan) -> RuntimeOptions:
    return RuntimeOptions(
        threads=plan.threads,
        instances=plan.instances,
        max_batch=plan.batch,
        memory_mib=options.gpu_memory_mib,
        graphs=options.cuda_graphs,
        search=options.cudnn_search,
    )

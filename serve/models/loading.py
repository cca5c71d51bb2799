"""Load a version of a model: open it, choose an execution plan, verify it and warm it up."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.model_file import ModelFile, read_model
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes.auto import open_named
from unfreeze.serve.runtimes.base import Runtime, RuntimeOptions
from unfreeze.serve.runtimes.golden import verify_answers
from unfreeze.serve.runtimes.registry import AUTO, cpu_runtimes, open_runtime
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan, candidate_plans, images_per_second

_FIRST_PLAN_BONUS = 1.2  # a plan that decodes in a thread pool must be this much faster to be chosen
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
    """Load a version of a model and warm it up; blocks, so call it off the event loop.

    Args:
        name: name in the repository.
        version: version number.
        path: the version's `model.onnx`.
        decoders: thread pool that decodes images.
        options: the runtime, batch size and limits.
        plan: execution plan of the previous version, if it is being served: measuring plans again would take the cores
            from its requests.

    Raises:
        ModelError: the file is damaged or cannot be executed here, or its golden images are classified differently.
    """
    started = time.monotonic()
    model = read_model(path)
    runtime, plan = _open_fastest(model, options) if plan is None else _open_as_before(model, options, plan)
    try:
        if runtime.manifest.golden:
            verify_answers(runtime, str(path))
        runtime.run(np.zeros((plan.max_batch, *runtime.manifest.preprocess.shape), np.uint8))
    except BaseException:
        runtime.close()
        raise
    seconds = time.monotonic() - started
    _log.info("loaded model %s version %d on %s in %.1f s: %s", name, version, plan.runtime, seconds, plan)
    return LoadedModel(name, version, runtime, plan, decoders, options)


def _open_fastest(model: ModelFile, options: ServeOptions) -> tuple[Runtime, ExecutionPlan]:
    """Open a model with the plan that is fastest on this machine, or with the only one that the options allow."""
    plans = candidate_plans(options, model.manifest.max_batch)
    opened = [open_named(model, options.device, _runtime_options(options, plan)) for plan in plans]
    plans = tuple(replace(plan, runtime=one.name) for plan, one in zip(plans, opened, strict=True))
    runtimes = [one.runtime for one in opened]
    if len(plans) == 1:
        return runtimes[0], plans[0]
    # Plans are measured in turn, and the best of several rounds counts: other load can only slow a plan down.
    shape = model.manifest.preprocess.shape
    rounds = [
        [images_per_second(runtime.run, plan, shape) for runtime, plan in zip(runtimes, plans, strict=True)]
        for _ in range(_ROUNDS)
    ]
    speeds = [max(measured) for measured in zip(*rounds, strict=True)]
    fastest = max(range(len(plans)), key=lambda index: speeds[index] * (_FIRST_PLAN_BONUS if index == 0 else 1))
    for runtime in runtimes:
        if runtime is not runtimes[fastest]:
            runtime.close()
    return runtimes[fastest], replace(plans[fastest], image_s=plans[fastest].instances / speeds[fastest])


def _open_as_before(model: ModelFile, options: ServeOptions, plan: ExecutionPlan) -> tuple[Runtime, ExecutionPlan]:
    """Open a model as the previous version is executed; where "auto" had chosen that, it may fall back."""
    first = cpu_runtimes()[0].name
    try:
        runtime = open_runtime(model, plan.runtime, _runtime_options(options, plan))
        if options.device == AUTO and plan.runtime != first:
            verify_answers(runtime, str(model.path))
    except ModelError as error:
        if options.device != AUTO or plan.runtime == first:
            raise
        _log.warning("%s is executed on %s, and not on %s as before: %s", model.path, first, plan.runtime, error)
        plan = replace(plan, runtime=first, image_s=0.0)
        return open_runtime(model, first, _runtime_options(options, plan)), plan
    return runtime, plan


def _runtime_options(options: ServeOptions, plan: ExecutionPlan) -> RuntimeOptions:
    return RuntimeOptions(
        threads=plan.threads,
        instances=plan.instances,
        max_batch=plan.max_batch,
        gpu_memory_mib=options.gpu_memory_mib,
        cuda_graphs=options.cuda_graphs,
        cudnn_search=options.cudnn_search,
    )

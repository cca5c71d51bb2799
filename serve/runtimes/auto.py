"""The fastest runtime on this CPU: each is measured with the model, and its golden images must pass.

ONNX Runtime executes the model unless another runtime is clearly faster. The choice is kept in the user's cache folder.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.model_file import ModelFile
from unfreeze.serve.runtimes.base import Runtime, RuntimeOptions
from unfreeze.serve.runtimes.chosen import Choice, Conditions, read_choice, write_choice
from unfreeze.serve.runtimes.golden import verify_answers
from unfreeze.serve.runtimes.registry import AUTO, RuntimeName, cpu_runtimes, open_runtime
from unfreeze.serve.runtimes.throughput import MEASURED_BATCH, Run, measure_throughput

Measure = Callable[[Run, np.ndarray, int], float]
MARGIN = 1.05  # by which another runtime must be faster: less is noise
_ROUNDS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A loaded model.

    Args:
        name: of the runtime that executes it.
        runtime: the model in it.
    """

    name: RuntimeName
    runtime: Runtime


def check_available() -> None:
    """Do nothing: runtimes that are not installed are left out."""


def open_model(model: ModelFile, options: RuntimeOptions) -> Runtime:
    """Load a model with the fastest runtime.

    Args:
        model: the model file.
        options: threads, instances and the largest batch, with which the runtimes are measured.

    Raises:
        ModelError: no runtime can load the model.
    """
    return open_fastest(model, options).runtime


def open_named(model: ModelFile, name: RuntimeName, options: RuntimeOptions) -> Opened:
    """Load a model with a runtime, and say which one it is where that had to be chosen.

    Args:
        model: the model file.
        name: a registered runtime, or "auto".
        options: how to execute the model.

    Raises:
        OptionsError: there is no such runtime.
        ModelError: the runtime is not available here or cannot execute the model.
    """
    if name == AUTO:
        return open_fastest(model, options)
    return Opened(name=name, runtime=open_runtime(model, name, options))


def open_fastest(model: ModelFile, options: RuntimeOptions, measure: Measure = measure_throughput) -> Opened:
    """Load a model with the runtime that was chosen for it on this machine before, or else choose one.

    Args:
        model: the model file.
        options: threads, instances and the largest batch, with which the runtimes are measured.
        measure: returns the images per second of a function that classifies a batch, in a number of threads.

    Raises:
        ModelError: no runtime can load the model.
    """
    names = _available(model.manifest.precision)
    if len(names) == 1:
        return open_named(model, names[0], options)
    batch = min(options.max_batch or model.manifest.max_batch, MEASURED_BATCH)
    conditions = Conditions.here(model.manifest.sha256, names, batch, options)
    choice = read_choice(conditions)
    if choice is None:
        choice = _choose(model, options, conditions, measure)
        write_choice(choice)
    _log.info("runtime of %s: %s; %s", model.path, choice.runtime, choice)
    return open_named(model, choice.runtime, options)


def _available(precision: str) -> tuple[RuntimeName, ...]:
    """List the runtimes on the CPU that are installed and execute models of a precision."""
    names, missing = [], []
    for spec in cpu_runtimes():
        try:
            spec.load()
        except ModelError as error:
            missing.append(error)
            continue
        if precision in spec.precisions:
            names.append(spec.name)
    if not names:
        raise missing[0] if missing else ModelError(f"no runtime on the CPU executes models in {precision}")
    return tuple(names)


def _choose(model: ModelFile, options: RuntimeOptions, conditions: Conditions, measure: Measure) -> Choice:
    """Measure the runtimes whose answers are accepted; the first one's need not be, as it is the fallback."""
    first, *others = conditions.runtimes
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        opened = {first: stack.enter_context(open_runtime(model, first, options))}
        for name in others:
            try:
                runtime = stack.enter_context(open_runtime(model, name, options))
                verify_answers(runtime, str(model.path))
            except ModelError as error:
                refused[name] = str(error)
            else:
                opened[name] = runtime
        speeds = _speeds(opened, sorted({1, conditions.batch}), options.instances, measure)
    return Choice(
        runtime=max(speeds, key=lambda name: speeds[name] * (MARGIN if name == first else 1), default=first),
        images_per_second=speeds,
        refused=refused,
        conditions=conditions,
    )


def _speeds(
    runtimes: Mapping[RuntimeName, Runtime], sizes: Sequence[int], instances: int, measure: Measure
) -> dict[RuntimeName, float]:
    """Measure batches of each size in turn; the best round counts, because other load can only slow a runtime down.

    Returns:
        Images per second of each runtime: the geometric mean over the sizes.
    """
    if len(runtimes) == 1:
        return {}
    shape = next(iter(runtimes.values())).manifest.preprocess.shape
    batches = [np.random.default_rng(size).integers(0, 256, (size, *shape), np.uint8) for size in sizes]
    rounds = [
        {name: [measure(runtime.run, batch, instances) for batch in batches] for name, runtime in runtimes.items()}
        for _ in range(_ROUNDS)
    ]
    best = {name: np.max([one[name] for one in rounds], axis=0) for name in runtimes}
    return {name: float(np.exp(np.log(speeds).mean())) for name, speeds in best.items()}

"""The runtimes without a server: speed, and agreement of the device with the CPU."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.gpu.part import Part, Setting
from unfreeze.contract.errors import UnfreezeError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.contract.model.engine import ENGINE_FILE
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes import Runtime, RuntimeName, open_runtime
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan, candidate_plans
from unfreeze.tune.data.dataset import VAL, read_dataset

_COMPARED = 42
_FEWEST = 2


def measure(part: Part) -> None:
    """Time every batch size of every model on every available runtime."""
    models = part.setting.models()
    for number, (backbone, precision, path) in enumerate(models):
        names: list[RuntimeName] = [part.setting.device]
        if part.setting.device == "cuda" and path.with_name(ENGINE_FILE).exists():
            names.append("tensorrt")
        for name in names:
            what = f"{backbone} {precision} on {name}"
            with part.trying(what), opened(part, what, path, name) as (runtime, plan):
                if runtime is not None:
                    _agree(part, what, path, runtime)
                    _time(part, what, runtime, plan, len(models) - number)


@contextmanager
def opened(part: Part, what: str, path: Path, name: RuntimeName) -> Iterator[tuple[Runtime | None, ExecutionPlan]]:
    """Load a model as the server would, or record why it is not available.

    Args:
        part: part that records the reason.
        what: display name.
        path: path of the model.
        name: name of the runtime.

    Yields:
        The runtime, or None, and its execution plan.
    """
    plan = plan_of(part.setting, path)
    options = RuntimeOptions(threads=plan.threads, instances=plan.instances, max_batch=plan.max_batch)
    try:
        runtime = open_runtime(path, name, options)
    except (UnfreezeError, ImportError) as error:
        part.left_out(what, first_line(error))
        yield None, plan
        return
    with runtime:
        yield runtime, plan


def plan_of(setting: Setting, path: Path) -> ExecutionPlan:
    """Return the execution plan for batches: on a CPU, the one with all threads."""
    options = ServeOptions(repository=path.parents[2], device=setting.device)
    return candidate_plans(options, max(setting.batches))[-1]


def _agree(part: Part, what: str, path: Path, runtime: Runtime) -> None:
    """Compare answers to validation images with those of the same file on the CPU."""
    pixels = _validation(part.setting, runtime.manifest.preprocess)
    with open_runtime(path, "cpu") as reference:
        expected = np.concatenate([reference.run(pixels[at : at + 8]) for at in range(0, len(pixels), 8)])
    found = runtime.run(pixels)
    part.note(
        "agree",
        model=what,
        precision=runtime.manifest.precision,
        images=len(pixels),
        same_top1=float((found.argmax(1) == expected.argmax(1)).mean()),
        largest_difference=float(np.abs(found - expected).max()),
        labels_seen=len(set(expected.argmax(1).tolist())),
    )


def _validation(setting: Setting, spec: PreprocessSpec) -> np.ndarray:
    images = read_dataset(setting.data).splits[VAL]
    stride = -(-len(images) // _COMPARED)
    return np.stack([prepare(image.path.read_bytes(), spec) for image in images[::stride]])


def _time(part: Part, what: str, runtime: Runtime, plan: ExecutionPlan, models_left: int) -> None:
    batches = part.setting.batches
    for number, batch in enumerate(batches):
        seconds = part.each_s(models_left * len(batches) - number)
        if seconds <= 0:
            part.left_out(f"{what}, batches of {batch} and more", "no time was left")
            return
        part.note("raw", model=what, batch=batch, **_rate(runtime, plan.instances, batch, seconds))


def _rate(runtime: Runtime, at_once: int, batch: int, seconds: float) -> dict[str, float]:
    """Run batches from the runtime's preferred memory, as many concurrently as a server would, at least two each."""
    pixels = [runtime.buffer(batch) for _ in range(at_once)]
    taken: list[list[float]] = [[] for _ in pixels]
    for number, own in enumerate(pixels):
        own[:] = np.random.default_rng(number).integers(0, 256, own.shape, np.uint8)
        runtime.run(own)
    begun = time.perf_counter()

    def work(number: int) -> None:
        while len(taken[number]) < _FEWEST or time.perf_counter() - begun < seconds:
            started = time.perf_counter()
            runtime.run(pixels[number])
            taken[number].append(time.perf_counter() - started)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, range(at_once)))
    took, all_taken = time.perf_counter() - begun, [one for own in taken for one in own]
    p50, p99 = 1000 * np.percentile(all_taken, (50, 99))
    return {"per_s": batch * len(all_taken) / took, "p50_ms": float(p50), "p99_ms": float(p99)}

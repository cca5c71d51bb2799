"""TensorRT: an engine beside a model file, run on the GPU that it was built for."""

import hashlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from unfreeze.contract.errors import ManifestError, ModelError
from unfreeze.contract.model.engine import ENGINE_FILE, FACTS_FILE, EngineFacts, check_engine, load_tensorrt
from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest
from unfreeze.contract.model.repository import read_published
from unfreeze.contract.model.schema import decode, loads
from unfreeze.serve.runtimes.cuda import Cuda
from unfreeze.serve.runtimes.device_pipeline import DevicePipeline, Slot
from unfreeze.serve.runtimes.onnx_cpu import RuntimeOptions, read_checked


def open_engine(path: Path, options: RuntimeOptions, checked: tuple[bytes, Manifest] | None = None) -> DevicePipeline:
    """Load the engine beside a model.

    Args:
        path: of the `model.onnx`.
        options: how many batches at once.
        checked: what `read_checked` gave of it, where that was asked before.

    Raises:
        ModelError: there is no engine, it cannot be loaded here, or it is not this model's, this library's and this
            device's; the message says what to do.
    """
    model, manifest = checked or read_checked(path)
    facts, plan = read_engine(path)
    trt = load_tensorrt(facts.flavour)
    cuda = Cuda()
    check_engine(facts, hashlib.sha256(model).hexdigest(), trt.__version__, cuda.target)
    return DevicePipeline(
        manifest,
        cuda,
        most=min(options.max_batch or manifest.max_batch, facts.batches[-1]),
        slots=options.instances,
        load=partial(_Engine, trt, plan, path, manifest),
        name=str(path),
    )


class _Engine:
    """Launches an engine on batches where they lie, in a context for each slot.

    Args:
        trt: the library.
        plan: the engine.
        path: of the model beside it.
        manifest: of the model.
        compute: the stream to launch it in.
    """

    def __init__(self, trt: ModuleType, plan: bytes, path: Path, manifest: Manifest, compute: int) -> None:
        self._path, self._shape, self._compute = path, manifest.preprocess.shape, compute
        self._log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ModelError(f"{trt.__name__} {trt.__version__} cannot load the engine beside {path}: build it anew")
        self._contexts: dict[int, Any] = {}

    def __call__(self, slot: Slot, size: int) -> None:
        context = self._contexts.get(slot.number)
        if context is None:
            context = self._contexts[slot.number] = self._engine.create_execution_context()
            if context is None:
                raise ModelError(f"out of memory for another context of the engine beside {self._path}")
            context.set_tensor_address(INPUT, slot.pixels)
            context.set_tensor_address(OUTPUT, slot.probabilities)
        context.set_input_shape(INPUT, (size, *self._shape))
        if not context.execute_async_v3(self._compute):
            raise ModelError(f"the engine beside {self._path} failed on a batch of {size}")


def read_engine(path: Path) -> tuple[EngineFacts, bytes]:
    """Read the engine beside a model and its note, and see that they are what was published.

    Args:
        path: of the `model.onnx`.

    Raises:
        ModelError: there is none, it was changed, or its note says what no note can say.
    """
    engine, note = path.with_name(ENGINE_FILE), path.with_name(FACTS_FILE)
    if not engine.is_file() or not note.is_file():
        raise ModelError(f"there is no engine beside {path}; build one with `unfreeze export --tensorrt`")
    try:
        facts, plan = decode(EngineFacts, loads(read_published(note))), read_published(engine)
    except ManifestError as error:
        raise ModelError(f"{note} cannot be read: {error}") from error
    if hashlib.sha256(plan).hexdigest() != facts.plan_sha256:
        raise ModelError(f"{engine} is not the engine that {note.name} tells of; build it anew")
    return facts, plan

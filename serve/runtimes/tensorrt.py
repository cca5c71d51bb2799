"""TensorRT: executes the engine next to a model file on the GPU that it was built for."""

import hashlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from unfreeze.contract.errors import ManifestError, ModelError
from unfreeze.contract.model.engine import (
    ENGINE_FILE,
    FACTS_FILE,
    EngineFacts,
    check_engine,
    load_tensorrt,
    read_engine_facts,
)
from unfreeze.contract.model.manifest import INPUT
from unfreeze.contract.model.model_file import ModelFile
from unfreeze.contract.model.repository import read_published
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.cuda import Cuda
from unfreeze.serve.runtimes.device import Slot
from unfreeze.serve.runtimes.device_pipeline import DevicePipeline


def check_available() -> None:
    """Check that there is a GPU; which TensorRT library is needed depends on the engine.

    Raises:
        ModelError: there is no GPU or no driver, or cuda-bindings is not installed.
    """
    Cuda()


def open_model(model: ModelFile, options: RuntimeOptions) -> DevicePipeline:
    """Load the engine next to a model.

    Args:
        model: the model file.
        options: number of instances and the largest batch.

    Raises:
        ModelError: there is no engine, it cannot be loaded here, or it was built from another model, by another
            version of TensorRT or for another GPU; the message says what to do.
    """
    facts, plan = read_engine(model.path)
    trt = load_tensorrt(facts.flavor)
    device = Cuda()
    check_engine(facts, hashlib.sha256(model.content).hexdigest(), trt.__version__, device.target)
    return DevicePipeline(
        model.manifest,
        device,
        max_batch=min(options.max_batch or model.manifest.max_batch, facts.batches[-1]),
        slots=options.instances,
        load=partial(_Engine, trt, plan, model),
        name=str(model.path),
    )


class _Engine:
    """Launches an engine on batches in device memory, with one execution context per slot.

    Args:
        trt: the TensorRT module.
        plan: the serialized engine.
        model: the model file next to it.
        compute: the stream to launch it in.
    """

    def __init__(self, trt: ModuleType, plan: bytes, model: ModelFile, compute: int) -> None:
        self._path, self._shape, self._compute = model.path, model.manifest.preprocess.shape, compute
        self._output = model.manifest.answer_output
        self._log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ModelError(
                f"{trt.__name__} {trt.__version__} cannot load the engine next to {model.path}: build it again with "
                "`unfreeze export --tensorrt`"
            )
        self._contexts: dict[int, Any] = {}

    def __call__(self, slot: Slot, size: int) -> None:
        context = self._contexts.get(slot.number)
        if context is None:
            context = self._contexts[slot.number] = self._engine.create_execution_context()
            if context is None:
                raise ModelError(f"out of memory for another execution context of the engine next to {self._path}")
            context.set_tensor_address(INPUT, slot.pixels)
            context.set_tensor_address(self._output, slot.probabilities)
        context.set_input_shape(INPUT, (size, *self._shape))
        if not context.execute_async_v3(self._compute):
            raise ModelError(f"the engine next to {self._path} failed on a batch of {size}")


def read_engine(path: Path) -> tuple[EngineFacts, bytes]:
    """Read the engine next to a model and its metadata file, and check both against their digests.

    Args:
        path: the `model.onnx`.

    Raises:
        ModelError: there is no engine, it was changed, or its metadata is not valid.
    """
    engine, metadata = path.with_name(ENGINE_FILE), path.with_name(FACTS_FILE)
    if not engine.is_file() or not metadata.is_file():
        raise ModelError(f"no engine next to {path}; build one with `unfreeze export --tensorrt`")
    try:
        facts, plan = read_engine_facts(read_published(metadata)), read_published(engine)
    except ManifestError as error:
        raise ModelError(f"{metadata} is not valid: {error}") from error
    if hashlib.sha256(plan).hexdigest() != facts.plan_sha256:
        raise ModelError(
            f"{engine} is not the engine that {metadata.name} describes; build it again with "
            "`unfreeze export --tensorrt`"
        )
    return facts, plan

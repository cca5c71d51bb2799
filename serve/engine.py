"""TensorRT: an engine beside a model file, run on the GPU that it was built for, through cuda-python."""

import hashlib
import os
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np

from contract.arrays import Float32, UInt8
from contract.engine import ENGINE_FILE, FACTS_FILE, EngineFacts, check_engine, load_tensorrt
from contract.errors import ManifestError, ModelError
from contract.manifest import INPUT, OUTPUT, Manifest
from contract.repository import read_published
from contract.schema import decode, loads
from serve.runtime import read_checked


class EngineRuntime:
    """A loaded engine; a context manager, for it holds memory and a stream on the GPU.

    Pictures are copied into one device buffer, which the engine reads, and probabilities out of another, which it
    writes: both are allocated once, for the largest batch.

    Args:
        path: of the `model.onnx` beside which the engine lies.
        checked: what `read_checked` gave of it, where that was asked before.

    Raises:
        ModelError: there is no engine, it cannot be loaded here, or it is not this model's, this library's and this
            device's; the message says what to do.
    """

    def __init__(self, path: str | os.PathLike[str], *, checked: tuple[bytes, Manifest] | None = None) -> None:
        self.path = Path(path)
        model, self.manifest = checked or read_checked(self.path)
        facts, plan = read_engine(self.path)
        trt = load_tensorrt(facts.flavour)
        self._cuda = _Cuda()
        check_engine(facts, hashlib.sha256(model).hexdigest(), trt.__version__, self._cuda.target)
        self._log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ModelError(
                f"{facts.flavour} {trt.__version__} cannot load the engine beside {self.path}: build it anew"
            )
        self._context = self._engine.create_execution_context()
        self._most = facts.batches[-1]
        self._stream = self._cuda.stream()
        self._pixels = self._cuda.allocate(self._most * int(np.prod(self.manifest.preprocess.shape)))
        self._probabilities = self._cuda.allocate(self._most * len(self.manifest.labels) * 4)
        self._context.set_tensor_address(INPUT, self._pixels)
        self._context.set_tensor_address(OUTPUT, self._probabilities)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify prepared pictures, in as many batches as the engine needs.

        Args:
            pixels: RGB, of the manifest's crop size.

        Returns:
            Probabilities, in the order of the manifest's labels.

        Raises:
            ModelError: the GPU failed, or the runtime was closed.
        """
        if self._context is None:
            raise ModelError(f"{self.path} was closed")
        answers = np.empty((len(pixels), len(self.manifest.labels)), np.float32)
        for start in range(0, len(pixels), self._most):
            self._run(np.ascontiguousarray(pixels[start : start + self._most]), answers[start : start + self._most])
        return answers

    def _run(self, pixels: np.ndarray, answers: np.ndarray) -> None:
        self._context.set_input_shape(INPUT, pixels.shape)
        self._cuda.copy_in(self._pixels, pixels, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise ModelError(f"the engine beside {self.path} failed on a batch of {len(pixels)}")
        self._cuda.copy_out(answers, self._probabilities, self._stream)
        self._cuda.wait(self._stream)

    def close(self) -> None:
        """Let go of engine, memory and stream; a second time does nothing."""
        if self._context is None:
            return
        self._context = self._engine = self._runtime = None
        self._cuda.free(self._pixels, self._probabilities)
        self._cuda.end(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


class _Cuda:
    """What is needed of CUDA's runtime: each call checked."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise ModelError(f"engines need cuda-python ({error}): pip install cuda-python") from error
        self._cuda: ModuleType = runtime
        attribute = runtime.cudaDeviceAttr
        major, minor = (
            self._call("cudaDeviceGetAttribute", one, 0)
            for one in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
        )
        self.target = f"SM{major}{minor}"

    def stream(self) -> int:
        return int(self._call("cudaStreamCreate"))

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def copy_in(self, device: int, array: np.ndarray, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, array.ctypes.data, array.nbytes, kind, stream)

    def copy_out(self, array: np.ndarray, device: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, device, array.nbytes, kind, stream)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def free(self, *pointers: int) -> None:
        for pointer in pointers:
            self._call("cudaFree", pointer)

    def end(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *results = getattr(self._cuda, name)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise ModelError(f"CUDA: {name} failed with {error.name}; is there an NVIDIA GPU with its driver?")
        return results[0] if results else None

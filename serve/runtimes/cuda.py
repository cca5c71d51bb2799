"""The CUDA runtime: libraries, memory, streams and events. The result of every call is checked."""

import ctypes
import weakref
from types import ModuleType
from typing import Any

import numpy as np

from unfreeze.contract.errors import ModelError

_LIBRARIES = ("cudart", "nvrtc", "cublasLt", "cublas", "curand", "cufft", "cudnn")
_INSTALL = "pip install 'unfreeze[gpu]'"


class Cuda:
    """The first GPU; implements `unfreeze.serve.runtimes.device.Device`.

    Raises:
        ModelError: there is no GPU or no driver, or cuda-bindings is not installed.
    """

    name = "cuda"

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise ModelError(f"cuda-bindings is not installed ({error}): {_INSTALL}") from error
        self._cuda: ModuleType = runtime
        attribute = runtime.cudaDeviceAttr
        major, minor = (
            self._call("cudaDeviceGetAttribute", one, 0)
            for one in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
        )
        self.target = f"SM{major}{minor}"

    def allocate_host(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Allocate page-locked host memory, which the GPU copies asynchronously; freed with the array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = int(self._call("cudaHostAlloc", size, self._cuda.cudaHostAllocPortable))
        memory = (ctypes.c_byte * size).from_address(pointer)
        weakref.finalize(memory, self._cuda.cudaFreeHost, pointer)
        return np.frombuffer(memoryview(memory).cast("B"), dtype).reshape(shape)

    def allocate(self, size: int) -> int:
        """Allocate bytes on the GPU and return their address."""
        return int(self._call("cudaMalloc", size))

    def create_stream(self) -> int:
        """Create a stream, whose operations run in order."""
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Queue a copy to the GPU; the array must not change until it has finished."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, kind, stream)

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Queue a copy from the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, kind, stream)

    def wait_for_stream(self, stream: int, other: int) -> None:
        """Make a stream's later operations wait for all operations that are queued in another stream now."""
        event = self._event()
        try:
            self._call("cudaEventRecord", event, other)
            self._call("cudaStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cudaEventDestroy", event)  # CUDA frees the event after it has occurred

    def synchronize(self, stream: int) -> None:
        """Block until a stream has finished, without spinning: the CPU decodes images in the meantime."""
        event = self._event(self._cuda.cudaEventBlockingSync)
        try:
            self._call("cudaEventRecord", event, stream)
            self._call("cudaEventSynchronize", event)
        finally:
            self._call("cudaEventDestroy", event)

    def free(self, pointer: int) -> None:
        """Free memory on the GPU."""
        self._call("cudaFree", pointer)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def _event(self, flags: int = 0) -> Any:
        return self._call("cudaEventCreateWithFlags", flags | self._cuda.cudaEventDisableTiming)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *results = getattr(self._cuda, name)(*arguments)
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise ModelError(f"CUDA: {name} failed with {error.name}: the GPU is out of memory")
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise ModelError(f"CUDA: {name} failed with {error.name}; is there an NVIDIA GPU with its driver?")
        return results[0] if results else None


def load_libraries() -> None:
    """Load the CUDA libraries that ONNX Runtime's provider needs, from pip packages or from the system.

    Raises:
        ModelError: a library is missing; the message names it.
    """
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError as error:
        raise ModelError(f"cuda-bindings is not installed ({error}): {_INSTALL}") from error
    for name in _LIBRARIES:
        try:
            load_nvidia_dynamic_lib(name)
        except (DynamicLibNotFoundError, RuntimeError, OSError) as error:
            raise ModelError(f"the CUDA library {name} is missing or cannot be loaded: {_INSTALL}") from error

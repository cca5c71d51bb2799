"""The runtimes that there are, behind one interface."""

import os
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.model.manifest import Manifest
from unfreeze.serve.runtimes.onnx_cpu import OnnxRuntime, RuntimeOptions

RuntimeName = Literal["cpu", "cuda", "tensorrt"]
_USUAL = RuntimeOptions()


@runtime_checkable
class Runtime(Protocol):
    """A loaded model, whatever executes it; a context manager."""

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate memory for prepared images that `run` is fastest from."""

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify prepared images."""

    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_runtime(
    path: str | os.PathLike[str],
    name: RuntimeName,
    options: RuntimeOptions = _USUAL,
    *,
    checked: tuple[bytes, Manifest] | None = None,
) -> Runtime:
    """Load a model.

    Args:
        path: of a `model.onnx`.
        name: "cpu" and "cuda" are ONNX Runtime's, "tensorrt" is the engine beside the model.
        options: how it is to be executed.
        checked: what `read_checked` gave of it, where that was asked before.

    Raises:
        ModelError: it cannot be had here.
    """
    if name == "tensorrt":
        from unfreeze.serve.runtimes.tensorrt import open_engine

        return open_engine(Path(path), options, checked)
    if name == "cuda":
        from unfreeze.serve.runtimes.onnx_cuda import open_on_cuda

        return open_on_cuda(Path(path), options, checked)
    return OnnxRuntime(path, threads=options.threads, checked=checked)

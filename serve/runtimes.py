"""The runtimes that there are, behind one interface."""

import os
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np

from contract.arrays import Float32, UInt8
from contract.manifest import Manifest
from serve.runtime import OnnxRuntime

RuntimeName = Literal["cpu", "cuda", "tensorrt"]


@runtime_checkable
class Runtime(Protocol):
    """A loaded model, whatever executes it; a context manager."""

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify prepared pictures."""

    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_runtime(
    path: str | os.PathLike[str],
    name: RuntimeName,
    *,
    threads: int = 0,
    checked: tuple[bytes, Manifest] | None = None,
) -> Runtime:
    """Load a model.

    Args:
        path: of a `model.onnx`.
        name: "cpu" and "cuda" are ONNX Runtime's, "tensorrt" is the engine beside the model.
        threads: for one batch, on a CPU; 0 for one per core.
        checked: what `read_checked` gave of it, where that was asked before.

    Raises:
        ModelError: it cannot be had here.
    """
    if name == "tensorrt":
        from serve.engine import EngineRuntime

        return EngineRuntime(path, checked=checked)
    return OnnxRuntime(path, device=name, threads=threads, checked=checked)

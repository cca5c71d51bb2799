"""The interface between the server and a runtime."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.model_file import ModelFile


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How to execute a model. Each runtime reads the options that apply to it.

    Args:
        threads: CPU threads per batch; 0 for one per core.
        instances: number of batches executed at the same time.
        max_batch: images in the largest batch; 0 for the manifest's value.
        gpu_memory_mib: limit of ONNX Runtime's GPU memory, in MiB; 0 for no limit.
        cuda_graphs: capture each batch size as a CUDA graph and replay it.
        cudnn_search: benchmark every cuDNN algorithm of each convolution when the model is loaded.
    """

    threads: int = 0
    instances: int = 1
    max_batch: int = 0
    gpu_memory_mib: int = 0
    cuda_graphs: bool = False
    cudnn_search: bool = False


@runtime_checkable
class Runtime(Protocol):
    """A loaded model; a context manager, because it holds threads and memory."""

    @property
    def manifest(self) -> Manifest:
        """The model's metadata."""

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate memory for preprocessed images from which `run` is fastest."""

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify preprocessed images; called from several threads at the same time.

        Rows are those of the manifest's `answer_output`: probabilities, and the out-of-distribution score behind them
        if the model has one. `unfreeze.contract.answers` splits them.
        """

    def close(self) -> None:
        """Release the model's resources."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class FeatureRuntime(Protocol):
    """What a runtime has in addition if it returns the features of a model that was exported with them."""

    def features(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n f"]:
        """Compute the pooled features of preprocessed images."""


@runtime_checkable
class OwnTolerance(Protocol):
    """What a runtime has in addition if it computes in a lower precision than that of the model."""

    @property
    def golden_tolerance(self) -> float:
        """Largest accepted difference of a log-probability of a golden image, in nats; 0 for the model's own."""


@runtime_checkable
class RuntimeModule(Protocol):
    """The functions of a runtime's file."""

    def check_available(self) -> None:
        """Check that this machine has the runtime's libraries and device.

        Raises:
            ModelError: something is missing; the message says what to install.
        """

    def open_model(self, model: ModelFile, options: RuntimeOptions) -> Runtime:
        """Load a model.

        Args:
            model: the file's content and its manifest.
            options: threads, batch sizes and limits.

        Raises:
            ModelError: the runtime cannot load the model.
        """

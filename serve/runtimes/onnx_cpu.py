"""ONNX Runtime on the CPU."""

import os
from pathlib import Path

import numpy as np
import onnxruntime

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.closing import Closing
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.manifest import INPUT, OUTPUT
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.model_file import ModelFile, read_model
from unfreeze.serve.runtimes.onnx_session import open_session


def check_available() -> None:
    """Do nothing: ONNX Runtime, which this file imports, always has a CPU provider."""


def open_model(model: ModelFile, options: RuntimeOptions) -> "OnnxRuntime":
    """Load a model on the CPU.

    Args:
        model: the model file.
        options: execution options; only `threads` applies.

    Raises:
        ModelError: the graph is not valid or differs from its manifest.
    """
    return OnnxRuntime(model, threads=options.threads)


class OnnxRuntime(Closing):
    """A model on the CPU; a context manager, because it holds threads and memory.

    Args:
        source: the path of a `model.onnx`, or a file that was read already.
        threads: CPU threads per batch; 0 for one per core.

    Raises:
        ModelError: the file is missing, was changed, or has no valid manifest or graph.
    """

    def __init__(self, source: str | os.PathLike[str] | ModelFile, *, threads: int = 0) -> None:
        model = source if isinstance(source, ModelFile) else read_model(Path(source))
        self.path, self.manifest = model.path, model.manifest
        self._session: onnxruntime.InferenceSession | None = open_session(
            model, "CPUExecutionProvider", threads or usable_cores()
        )

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate memory for preprocessed images."""
        return np.empty((images, *self.manifest.preprocess.shape), np.uint8)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify preprocessed images.

        Args:
            pixels: RGB, of the manifest's crop size.

        Returns:
            Probabilities, in the order of the manifest's labels.

        Raises:
            ModelError: ONNX Runtime failed, for example out of memory, or the runtime is closed.
        """
        if self._session is None:
            raise ModelError(f"{self.path} is closed")
        try:
            return np.asarray(self._session.run([OUTPUT], {INPUT: pixels})[0])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ModelError(f"{self.path} failed on a batch of {len(pixels)}: {first_line(error)}") from error

    def close(self) -> None:
        """Release the session; may be called again."""
        self._session = None

"""ONNX Runtime on the CPU."""

from pathlib import Path

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.model.model_file import ModelFile, read_model
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.onnx_session import CPU, OnnxRuntime, open_session


def check_available() -> None:
    """Do nothing: ONNX Runtime, which this file imports, always has a CPU provider."""


def open_model(model: ModelFile, options: RuntimeOptions) -> OnnxRuntime:
    """Load a model on the CPU.

    Args:
        model: the model file.
        options: execution options; only `threads` applies, 0 for one per core.

    Raises:
        ModelError: the graph is not valid or differs from its manifest.
    """
    return OnnxRuntime(model.path, model.manifest, open_session(model, CPU, options.threads or usable_cores()))


def open_path(path: Path, *, threads: int = 0) -> OnnxRuntime:
    """Read a model file and load it on the CPU.

    Args:
        path: of a `model.onnx`.
        threads: CPU threads per batch; 0 for one per core.

    Raises:
        ModelError: the file is missing, was changed, or has no valid manifest or graph.
    """
    return open_model(read_model(path), RuntimeOptions(threads=threads))

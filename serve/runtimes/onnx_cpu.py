"""ONNX Runtime on a CPU: a model file in, a function from images to probabilities out."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.closing import Closing
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.embedded import manifest_in
from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest
from unfreeze.contract.model.optimizers import disabled_optimizers
from unfreeze.contract.model.repository import read_published
from unfreeze.contract.model.seal import check_seal


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How a model is to be executed; not every runtime heeds all of it.

    Args:
        threads: for one batch, on a CPU; 0 for one per core.
        instances: batches that are executed at once.
        max_batch: the largest; 0 for what the manifest says.
        memory_mib: of a GPU that ONNX Runtime may take, in MiB; 0 for all of it.
        graphs: capture each size of batch as a CUDA graph, and replay it.
        search: time every algorithm of cuDNN for every convolution when the model is loaded.
    """

    threads: int = 0
    instances: int = 1
    max_batch: int = 0
    memory_mib: int = 0
    graphs: bool = False
    search: bool = False


class OnnxRuntime(Closing):
    """A loaded model on the CPU; a context manager, for it holds threads and memory.

    Args:
        path: of a `model.onnx` that carries a manifest.
        threads: for one batch; 0 for one per core.
        checked: what `read_checked` gave of it, where that was asked before.

    Raises:
        ModelError: the file is missing, or is no model of ours.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        checked: tuple[bytes, Manifest] | None = None,
    ) -> None:
        self.path = Path(path)
        model, self.manifest = checked or read_checked(self.path)
        self._session: onnxruntime.InferenceSession | None = open_session(
            model, self.manifest, self.path, "CPUExecutionProvider", threads or usable_cores()
        )

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate memory for prepared images."""
        return np.empty((images, *self.manifest.preprocess.shape), np.uint8)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify prepared images.

        Args:
            pixels: RGB, of the manifest's crop size.

        Returns:
            Probabilities, in the order of the manifest's labels.

        Raises:
            ModelError: ONNX Runtime failed, as it does where memory is short, or the runtime was closed.
        """
        if self._session is None:
            raise ModelError(f"{self.path} was closed")
        try:
            return np.asarray(self._session.run([OUTPUT], {INPUT: pixels})[0])
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise ModelError(f"{self.path} failed on a batch of {len(pixels)}: {first_line(error)}") from error

    def close(self) -> None:
        """Let go of the session; a second time does nothing."""
        self._session = None


def read_checked(path: Path) -> tuple[bytes, Manifest]:
    """Read a model's file and its manifest, and see that it is what was published and exported.

    Args:
        path: of a `model.onnx`.

    Raises:
        ModelError: it was changed, or carries no manifest.
    """
    model = read_published(path)
    try:
        check_seal(model)
        manifest = manifest_in(model)
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error.__cause__
    return model, manifest


def open_session(
    model: bytes, manifest: Manifest, path: Path, provider: str | tuple[str, dict[str, str]], threads: int = 1
) -> onnxruntime.InferenceSession:
    """Load a graph, and see that it is what its manifest says.

    Args:
        model: the file's content.
        manifest: that it carries.
        path: of the file, for messages.
        provider: of ONNX Runtime, with its options or without.
        threads: on a CPU.

    Raises:
        ModelError: it is no such graph, or the provider could not be started.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads win microseconds and cost whole cores, which decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=[provider], disabled_optimizers=disabled_optimizers(manifest.precision)
        )
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise ModelError(f"{path} is no ONNX model that can be loaded: {error}") from error
    name = provider if isinstance(provider, str) else provider[0]
    if session.get_providers()[0] != name:
        raise ModelError(f"ONNX Runtime could not start {name}; see its log")
    _check_tensors(session, manifest, path)
    return session


def _check_tensors(session: onnxruntime.InferenceSession, manifest: Manifest, path: Path) -> None:
    """See that the graph is what its manifest says."""
    found = [
        (item.name, item.type, ["any" if isinstance(item.shape[0], str) else item.shape[0], *item.shape[1:]])
        for item in (*session.get_inputs(), *session.get_outputs())
        if item.shape
    ]
    expected = [
        (INPUT, "tensor(uint8)", ["any", *manifest.preprocess.shape]),
        (OUTPUT, "tensor(float)", ["any", len(manifest.labels)]),
    ]
    if found != expected:
        raise ModelError(f"the graph in {path} takes and gives {found}; its manifest says {expected}")

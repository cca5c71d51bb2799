"""ONNX Runtime: a model file in, a function from pictures to probabilities out."""

import os
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import onnxruntime

from contract.arrays import Float32, UInt8
from contract.embedded import manifest_in
from contract.errors import ModelError, first_line
from contract.manifest import INPUT, OUTPUT, Manifest
from contract.optimizers import disabled_optimizers
from contract.repository import read_published
from contract.seal import check_seal

Device = Literal["cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """A loaded model; a context manager, for it holds threads and memory.

    Args:
        path: of a `model.onnx` that carries a manifest.
        device: where to run.
        threads: for one batch, on a CPU; 0 for one per core.
        checked: what `read_checked` gave of it, where that was asked before.

    Raises:
        ModelError: the file is missing, is no model of ours, or the device cannot be had.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: Device = "cpu",
        threads: int = 0,
        checked: tuple[bytes, Manifest] | None = None,
    ) -> None:
        self.path = Path(path)
        model, self.manifest = checked or read_checked(self.path)
        self._session: onnxruntime.InferenceSession | None = _session(
            model, self.path, device, threads or os.cpu_count() or 1, self.manifest.precision
        )
        _check_tensors(self._session, self.manifest, self.path)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify prepared pictures.

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def _session(model: bytes, path: Path, device: Device, threads: int, precision: str) -> onnxruntime.InferenceSession:
    if _PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ModelError(
            f"this ONNX Runtime ({onnxruntime.__version__}) has no {_PROVIDERS[device]}: "
            "pip uninstall onnxruntime, then pip install 'unfreeze[gpu]'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads win microseconds and cost whole cores, which decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=[_PROVIDERS[device]], disabled_optimizers=disabled_optimizers(precision)
        )
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise ModelError(f"{path} is no ONNX model that can be loaded: {error}") from error
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise ModelError(f"{device} was asked for, but ONNX Runtime could not start {_PROVIDERS[device]}; see its log")
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

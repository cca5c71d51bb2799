"""Sessions of ONNX Runtime, shared by its execution providers, and a model that runs in one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.closing import Closing
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.manifest import FEATURES, INPUT, Manifest
from unfreeze.contract.model.model_file import ModelFile
from unfreeze.contract.model.onnxruntime_options import disabled_optimizers

CPU = "CPUExecutionProvider"


class OnnxRuntime(Closing):
    """A model in a session; a context manager, because it holds memory and threads. It is a `Runtime`.

    Args:
        path: of the `model.onnx`.
        manifest: of the model.
        session: of its graph.
    """

    def __init__(self, path: Path, manifest: Manifest, session: onnxruntime.InferenceSession) -> None:
        self.path, self.manifest = path, manifest
        self._session: onnxruntime.InferenceSession | None = session

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate memory for preprocessed images."""
        return np.empty((images, *self.manifest.preprocess.shape), np.uint8)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify preprocessed images.

        Args:
            pixels: RGB, of the manifest's crop size.

        Returns:
            Probabilities, in the order of the manifest's labels, and the score behind them if the model has one.

        Raises:
            ModelError: ONNX Runtime failed, for example out of memory, or the model is closed.
        """
        return self._output(self.manifest.answer_output, pixels)

    def features(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n f"]:
        """Compute the pooled features of preprocessed images; the model was exported with them.

        Raises:
            ModelError: as `run`.
        """
        return self._output(FEATURES, pixels)

    def _output(self, name: str, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n a"]:
        if self._session is None:
            raise ModelError(f"{self.path} is closed")
        try:
            return np.asarray(self._session.run([name], {INPUT: pixels})[0])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ModelError(f"{self.path} failed on a batch of {len(pixels)}: {first_line(error)}") from error

    def close(self) -> None:
        """Release the session; may be called again."""
        self._session = None


def open_session(
    model: ModelFile, provider: str | tuple[str, dict[str, str]], threads: int = 1
) -> onnxruntime.InferenceSession:
    """Create a session and check the graph's inputs and outputs against the manifest.

    Args:
        model: the model file.
        provider: name of an execution provider, alone or with its options.
        threads: CPU threads per run.

    Raises:
        ModelError: the graph is not valid, differs from its manifest, or the provider cannot be started.
    """
    disabled = disabled_optimizers(model.manifest.precision)
    session = create_session(model.content, model.path, session_options(threads), [provider], disabled)
    name = provider if isinstance(provider, str) else provider[0]
    if session.get_providers()[0] != name:
        raise ModelError(f"ONNX Runtime could not start {name}; see its log")
    check_tensors(session, model.path, model.manifest)
    return session


def create_session(
    graph: bytes | str,
    path: Path,
    options: onnxruntime.SessionOptions,
    providers: Sequence[str | tuple[str, dict[str, str]]],
    disabled: Sequence[str],
) -> onnxruntime.InferenceSession:
    """Create a session.

    Args:
        graph: its content, which the session keeps in memory, or its path.
        path: of the graph, for the message.
        options: of the session.
        providers: execution providers, alone or with their options.
        disabled: names of optimizers that do not run.

    Raises:
        ModelError: the graph is not valid, or a provider cannot be started.
    """
    try:
        return onnxruntime.InferenceSession(graph, options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelError(f"{path} is not an ONNX model that ONNX Runtime can load: {first_line(error)}") from error


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return the options that every session has.

    Args:
        threads: CPU threads per run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads save microseconds but occupy whole cores, which decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def check_tensors(session: onnxruntime.InferenceSession, path: Path, manifest: Manifest) -> None:
    """Check that the graph's input and outputs are those of the manifest.

    Args:
        session: of the graph.
        path: of the model, for the message.
        manifest: of the model.

    Raises:
        ModelError: they differ.
    """
    found = [
        (item.name, item.type, ["any" if isinstance(item.shape[0], str) else item.shape[0], *item.shape[1:]])
        for item in (*session.get_inputs(), *session.get_outputs())
        if item.shape
    ]
    expected = [
        (INPUT, "tensor(uint8)", ["any", *manifest.preprocess.shape]),
        *((name, "tensor(float)", ["any", width]) for name, width in manifest.outputs.items()),
    ]
    if found != expected:
        raise ModelError(f"{path} has the tensors {found}, but its manifest declares {expected}")

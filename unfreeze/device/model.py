"""A model in ONNX Runtime, with the options that keep start and memory of a small process low."""

from pathlib import Path

import numpy as np
import onnxruntime

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.closing import Closing
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest
from unfreeze.contract.model.onnxruntime_options import disabled_optimizers
from unfreeze.serve.runtimes.onnx_session import check_tensors, session_options


class DeviceModel(Closing):
    """A model in this process; a context manager, because it holds memory and threads. It is a `Runtime`.

    Args:
        path: of the `model.onnx`.
        manifest: of the model.
        session: of its graph, as it was exported or optimized.
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
            Probabilities, in the order of the manifest's labels.

        Raises:
            ModelError: ONNX Runtime failed, for example out of memory, or the model is closed.
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


def open_graph(path: Path, manifest: Manifest, threads: int, save_as: Path | None = None) -> DeviceModel:
    """Open an exported graph. ONNX Runtime optimizes it, which takes most of the time.

    It gets the path, not the content: a session keeps the bytes that it is given for as long as it lives.

    Args:
        path: of a `model.onnx`, which was checked.
        manifest: of the model.
        threads: CPU threads.
        save_as: where to save the optimized graph.

    Raises:
        ModelError: the graph is not valid, or differs from its manifest.
    """
    options = session_options(threads)
    if save_as is not None:
        options.optimized_model_filepath = str(save_as)
    return _open(path, path, manifest, options, disabled_optimizers(manifest.precision))


def open_optimized_graph(graph: Path, path: Path, manifest: Manifest, threads: int) -> DeviceModel:
    """Open a graph that `open_graph` has saved.

    Args:
        graph: the saved graph, which was checked.
        path: of the `model.onnx` that it was made from.
        manifest: of the model.
        threads: CPU threads.

    Raises:
        ModelError: ONNX Runtime cannot load it, or it differs from the manifest.
    """
    options = session_options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _open(graph, path, manifest, options, [])


def _open(
    graph: Path, path: Path, manifest: Manifest, options: onnxruntime.SessionOptions, disabled: list[str]
) -> DeviceModel:
    try:
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelError(f"{graph} is not an ONNX model that ONNX Runtime can load: {first_line(error)}") from error
    check_tensors(session, path, manifest)
    return DeviceModel(path, manifest, session)

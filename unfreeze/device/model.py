"""A model in ONNX Runtime, with the options that keep start and memory of a small process low."""

from pathlib import Path

import onnxruntime

from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.onnxruntime_options import disabled_optimizers
from unfreeze.serve.runtimes.onnx_session import CPU, OnnxRuntime, check_tensors, create_session, session_options


def open_graph(path: Path, manifest: Manifest, threads: int, save_as: Path | None = None) -> OnnxRuntime:
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


def open_optimized_graph(graph: Path, path: Path, manifest: Manifest, threads: int) -> OnnxRuntime:
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
) -> OnnxRuntime:
    session = create_session(str(graph), graph, options, [CPU], disabled)
    check_tensors(session, path, manifest)
    return OnnxRuntime(path, manifest, session)

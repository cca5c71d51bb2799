"""Sessions of ONNX Runtime, shared by its execution providers."""

from pathlib import Path

import onnxruntime

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest
from unfreeze.contract.model.onnxruntime_options import disabled_optimizers
from unfreeze.serve.runtimes.model_file import ModelFile


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
    try:
        session = onnxruntime.InferenceSession(
            model.content,
            session_options(threads),
            providers=[provider],
            disabled_optimizers=disabled_optimizers(model.manifest.precision),
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelError(f"{model.path} is not an ONNX model that ONNX Runtime can load: {error}") from error
    name = provider if isinstance(provider, str) else provider[0]
    if session.get_providers()[0] != name:
        raise ModelError(f"ONNX Runtime could not start {name}; see its log")
    check_tensors(session, model.path, model.manifest)
    return session


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
    """Check that the graph's input and output are those of the manifest.

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
        (OUTPUT, "tensor(float)", ["any", len(manifest.labels)]),
    ]
    if found != expected:
        raise ModelError(f"{path} has the tensors {found}, but its manifest declares {expected}")

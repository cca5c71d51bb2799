"""Sessions of ONNX Runtime, shared by its execution providers."""

import onnxruntime

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import INPUT, OUTPUT
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads save microseconds but occupy whole cores, which decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            model.content,
            options,
            providers=[provider],
            disabled_optimizers=disabled_optimizers(model.manifest.precision),
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelError(f"{model.path} is not an ONNX model that ONNX Runtime can load: {error}") from error
    name = provider if isinstance(provider, str) else provider[0]
    if session.get_providers()[0] != name:
        raise ModelError(f"ONNX Runtime could not start {name}; see its log")
    _check_tensors(session, model)
    return session


def _check_tensors(session: onnxruntime.InferenceSession, model: ModelFile) -> None:
    """Check that the graph's input and output are those of the manifest."""
    found = [
        (item.name, item.type, ["any" if isinstance(item.shape[0], str) else item.shape[0], *item.shape[1:]])
        for item in (*session.get_inputs(), *session.get_outputs())
        if item.shape
    ]
    expected = [
        (INPUT, "tensor(uint8)", ["any", *model.manifest.preprocess.shape]),
        (OUTPUT, "tensor(float)", ["any", len(model.manifest.labels)]),
    ]
    if found != expected:
        raise ModelError(f"{model.path} has the tensors {found}, but its manifest declares {expected}")

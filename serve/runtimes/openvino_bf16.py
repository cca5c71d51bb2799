"""OpenVINO in bfloat16, on CPUs that have instructions for it."""

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.model_file import ModelFile
from unfreeze.serve.runtimes import openvino
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.openvino_library import supports_bfloat16


def check_available() -> None:
    """Check that this CPU computes in bfloat16.

    Raises:
        ModelError: OpenVINO does not support this CPU, or has no bfloat16 for it.
    """
    openvino.check_available()
    if not supports_bfloat16():
        raise ModelError("this CPU has no instructions for bfloat16; the runtime openvino computes in float32")


def open_model(model: ModelFile, options: RuntimeOptions) -> openvino.OpenVinoRuntime:
    """Load a model for execution in bfloat16.

    Args:
        model: the model file.
        options: execution options; only `threads` and `instances` apply.

    Raises:
        ModelError: the graph is not valid, differs from its manifest, or classifies its golden images differently.
    """
    return openvino.open_in_precision(model, "bf16", options)

"""The outputs of a model in the Open Inference Protocol: which there are, which a request wants, and their contents."""

import struct
from itertools import islice
from typing import NamedTuple

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import InvalidRequestError
from unfreeze.contract.model.manifest import OUTPUT, Manifest
from unfreeze.contract.prediction import are_unsure
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.protocol.parameters import nonnegative_integer
from unfreeze.serve.protocol.shared_tensors import SHARED_MEMORY_PARAMETERS

UNSURE = "unsure"
_ELEMENT_LENGTH = struct.Struct("<I")
_PARAMETERS = {"binary_data", "classification", *SHARED_MEMORY_PARAMETERS}
_MOST_OUTPUTS = 2


class RequestedOutput(NamedTuple):
    """An output that a request wants.

    Args:
        name: of the output.
        class_count: number of classes of Triton's classification extension; 0 for the values themselves.
    """

    name: str
    class_count: int = 0


def declared_outputs(manifest: Manifest, *, encoded: bool) -> tuple[str, ...]:
    """Return the names of the outputs that metadata and configuration list, and that a request gets by default.

    `NAME` declares what NVIDIA Triton does for the same repository, because programs such as NVIDIA's `image_client.py`
    refuse a model with several outputs; it returns `unsure` if that is requested by name.

    Args:
        manifest: the model's.
        encoded: whether the model is used as `NAME.encoded`.
    """
    return (OUTPUT, UNSURE) if encoded and manifest.abstain_below is not None else (OUTPUT,)


def requested_outputs(request: pb.ModelInferRequest, manifest: Manifest, *, encoded: bool) -> list[RequestedOutput]:
    """Return the outputs that a request wants, in its order; if it names none, those that are declared.

    Args:
        request: ModelInfer request.
        manifest: the model's.
        encoded: whether the model is used as `NAME.encoded`.

    Raises:
        InvalidRequestError: the model has no such output, an output is requested twice, or a parameter is not valid.
    """
    if not request.outputs:
        return [RequestedOutput(name) for name in declared_outputs(manifest, encoded=encoded)]
    if len(request.outputs) > _MOST_OUTPUTS:
        raise InvalidRequestError(
            f"a model has at most {_MOST_OUTPUTS} outputs, {OUTPUT!r} and {UNSURE!r}; "
            f"{len(request.outputs):,} were requested"
        )
    outputs = [_requested_output(output, manifest) for output in request.outputs]
    if len(outputs) > 1 and outputs[0].name == outputs[1].name:
        raise InvalidRequestError(f"the output {outputs[0].name!r} was requested twice")
    return outputs


def output_tensor(
    output: RequestedOutput, probabilities: Float32[np.ndarray, "n c"], manifest: Manifest
) -> tuple[pb.ModelInferResponse.InferOutputTensor, bytes]:
    """Build an output of a response.

    Args:
        output: what was requested.
        probabilities: of each image, one per label.
        manifest: the model's.

    Returns:
        The description of the tensor, and its raw contents.
    """
    if output.name == UNSURE and manifest.abstain_below is not None:
        datatype, shape = "BOOL", probabilities.shape[:1]
        raw = are_unsure(probabilities, manifest.abstain_below).tobytes()
    elif output.class_count:
        class_count = min(output.class_count, probabilities.shape[1])
        datatype, shape = "BYTES", (len(probabilities), class_count)
        raw = b"".join(_class_strings(probabilities, class_count, manifest.labels))
    else:
        datatype, shape = "FP32", probabilities.shape
        raw = np.ascontiguousarray(probabilities, "<f4").tobytes()
    return pb.ModelInferResponse.InferOutputTensor(name=output.name, datatype=datatype, shape=shape), raw


def _requested_output(output: pb.ModelInferRequest.InferRequestedOutputTensor, manifest: Manifest) -> RequestedOutput:
    if output.name == UNSURE and manifest.abstain_below is None:
        raise InvalidRequestError(
            f"the model has no output {UNSURE!r}, because it has no confidence threshold; request {OUTPUT!r} only, or "
            "serve a model that was tuned with --abstain-precision"
        )
    if output.name not in (OUTPUT, UNSURE):
        names = f"output of the model is {OUTPUT!r}"
        if manifest.abstain_below is not None:
            names = f"outputs of the model are {OUTPUT!r} and {UNSURE!r}"
        raise InvalidRequestError(f"the {names}; {output.name!r:.200} was requested")
    if not output.parameters:
        return RequestedOutput(output.name)
    sample = islice(output.parameters, len(_PARAMETERS) + 1)  # enough to include an unknown one, if any
    unknown = sorted(set(sample) - _PARAMETERS)
    if unknown:
        raise InvalidRequestError(f"unsupported output parameters {unknown!r:.200}")
    class_count = nonnegative_integer(output.parameters, "classification")
    if class_count and output.name == UNSURE:
        raise InvalidRequestError(f"classification applies to the output {OUTPUT!r} only, not to {UNSURE!r}")
    return RequestedOutput(output.name, class_count)


def _class_strings(probabilities: Float32[np.ndarray, "n c"], class_count: int, labels: tuple[str, ...]) -> list[bytes]:
    """Format the top classes as Triton does: `value:index:label`, each with a length prefix."""
    strings = []
    for row in probabilities:
        for index in np.argsort(-row, kind="stable")[:class_count]:
            text = f"{row[index]:f}:{index}:{labels[index]}".encode()
            strings.append(_ELEMENT_LENGTH.pack(len(text)) + text)
    return strings

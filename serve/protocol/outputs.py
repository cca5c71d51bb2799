"""The outputs of a model in the Open Inference Protocol: which there are, which a request wants, and their contents."""

import struct
from itertools import islice
from typing import NamedTuple

import numpy as np

from unfreeze.contract.answers import are_foreign, ood_scores_in, probabilities_in, unsure_in
from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import InvalidRequestError
from unfreeze.contract.model.manifest import OUTPUT, Manifest
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.protocol.parameters import nonnegative_integer
from unfreeze.serve.protocol.shared_tensors import SHARED_MEMORY_PARAMETERS

UNSURE, OOD_SCORE, FOREIGN = "unsure", "ood_score", "out_of_distribution"
_ALL = OUTPUT, UNSURE, OOD_SCORE, FOREIGN
_ELEMENT_LENGTH = struct.Struct("<I")
_PARAMETERS = {"binary_data", "classification", *SHARED_MEMORY_PARAMETERS}
_MOST_OUTPUTS = 4


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
    refuse a model with several outputs; it returns the others if they are requested by name.

    Args:
        manifest: the model's.
        encoded: whether the model is used as `NAME.encoded`.
    """
    return _available(manifest) if encoded else (OUTPUT,)


def _available(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the outputs that a model has."""
    unsure = () if manifest.abstain_below is None else (UNSURE,)
    return (OUTPUT, *unsure, *(() if manifest.ood is None else (OOD_SCORE, FOREIGN)))


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
            f"a model has at most {_MOST_OUTPUTS} outputs, {', '.join(map(repr, _ALL))}; {len(request.outputs):,} were "
            "requested"
        )
    outputs = [_requested_output(output, manifest) for output in request.outputs]
    names = [output.name for output in outputs]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InvalidRequestError(f"the output {twice!r} was requested twice")
    return outputs


def output_tensor(
    output: RequestedOutput, rows: Float32[np.ndarray, "n a"], manifest: Manifest
) -> tuple[pb.ModelInferResponse.InferOutputTensor, bytes]:
    """Build an output of a response.

    Args:
        output: what was requested.
        rows: of the model's output.
        manifest: the model's.

    Returns:
        The description of the tensor, and its raw contents.
    """
    probabilities, ood, below = probabilities_in(rows, manifest), manifest.ood, manifest.abstain_below
    shape: tuple[int, ...] = rows.shape[:1]
    if output.name == UNSURE and below is not None:
        datatype, raw = "BOOL", unsure_in(rows, manifest, below).tobytes()
    elif output.name == FOREIGN and ood is not None:
        datatype, raw = "BOOL", are_foreign(ood_scores_in(rows, manifest), ood).tobytes()
    elif output.name == OOD_SCORE and ood is not None:
        datatype, raw = "FP32", np.ascontiguousarray(ood_scores_in(rows, manifest), "<f4").tobytes()
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
    if output.name in (OOD_SCORE, FOREIGN) and manifest.ood is None:
        raise InvalidRequestError(
            f"the model has no output {output.name!r}, because it has no out-of-distribution score; "
            "serve a model that was tuned with --ood-false-alarms"
        )
    available = _available(manifest)
    if output.name not in available:
        names = f"output of the model is {OUTPUT!r}"
        if len(available) > 1:
            names = f"outputs of the model are {', '.join(map(repr, available[:-1]))} and {available[-1]!r}"
        raise InvalidRequestError(f"the {names}; {output.name!r:.200} was requested")
    if not output.parameters:
        return RequestedOutput(output.name)
    sample = islice(output.parameters, len(_PARAMETERS) + 1)  # enough to include an unknown one, if any
    unknown = sorted(set(sample) - _PARAMETERS)
    if unknown:
        raise InvalidRequestError(f"unsupported output parameters {unknown!r:.200}")
    class_count = nonnegative_integer(output.parameters, "classification")
    if class_count and output.name != OUTPUT:
        raise InvalidRequestError(f"classification applies to the output {OUTPUT!r} only, not to {output.name!r}")
    return RequestedOutput(output.name, class_count)


def _class_strings(probabilities: Float32[np.ndarray, "n c"], class_count: int, labels: tuple[str, ...]) -> list[bytes]:
    """Format the top classes as Triton does: `value:index:label`, each with a length prefix."""
    strings = []
    for row in probabilities:
        for index in np.argsort(-row, kind="stable")[:class_count]:
            text = f"{row[index]:f}:{index}:{labels[index]}".encode()
            strings.append(_ELEMENT_LENGTH.pack(len(text)) + text)
    return strings

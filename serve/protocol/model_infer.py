"""ModelInfer of the Open Inference Protocol: parse the request, run the model, build the response."""

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import InvalidRequestError, UnknownModelError
from unfreeze.contract.model.manifest import INPUT, OUTPUT
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.models.served import ServedModel, ServedModels
from unfreeze.serve.protocol.deserializing import Buffer, SplitMessage, contents_of
from unfreeze.serve.protocol.tensors import read_encoded, read_pixels
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY

ENCODED_INPUT = "image"
_LARGE_BYTES = 2**20
_ELEMENT_LENGTH = struct.Struct("<I")
_OUTPUT_PARAMETERS = {"binary_data", "classification"}


async def infer(
    models: ServedModels, received: pb.ModelInferRequest | SplitMessage, deadline: Callable[[int], float | None]
) -> pb.ModelInferResponse:
    """Process a ModelInfer request.

    Args:
        models: the served models.
        received: contains preprocessed images or, for a model name that ends in `.encoded`, encoded images.
        deadline: maps the timeout of the request, in microseconds or 0 for none, to the deadline on the clock of
            `time.monotonic`.

    Returns:
        Class probabilities, or class strings if the request uses the classification extension.

    Raises:
        InvalidRequestError: the request does not match the model, or an image cannot be decoded.
        ServingError: the request is rejected, for example because the queue is full.
    """
    request: pb.ModelInferRequest
    request, raw = contents_of(received, "raw_input_contents")
    name, encoded = split_model_name(request.model_name)
    with models.use(name, request.model_version) as model:
        class_count = _requested_class_count(request)
        timeout_us = _nonnegative_integer(request.parameters, "timeout")
        priority = _nonnegative_integer(request.parameters, "priority") or DEFAULT_PRIORITY
        model.check_size(request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 0)
        read = partial(_read, request, raw, encoded=encoded, model=model)
        # Raw pixels are not copied. Other large contents are parsed in a thread, so that the event loop is not blocked.
        images = read() if raw and (not encoded or len(raw[0]) < _LARGE_BYTES) else await asyncio.to_thread(read)
        probabilities = await model.classify(images, deadline(timeout_us), priority)
        return _response(request, model, probabilities, class_count)


def split_model_name(name: str) -> tuple[str, bool]:
    """Split a model name of the protocol.

    Args:
        name: NAME, or NAME.encoded for encoded images.

    Returns:
        The name of the model in the repository, and whether its input is encoded images.

    Raises:
        InvalidRequestError: the name is empty.
        UnknownModelError: the name is only the suffix.
    """
    if not name:
        raise InvalidRequestError("the request has no model name")
    if name == ENCODED_SUFFIX:
        raise UnknownModelError(f"unknown model {name!r}")
    return name.removesuffix(ENCODED_SUFFIX), name.endswith(ENCODED_SUFFIX)


def _read(
    request: pb.ModelInferRequest, raw: Sequence[Buffer], *, encoded: bool, model: ServedModel
) -> list[bytes] | np.ndarray:
    if encoded:
        return read_encoded(request, raw, ENCODED_INPUT)
    return read_pixels(request, raw, INPUT, model.manifest.preprocess.shape)


def _requested_class_count(request: pb.ModelInferRequest) -> int:
    """Return the number of classes of Triton's classification extension; 0 if probabilities are requested."""
    if len(request.outputs) > 1:
        raise InvalidRequestError(f"the model has one output, {OUTPUT!r}; {len(request.outputs):,} were requested")
    class_count = 0
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidRequestError(f"the output of the model is {OUTPUT!r}; {output.name!r:.200} was requested")
        sample = islice(output.parameters, len(_OUTPUT_PARAMETERS) + 1)  # enough to include an unknown one, if any
        unknown = sorted(set(sample) - _OUTPUT_PARAMETERS)
        if unknown:
            raise InvalidRequestError(f"unsupported output parameters {unknown!r:.200}")
        class_count = _nonnegative_integer(output.parameters, "classification")
    return class_count


def _nonnegative_integer(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    """Read an integer parameter; 0 if absent. Clients send signed and unsigned integers."""
    if name not in parameters:
        return 0
    kind = parameters[name].WhichOneof("parameter_choice")
    value: object = getattr(parameters[name], kind) if kind else None
    if kind not in ("int64_param", "uint64_param") or not isinstance(value, int) or value < 0:
        raise InvalidRequestError(f"parameter {name!r} must be a nonnegative integer, got {value!r:.50}")
    return value


def _response(
    request: pb.ModelInferRequest, model: ServedModel, probabilities: Float32[np.ndarray, "n c"], class_count: int
) -> pb.ModelInferResponse:
    if class_count:
        class_count = min(class_count, probabilities.shape[1])
        datatype, shape = "BYTES", (len(probabilities), class_count)
        raw = b"".join(_class_strings(probabilities, class_count, model.manifest.labels))
    else:
        datatype, shape = "FP32", probabilities.shape
        raw = np.ascontiguousarray(probabilities, "<f4").tobytes()
    output = pb.ModelInferResponse.InferOutputTensor(name=OUTPUT, datatype=datatype, shape=shape)
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=model.version,
        id=request.id,
        outputs=[output],
        raw_output_contents=[raw],
    )


def _class_strings(probabilities: Float32[np.ndarray, "n c"], class_count: int, labels: tuple[str, ...]) -> list[bytes]:
    """Format the top classes as Triton does: `value:index:label`, each with a length prefix."""
    strings = []
    for row in probabilities:
        for index in np.argsort(-row, kind="stable")[:class_count]:
            text = f"{row[index]:f}:{index}:{labels[index]}".encode()
            strings.append(_ELEMENT_LENGTH.pack(len(text)) + text)
    return strings

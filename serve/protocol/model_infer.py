"""ModelInfer of the Open Inference Protocol: parse the request, run the model, build the response."""

import asyncio
import struct
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import InvalidRequestError, UnknownModelError
from unfreeze.contract.model.manifest import INPUT, OUTPUT
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.protocol.parameters import nonnegative_integer
from unfreeze.serve.protocol.shared_memory import SharedMemoryRegions
from unfreeze.serve.protocol.shared_tensors import (
    SHARED_MEMORY_PARAMETERS,
    SharedTensor,
    move_outputs,
    shared_input,
    shared_outputs,
)
from unfreeze.serve.protocol.tensors import read_encoded, read_pixels
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY

ENCODED_INPUT = "image"
_LARGE_BYTES = 2**20
_ELEMENT_LENGTH = struct.Struct("<I")
_OUTPUT_PARAMETERS = {"binary_data", "classification", *SHARED_MEMORY_PARAMETERS}
_T = TypeVar("_T")


async def infer(
    models: ModelRegistry,
    request: pb.ModelInferRequest,
    deadline: Callable[[int], float | None],
    regions: SharedMemoryRegions,
) -> pb.ModelInferResponse:
    """Process a ModelInfer request.

    Args:
        models: the served models.
        request: contains preprocessed images or, for a model name that ends in `.encoded`, encoded images.
        deadline: maps the timeout of the request, in microseconds or 0 for none, to the deadline on the clock of
            `time.monotonic`.
        regions: of shared memory, which the request may name for its contents and those of its response.

    Returns:
        Class probabilities, or class strings if the request uses the classification extension.

    Raises:
        InvalidRequestError: the request does not match the model, or an image cannot be decoded.
        ServingError: the request is rejected, for example because the queue is full.
    """
    name, encoded = split_model_name(request.model_name)
    with models.use(name, request.model_version) as model:
        class_count = _requested_class_count(request)
        timeout_us = nonnegative_integer(request.parameters, "timeout")
        priority = nonnegative_integer(request.parameters, "priority") or DEFAULT_PRIORITY
        model.check_size(request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 0)
        shared, wanted = shared_input(request, regions), shared_outputs(request, regions)
        size = shared.size if shared else len(request.raw_input_contents[0]) if request.raw_input_contents else 0
        read = partial(_read, request, shared, encoded=encoded, model=model)
        images = await _in_thread_unless(0 < size < _LARGE_BYTES, read)
        probabilities = await model.classify(images, deadline(timeout_us), priority)
        response = _response(request, model, probabilities, class_count)
        if wanted:
            size = sum(map(len, response.raw_output_contents))
            await _in_thread_unless(size < _LARGE_BYTES, partial(move_outputs, response, wanted))
        return response


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
    request: pb.ModelInferRequest, shared: SharedTensor | None, *, encoded: bool, model: LoadedModel
) -> list[bytes] | np.ndarray:
    contents = request.raw_input_contents if shared is None else [shared.read()]
    if encoded:
        return read_encoded(request, contents, ENCODED_INPUT)
    return read_pixels(request, contents, INPUT, model.manifest.preprocess.shape)


async def _in_thread_unless(is_small: bool, work: Callable[[], _T]) -> _T:  # noqa: FBT001
    """Do large work in a thread, so that the event loop is not blocked."""
    return work() if is_small else await asyncio.to_thread(work)


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
        class_count = nonnegative_integer(output.parameters, "classification")
    return class_count


def _response(
    request: pb.ModelInferRequest, model: LoadedModel, probabilities: Float32[np.ndarray, "n c"], class_count: int
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

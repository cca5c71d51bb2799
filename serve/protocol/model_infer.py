"""ModelInfer of the Open Inference Protocol: parse the request, run the model, build the response."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import InvalidRequestError, UnknownModelError
from unfreeze.contract.model.manifest import INPUT
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.models.served import ServedModel, ServedModels
from unfreeze.serve.protocol.deserializing import Buffer, SplitMessage, contents_of
from unfreeze.serve.protocol.outputs import RequestedOutput, nonnegative_integer, output_tensor, requested_outputs
from unfreeze.serve.protocol.tensors import read_encoded, read_pixels
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY

ENCODED_INPUT = "image"
_LARGE_BYTES = 2**20


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
        The requested outputs: class probabilities, class strings if the request uses the classification extension, and
        whether each image's top score is below the model's threshold.

    Raises:
        InvalidRequestError: the request does not match the model, or an image cannot be decoded.
        ServingError: the request is rejected, for example because the queue is full.
    """
    request: pb.ModelInferRequest
    request, raw = contents_of(received, "raw_input_contents")
    name, encoded = split_model_name(request.model_name)
    with models.use(name, request.model_version) as model:
        outputs = requested_outputs(request, model.manifest, encoded=encoded)
        timeout_us = nonnegative_integer(request.parameters, "timeout")
        priority = nonnegative_integer(request.parameters, "priority") or DEFAULT_PRIORITY
        model.check_size(request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 0)
        read = partial(_read, request, raw, encoded=encoded, model=model)
        # Raw pixels are not copied. Other large contents are parsed in a thread, so that the event loop is not blocked.
        images = read() if raw and (not encoded or len(raw[0]) < _LARGE_BYTES) else await asyncio.to_thread(read)
        probabilities = await model.classify(images, deadline(timeout_us), priority)
        return _response(request, model, probabilities, outputs)


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


def _response(
    request: pb.ModelInferRequest,
    model: ServedModel,
    probabilities: Float32[np.ndarray, "n c"],
    outputs: list[RequestedOutput],
) -> pb.ModelInferResponse:
    tensors = [output_tensor(output, probabilities, model.manifest) for output in outputs]
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=model.version,
        id=request.id,
        outputs=[tensor for tensor, _ in tensors],
        raw_output_contents=[raw for _, raw in tensors],
    )

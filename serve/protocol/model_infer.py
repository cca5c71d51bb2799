"""ModelInfer of the Open Inference Protocol: parse the request, run the model, build the response."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import InvalidRequestError, UnknownModelError
from unfreeze.contract.model.manifest import INPUT
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.models.served import ServedModel, ServedModels
from unfreeze.serve.protocol.deserializing import Buffer, SplitMessage, contents_of
from unfreeze.serve.protocol.outputs import RequestedOutput, output_tensor, requested_outputs
from unfreeze.serve.protocol.parameters import nonnegative_integer
from unfreeze.serve.protocol.shared_memory import SharedMemoryRegions
from unfreeze.serve.protocol.shared_tensors import SharedTensor, move_outputs, shared_input, shared_outputs
from unfreeze.serve.protocol.tensors import read_encoded, read_pixels
from unfreeze.serve.recording.recorder import Record
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY

ENCODED_INPUT = "image"
_LARGE_BYTES = 2**20
_T = TypeVar("_T")


async def infer(
    models: ServedModels,
    received: pb.ModelInferRequest | SplitMessage,
    deadline: Callable[[int], float | None],
    regions: SharedMemoryRegions,
    record: Record | None = None,
) -> pb.ModelInferResponse:
    """Process a ModelInfer request.

    Args:
        models: the served models.
        received: contains preprocessed images or, for a model name that ends in `.encoded`, encoded images.
        deadline: maps the timeout of the request, in microseconds or 0 for none, to the deadline on the clock of
            `time.monotonic`.
        regions: of shared memory, which the request may name for its contents and those of its response.
        record: receives the answer, so that its images can be recorded; None if they may not be.

    Returns:
        The requested outputs: class probabilities, class strings if the request uses the classification extension, and
        whether each image's top score is below the model's threshold; its out-of-distribution score, and whether that
        is above its threshold.

    Raises:
        InvalidRequestError: the request does not match the model, or an image cannot be decoded.
        ServingError: the request is rejected, for example because the queue is full.
    """
    request: pb.ModelInferRequest
    request, raw = contents_of(received, "raw_input_contents")
    name, encoded = split_model_name(request.model_name)
    with models.use(name, request.model_version, request.id) as model:
        outputs = requested_outputs(request, model.manifest, encoded=encoded)
        timeout_us = nonnegative_integer(request.parameters, "timeout")
        priority = nonnegative_integer(request.parameters, "priority") or DEFAULT_PRIORITY
        model.check_size(request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 0)
        shared, wanted = shared_input(request, raw, regions), shared_outputs(request, regions)
        # Pixels of the message are not copied, however many there are.
        size = shared.size if shared else len(raw[0]) if raw and encoded else len(raw)
        read = partial(_read, request, raw, shared, encoded=encoded, model=model)
        if shared and size >= _LARGE_BYTES:
            images = await _copy_within(regions.budget, size, deadline(timeout_us), read)
        else:
            images = await _in_thread_unless(0 < size < _LARGE_BYTES, read)
        rows = await model.classify(images, deadline(timeout_us), priority)
        if record is not None:
            record(model, images, rows)
        response = _response(request, model, rows, outputs)
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
    request: pb.ModelInferRequest,
    raw: Sequence[Buffer],
    shared: SharedTensor | None,
    *,
    encoded: bool,
    model: ServedModel,
) -> list[bytes] | np.ndarray:
    contents = raw if shared is None else [shared.read()]
    if encoded:
        return read_encoded(request, contents, ENCODED_INPUT)
    return read_pixels(request, contents, INPUT, model.manifest.preprocess.shape)


async def _copy_within(budget: ReceiveBudget, size: int, deadline: float | None, read: Callable[[], _T]) -> _T:
    """Copy from shared memory in a thread, within the memory of what is being received: small requests name much."""
    await budget.reserve(size, deadline)
    try:
        return await asyncio.to_thread(read)
    finally:
        budget.give(size)


async def _in_thread_unless(is_small: bool, work: Callable[[], _T]) -> _T:  # noqa: FBT001
    """Do large work in a thread, so that the event loop is not blocked."""
    return work() if is_small else await asyncio.to_thread(work)


def _response(
    request: pb.ModelInferRequest,
    model: ServedModel,
    rows: Float32[np.ndarray, "n a"],
    outputs: list[RequestedOutput],
) -> pb.ModelInferResponse:
    tensors = [output_tensor(output, rows, model.manifest) for output in outputs]
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=model.version,
        id=request.id,
        outputs=[tensor for tensor, _ in tensors],
        raw_output_contents=[raw for _, raw in tensors],
    )

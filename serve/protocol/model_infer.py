"""ModelInfer: a request of the Open Inference Protocol in, its response out."""

import asyncio
import struct
from collections.abc import Callable, Mapping
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
from unfreeze.serve.protocol.tensors import read_encoded, read_pixels
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY

ENCODED_INPUT = "image"
_LARGE = 2**20
_LENGTH = struct.Struct("<I")
_OUTPUT_PARAMETERS = {"binary_data", "classification"}
_T = TypeVar("_T")


async def infer(
    models: ModelRegistry, request: pb.ModelInferRequest, deadline: Callable[[int], float | None]
) -> pb.ModelInferResponse:
    """Answer a request.

    Args:
        models: what is served.
        request: its input holds prepared images, or for the model NAME.encoded encoded ones.
        deadline: from the request's own timeout, in microseconds or 0, to when its caller stops waiting.

    Raises:
        InvalidRequestError: the request does not fit the model, or an image cannot be used.
        ServingError: it is refused.
    """
    name, encoded = model_named(request.model_name)
    with models.use(name, request.model_version) as model:
        classes = _classes_asked_for(request)
        timeout_us = _whole_number(request.parameters, "timeout")
        priority = _whole_number(request.parameters, "priority") or DEFAULT_PRIORITY
        model.check_size(request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 0)
        images = await _off_the_loop(request, partial(_read, encoded=encoded, model=model))
        answers = await model.classify(images, deadline(timeout_us), priority)
        return _response(request, model, answers, classes)


def model_named(name: str) -> tuple[str, bool]:
    """Tell a model's name, and whether it was asked for by its name for encoded images.

    Raises:
        InvalidRequestError: there is no name.
        UnknownModelError: it is the suffix alone.
    """
    if not name:
        raise InvalidRequestError("the request names no model")
    if name == ENCODED_SUFFIX:
        raise UnknownModelError(f"there is no model {name!r}")
    return name.removesuffix(ENCODED_SUFFIX), name.endswith(ENCODED_SUFFIX)


def _read(request: pb.ModelInferRequest, *, encoded: bool, model: LoadedModel) -> list[bytes] | np.ndarray:
    if encoded:
        return read_encoded(request, ENCODED_INPUT)
    return read_pixels(request, INPUT, model.manifest.preprocess.shape)


async def _off_the_loop(request: pb.ModelInferRequest, read: Callable[[pb.ModelInferRequest], _T]) -> _T:
    """Read a large request in a thread, so that other callers are not kept waiting."""
    size = len(request.raw_input_contents[0]) if request.raw_input_contents else 0
    return read(request) if 0 < size < _LARGE else await asyncio.to_thread(read, request)


def _classes_asked_for(request: pb.ModelInferRequest) -> int:
    """Say how many labels are wanted instead of probabilities; 0 for probabilities."""
    if len(request.outputs) > 1:
        raise InvalidRequestError(f"there is one output, {OUTPUT!r}; the request asks for {len(request.outputs):,}")
    classes = 0
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidRequestError(f"the one output is {OUTPUT!r}, found {output.name!r:.200}")
        few = islice(output.parameters, len(_OUTPUT_PARAMETERS) + 1)  # enough to find one that is unknown
        unknown = sorted(set(few) - _OUTPUT_PARAMETERS)
        if unknown:
            raise InvalidRequestError(f"this server does not know the output parameters {unknown!r:.200}")
        classes = _whole_number(output.parameters, "classification")
    return classes


def _whole_number(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    """Read a parameter that counts something; 0 where it is not there. Clients send it as either kind of integer."""
    if name not in parameters:
        return 0
    kind = parameters[name].WhichOneof("parameter_choice")
    value: object = getattr(parameters[name], kind) if kind else None
    if kind not in ("int64_param", "uint64_param") or not isinstance(value, int) or value < 0:
        raise InvalidRequestError(f"the parameter {name!r} is a whole number from 0 on, found {value!r:.50}")
    return value


def _response(
    request: pb.ModelInferRequest, model: LoadedModel, answers: Float32[np.ndarray, "n c"], classes: int
) -> pb.ModelInferResponse:
    if classes:
        classes = min(classes, answers.shape[1])
        datatype, shape = "BYTES", (len(answers), classes)
        raw = b"".join(_class_strings(answers, classes, model.manifest.labels))
    else:
        datatype, shape, raw = "FP32", answers.shape, np.ascontiguousarray(answers, "<f4").tobytes()
    output = pb.ModelInferResponse.InferOutputTensor(name=OUTPUT, datatype=datatype, shape=shape)
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=model.version,
        id=request.id,
        outputs=[output],
        raw_output_contents=[raw],
    )


def _class_strings(answers: Float32[np.ndarray, "n c"], classes: int, labels: tuple[str, ...]) -> list[bytes]:
    """Write the most probable labels as Triton does: `value:index:label`, each after its length."""
    strings = []
    for row in answers:
        for index in np.argsort(-row, kind="stable")[:classes]:
            text = f"{row[index]:f}:{index}:{labels[index]}".encode()
            strings.append(_LENGTH.pack(len(text)) + text)
    return strings

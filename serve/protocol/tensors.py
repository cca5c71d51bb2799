"""Read the input of a ModelInfer request: raw or typed contents, both checked against what the request says."""

import math
import struct

import numpy as np

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import InvalidRequestError
from unfreeze.protos import open_inference_pb2 as pb

_LENGTH = struct.Struct("<I")
_SHARED_MEMORY = "shared_memory_region"
_FEW = 8  # of what may come in millions, only these are looked at and shown


def the_input(request: pb.ModelInferRequest, name: str, datatype: str) -> pb.ModelInferRequest.InferInputTensor:
    """Find the one input that a model takes.

    Args:
        request: of ModelInfer.
        name: the input's.
        datatype: what it must be.

    Raises:
        InvalidRequestError: another number of inputs, another name or type, raw contents that do not match the inputs,
            or contents in shared memory.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != name:
        found = [tensor.name for tensor in request.inputs[:_FEW]]
        raise InvalidRequestError(f"{request.model_name} takes one input, {name!r}, found {found!r:.200}")
    tensor = request.inputs[0]
    if tensor.datatype != datatype:
        raise InvalidRequestError(f"{name} is of type {datatype}, found {tensor.datatype!r:.50}")
    if _SHARED_MEMORY in tensor.parameters:
        raise InvalidRequestError("this server has no shared memory; send the contents in the request")
    if request.raw_input_contents and (len(request.raw_input_contents) != 1 or tensor.HasField("contents")):
        raise InvalidRequestError(
            f"contents are either raw, one entry per input, or typed; found {len(request.raw_input_contents)} raw "
            f"entries and {'' if tensor.HasField('contents') else 'no '}typed contents for one input"
        )
    return tensor


def read_pixels(request: pb.ModelInferRequest, name: str, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n h w 3"]:
    """Read prepared images.

    Args:
        request: of ModelInfer, whose input is UINT8 [N, H, W, 3].
        name: the input's.
        shape: (H, W, 3).

    Raises:
        InvalidRequestError: see `the_input`; or the shape is another, or the contents do not fill it.
    """
    tensor = the_input(request, name, "UINT8")
    found = tuple(tensor.shape[:_FEW])
    if len(found) != 4 or found[1:] != shape or found[0] < 1:  # noqa: PLR2004
        raise InvalidRequestError(f"{name} has the shape [N, {', '.join(map(str, shape))}], found {list(found)!s:.100}")
    expected = math.prod(found)
    if request.raw_input_contents:
        raw = request.raw_input_contents[0]
        _check_count(name, "bytes", len(raw), expected)
        return np.frombuffer(raw, np.uint8).reshape(found)
    values = tensor.contents.uint_contents
    _check_count(name, "uint_contents", len(values), expected)
    wide = np.array(values, np.uint32)
    if wide.max() > np.iinfo(np.uint8).max:
        raise InvalidRequestError(f"{name} holds {wide.max()}; UINT8 goes from 0 to 255")
    return wide.astype(np.uint8).reshape(found)


def read_encoded(request: pb.ModelInferRequest, name: str) -> list[bytes]:
    """Read encoded images.

    Args:
        request: of ModelInfer, whose input is BYTES [N] or [N, 1].
        name: the input's.

    Raises:
        InvalidRequestError: see `the_input`; or the shape is another, or the contents do not fill it.
    """
    tensor = the_input(request, name, "BYTES")
    found = tuple(tensor.shape[:_FEW])
    if len(found) not in (1, 2) or found[0] < 1 or found[1:] not in ((), (1,)):
        raise InvalidRequestError(f"{name} has the shape [N] or [N, 1], found {list(found)!s:.100}")
    if request.raw_input_contents:
        elements = _split(name, request.raw_input_contents[0], found[0])
    else:
        elements = list(tensor.contents.bytes_contents[: found[0] + 1])
    _check_count(name, "elements", len(elements), found[0])
    return elements


def _check_count(name: str, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise InvalidRequestError(f"{name} holds {found:,} {what}; its shape asks for {expected:,}")


def _split(name: str, raw: bytes, expected: int) -> list[bytes]:
    """Take apart what is written as u32 lengths, each with as many bytes; one more than expected at most."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= expected:
        end = at + _LENGTH.size
        if end <= len(raw):
            end += _LENGTH.unpack_from(raw, at)[0]
        if end > len(raw) or end < at + _LENGTH.size:
            raise InvalidRequestError(
                f"element {len(elements) + 1} of {name} does not end within the contents; each is a little-endian u32 "
                "length and then as many bytes"
            )
        elements.append(raw[at + _LENGTH.size : end])
        at = end
    return elements

"""Parse the input tensor of a ModelInfer request: raw or typed contents, validated against the declared shape."""

import math
import struct
from collections.abc import Sequence

import numpy as np

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import InvalidRequestError
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.protocol.deserializing import Buffer

_ELEMENT_LENGTH = struct.Struct("<I")
_MAX_SHOWN = 8  # a request can have millions of inputs or dimensions; at most these are quoted in a message


def single_input(
    request: pb.ModelInferRequest, contents: Sequence[Buffer], name: str, datatype: str
) -> pb.ModelInferRequest.InferInputTensor:
    """Return the only input of a request.

    Args:
        request: ModelInfer request.
        contents: raw contents, of the message or from shared memory.
        name: expected name of the input.
        datatype: expected datatype.

    Raises:
        InvalidRequestError: the number of inputs, the name or the datatype is wrong, the contents are given both raw
            and typed, or the number of raw contents is wrong.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != name:
        found = [tensor.name for tensor in request.inputs[:_MAX_SHOWN]]
        raise InvalidRequestError(f"{request.model_name} expects one input named {name!r}, got {found!r:.200}")
    tensor = request.inputs[0]
    if tensor.datatype != datatype:
        raise InvalidRequestError(f"input {name!r} must have datatype {datatype}, got {tensor.datatype!r:.50}")
    if contents and (len(contents) != 1 or tensor.HasField("contents")):
        raise InvalidRequestError(
            f"contents must be either raw, with one entry per input, or typed; got "
            f"{len(contents)} raw entries and {'' if tensor.HasField('contents') else 'no '}typed "
            "contents for one input"
        )
    return tensor


def read_pixels(
    request: pb.ModelInferRequest, contents: Sequence[Buffer], name: str, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Read preprocessed images.

    Args:
        request: ModelInfer request whose input is UINT8 of shape [N, H, W, 3].
        contents: as for `single_input`.
        name: expected name of the input.
        shape: expected (H, W, 3).

    Raises:
        InvalidRequestError: as for `single_input`, or the shape is wrong, or the contents do not match the shape.
    """
    tensor = single_input(request, contents, name, "UINT8")
    found = tuple(tensor.shape[:_MAX_SHOWN])
    if len(found) != 4 or found[1:] != shape or found[0] < 1:  # noqa: PLR2004
        expected_shape = f"[N, {', '.join(map(str, shape))}]"
        raise InvalidRequestError(f"input {name!r} must have shape {expected_shape}, got {list(found)!s:.100}")
    expected = math.prod(found)
    if contents:
        raw = contents[0]
        _check_count(name, "bytes", len(raw), expected)
        return np.frombuffer(raw, np.uint8).reshape(found)
    values = tensor.contents.uint_contents
    _check_count(name, "uint_contents", len(values), expected)
    wide = np.array(values, np.uint32)
    if wide.max() > np.iinfo(np.uint8).max:
        raise InvalidRequestError(f"input {name!r} contains {wide.max()}; UINT8 values must be between 0 and 255")
    return wide.astype(np.uint8).reshape(found)


def read_encoded(request: pb.ModelInferRequest, contents: Sequence[Buffer], name: str) -> list[bytes]:
    """Read encoded images.

    Args:
        request: ModelInfer request whose input is BYTES of shape [N] or [N, 1].
        contents: as for `single_input`.
        name: expected name of the input.

    Raises:
        InvalidRequestError: as for `single_input`, or the shape is wrong, or the contents do not match the shape.
    """
    tensor = single_input(request, contents, name, "BYTES")
    found = tuple(tensor.shape[:_MAX_SHOWN])
    if len(found) not in (1, 2) or found[0] < 1 or found[1:] not in ((), (1,)):
        raise InvalidRequestError(f"input {name!r} must have shape [N] or [N, 1], got {list(found)!s:.100}")
    if contents:
        elements = split_elements(name, contents[0], found[0])
    else:
        elements = list(tensor.contents.bytes_contents[: found[0] + 1])
    _check_count(name, "elements", len(elements), found[0])
    return elements


def _check_count(name: str, unit: str, found: int, expected: int) -> None:
    if found != expected:
        raise InvalidRequestError(f"input {name!r} has {found:,} {unit}, but its shape requires {expected:,}")


def split_elements(name: str, raw: Buffer, max_elements: int) -> list[bytes]:
    """Split raw BYTES contents into elements; stops after one more than `max_elements`."""
    elements: list[bytes] = []
    start = 0
    while start < len(raw) and len(elements) <= max_elements:
        end = start + _ELEMENT_LENGTH.size
        if end <= len(raw):
            end += _ELEMENT_LENGTH.unpack_from(raw, start)[0]
        if end > len(raw) or end < start + _ELEMENT_LENGTH.size:
            raise InvalidRequestError(
                f"element {len(elements) + 1} of input {name!r} is truncated; each element must be a 4-byte "
                "little-endian length followed by that number of bytes"
            )
        elements.append(bytes(raw[start + _ELEMENT_LENGTH.size : end]))
        start = end
    return elements

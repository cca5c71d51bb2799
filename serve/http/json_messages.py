"""The Open Inference Protocol as JSON, with Triton's extension for binary tensor data, from and to its gRPC messages.

A body is JSON, optionally followed by the contents of its tensors; the header `Inference-Header-Content-Length` has the
length of the JSON. https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.http.numbers import parse_number
from unfreeze.serve.protocol.shared_tensors import REGION
from unfreeze.serve.protocol.tensors import split_elements

LENGTH_HEADER = "inference-header-content-length"
MOST_JSON_BYTES = 4 * 2**20  # parsed, a list of empty lists takes twenty times as much memory
_MOST_TENSORS, _MOST_AXES = 16, 8
_INT64 = 2**63
_MOST_DIGITS = 12


def parse_request(name: str, version: str, body: bytes, json_length: str | None) -> pb.ModelInferRequest:
    """Parse the body of an inference request.

    Args:
        name: of the model.
        version: of the model; empty for the newest.
        body: JSON, followed by tensors' contents.
        json_length: value of the header `Inference-Header-Content-Length`; None without it.

    Raises:
        InvalidRequestError: the body is malformed.
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    if length > MOST_JSON_BYTES:
        raise InvalidRequestError(
            f"the request has {length:,} bytes of JSON, and at most {MOST_JSON_BYTES:,} are allowed: send tensors as "
            "binary data"
        )
    try:
        document = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise InvalidRequestError("the request cannot be parsed: it is not valid JSON in UTF-8") from None
    _check_type(document, dict, "the request")
    request = pb.ModelInferRequest(
        model_name=name, model_version=version, id=_get(document, "id", str, ""), parameters=_parameters(document)
    )
    rest, start = memoryview(body)[length:], 0
    for tensor in _objects(document, "inputs"):
        size = _add_input(request, tensor, rest[start:])
        start += size
    if start != len(rest):
        raise InvalidRequestError(
            f"{len(rest):,} bytes follow the JSON, but the inputs' binary_data_size are {start:,} in total"
        )
    for output in _objects(document, "outputs"):
        request.outputs.add(name=_get(output, "name", str, ""), parameters=_parameters(output))
    return request


def render_response(request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> tuple[bytes, int | None]:
    """Render a response.

    Args:
        request: says which outputs are wanted as binary data, which then follow the JSON.
        response: with raw contents.

    Returns:
        The body, and the length of its JSON if it has binary data.
    """
    tensors, binary = [], []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if REGION in output.parameters:  # the contents are there
            tensor["parameters"] = _values_of(output.parameters)
        elif _wants_binary(request, output.name):
            tensor["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            tensor["data"] = _values(output.name, output.datatype, raw)
        tensors.append(tensor)
    document = {"model_name": response.model_name, "model_version": response.model_version, "outputs": tensors}
    if response.id:
        document["id"] = response.id
    text = json.dumps(document).encode()
    return b"".join([text, *binary]), len(text) if binary else None


def to_json(message: Message) -> dict[str, Any]:
    """Convert a message to what `json` can write, with integers as numbers, and without maps and what is not set."""
    document = {}
    present = {field.name for field, _ in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            document[field.name] = [_value(field, one) for one in value]
        elif not field.has_presence or field.name in present:
            document[field.name] = _value(field, value)
    return document


def _wants_binary(request: pb.ModelInferRequest, name: str) -> bool:
    """Return whether an output is requested as binary data: by its own parameter, else by the request's."""
    for output in request.outputs:
        if output.name == name and "binary_data" in output.parameters:
            return output.parameters["binary_data"].bool_param
    return "binary_data_output" in request.parameters and request.parameters["binary_data_output"].bool_param


def _value(field: Any, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return to_json(value)
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value


def _length(text: str, size: int) -> int:
    length = parse_number(text, most_digits=_MOST_DIGITS)
    if length is None or not 0 < length <= size:
        raise InvalidRequestError(
            f"Inference-Header-Content-Length must be from 1 to the {size:,} bytes of the body, got {text!r:.50}"
        )
    return length


def _add_input(request: pb.ModelInferRequest, tensor: dict[str, Any], rest: memoryview) -> int:
    """Add an input to a request; return how many bytes of what follows the JSON belong to it."""
    shape = _get(tensor, "shape", list, [])
    if len(shape) > _MOST_AXES or not all(type(size) is int and 0 <= size < _INT64 for size in shape):
        raise InvalidRequestError(f"an input's shape must have at most {_MOST_AXES} sizes, got {shape!r:.100}")
    parameters = _get(tensor, "parameters", dict, {})
    size = parameters.pop("binary_data_size", None)
    is_base64 = parameters.pop("content_type", None) == "base64"
    added = request.inputs.add(
        name=_get(tensor, "name", str, ""),
        datatype=_get(tensor, "datatype", str, ""),
        shape=shape,
        parameters=_parameters(tensor),
    )
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise InvalidRequestError(
                f"binary_data_size of input {added.name!r:.100} is {size!r:.50}, but {len(rest):,} bytes are left"
            )
        if "data" in tensor:
            raise InvalidRequestError(f"input {added.name!r:.100} has both data and binary_data_size; send one of them")
        request.raw_input_contents.append(bytes(rest[:size]))
        return size
    if REGION in added.parameters and "data" not in tensor:
        return 0
    data = _get(tensor, "data", list, [])
    if added.datatype == "BYTES":
        added.contents.bytes_contents.extend(_elements(data, is_base64=is_base64))
    else:
        request.raw_input_contents.append(_bytes(added.name, data, math.prod(shape)))
    return 0


def _bytes(name: str, data: list[Any], count: int) -> bytes:
    """Return the contents of a UINT8 tensor that is given as numbers, flat or nested."""
    values = data
    for _ in range(_MOST_AXES):
        if not values or not isinstance(values[0], list):
            break
        if not all(isinstance(one, list) for one in values):
            raise InvalidRequestError(f"the data of input {name!r:.100} is ragged")
        values = [value for one in values for value in one]
    if len(values) != count:
        raise InvalidRequestError(f"input {name!r:.100} has {len(values):,} values, but its shape requires {count:,}")
    if not all(type(value) is int and 0 <= value <= 255 for value in values):  # noqa: PLR2004
        raise InvalidRequestError(f"the data of input {name!r:.100} must be integers from 0 to 255, for UINT8")
    return bytes(values)


def _elements(data: list[Any], *, is_base64: bool) -> list[bytes]:
    flat = [one for part in data for one in (part if isinstance(part, list) else [part])]
    if not all(isinstance(one, str) for one in flat):
        raise InvalidRequestError("the data of a BYTES input must be strings")
    if not is_base64:
        raise InvalidRequestError(
            'images cannot be written as JSON text: send them as binary data, or in base64 with "parameters": '
            '{"content_type": "base64"}'
        )
    try:
        return [base64.b64decode(one, validate=True) for one in flat]
    except (binascii.Error, ValueError):
        raise InvalidRequestError("the data of a BYTES input is not valid base64") from None


def _values(name: str, datatype: str, raw: bytes) -> list[Any]:
    if datatype == "FP32":
        return [float(value) for value in np.frombuffer(raw, "<f4")]
    if datatype == "BOOL":
        return [value != 0 for value in raw]
    return [element.decode() for element in split_elements(name, raw, len(raw))]


def _values_of(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    return {name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in parameters.items()}


def _parameters(document: dict[str, Any]) -> dict[str, pb.InferParameter]:
    found = {}
    for name, value in _get(document, "parameters", dict, {}).items():
        _check_type(name, str, "the name of a parameter")
        if isinstance(value, bool):
            found[name] = pb.InferParameter(bool_param=value)
        elif isinstance(value, int) and -_INT64 <= value < _INT64:
            found[name] = pb.InferParameter(int64_param=value)
        elif isinstance(value, str):
            _check_type(value, str, f"parameter {name!r:.100}")
            found[name] = pb.InferParameter(string_param=value)
        elif isinstance(value, float):
            found[name] = pb.InferParameter(double_param=value)
        else:
            raise InvalidRequestError(f"parameter {name!r:.100} must be a boolean, a number or text")
    return found


def _objects(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _get(document, name, list, [])
    if len(found) > _MOST_TENSORS:
        raise InvalidRequestError(f"{name!r} has {len(found):,} tensors; at most {_MOST_TENSORS} are allowed")
    for one in found:
        _check_type(one, dict, f"each of {name!r}")
    return found


def _get(document: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = document.get(name, default)
    _check_type(value, kind, repr(name))
    return value


def _check_type(value: object, kind: type, what: str) -> None:
    words: dict[type, str] = {dict: "an object", list: "a list", str: "text"}
    if not isinstance(value, kind):
        raise InvalidRequestError(f"{what} must be {words[kind]} in JSON")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidRequestError(f"{what} must be valid Unicode")

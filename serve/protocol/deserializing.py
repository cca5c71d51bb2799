"""Parse request messages: malformed ones become errors, and large contents are not copied."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError, Message

from unfreeze.contract.errors import InvalidRequestError

Deserializer = Callable[[bytes], Any]
Buffer = bytes | memoryview
_MALFORMED = "the request cannot be parsed: it is not a valid protobuf message of this method's request type"
_MAX_FIELDS = 100_000
_TOO_MANY_FIELDS = f"the request message has more than {_MAX_FIELDS:,} fields; send fewer images per request"
_MIN_FIELD_BYTES = 2
_MIN_SPLIT_BYTES = 4096  # smaller contents are copied faster than they are found
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}  # group start and end tags have no payload
_MAX_VARINT_BYTES = 10
_Span = tuple[int, int, int, int]  # number of a field, where its tag begins, where its value begins and ends


@dataclass(frozen=True, slots=True)
class SplitMessage:
    """A message, and the contents of one of its repeated `bytes` fields, which are views of the received bytes.

    Args:
        message: the message without the contents.
        contents: the contents.
    """

    message: Any
    contents: Sequence[Buffer]


def contents_of(request: Message | SplitMessage, field: str) -> tuple[Any, Sequence[Buffer]]:
    """Return a message and the contents of one of its fields, whether or not they were split.

    Args:
        request: the message.
        field: name of the field.
    """
    if isinstance(request, SplitMessage):
        return request.message, request.contents
    return request, getattr(request, field)


def safe_deserializer(deserialize: Deserializer, split_field: int | None = None) -> Deserializer:
    """Return a deserializer that returns errors, because gRPC would respond to an exception raised here itself.

    Args:
        deserialize: parses a message.
        split_field: number of the `bytes` field to leave out; messages that have it become a `SplitMessage`.
    """

    def deserialize_or_error(data: bytes) -> Any:
        try:
            # An empty field takes 2 bytes in a message and some hundred bytes in memory, so a message of 64 MiB could
            # take gigabytes.
            if len(data) > _MIN_FIELD_BYTES * _MAX_FIELDS and _has_too_many_fields(data):
                return InvalidRequestError(_TOO_MANY_FIELDS)
            if split_field is None or len(data) < _MIN_SPLIT_BYTES:
                return deserialize(data)
            return _split(data, split_field, deserialize)
        except (DecodeError, IndexError):
            return InvalidRequestError(_MALFORMED)

    return deserialize_or_error


def _split(data: bytes, field: int, deserialize: Deserializer) -> Any:
    """Parse a message without the contents of a field.

    Raises:
        DecodeError: the message is malformed.
        IndexError: it is truncated.
    """
    view, rest, contents, begin = memoryview(data), list[Buffer](), list[Buffer](), 0
    for number, tag_at, start, end in _spans(data):
        if number == field and start != tag_at:
            rest.append(view[begin:tag_at])
            contents.append(view[start:end])
            begin = end
    if not contents:
        return deserialize(data)
    rest.append(view[begin:])
    return SplitMessage(deserialize(b"".join(rest)), contents)


def _has_too_many_fields(data: bytes) -> bool:
    """Check the number of top-level fields of a serialized message; nested fields are not counted.

    Raises:
        DecodeError: the message is malformed.
        IndexError: it is truncated.
    """
    ends = (end for _, _, _, end in _spans(data))
    last = next(islice(ends, _MAX_FIELDS - 1, None), len(data))
    return last < len(data)


def _spans(data: bytes) -> Iterator[_Span]:
    """Find the top-level fields of a serialized message; a value that has no length begins at its tag.

    Raises:
        DecodeError: a varint is longer than 10 bytes, or a value ends after the message.
        IndexError: the message is truncated.
    """
    offset = 0
    while offset < len(data):
        tag_at = start = offset
        tag, offset = _read_varint(data, offset)
        wire_type = tag & 7
        if wire_type == _LENGTH_DELIMITED:
            size, start = _read_varint(data, offset)
            offset = start + size
            if offset > len(data):
                raise DecodeError("a value ends after the message")
        elif wire_type == _VARINT:
            _, offset = _read_varint(data, offset)
        else:
            offset += _FIXED_BYTES.get(wire_type, 0)
        yield tag >> 3, tag_at, start, offset


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Decode a base-128 varint; returns its value and the offset of the next byte."""
    value = data[offset]
    if value < 0x80:  # noqa: PLR2004 - the last byte has no continuation bit
        return value, offset + 1
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        value |= (data[offset] & 0x7F) << shift
        offset += 1
        if data[offset - 1] < 0x80:  # noqa: PLR2004 - as above
            return value, offset
    raise DecodeError(f"a varint is longer than {_MAX_VARINT_BYTES} bytes")

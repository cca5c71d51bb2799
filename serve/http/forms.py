"""The files of a form."""

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from unfreeze.contract.errors import InvalidRequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MULTIPART = "multipart/form-data"
_MOST_PARTS = 4096  # the largest batch of any model
_DISPOSITION = b"content-disposition"


def form_files(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """Return the files of a form, in their order; other fields are ignored.

    Args:
        content_type: with the boundary.
        body: of the request.

    Returns:
        Names and contents.

    Raises:
        InvalidRequestError: the form is malformed, has more than 4,096 parts, or no files.
    """
    collected = _Files()
    try:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise InvalidRequestError("the form cannot be parsed: its Content-Type has no boundary")
        parser = MultipartParser(boundary, collected.callbacks())
        parser.write(body)
    except (FormParserError, ValueError) as error:
        raise InvalidRequestError(f"the form cannot be parsed: {error!s:.200}") from None
    if not collected.is_complete:
        raise InvalidRequestError("the form cannot be parsed: it does not end with its boundary")
    if not collected.files:
        raise InvalidRequestError("the form has no files; send images as files, for example with curl -F image=@FILE")
    return collected.files


class _Files:
    """Collects the parts that have a file name.

    Attributes:
        files: names and contents.
        is_complete: whether the last boundary was found.
    """

    def __init__(self) -> None:
        self.files: list[tuple[str, bytes]] = []
        self.is_complete = False
        self._parts = 0
        self._field, self._value, self._disposition = b"", b"", b""
        self._content = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidRequestError(f"the form has more than {_MOST_PARTS:,} parts; send fewer images per request")
        self._disposition, self._content = b"", bytearray()

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == _DISPOSITION:
            self._disposition = self._value
        self._field, self._value = b"", b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]

    def _end(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"filename")
        if name is not None:
            self.files.append((name.decode("utf-8", "replace"), bytes(self._content)))

    def _complete(self) -> None:
        self.is_complete = True

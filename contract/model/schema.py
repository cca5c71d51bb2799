"""Parse JSON into frozen dataclasses, with errors that end with the path of the invalid value.

No library is used, because a device has only numpy, Pillow and ONNX Runtime.
"""

import dataclasses
import json
import math
import re
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from unfreeze.contract.errors import ManifestError

T = TypeVar("T")
MAX_BYTES = 16 * 2**20
_SURROGATES = re.compile("[\ud800-\udfff]")
_WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
}


def loads(text: str | bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Parse JSON of limited size and depth.

    Args:
        text: UTF-8 JSON.
        max_bytes: the largest size allowed.

    Returns:
        The parsed value, in Python's own types.

    Raises:
        ManifestError: it is too large, nested too deeply, or not valid JSON.
    """
    if len(text) > max_bytes:
        raise ManifestError(f"the JSON has {len(text):,} bytes; at most {max_bytes:,} are allowed")
    try:
        return json.loads(text)
    except RecursionError:
        raise ManifestError("the JSON is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ManifestError(f"not valid JSON: {error}") from None


def decode(kind: type[T], value: Any, path: str = "$", *, ignore_unknown: bool = False) -> T:
    """Build a dataclass, with the dataclasses inside of it, from parsed JSON.

    Args:
        kind: a dataclass whose fields are dataclasses, str, int, float, bool, Literal, `X | None`,
            `tuple[X, ...]` or `dict[str, X]`.
        value: parsed JSON.
        path: of `value` in the document, for messages.
        ignore_unknown: skip fields that `kind` does not have: a later minor version may add some.

    Returns:
        An instance of `kind`, validated by its own `__post_init__` too.

    Raises:
        ManifestError: a field is missing, unknown or of another type; the message ends with its path.
    """
    return typing.cast("T", _Decoder(ignore_unknown=ignore_unknown).read(kind, value, path))


class _Decoder:
    def __init__(self, *, ignore_unknown: bool) -> None:
        self.ignore_unknown = ignore_unknown

    def read(self, kind: Any, value: Any, path: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if dataclasses.is_dataclass(kind):
            return self._object(typing.cast("type", kind), value, path)
        if origin is Literal:
            return self._one_of(arguments, value, path)
        if origin is types.UnionType:
            return None if value is None else self.read(arguments[0], value, path)
        if origin is tuple:
            items = _of_type(list, value, path)
            return tuple(self.read(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))
        if origin is dict:
            entries = _of_type(dict, value, path)
            return {
                _of_type(str, key, path): self.read(arguments[1], item, f"{path}.{key}")
                for key, item in entries.items()
            }
        return _of_type(kind, value, path)

    def _object(self, kind: type, value: Any, path: str) -> Any:
        given: Mapping[str, Any] = _of_type(dict, value, path)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        hints = typing.get_type_hints(kind)
        for name in given.keys() - fields.keys():
            if not self.ignore_unknown:
                raise ManifestError(f"unknown field @ {path}.{name}")
        for name, field in fields.items():
            if (
                name not in given
                and field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            ):
                raise ManifestError(f"missing field @ {path}.{name}")
        read = {name: self.read(hints[name], given[name], f"{path}.{name}") for name in fields if name in given}
        try:
            return kind(**read)
        except ValueError as error:
            raise ManifestError(f"{error} @ {path}") from None

    def _one_of(self, allowed: tuple[Any, ...], value: Any, path: str) -> Any:
        if value not in allowed or isinstance(value, (list, dict)):
            expected = ", ".join(repr(item) for item in allowed)
            raise ManifestError(f"expected one of {expected}, got {reprlib.repr(value)} @ {path}")
        return value


def _of_type(kind: Any, value: Any, path: str) -> Any:
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not kind:
        found = "null" if value is None else _WORDS.get(type(value), type(value).__name__)
        raise ManifestError(f"expected {_WORDS[kind]}, got {found} ({reprlib.repr(value)}) @ {path}")
    if kind is str and _SURROGATES.search(value):
        raise ManifestError(f"expected text in UTF-8, got {reprlib.repr(value)} @ {path}")
    if kind is float and not math.isfinite(value):
        raise ManifestError(f"expected a finite number, got {value!r} @ {path}")
    return value

"""What a listing consists of, and what is read from it."""

import json
from dataclasses import dataclass, fields

IMAGE, TAR, PARQUET, UNUSABLE = "image", "tar", "parquet", "unusable"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image, some images inside a file, or what cannot be used.

    Args:
        kind: "image", "tar", "parquet" or "unusable".
        path: path or URL of the file, as it was given.
        version: of the file; changes when its content does. Empty if it is not known.
        count: number of images; 0 if it is not known before they are read.
        start: of tar, the position of the first member in bytes; of Parquet, the first row group.
        stop: the end of these; of tar, 0 for the end of the file.
        first: of Parquet, the number of the first row in the file.
        column: of Parquet, the column of the images.
        error: why it cannot be used.
    """

    kind: str
    path: str
    version: str = ""
    count: int = 1
    start: int = 0
    stop: int = 0
    first: int = 0
    column: str = ""
    error: str = ""

    def to_json(self) -> str:
        """Write the entry in one line; the result of the same images is the same, byte for byte."""
        values: list[str | int] = [getattr(self, name) for name in _NAMES]
        while values[-1] in ("", 0):
            values.pop()
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str | bytes) -> "Entry":
        """Read what `to_json` wrote."""
        return cls(**dict(zip(_NAMES, json.loads(line), strict=False)))


_NAMES = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True, kw_only=True)
class Item:
    """An encoded image, or the reason why it cannot be read.

    Args:
        path: identifies it: a path or URL, with `#` and the name or row number of an image inside a file.
        key: its name inside a file; None for a file of its own.
        data: the encoded image.
        error: why there is none; empty if there is one.
    """

    path: str
    key: str | None = None
    data: bytes = b""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How sources are read.

    Args:
        format: name of a format; "auto" detects it.
        column: of the images or of their paths in CSV and Parquet files; empty for one with a usual name.
    """

    format: str = "auto"
    column: str = ""

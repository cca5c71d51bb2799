"""Segments: immutable files that hold a few hundred rows of the store.

A segment is a safetensors file with one tensor per column and the keys of its rows in the metadata. Its name ends with
the CRC-32 of its content, so that damage is found when it is read.
"""

import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

SEGMENT_SUFFIX, TEMPORARY_SUFFIX = ".safetensors", ".tmp"
KEY_LENGTH = 32
_TYPES = {"uint8": "U8", "uint16": "U16", "float32": "F32", "float64": "F64"}  # in safetensors


class DamagedSegmentError(Exception):
    """A segment is not what was written."""


@dataclass(frozen=True, kw_only=True)
class SegmentIndex:
    """What a segment holds.

    Args:
        keys: of its rows, 32 characters each.
        columns: the names of its columns.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]


def write_segment(folder: Path, keys: Sequence[str], columns: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write a segment under a temporary name, and rename it when it is complete.

    The parts of a column are written one by one, because a copy of all rows would stay in the heap of this thread.
    There is no flush to disk: a segment that a power failure leaves incomplete does not match its checksum.

    Args:
        folder: gets the file.
        keys: of the rows, 32 characters each.
        columns: arrays whose first axis is the rows, in parts.

    Raises:
        OSError: it cannot be written.
    """
    unique = uuid.uuid4().hex
    temporary = folder / f"{unique}{TEMPORARY_SUFFIX}"
    checksum = 0
    try:
        with temporary.open("wb") as file:
            for part in (_header(keys, columns), *(part for name in sorted(columns) for part in columns[name])):
                content = part if isinstance(part, bytes) else np.ascontiguousarray(part).data.cast("B")
                checksum = zlib.crc32(content, checksum)
                file.write(content)
        temporary.rename(folder / f"{unique}-{checksum:08x}{SEGMENT_SUFFIX}")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _header(keys: Sequence[str], columns: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """Return the header of a safetensors file: its length in 8 bytes, and JSON padded to a multiple of 8."""
    header: dict[str, Any] = {"__metadata__": {"keys": "".join(keys)}}
    end = 0
    for name in sorted(columns):
        parts = columns[name]
        start, end = end, end + sum(part.nbytes for part in parts)
        shape = [len(keys), *parts[0].shape[1:]]
        header[name] = {"dtype": _TYPES[parts[0].dtype.name], "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def read_index(path: Path) -> SegmentIndex:
    """Read what a segment holds, without its rows.

    Raises:
        OSError: it cannot be read.
        DamagedSegmentError: it is truncated, or is no segment.
    """
    try:
        with safe_open(path, "numpy") as file:
            joined, columns = (file.metadata() or {}).get("keys", ""), tuple(file.keys())
    except SafetensorError as error:
        raise DamagedSegmentError(str(error)) from error
    keys = tuple(joined[start : start + KEY_LENGTH] for start in range(0, len(joined), KEY_LENGTH))
    return SegmentIndex(keys=keys, columns=columns)


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read all rows of a segment.

    The file is not mapped into memory: there, an error of the disk would end the process.

    Raises:
        OSError: it cannot be read.
        DamagedSegmentError: its content does not match its checksum.
    """
    content = path.read_bytes()
    if f"{zlib.crc32(content):08x}" != path.stem[-8:]:
        raise DamagedSegmentError("its content does not match its checksum")
    try:
        return load(content)
    except SafetensorError as error:
        raise DamagedSegmentError(str(error)) from error

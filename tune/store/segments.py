"""Segments: immutable files that hold a few hundred rows of the store.

A segment is a safetensors file with one tensor per column and the keys of its rows in the metadata. Its name ends with
the CRC-32 of its content, so that damage is found when it is read.
"""

import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

SEGMENT_SUFFIX, TEMPORARY_SUFFIX = ".safetensors", ".tmp"
KEY_LENGTH = 32


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


def write_segment(folder: Path, keys: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
    """Write a segment under a temporary name, and rename it when it is complete.

    There is no flush to disk: a segment that a power failure leaves incomplete does not match its checksum.

    Args:
        folder: gets the file.
        keys: of the rows, 32 characters each.
        columns: arrays whose first axis is the rows.

    Raises:
        OSError: it cannot be written.
    """
    contiguous = {name: np.ascontiguousarray(rows) for name, rows in columns.items()}
    content = save(contiguous, metadata={"keys": "".join(keys)})
    name = f"{uuid.uuid4().hex}-{zlib.crc32(content):08x}{SEGMENT_SUFFIX}"
    temporary = folder / (name + TEMPORARY_SUFFIX)
    try:
        temporary.write_bytes(content)
        temporary.rename(folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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

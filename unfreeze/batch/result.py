"""The result of a job: one Parquet file, or a folder of them."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unfreeze.batch.rows import COMPRESSION, SCHEMA
from unfreeze.contract.files import replacing

FILE_SUFFIX = ".parquet"
_METADATA = b"unfreeze"
_GROUP_ROWS, _PART_ROWS = 1 << 16, 1 << 20


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a result holds.

    Args:
        rows: number of rows.
        failed: number of rows with an error.
    """

    rows: int
    failed: int


def is_file(out: Path) -> bool:
    """Return whether a result of this name is one file; otherwise it is a folder of files."""
    return out.suffix.lower() == FILE_SUFFIX and not out.is_dir()


def read_fingerprint(out: Path) -> dict[str, Any] | None:
    """Return what a result was computed from; None if there is none, or something else is there."""
    path = out if is_file(out) else _part(out, 0)
    try:
        metadata = pq.read_schema(path).metadata or {}
        found = json.loads(metadata[_METADATA])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_result(out: Path, blocks: Iterable[Path], fingerprint: Mapping[str, Any]) -> Written:
    """Merge the files of blocks, a few at a time, and put the result into place when it is complete.

    Args:
        out: a file whose name ends in `.parquet`, or a folder; what is there is replaced.
        blocks: files of the blocks, in order.
        fingerprint: what they were computed from, stored in the result.

    Raises:
        OSError: it cannot be written.
    """
    schema = SCHEMA.with_metadata({_METADATA: json.dumps(dict(fingerprint)).encode()})
    groups = _grouped(pq.read_table(path, schema=SCHEMA) for path in blocks)
    if is_file(out):
        with replacing(out) as file, pq.ParquetWriter(file, schema, compression=COMPRESSION) as writer:
            return _write_groups(writer, groups)
    return _write_folder(out, groups, schema)


def _write_folder(out: Path, groups: Iterator[pa.Table], schema: pa.Schema) -> Written:
    staging = out.with_name(f".{out.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        rows = failed = number = 0
        for first in groups:
            with (
                replacing(_part(staging, number)) as file,
                pq.ParquetWriter(file, schema, compression=COMPRESSION) as writer,
            ):
                done = _write_groups(writer, _some(first, groups))
            rows, failed, number = rows + done.rows, failed + done.failed, number + 1
        _replace_folder(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Written(rows=rows, failed=failed)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05}{FILE_SUFFIX}"


def _some(first: pa.Table, groups: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the groups of one file of a folder."""
    rows, group = 0, first
    while True:
        yield group
        rows += len(group)
        if rows >= _PART_ROWS or (following := next(groups, None)) is None:
            return
        group = following


def _replace_folder(staging: Path, out: Path) -> None:
    """Rename a folder; an earlier result is moved away first and then deleted."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)  # noqa: PTH104 - Path.rename() of a folder reads the same
    staging.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_groups(writer: pq.ParquetWriter, groups: Iterator[pa.Table]) -> Written:
    rows = failed = 0
    for group in groups:
        writer.write_table(group, row_group_size=len(group))
        rows += len(group)
        failed += len(group) - group["error"].null_count
    return Written(rows=rows, failed=failed)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join the rows of blocks to row groups."""
    waiting, rows = list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= _GROUP_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def count_rows(out: Path) -> int:
    """Return the number of rows of a result."""
    paths = [out] if is_file(out) else sorted(out.glob(f"*{FILE_SUFFIX}"))
    return sum(pq.read_metadata(path).num_rows for path in paths)

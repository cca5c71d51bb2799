"""Parquet files, of encoded images or of their paths."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unfreeze.batch.sources.columns import PATHS, choose_column
from unfreeze.batch.sources.entry import IMAGE, PARQUET, UNUSABLE, Entry, Item, SourceOptions
from unfreeze.batch.sources.images import describe
from unfreeze.batch.sources.unchanged import open_unchanged
from unfreeze.batch.storage import Stored, beside, located, open_file, read_bytes
from unfreeze.contract.errors import UnfreezeError, first_line

_IMAGES = ("image", "bytes", "img", "jpg", "png")
_KEYS = ("__key__", "key", "path", "id", "filename", "file_name")
_ROWS_AT_A_TIME, _PATHS_AT_A_TIME = 16, 10_000
_BUFFER_BYTES = 1 << 20


def list_parquet(file: Stored, options: SourceOptions) -> Iterator[Entry]:
    """List the row groups of a file with images, or the images of a file with paths.

    Images are bytes, or structs with a field `bytes` and optionally `path`, as Hugging Face's `datasets` writes them.

    Args:
        file: the file.
        options: the name of the column.

    Raises:
        UnfreezeError: it has no column of images or paths.
    """
    try:
        with closing(open_file(file.path)) as raw, _open(raw) as table:
            column = _column(file.path, table.schema_arrow, options.column)
            if _is_image(table.schema_arrow.field(column).type):
                yield from _row_groups(file, table.metadata, column)
            else:
                yield from _paths(file, table, column)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Entry(
            kind=UNUSABLE, path=file.path, version=file.version, error=f"not a readable Parquet file: {_why(error)}"
        )


def read_rows(entry: Entry, base: str) -> Iterator[Item]:
    """Read the images of some row groups, row after row.

    Args:
        entry: the row groups.
        base: folder that local paths are relative to.

    Yields:
        As many items as there are rows, also if the file is damaged.

    Raises:
        UnfreezeError: the file can no longer be opened, or has changed since it was listed.
    """
    done = 0
    try:
        with closing(open_unchanged(entry, base, open_file)) as raw, _open(raw) as table:
            for group in range(entry.start, entry.stop):
                for item in _read_group(table, group, entry, entry.first + done, base):
                    yield item
                    done += 1
    except (pa.ArrowException, OSError, ValueError) as error:  # the end of the file, which is read first
        yield from _damaged(entry, entry.first + done, entry.count - done, error)


def _read_group(table: pq.ParquetFile, group: int, entry: Entry, first: int, base: str) -> Iterator[Item]:
    """Read a row group; damage in it does not affect the others."""
    done = 0
    try:
        for row in _rows(table, group, entry.column):
            yield _item(f"{entry.path}#{first + done}", row, entry, base)
            done += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        count = table.metadata.row_group(group).num_rows
        yield from _damaged(entry, first + done, count - done, error)


def _damaged(entry: Entry, first: int, count: int, error: BaseException) -> Iterator[Item]:
    for number in range(first, first + count):
        yield Item(path=f"{entry.path}#{number}", error=f"the Parquet file is damaged: {_why(error)}")


def _open(raw: Any) -> pq.ParquetFile:
    return pq.ParquetFile(raw, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _column(file: str, schema: pa.Schema, requested: str) -> str:
    images = [field.name for field in schema if _is_image(field.type)]
    if requested:
        chosen = choose_column(file, schema.names, requested, (), "")
    elif len(images) == 1:
        return str(images[0])
    elif images:
        return choose_column(file, images, "", _IMAGES, "images")
    else:
        texts = [field.name for field in schema if _is_text(field.type)]
        return choose_column(file, texts or schema.names, "", PATHS, "images, or of paths")
    if not (_is_image(kind := schema.field(chosen).type) or _is_text(kind)):
        raise UnfreezeError(f"{file}: column {chosen!r} holds {kind}; expected encoded images or paths")
    return chosen


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_image(kind.field(place).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _row_groups(file: Stored, metadata: pq.FileMetaData, column: str) -> Iterator[Entry]:
    first = 0
    for group in range(metadata.num_row_groups):
        if count := metadata.row_group(group).num_rows:
            yield Entry(
                kind=PARQUET,
                path=file.path,
                version=file.version,
                count=count,
                start=group,
                stop=group + 1,
                first=first,
                column=column,
            )
        first += count
    if not first:
        yield Entry(kind=UNUSABLE, path=file.path, version=file.version, error="the Parquet file has no rows")


def _paths(file: Stored, table: pq.ParquetFile, column: str) -> Iterator[Entry]:
    line = 0
    for batch in table.iter_batches(_PATHS_AT_A_TIME, columns=[column]):
        for path in batch.column(0).to_pylist():
            if not path:
                raise UnfreezeError(f"{file.path} has no {column} in row {line}; fill it in, or remove the row")
            yield Entry(kind=IMAGE, path=beside(path, file.path))
            line += 1


def _rows(table: pq.ParquetFile, group: int, column: str) -> Iterator[dict[str, Any]]:
    names = table.schema_arrow.names
    key = next((name for name in _KEYS if name in names and name != column), None)
    columns = [column, *([key] if key else [])]
    for batch in table.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=columns, use_threads=False):
        for image, name in zip(batch[column], batch[key] if key else [None] * len(batch), strict=True):
            row = image.as_py()
            fields = row if isinstance(row, dict) else {"bytes": row}
            yield {"key": None if name is None else name.as_py(), **fields}


def _item(path: str, row: dict[str, Any], entry: Entry, base: str) -> Item:
    """Make an item of a row; a struct without bytes has the path of a file."""
    inner, data = row.get("path"), row.get("bytes")
    key = inner if row["key"] is None else row["key"]
    name = None if key is None else str(key)
    if data is None and inner:
        try:
            return Item(path=path, key=name, data=read_bytes(located(beside(inner, entry.path), base)))
        except OSError as error:
            return Item(path=path, key=name, error=f"{inner}: {describe(error)}")
    return Item(path=path, key=name, data=data or b"", error="" if data is not None else "the row has no image")


def _why(error: BaseException) -> str:
    return describe(error) if isinstance(error, OSError) else first_line(error)

"""CSV and TSV files that list paths or URLs of images, read as a stream."""

import csv
import io
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO, cast

from unfreeze.batch.sources.columns import PATHS, choose_column
from unfreeze.batch.sources.entry import IMAGE, Entry, SourceOptions
from unfreeze.batch.sources.images import describe
from unfreeze.batch.storage import Stored, beside, open_stream
from unfreeze.contract.errors import UnfreezeError

_DELIMITERS = ",;\t|"


def list_csv(file: Stored, options: SourceOptions) -> Iterator[Entry]:
    """List the images that a table with a header names, one in each row.

    The delimiter is the comma, semicolon, tab or vertical bar that occurs most often in the first line.

    Args:
        file: the table, in UTF-8.
        options: the name of the column.

    Raises:
        UnfreezeError: it cannot be read, is not UTF-8, lacks the column, or has a row without a path.
    """
    try:
        with (
            closing(open_stream(file.path)) as raw,
            io.TextIOWrapper(cast("BinaryIO", raw), "utf-8-sig", newline="") as text,
        ):
            yield from _rows(file.path, text, options)
    except UnicodeDecodeError:
        raise UnfreezeError(f"{file.path} is not UTF-8; save it as CSV in UTF-8") from None
    except OSError as error:
        raise UnfreezeError(f"{file.path} cannot be read: {describe(error)}") from error


def _rows(file: str, text: io.TextIOWrapper, options: SourceOptions) -> Iterator[Entry]:
    header = text.readline()
    delimiter = max(_DELIMITERS, key=header.count)
    names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
    column = choose_column(file, [name.strip() for name in names], options.column, PATHS, "image paths")
    place = [name.strip() for name in names].index(column)
    reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            path = fields[place] if place < len(fields) else ""
            if not path.strip() or len(fields) > len(names):
                problem = "too many fields" if path.strip() else "no path"
                raise UnfreezeError(f"{file} has {problem} in line {reader.line_num + 1}; correct or remove the line")
            yield Entry(kind=IMAGE, path=beside(path, file))
    except csv.Error as error:
        line = reader.line_num + 1
        raise UnfreezeError(f"{file} cannot be read at line {line}: {error}; look for a stray quote") from None

"""Read a table of images from a CSV file: its encoding, its delimiter, and which columns contain what."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.counted import counted, first_few
from unfreeze.contract.errors import DataError
from unfreeze.tune.data.images import SPLIT_NAMES
from unfreeze.tune.data.sources.source import SourceOptions

PATH, LABEL, SPLIT = "path", "label", "split"
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# The usual names, in lower case with underscores. The first of each takes precedence.
_USUAL = {
    PATH: (
        "path", "image", "filename", "file", "filepath", "img", "file_name", "file_path", "image_path", "imagepath",
        "img_path", "image_name", "image_file", "image_filename", "image_id",
    ),
    LABEL: (
        "label", "class", "target", "category", "labels", "class_name", "classname", "class_label", "label_name",
        "category_name", "tag",
    ),
    SPLIT: ("split", "subset", "partition", "set", "data_set", "dataset"),
}  # fmt: skip
_HOLDS = {PATH: "image paths", LABEL: "labels", SPLIT: "splits"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table, as written.

    Args:
        line: number of its last line in the file, from 1.
        path: of the image.
        label: name of the class.
        split: name of the split, or "".
    """

    line: int
    path: str
    label: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a table, and how it was read.

    Args:
        rows: all rows that are not empty.
        columns: the name of the column that holds the paths, the labels and, if there is one, the splits.
        delimiter: the delimiter between fields.
    """

    rows: tuple[Row, ...]
    columns: dict[str, str]
    delimiter: str

    @property
    def notes(self) -> tuple[str, ...]:
        """Choices to report: a delimiter or column names other than the defaults."""
        if self.delimiter == "," and all(name.lower() == meaning for meaning, name in self.columns.items()):
            return ()
        found = ", ".join(f"{_HOLDS[meaning]} from column {name}" for meaning, name in self.columns.items())
        return (f"the fields are separated by {_DELIMITERS[self.delimiter]}; {found}",)


def read_table(file: Path, options: SourceOptions) -> Table:
    """Read the columns of paths, labels and splits.

    The first line names the columns. The delimiter is the first of comma, semicolon, tab and vertical bar with which
    these columns are found.

    Args:
        file: a text file in UTF-8, with or without a byte order mark.
        options: the names of the columns; those that are None are found by their usual names.

    Raises:
        DataError: not UTF-8, a column that is not found or not unique, or a row that is malformed or incomplete.
    """
    text = _text(file)
    delimiter = _delimiter(text, file, options)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        places = _places(header, file, options)
        lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read at line {reader.line_num}: {error}; look for a stray quote") from None
    if SPLIT in places and options.split_column is None and header[places[SPLIT]].lower() != SPLIT:
        values = {_field(fields, places[SPLIT]).lower() for _, fields in lines}
        if not values <= {"", *SPLIT_NAMES}:
            del places[SPLIT]  # the column has a usual name for splits, but other contents
    rows = tuple(_row(line, fields, len(header), places, file) for line, fields in lines)
    return Table(rows=rows, columns={meaning: header[at] for meaning, at in places.items()}, delimiter=delimiter)


def _text(file: Path) -> str:
    data = file.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:1000]:
        raise DataError(
            f"{file} is UTF-16, not UTF-8; in a spreadsheet save it as 'CSV UTF-8', or convert it: "
            f"iconv -f UTF-16 -t UTF-8 {file.name} > utf8{file.suffix}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file} is not UTF-8 at line {line}; save it as CSV in UTF-8") from None


def _delimiter(text: str, file: Path, options: SourceOptions) -> str:
    """Choose the delimiter with which the columns are found, otherwise the one that gives the most columns."""
    headers = {delimiter: list(_header(text, delimiter)) for delimiter in _DELIMITERS}
    for delimiter, header in headers.items():
        try:
            _places(header, file, options)
        except DataError:
            continue
        return delimiter
    return max(headers, key=lambda delimiter: len(headers[delimiter]))


def _header(text: str, delimiter: str) -> Iterator[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        yield from (name.strip() for name in next(reader, []))
    except csv.Error:  # the actual reading reports it
        return


def _places(header: Sequence[str], file: Path, options: SourceOptions) -> dict[str, int]:
    """Find the index of the column of each meaning.

    Raises:
        DataError: a column that is needed or was requested is not found, or not unique.
    """
    requested = {PATH: options.path_column, LABEL: options.label_column, SPLIT: options.split_column}
    places = {meaning: _place(meaning, name, header, file) for meaning, name in requested.items()}
    return {meaning: place for meaning, place in places.items() if place is not None}


def _place(meaning: str, requested: str | None, header: Sequence[str], file: Path) -> int | None:
    plain = [name.lower() for name in header]
    if requested is not None:
        matches = [at for at, name in enumerate(header) if name == requested.strip()]
        matches = matches or [at for at, name in enumerate(plain) if name == requested.strip().lower()]
        missing = f"has no column {requested!r}"
    else:
        matches = _usual_places(meaning, plain)
        missing = f"has no column of {_HOLDS[meaning]} with a usual name such as {', '.join(_USUAL[meaning][:4])}"
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(dict.fromkeys(header[at] for at in matches))
        advice = "keep one" if len({plain[at] for at in matches}) == 1 else f"choose one with --{meaning}-column"
        raise DataError(f"{file} has {len(matches)} columns of {_HOLDS[meaning]} in line 1: {names}; {advice}")
    if requested is None and meaning == SPLIT:
        return None
    raise DataError(f"{file} {missing}; {_describe_header(header, file)}; name the column with --{meaning}-column")


def _usual_places(meaning: str, plain: Sequence[str]) -> list[int]:
    joined = [name.replace(" ", "_").replace("-", "_") for name in plain]
    first = [at for at, name in enumerate(joined) if name == _USUAL[meaning][0]]
    return first or [at for at, name in enumerate(joined) if name in _USUAL[meaning]]


def _describe_header(header: Sequence[str], file: Path) -> str:
    if any(os.path.isfile(file.parent / name) for name in header if name):  # noqa: PTH113 - is_file() raises
        return f"line 1 seems to hold an image instead of column names: {first_few(header)!r:.200}; add a header line"
    return f"line 1 names {counted(len(header), 'column')}: {first_few(map(repr, header)):.200}"


def _row(line: int, fields: Sequence[str], columns: int, places: dict[str, int], file: Path) -> Row:
    if len(fields) > columns:
        raise DataError(
            f"{file} has {counted(len(fields) - columns, 'field')} too many in line {line}; put quotes around fields "
            "that contain the delimiter"
        )
    row = Row(
        line=line,
        path=fields[places[PATH]] if places[PATH] < len(fields) else "",
        label=_field(fields, places[LABEL]),
        split=_field(fields, places[SPLIT]) if SPLIT in places else "",
    )
    for meaning, value in ((PATH, row.path.strip()), (LABEL, row.label)):
        if not value:
            raise DataError(f"{file} has no {meaning} in line {line}; fill it in, or remove the line")
    if row.split and row.split.lower() not in SPLIT_NAMES:
        raise DataError(
            f"{file} has the split {row.split!r} in line {line}; expected one of {', '.join(SPLIT_NAMES)}, or nothing, "
            "which means train"
        )
    return row


def _field(fields: Sequence[str], at: int) -> str:
    return fields[at].strip() if at < len(fields) else ""

"""Find the labeled images that a CSV file lists."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.errors import DataError
from unfreeze.tune.data.images import SPLIT_NAMES, TEST, TRAIN, VAL, Found, LabeledImage, Skipped

_PATH, _LABEL, _SPLIT = "path", "label", "split"


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line of the list.

    Args:
        line: its number in the file, from 1.
        path: of the image.
        label: its class's name.
        split: "train", "val" or "test".
    """

    line: int
    path: Path
    label: str
    split: str


def find_in_csv(file: Path) -> Found:
    """Read a list of images: `path,label` or `path,label,split`, with a header, in UTF-8.

    The columns may stand in any order, among others that are ignored. A path is absolute or starts at the file's
    folder. A row without a split is for training. Images that do not exist are skipped and named.

    Args:
        file: the list.

    Returns:
        The images, by label and in the order of their names. They are found, not opened.

    Raises:
        DataError: not UTF-8, no such column, no row for training, a class that the training images lack, or a line
            that is malformed, incomplete, of an unknown split, or at odds with another one of the same image.
    """
    repeated: list[Skipped] = []
    rows = _without_repeats(_rows(file), file, repeated)
    labels = _labels(rows, file)
    there = {row.path for row in rows if os.path.isfile(row.path)}  # noqa: PTH113 - is_file() raises on long names
    missing = [Skipped(path=row.path, reason="there is no such file") for row in rows if row.path not in there]
    splits = {
        split: _images([row for row in rows if row.split == split], labels, there)
        for split in (TRAIN, VAL, TEST)
        if any(row.split == split for row in rows)
    }
    return Found(labels=labels, splits=splits, skipped=(*missing, *repeated))


def _rows(file: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(_text(file), newline=""), skipinitialspace=True, strict=True)
    try:
        columns = _columns(next(reader, []), file)
        for fields in reader:
            if any(field.strip() for field in fields):
                yield _row(dict(zip(columns, fields, strict=False)), len(fields) - len(columns), reader.line_num, file)
    except csv.Error as error:
        raise DataError(f"{file} cannot be read at line {reader.line_num}: {error}; look for a stray quote") from None


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file} is not UTF-8 at line {line}; save it as CSV in UTF-8") from None


def _columns(header: list[str], file: Path) -> list[str]:
    """Read line 1; names count in any case."""
    columns = [name.strip().lower() for name in header]
    for needed in (_PATH, _LABEL):
        if needed not in columns:
            raise DataError(
                f"{file} has no column {needed}: line 1 reads {', '.join(header)[:100]!r}; it names the columns, "
                "path, label and perhaps split, with commas between them"
            )
    for name in (_PATH, _LABEL, _SPLIT):
        if columns.count(name) > 1:
            raise DataError(f"{file} has {columns.count(name)} columns {name} in line 1; keep one")
    return columns


def _row(fields: dict[str, str], surplus: int, line: int, file: Path) -> _Row:
    if surplus > 0:
        raise DataError(f"{file} has {surplus} fields too many in line {line}; put quotes around text with commas")
    path, label, split = fields.get(_PATH, ""), fields.get(_LABEL, "").strip(), fields.get(_SPLIT, "").strip()
    for name, value in ((_PATH, path.strip()), (_LABEL, label)):
        if not value:
            raise DataError(f"{file} has no {name} in line {line}; fill it in, or remove the line")
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(
            f"{file} has the split {split!r} in line {line}; expected one of {', '.join(SPLIT_NAMES)}, or nothing, "
            "which means train"
        )
    place = Path(os.path.normpath(file.parent / path))  # a/../b.jpg and b.jpg are one image
    return _Row(line=line, path=place, label=label, split=SPLIT_NAMES.get(split.lower(), TRAIN))


def _without_repeats(rows: Iterator[_Row], file: Path, repeated: list[Skipped]) -> list[_Row]:
    first: dict[Path, _Row] = {}
    for row in rows:
        other = first.setdefault(row.path, row)
        if (other.label, other.split) != (row.label, row.split):
            raise DataError(
                f"{file} lists {row.path.name} twice: {other.label} for {other.split} in line {other.line} and "
                f"{row.label} for {row.split} in line {row.line}; keep one"
            )
        if other is not row:
            reason = f"line {row.line} repeats line {other.line}; the image is used once"
            repeated.append(Skipped(path=row.path, reason=reason))
    return list(first.values())


def _labels(rows: list[_Row], file: Path) -> tuple[str, ...]:
    labels = {row.label for row in rows if row.split == TRAIN}
    if not labels:
        raise DataError(f"{file} lists {len(rows)} images and none to train on; add rows with a path and a label")
    for row in rows:
        if row.label not in labels:
            raise DataError(
                f"{file} has classes that the training images lack: {row.label} in line {row.line}, which is for "
                f"{row.split}"
            )
    return tuple(sorted(labels))


def _images(rows: list[_Row], labels: tuple[str, ...], there: set[Path]) -> tuple[LabeledImage, ...]:
    index = {label: number for number, label in enumerate(labels)}
    images = (LabeledImage(path=row.path, label=index[row.label]) for row in rows if row.path in there)
    return tuple(sorted(images, key=lambda image: (image.label, image.path)))

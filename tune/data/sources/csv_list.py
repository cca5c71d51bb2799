"""Find the labeled images that a CSV file lists."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.counted import counted, first_few
from unfreeze.contract.errors import DataError
from unfreeze.contract.folders import file_problem
from unfreeze.tune.data.images import SPLIT_NAMES, TEST, TRAIN, VAL, LabeledImage, Skipped, stored_path
from unfreeze.tune.data.labels import describe_unknown
from unfreeze.tune.data.sources.csv_table import Row, read_table
from unfreeze.tune.data.sources.source import DataSource, Found, SourceOptions

_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One listed image.

    Args:
        line: number of its line in the file, from 1.
        path: of the image.
        label: name of its class.
        split: "train", "val" or "test".
    """

    line: int
    path: Path
    label: str
    split: str


def find_in_csv(file: Path, options: SourceOptions) -> Found:
    """Find the images that a table with a header lists, one in each row.

    The columns may be in any order; other columns are ignored. A path is absolute or relative to the file's
    folder. A row without a split is for training. Images that do not exist are skipped.

    Args:
        file: the table, see `unfreeze.tune.data.sources.csv_table.read_table`.
        options: the names of the columns, and whether contradictory images are left out.

    Raises:
        DataError: the table cannot be read, has no row for training, lists images with two labels or splits, or has a
            class that the training images lack.
    """
    table = read_table(file, options)
    skipped: list[Skipped] = []
    entries = _once_each([_entry(row, file) for row in table.rows], file, options, skipped)
    labels = _labels(entries, file)
    problems = {entry.path: file_problem(entry.path) for entry in entries}
    skipped = [Skipped(path=path, reason=problem) for path, problem in problems.items() if problem] + skipped
    usable = [entry for entry in entries if problems[entry.path] is None]
    splits = {
        split: _images([entry for entry in usable if entry.split == split], labels)
        for split in (TRAIN, VAL, TEST)
        if any(entry.split == split for entry in entries)
    }
    return Found(
        root=file.parent,
        labels=labels,
        splits=splits,
        skipped=tuple(skipped),
        notes=table.notes,
        interpretation=f"the labels are those of column {table.columns['label']!r}; --label-column names another one",
    )


def _entry(row: Row, file: Path) -> _Entry:
    path = Path(os.path.normpath(file.parent / row.path))  # a/../b.jpg and b.jpg are one image
    return _Entry(line=row.line, path=path, label=row.label, split=SPLIT_NAMES.get(row.split.lower(), TRAIN))


def _once_each(entries: Sequence[_Entry], file: Path, options: SourceOptions, skipped: list[Skipped]) -> list[_Entry]:
    """Keep the first entry of each image; repeats are skipped, contradictions are skipped or an error."""
    by_path: defaultdict[Path, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_path[entry.path].append(entry)
    contradictions = [own for own in by_path.values() if len({(entry.label, entry.split) for entry in own}) > 1]
    if contradictions and not options.drop_contradictions:
        listed = first_few(
            (f"{stored_path(own[0].path, file.parent)}: {_describe(own)}" for own in contradictions), "\n  "
        )
        raise DataError(
            f"{file} gives {counted(len(contradictions), 'image')} more than one label or split; correct the lines, or "
            f"leave the images out with --drop-contradictions:\n  {listed}"
        )
    kept: list[_Entry] = []
    contradictory = {own[0].path for own in contradictions}
    for path, own in by_path.items():
        if path in contradictory:
            skipped.append(Skipped(path=path, reason="listed with more than one label or split"))
            continue
        kept.append(own[0])
        skipped.extend(Skipped(path=path, reason="listed more than once; it is used once") for _ in own[1:])
    return kept


def _describe(entries: Sequence[_Entry]) -> str:
    first = {(entry.label, entry.split): entry for entry in reversed(entries)}
    ordered = sorted(first.values(), key=lambda entry: entry.line)
    return first_few((f"{entry.label} for {entry.split} in line {entry.line}" for entry in ordered), " and ")


def _labels(entries: Sequence[_Entry], file: Path) -> tuple[str, ...]:
    labels = {entry.label for entry in entries if entry.split == TRAIN}
    if not labels:
        raise DataError(
            f"{file} lists {counted(len(entries), 'usable image')} and none to train on; add rows with a path and a "
            "label"
        )
    unknown = {entry.label: entry for entry in reversed(entries) if entry.label not in labels}
    if unknown:
        rows = [
            f"{describe_unknown([label], labels)} in line {entry.line}, for {entry.split}"
            for label, entry in sorted(unknown.items(), key=lambda item: item[1].line)
        ]
        raise DataError(f"{file} has classes that the training images lack: {first_few(rows, '; ')}")
    return tuple(sorted(labels))


def _images(entries: Sequence[_Entry], labels: tuple[str, ...]) -> tuple[LabeledImage, ...]:
    index = {label: number for number, label in enumerate(labels)}
    images = (LabeledImage(path=entry.path, label=index[entry.label]) for entry in entries)
    return tuple(sorted(images, key=lambda image: (image.label, image.path)))


def _accepts(data: Path) -> bool:
    return data.suffix.lower() in _SUFFIXES and data.is_file()


SOURCE = DataSource(
    name="a CSV file",
    expects="a .csv or .tsv file with a column of image paths and one of labels",
    options=frozenset({"path_column", "label_column", "split_column", "drop_contradictions"}),
    accepts=_accepts,
    read=find_in_csv,
)

"""`label_issues.csv`: written by a run, and read by `--drop-issues` and `--relabel` of the next one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from unfreeze.contract.counted import counted, first_few
from unfreeze.contract.errors import DataError
from unfreeze.contract.files import replace_csv
from unfreeze.contract.folders import file_problem
from unfreeze.tune.data.dataset import Dataset
from unfreeze.tune.data.images import TRAIN, stored_path
from unfreeze.tune.data.labels import describe_unknown
from unfreeze.tune.data.sources.csv_table import Row, read_table
from unfreeze.tune.data.sources.source import SourceOptions
from unfreeze.tune.issues.issue import Issue

ISSUES_FILE = "label_issues.csv"
_SUGGESTED = "suggested_label"
_COLUMNS = ("path", "split", "label", _SUGGESTED, "kind", "probability", "suggested_probability", "detail")


def write_issues(folder: Path, issues: Iterable[Issue], dataset: Dataset) -> None:
    """Write the file, with one line for each issue.

    Args:
        folder: the run's folder.
        issues: in the order of the lines.
        dataset: the dataset that they are in.
    """
    lines: list[tuple[str, ...]] = [_COLUMNS]
    for one in issues:
        names = stored_path(one.path, dataset.root), one.split, dataset.labels[one.label], dataset.labels[one.suggested]
        lines.append((*names, one.kind, _share(one.probability), _share(one.suggested_probability), one.detail))
    replace_csv(folder / ISSUES_FILE, lines)


def _share(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.4f}"


def without_issues(dataset: Dataset, file: Path) -> tuple[Dataset, str]:
    """Leave out the training images that a file of issues lists.

    Args:
        dataset: the dataset.
        file: `label_issues.csv`, or any table with a column of paths.

    Returns:
        The smaller dataset, and a line that says what was done.

    Raises:
        DataError: the file cannot be read, lists no image of the dataset, or a class is left without training images.
    """
    rows = _read(file, SourceOptions())
    listed = _listed(dataset, rows, file, "--drop-issues")
    kept = tuple(image for image in dataset.splits[TRAIN] if image.path not in listed)
    dropped = len(dataset.splits[TRAIN]) - len(kept)
    note = f"{counted(dropped, 'training image')} left out, as {file} lists them"
    return dataset.with_training_images(kept), note + _elsewhere(dataset, listed, rows)


def relabeled(dataset: Dataset, file: Path) -> tuple[Dataset, str]:
    """Give training images the labels that a file of issues suggests.

    Args:
        dataset: the dataset.
        file: `label_issues.csv`, or any table with a column of paths and one named `suggested_label`.

    Returns:
        The dataset with the new labels, and a line that says what was done.

    Raises:
        DataError: the file cannot be read, lists no image of the dataset, suggests a label that the dataset lacks, or
            a class is left without training images.
    """
    rows = _read(file, SourceOptions(label_column=_SUGGESTED))
    if unknown := dict.fromkeys(row.label for row in rows if row.label not in dataset.labels):
        raise DataError(f"{file} suggests labels that the dataset lacks: {describe_unknown(unknown, dataset.labels)}")
    listed = _listed(dataset, rows, file, "--relabel")
    suggested = {path: dataset.labels.index(row.label) for path, row in listed.items()}
    before = dataset.splits[TRAIN]
    after = [replace(image, label=suggested.get(image.path, image.label)) for image in before]
    changed = sum(old.label != new.label for old, new in zip(before, after, strict=True))
    note = f"{counted(changed, 'training image')} relabeled, as {file} suggests"
    ordered = tuple(sorted(after, key=lambda image: image.label))  # stable: the images stay in the order of their paths
    return dataset.with_training_images(ordered), note + _elsewhere(dataset, listed, rows)


def _read(file: Path, options: SourceOptions) -> tuple[Row, ...]:
    if problem := file_problem(file):
        raise DataError(f"{file} cannot be read: {problem}; expected the {ISSUES_FILE} of a run")
    return read_table(file, options).rows


def _listed(dataset: Dataset, rows: Sequence[Row], file: Path, flag: str) -> dict[Path, Row]:
    """Return the rows by the path of the image of the dataset, of any split, that each of them lists."""
    paths = {stored_path(image.path, dataset.root): image.path for own in dataset.splits.values() for image in own}
    listed = {paths[row.path]: row for row in rows if row.path in paths}
    if rows and not listed:
        raise DataError(
            f"{flag} {file}: none of its {counted(len(rows), 'image')} is in {dataset.root} "
            f"({first_few(row.path for row in rows)}); paths must be relative to that folder"
        )
    return listed


def _elsewhere(dataset: Dataset, listed: dict[Path, Row], rows: Sequence[Row]) -> str:
    """Describe the rows that were not applied."""
    training = {image.path for image in dataset.splits[TRAIN]}
    others, missing = len(listed.keys() - training), len({row.path for row in rows}) - len(listed)
    notes = []
    if others:
        notes.append(
            f"{counted(others, 'validation or test image')} listed there unchanged: correct these in the data itself, "
            "after a look, so that accuracy is not measured on what a model agrees with"
        )
    if missing:
        notes.append(f"{counted(missing, 'listed image')} not in the dataset")
    return "".join(f"; {note}" for note in notes)

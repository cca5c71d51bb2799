"""Labelled pictures, split into those that train and those that tell how well it went."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sklearn.model_selection import train_test_split

from contract.errors import DataError
from contract.manifest import check_labels
from tune.dataset_csv import find_in_csv
from tune.dataset_folder import find_in_folder
from tune.pictures import TEST, TRAIN, VAL, Picture, Skipped, printable, stored_path

__all__ = ["TEST", "TRAIN", "VAL", "Dataset", "Picture", "Skipped", "printable", "read_dataset", "stored_path"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled pictures by split.

    Args:
        root: the folder they were found in, or that of the CSV file that lists them.
        labels: the classes' names, in the order of their indices.
        splits: "train", "val" and, where there is one, "test".
        skipped: the files that are not used.
    """

    root: Path
    labels: tuple[str, ...]
    splits: dict[str, tuple[Picture, ...]]
    skipped: tuple[Skipped, ...]

    def without(self, skipped: Sequence[Skipped]) -> "Dataset":
        """Take out files that turned out not to decode.

        Raises:
            DataError: a class is left without a picture in "train", or a split without any.
        """
        gone = {item.path for item in skipped}
        splits = {
            name: tuple(picture for picture in pictures if picture.path not in gone)
            for name, pictures in self.splits.items()
        }
        smaller = replace(self, splits=splits, skipped=self.skipped + tuple(skipped))
        _check(smaller)
        return smaller


def read_dataset(root: str | os.PathLike[str], *, val_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Find the pictures of a folder that has a folder per class, or those that a CSV file lists.

    A folder may have train, val and test folders on top; a CSV file has the columns `path` and `label` and may have
    `split`. Without val pictures, a stratified part of the training pictures is put aside, the same for the same seed.
    In folders, hidden files and folders are ignored; files of other kinds are skipped and named.

    Args:
        root: the folder or the CSV file.
        val_fraction: how much of the training pictures is put aside, 0 to 1.
        seed: of that choice.

    Returns:
        The pictures, by label and in the order of their names. They are found, not opened.

    Raises:
        DataError: neither a folder nor a CSV file, fewer than two classes, a class that is empty or whose name is no
            label, two folders for one split, splits that differ in their classes, or a line that makes no sense.
    """
    root = Path(root)
    listed = root.suffix.lower() == ".csv" and root.is_file()
    if not listed and not root.is_dir():
        raise DataError(
            f"{root} is no folder; expected one with a folder of pictures per class, or a .csv file with the columns "
            "path and label"
        )
    found = find_in_csv(root) if listed else find_in_folder(root)
    _check_classes(found.labels, root)
    folder = root.parent if listed else root
    dataset = Dataset(root=folder, labels=found.labels, splits=found.splits, skipped=found.skipped)
    _check(dataset)
    return dataset if VAL in dataset.splits else _with_val(dataset, val_fraction, seed)


def _check_classes(labels: tuple[str, ...], root: Path) -> None:
    if len(labels) < 2:  # noqa: PLR2004
        raise DataError(f"{root} holds {len(labels)} classes of training pictures; a classifier needs two or more")
    try:
        check_labels(labels)
    except ValueError as error:
        raise DataError(f"the classes in {printable(root)} cannot be labels: {error}") from None


def _check(dataset: Dataset) -> None:
    for name, pictures in dataset.splits.items():
        present = {picture.label for picture in pictures}
        empty = [label for index, label in enumerate(dataset.labels) if index not in present]
        if not pictures or (name == TRAIN and empty):
            reasons = "".join(f"\n  {printable(item.path)}: {item.reason}" for item in dataset.skipped[:5])
            raise DataError(
                f"no usable picture of {', '.join(empty)} in the {name} pictures of {dataset.root}; add some, or "
                f"remove what is empty{reasons and chr(10) + 'skipped, for example:'}{reasons}"
            )


def _with_val(dataset: Dataset, val_fraction: float, seed: int) -> Dataset:
    pictures = dataset.splits[TRAIN]
    counts = [sum(picture.label == index for picture in pictures) for index in range(len(dataset.labels))]
    if min(counts) < 2:  # noqa: PLR2004
        alone = dataset.labels[counts.index(min(counts))]
        raise DataError(f"{alone} has one picture, which cannot both train and validate; add more, or a val folder")
    most = len(pictures) - len(dataset.labels)  # one of each class is left to train on
    test_size = min(max(len(dataset.labels), round(len(pictures) * val_fraction)), most)
    train, val = train_test_split(
        pictures, test_size=test_size, random_state=seed, stratify=[picture.label for picture in pictures]
    )
    by_path = {"key": lambda picture: picture.path}
    splits = dataset.splits | {TRAIN: tuple(sorted(train, **by_path)), VAL: tuple(sorted(val, **by_path))}
    split = replace(dataset, splits=splits)
    _check(split)
    return split

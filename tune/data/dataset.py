"""Labeled images, split into those that train and those that tell how well it went."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sklearn.model_selection import train_test_split

from unfreeze.contract.errors import DataError
from unfreeze.contract.model.manifest import check_labels
from unfreeze.tune.data.dataset_csv import find_in_csv
from unfreeze.tune.data.dataset_folder import find_in_folder
from unfreeze.tune.data.images import TEST, TRAIN, VAL, LabeledImage, Skipped, printable, stored_path

__all__ = ["TEST", "TRAIN", "VAL", "Dataset", "LabeledImage", "Skipped", "printable", "read_dataset", "stored_path"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labeled images by split.

    Args:
        root: the folder they were found in, or that of the CSV file that lists them.
        labels: the classes' names, in the order of their indices.
        splits: "train", "val" and, where there is one, "test".
        skipped: the files that are not used.
    """

    root: Path
    labels: tuple[str, ...]
    splits: dict[str, tuple[LabeledImage, ...]]
    skipped: tuple[Skipped, ...]

    def without(self, skipped: Sequence[Skipped]) -> "Dataset":
        """Take out files that turned out not to decode.

        Raises:
            DataError: a class is left without an image in "train", or a split without any.
        """
        gone = {item.path for item in skipped}
        splits = {
            name: tuple(image for image in images if image.path not in gone) for name, images in self.splits.items()
        }
        smaller = replace(self, splits=splits, skipped=self.skipped + tuple(skipped))
        _check(smaller)
        return smaller


def read_dataset(root: str | os.PathLike[str], *, val_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Find the images of a folder that has a folder per class, or those that a CSV file lists.

    A folder may have train, val and test folders on top; a CSV file has the columns `path` and `label` and may have
    `split`. Without val images, a stratified part of the training images is put aside, the same for the same seed.
    In folders, hidden files and folders are ignored; files of other kinds are skipped and named.

    Args:
        root: the folder or the CSV file.
        val_fraction: how much of the training images is put aside, 0 to 1.
        seed: of that choice.

    Returns:
        The images, by label and in the order of their names. They are found, not opened.

    Raises:
        DataError: neither a folder nor a CSV file, fewer than two classes, a class that is empty or whose name is no
            label, two folders for one split, splits that differ in their classes, or a line that makes no sense.
    """
    root = Path(root)
    listed = root.suffix.lower() == ".csv" and root.is_file()
    if not listed and not root.is_dir():
        raise DataError(
            f"{root} is no folder; expected one with a folder of images per class, or a .csv file with the columns "
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
        raise DataError(f"{root} holds {len(labels)} classes of training images; a classifier needs two or more")
    try:
        check_labels(labels)
    except ValueError as error:
        raise DataError(f"the classes in {printable(root)} cannot be labels: {error}") from None


def _check(dataset: Dataset) -> None:
    for name, images in dataset.splits.items():
        present = {image.label for image in images}
        empty = [label for index, label in enumerate(dataset.labels) if index not in present]
        if not images or (name == TRAIN and empty):
            reasons = "".join(f"\n  {printable(item.path)}: {item.reason}" for item in dataset.skipped[:5])
            raise DataError(
                f"no usable image of {', '.join(empty)} in the {name} images of {dataset.root}; add some, or "
                f"remove what is empty{reasons and chr(10) + 'skipped, for example:'}{reasons}"
            )


def _with_val(dataset: Dataset, val_fraction: float, seed: int) -> Dataset:
    images = dataset.splits[TRAIN]
    counts = [sum(image.label == index for image in images) for index in range(len(dataset.labels))]
    if min(counts) < 2:  # noqa: PLR2004
        alone = dataset.labels[counts.index(min(counts))]
        raise DataError(f"{alone} has one image, which cannot both train and validate; add more, or a val folder")
    most = len(images) - len(dataset.labels)  # one of each class is left to train on
    test_size = min(max(len(dataset.labels), round(len(images) * val_fraction)), most)
    train, val = train_test_split(
        images, test_size=test_size, random_state=seed, stratify=[image.label for image in images]
    )
    by_path = {"key": lambda image: image.path}
    splits = dataset.splits | {TRAIN: tuple(sorted(train, **by_path)), VAL: tuple(sorted(val, **by_path))}
    split = replace(dataset, splits=splits)
    _check(split)
    return split

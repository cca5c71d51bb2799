"""Find the labelled pictures in a folder and split them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sklearn.model_selection import train_test_split

from contract.errors import DataError
from contract.files import visible_files
from contract.manifest import check_labels

TRAIN, VAL, TEST = "train", "val", "test"
_SPLIT_FOLDERS = {
    TRAIN: ("train", "training"),
    VAL: ("val", "valid", "validation"),
    TEST: ("test", "testing"),
}
_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One labelled picture.

    Args:
        path: of the file.
        label: index into the labels.
    """

    path: Path
    label: int


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that was found but is not used.

    Args:
        path: of the file.
        reason: why, for people.
    """

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled pictures by split.

    Args:
        root: the folder they were found in.
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
    """Find the pictures of a folder that has a folder per class, with or without train, val and test folders on top.

    Without a val folder, a stratified part of the training pictures is put aside, the same for the same seed. Hidden
    files and folders are ignored; files of other kinds are skipped and named.

    Args:
        root: the folder.
        val_fraction: how much of the training pictures is put aside, 0 to 1.
        seed: of that choice.

    Returns:
        The pictures, in the order of their names. They are found, not opened.

    Raises:
        DataError: no folder, fewer than two classes, a class that is empty or whose name is no label, two folders for
            one split, or splits that differ in their classes.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no folder; expected one with a folder of pictures per class")
    skipped: list[Skipped] = []
    folders = _split_folders(root, skipped) or {TRAIN: root}
    labels = tuple(folder.name for folder in _folders(folders[TRAIN]))
    if len(labels) < 2:  # noqa: PLR2004
        raise DataError(f"{folders[TRAIN]} holds {len(labels)} folders of pictures; a classifier needs two or more")
    try:
        check_labels(labels)
    except ValueError as error:
        raise DataError(f"the folders in {printable(folders[TRAIN])} cannot be labels: {error}") from None
    splits = {name: tuple(_pictures(folder, labels, skipped)) for name, folder in folders.items()}
    dataset = Dataset(root=root, labels=labels, splits=splits, skipped=tuple(skipped))
    _check(dataset)
    return dataset if VAL in splits else _with_val(dataset, val_fraction, seed)


def printable(path: Path) -> str:
    """Write a path so that any file can hold it: names that are no UTF-8 with their bytes as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _split_folders(root: Path, skipped: list[Skipped]) -> dict[str, Path]:
    """Find train, val and test folders; none where the folders on top are the classes."""
    splits = {name: split for split, names in _SPLIT_FOLDERS.items() for name in names}
    found: dict[str, Path] = {}
    others: list[Path] = []
    for folder in _folders(root):
        split = splits.get(folder.name.lower())
        if split in found:
            raise DataError(f"{root} has two folders for {split}: {found[split].name} and {folder.name}; keep one")
        if split is None:
            others.append(folder)
        else:
            found[split] = folder
    if found and not others and TRAIN not in found:
        raise DataError(f"{root} has {', '.join(path.name for path in found.values())} but no train folder")
    if TRAIN not in found:
        return {}
    skipped += [Skipped(path=path, reason="lies beside train and is no split of its own") for path in others]
    return {split: found[split] for split in _SPLIT_FOLDERS if split in found}


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _pictures(folder: Path, labels: tuple[str, ...], skipped: list[Skipped]) -> Iterator[Picture]:
    classes = {label: index for index, label in enumerate(labels)}
    unknown = [printable(Path(entry.name)) for entry in _folders(folder) if entry.name not in classes]
    if unknown:
        raise DataError(f"{folder} has classes that the training pictures lack: {', '.join(unknown)}")
    skipped += [Skipped(path=path, reason="lies in no class's folder") for path in folder.iterdir() if _is_stray(path)]
    for label, index in classes.items():
        for path in visible_files(folder / label):
            if not _is_utf8(path):
                skipped.append(Skipped(path=path, reason="its name is not UTF-8; rename it"))
            elif path.suffix.lower() in _SUFFIXES:
                yield Picture(path=path, label=index)
            else:
                skipped.append(Skipped(path=path, reason=f"{path.suffix or 'no suffix'} is no picture's suffix"))


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_stray(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _check(dataset: Dataset) -> None:
    for name, pictures in dataset.splits.items():
        present = {picture.label for picture in pictures}
        empty = [label for index, label in enumerate(dataset.labels) if index not in present]
        if not pictures or (name == TRAIN and empty):
            reasons = "".join(f"\n  {printable(item.path)}: {item.reason}" for item in dataset.skipped[:5])
            raise DataError(
                f"no usable picture of {', '.join(empty)} in the {name} pictures of {dataset.root}; add some, or "
                f"remove the empty folder{reasons and chr(10) + 'skipped, for example:'}{reasons}"
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

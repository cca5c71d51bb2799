"""What a labeled image is, and the words for the parts of a data set."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "test": TEST,
    "testing": TEST,
}


@dataclass(frozen=True, kw_only=True)
class LabeledImage:
    """One labeled image.

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
class Found:
    """What a reader of folders or of lists has found.

    Args:
        labels: the classes' names, in the order of their indices.
        splits: "train" and, where they were given, "val" and "test".
        skipped: the files that are not used.
    """

    labels: tuple[str, ...]
    splits: dict[str, tuple[LabeledImage, ...]]
    skipped: tuple[Skipped, ...]


def stored_path(path: Path, root: Path) -> str:
    """Write an image's path as a run keeps it, so that the data may be moved as a whole.

    Args:
        path: of the image.
        root: the data's folder.

    Returns:
        The path relative to `root`, or the absolute path of an image that lies elsewhere; with `/`.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links out of the folder
    folder = Path(os.path.abspath(root))  # noqa: PTH100
    return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()


def printable(path: Path) -> str:
    """Write a path so that any file can hold it: names that are no UTF-8 with their bytes as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_utf8(path: Path) -> bool:
    """Tell whether a path can be written as text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def labels_of(images: Sequence[LabeledImage]) -> Tensor:
    """Give the labels of images, int64 [N]."""
    return torch.tensor([image.label for image in images], dtype=torch.int64)

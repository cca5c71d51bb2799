"""Labeled images, the names of splits, and how paths are written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TRAIN, VAL, TEST = "train", "val", "test"
UNLABELED = -1  # the label of an image without one
SPLIT_WORDS = {TRAIN: "training", VAL: "validation", TEST: "test"}
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
        label: index into the labels, or `UNLABELED`.
    """

    path: Path
    label: int


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file or folder that is not used.

    Args:
        path: of the file or folder.
        reason: why it is not used, for messages.
    """

    path: Path
    reason: str


def stored_path(path: Path, root: Path) -> str:
    """Return an image's path as a run stores it, so that the data can be moved as a whole.

    Args:
        path: of the image.
        root: the folder of the dataset.

    Returns:
        The path relative to `root`, or the absolute path of an image outside of it, with `/` as the separator.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links out of the folder
    folder = Path(os.path.abspath(root))  # noqa: PTH100
    return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()


def printable(path: Path) -> str:
    """Return a path as text that can be encoded as UTF-8; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_utf8(path: Path) -> bool:
    """Return whether a path is valid UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def labels_of(images: Sequence[LabeledImage]) -> Tensor:
    """Return the labels of images, int64 [N]."""
    return torch.tensor([image.label for image in images], dtype=torch.int64)

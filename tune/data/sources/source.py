"""What a source of labeled images provides, and the options that sources share."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from unfreeze.contract.folders import LeftOut
from unfreeze.tune.data.images import LabeledImage, Skipped
from unfreeze.tune.options import TuneOptions

SplitFolders = Literal["auto", "none"]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is read. Each source uses some of these.

    Args:
        path_column: name of the column of image paths in a CSV file; None tries the usual names.
        label_column: name of the column of labels in a CSV file; None tries the usual names.
        split_column: name of the column of splits in a CSV file; None tries the usual names.
        drop_contradictions: leave out images that a CSV file gives more than one label or split, instead of failing.
        split_folders: "auto" uses folders named train, val and test as splits if there is one named train; "none"
            uses every folder as a class.
    """

    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    drop_contradictions: bool = False
    split_folders: SplitFolders = "auto"

    @classmethod
    def of(cls, options: TuneOptions) -> "SourceOptions":
        """Take these options from those of a run."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def given(self) -> frozenset[str]:
        """Name the options that differ from their defaults."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) != field.default)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source has found.

    Args:
        root: the folder that image paths are stored relative to.
        labels: the class names, in the order of their indices.
        splits: "train" and, if the source has them, "val" and "test". Images are sorted by label, then by path.
        skipped: files and folders that are not used, with the reason.
        ignored: hidden entries, and what archives, editors and operating systems leave behind.
        notes: choices that the source made, to be reported, one line each.
        interpretation: how the source was understood, appended to errors about classes.
    """

    root: Path
    labels: tuple[str, ...]
    splits: dict[str, tuple[LabeledImage, ...]]
    skipped: tuple[Skipped, ...] = ()
    ignored: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    interpretation: str = ""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A kind of dataset.

    Args:
        name: name of the kind in messages, such as "a folder".
        expects: what a user has to provide, for messages.
        options: names of the fields of `SourceOptions` that it uses.
        accepts: returns whether a path is of this kind; must not read more than necessary.
        read: finds the images without reading more than their first bytes. Raises `DataError` if they cannot be used.
    """

    name: str
    expects: str
    options: frozenset[str]
    accepts: Callable[[Path], bool]
    read: Callable[[Path, SourceOptions], Found]

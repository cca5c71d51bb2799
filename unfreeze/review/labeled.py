"""The labeled folder that `unfreeze tune` takes: one folder a label, with links to the images or copies."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.leftovers import leftover_kind

TRAIN = "train"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOT_IN_NAMES = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_MOST_BYTES = 200


def label_problem(label: str) -> str | None:
    """Return why a label cannot be the name of a folder; None if it can."""
    if not label.strip() or label != label.strip():
        return "it is empty, or begins or ends with a space"
    if _NOT_IN_NAMES.search(label):
        return "it has a slash, a backslash or a control character"
    if label in (".", "..") or leftover_kind(label) is not None:
        return "folders of this name are hidden or ignored"
    if label.lower() in _SPLITS:
        return "folders of this name are splits"
    return "it is too long" if len(label.encode()) > _MOST_BYTES else None


def check_labels(labels: Iterable[str]) -> None:
    """Check that labels can be names of folders.

    Raises:
        OptionsError: one of them cannot.
    """
    for label in labels:
        if (problem := label_problem(label)) is not None:
            raise OptionsError(f"the label {label!r:.200} cannot be the name of a folder: {problem}")


class LabeledFolder:
    """Images by label.

    Args:
        root: the folder; images go into its folder `train` if there is one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def place(self) -> Path:
        """The folder that has the folders of the labels."""
        return self._root / TRAIN if (self._root / TRAIN).is_dir() else self._root

    def put(self, image: Path, label: str) -> None:
        """Add an image under a label.

        Raises:
            OSError: it cannot be linked or copied.
        """
        link_or_copy(image, self.place / label / image.name)

    def remove(self, digest: str) -> None:
        """Remove an image from all labels."""
        for folder in self._label_folders():
            for path in folder.glob(f"{digest}.*"):
                path.unlink(missing_ok=True)
                _remove_if_empty(folder)

    def reconcile(self, labels: Mapping[str, str], known: Iterable[str], images: Mapping[str, Path]) -> None:
        """Make the folder agree with the decisions: after a crash, or when `train` has been added.

        Args:
            labels: of each image, by digest.
            known: digests of all images about which there ever was a decision; others are left alone.
            images: where the images are that are still recorded.
        """
        decided, place = set(known), self.place
        for folder in self._label_folders():
            for path in list(folder.iterdir()):
                digest = path.stem
                if not _DIGEST.fullmatch(digest) or digest not in decided:
                    continue
                target = place / labels[digest] / path.name if digest in labels else None
                if target is not None and target != path:
                    link_or_copy(path, target)
                if target != path:
                    path.unlink(missing_ok=True)
                    _remove_if_empty(folder)
        for digest, label in labels.items():
            if digest in images:
                self.put(images[digest], label)

    def _label_folders(self) -> Iterator[Path]:
        for parent in (self._root, self._root / TRAIN):
            if parent.is_dir():
                yield from [path for path in parent.iterdir() if path.is_dir() and path.name.lower() not in _SPLITS]


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a label that has no image any more: `unfreeze tune` takes it for a class without images."""
    with suppress(OSError):
        folder.rmdir()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is not possible; a file of that name stays.

    Raises:
        OSError: neither is possible.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        return
    except OSError:
        temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
        try:
            shutil.copyfile(source, temporary)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

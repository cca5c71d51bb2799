"""Find labeled images in a folder that has a subfolder per class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unfreeze.contract.counted import counted, first_few
from unfreeze.contract.errors import DataError
from unfreeze.contract.folders import FolderEntries, LeftOut, list_files, scan_folder
from unfreeze.tune.data.images import SPLIT_NAMES, TEST, TRAIN, VAL, LabeledImage, Skipped, is_utf8, printable
from unfreeze.tune.data.labels import describe_unknown
from unfreeze.tune.data.recognize import not_an_image
from unfreeze.tune.data.sources.source import DataSource, Found, SourceOptions

_NO_SPLITS = "--split-folders none"


@dataclass(frozen=True, kw_only=True)
class _NotUsed:
    """Files and folders that are not used, collected while folders are read."""

    skipped: list[Skipped] = field(default_factory=list)
    ignored: list[LeftOut] = field(default_factory=list)

    def add(self, unusable: Sequence[LeftOut], ignored: Sequence[LeftOut]) -> None:
        self.skipped.extend(Skipped(path=entry.path, reason=entry.reason) for entry in unusable)
        self.ignored.extend(ignored)

    def skip(self, paths: Sequence[Path], reason: str) -> None:
        self.skipped.extend(Skipped(path=path, reason=reason) for path in paths)


def find_in_folder(root: Path, options: SourceOptions) -> Found:
    """Find the images of a folder that has a subfolder per class, or train, val and test folders that have them.

    Images may lie at any depth below the folder of their class. They are recognized by their suffix, otherwise by
    their first bytes. Links to folders are followed.

    Args:
        root: the folder.
        options: `split_folders` is used.

    Raises:
        DataError: two folders for one split, val or test without train, or a class that the training images lack.
    """
    not_used = _NotUsed()
    top = scan_folder(root)
    not_used.add(top.unusable, top.ignored)
    folders = _split_folders(root, top.folders, options)
    entries = {split: scan_folder(folder) for split, folder in folders.items()} or {TRAIN: top}
    for own in entries.values() if folders else ():
        not_used.add(own.unusable, own.ignored)
    if folders:
        beside = [folder for folder in top.folders if folder not in folders.values()]
        reason = f"is next to {folders[TRAIN].name}, which was used for the training images; {_NO_SPLITS} uses it"
        not_used.skip(beside, reason)
        not_used.skip(top.files, "lies in no split's folder")
    labels = tuple(folder.name for folder in entries[TRAIN].folders)
    splits = {split: _images(folders.get(split, root), own, labels, not_used) for split, own in entries.items()}
    return Found(
        root=root,
        labels=labels,
        splits=splits,
        skipped=tuple(not_used.skipped),
        ignored=tuple(not_used.ignored),
        interpretation=_interpretation(top, folders),
    )


def _split_folders(root: Path, folders: Sequence[Path], options: SourceOptions) -> dict[str, Path]:
    """Find train, val and test folders; empty if the folders on top are the classes."""
    if options.split_folders == "none":
        return {}
    found: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in found:
            raise DataError(
                f"{root} has two folders for the {split} split: {found[split].name} and {folder.name}; keep one, or "
                f"give {_NO_SPLITS} if each folder is a class"
            )
        if split is not None:
            found[split] = folder
    if found and len(found) == len(folders) and TRAIN not in found:
        raise DataError(
            f"{root} has {', '.join(folder.name for folder in found.values())} but no train folder; add one, or give "
            f"{_NO_SPLITS} if each folder is a class"
        )
    return {split: found[split] for split in (TRAIN, VAL, TEST) if split in found} if TRAIN in found else {}


def _interpretation(top: FolderEntries, folders: dict[str, Path]) -> str:
    if folders:
        taken = ", ".join(f"{folder.name} was used as the {split} split" for split, folder in folders.items())
        beside = [folder.name for folder in top.folders if folder not in folders.values()]
        verb = "was" if len(beside) == 1 else "were"
        unused = f", and {first_few(beside)} next to it {verb} not used" if beside else ""
        return f"{taken}{unused}; if each folder is a class, give {_NO_SPLITS}"
    loose = f"; {counted(len(top.files), 'file lies', 'files lie')} in no subfolder" if top.files else ""
    return f"each subfolder was used as a class{loose}"


def _images(
    folder: Path, entries: FolderEntries, labels: tuple[str, ...], not_used: _NotUsed
) -> tuple[LabeledImage, ...]:
    classes = {label: index for index, label in enumerate(labels)}
    unknown = [printable(Path(entry.name)) for entry in entries.folders if entry.name not in classes]
    if unknown:
        raise DataError(f"{folder} has classes that the training images lack: {describe_unknown(unknown, labels)}")
    not_used.skip(entries.files, "lies in no class's folder")
    images: list[LabeledImage] = []
    for subfolder in entries.folders:
        listing = list_files(subfolder)
        not_used.add(listing.unusable, listing.ignored)
        for path in listing.files:
            reason = not_an_image(path) if is_utf8(path) else "its name is not UTF-8; rename it"
            if reason is None:
                images.append(LabeledImage(path=path, label=classes[subfolder.name]))
            else:
                not_used.skip([path], reason)
    return tuple(images)


SOURCE = DataSource(
    name="a folder",
    expects="a folder with a subfolder of images per class",
    options=frozenset({"split_folders"}),
    accepts=Path.is_dir,
    read=find_in_folder,
)

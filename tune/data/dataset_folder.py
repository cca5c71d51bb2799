"""Find the labeled images in a folder that has a folder per class."""

from collections.abc import Iterator
from pathlib import Path

from unfreeze.contract.errors import DataError
from unfreeze.contract.files import visible_files
from unfreeze.tune.data.images import SPLIT_NAMES, TEST, TRAIN, VAL, Found, LabeledImage, Skipped, is_utf8, printable

_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}


def find_in_folder(root: Path) -> Found:
    """Find the images of a folder that has a folder per class, with or without train, val and test folders on top.

    Args:
        root: the folder.

    Returns:
        The images, by label and in the order of their names. They are found, not opened.

    Raises:
        DataError: two folders for one split, val or test without train, or a class that the training images lack.
    """
    skipped: list[Skipped] = []
    folders = _split_folders(root, skipped) or {TRAIN: root}
    labels = tuple(folder.name for folder in _folders(folders[TRAIN]))
    splits = {name: tuple(_images(folder, labels, skipped)) for name, folder in folders.items()}
    return Found(labels=labels, splits=splits, skipped=tuple(skipped))


def _split_folders(root: Path, skipped: list[Skipped]) -> dict[str, Path]:
    """Find train, val and test folders; none where the folders on top are the classes."""
    found: dict[str, Path] = {}
    others: list[Path] = []
    for folder in _folders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
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
    return {split: found[split] for split in (TRAIN, VAL, TEST) if split in found}


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, labels: tuple[str, ...], skipped: list[Skipped]) -> Iterator[LabeledImage]:
    classes = {label: index for index, label in enumerate(labels)}
    unknown = [printable(Path(entry.name)) for entry in _folders(folder) if entry.name not in classes]
    if unknown:
        raise DataError(f"{folder} has classes that the training images lack: {', '.join(unknown)}")
    skipped += [Skipped(path=path, reason="lies in no class's folder") for path in folder.iterdir() if _is_stray(path)]
    for label, index in classes.items():
        for path in visible_files(folder / label):
            if not is_utf8(path):
                skipped.append(Skipped(path=path, reason="its name is not UTF-8; rename it"))
            elif path.suffix.lower() in _SUFFIXES:
                yield LabeledImage(path=path, label=index)
            else:
                skipped.append(Skipped(path=path, reason=f"{path.suffix or 'no suffix'} is no image's suffix"))


def _is_stray(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")

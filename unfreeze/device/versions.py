"""The versions of a model on a device, and which of them is in use.

A model's folder has one folder per version, as in a model repository. After `pull`, the file `current` names the
version in use, and on a second line the one that was in use before. Without that file, the newest version is in use.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.errors import ModelError
from unfreeze.contract.files import flush_folder, replacing
from unfreeze.contract.model.repository import INDEX_FILE, MODEL_FILE

CURRENT_FILE = "current"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, kw_only=True)
class VersionFile:
    """A model file, and what it is called.

    Args:
        path: of the `model.onnx`.
        model: name of the model: that of its folder, or of the file where there are no versions.
        number: of the version; None where there are no versions.
    """

    path: Path
    model: str
    number: int | None

    def __str__(self) -> str:
        return str(self.path) if self.number is None else f"{self.model} version {self.number}"


def parse_version(text: str) -> int | None:
    """Read a version's number; None if the text is none."""
    return int(text) if _NUMBER.fullmatch(text) else None


def list_versions(folder: Path) -> tuple[int, ...]:
    """List the versions in a model's folder that have a model file, oldest first."""
    numbers = [parse_version(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(number for number in numbers if number and (folder / str(number) / MODEL_FILE).is_file()))


def read_current(folder: Path) -> tuple[int, ...]:
    """Read which version is in use, and which was before.

    Args:
        folder: of the model.

    Returns:
        One or two numbers; none if the file is missing or is not valid.
    """
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = (folder / CURRENT_FILE).read_text().split()
    numbers = [parse_version(line) for line in lines[:2]]
    return tuple(number for number in numbers if number is not None)


def write_current(folder: Path, current: int, previous: int | None) -> None:
    """Set which version is in use, by a rename: after a crash, the old or the new one is.

    Args:
        folder: of the model.
        current: the version to use.
        previous: the version that was in use before, and stays for the case that this one fails.
    """
    with replacing(folder / CURRENT_FILE) as file:
        file.write("".join(f"{number}\n" for number in (current, previous) if number is not None).encode())
    flush_folder(folder)


def version_files(path: Path) -> list[VersionFile]:
    """List the model files that can be used, the one to use first.

    Args:
        path: of a `model.onnx`, of the folder of a version, or of the folder of a model.

    Returns:
        Of a model's folder, the current version, the one before it, and the others from new to old.

    Raises:
        ModelError: there is none.
    """
    path = path.resolve() if path.name in ("", "..") else path
    if path.is_file():
        return [_describe(path)]
    if (path / MODEL_FILE).is_file():
        return [_describe(path / MODEL_FILE)]
    there = list_versions(path)
    numbers = dict.fromkeys([number for number in read_current(path) if number in there] + [*reversed(there)])
    if not numbers:
        raise ModelError(f"{path} is neither a model file nor a folder with one")
    return [VersionFile(path=path / str(number) / MODEL_FILE, model=path.name, number=number) for number in numbers]


def is_published(path: Path) -> bool:
    """Return whether a model file is in the folder of a version, with the digests that export writes next to it."""
    return parse_version(path.absolute().parent.name) is not None and path.with_name(INDEX_FILE).is_file()


def _describe(path: Path) -> VersionFile:
    if not is_published(path):
        return VersionFile(path=path, model=path.name, number=None)
    folder = path.absolute().parent
    return VersionFile(path=path, model=folder.parent.name, number=parse_version(folder.name))

"""List the files below a folder, and everything that is left out, with the reason."""

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.counted import counted
from unfreeze.contract.leftovers import leftover_kind

_NOT_A_FILE = (
    (stat.S_ISDIR, "a folder, not a file"),
    (stat.S_ISFIFO, "a named pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file or folder that a listing does not return.

    Args:
        path: of the file or folder.
        reason: why it is left out.
        files: number of files that are left out: those below an ignored folder, otherwise 1.
    """

    path: Path
    reason: str
    files: int = 1

    @property
    def message(self) -> str:
        """The path and the reason."""
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class FolderEntries:
    """What lies directly in one folder. Every entry is in exactly one of the four groups.

    Args:
        folders: subfolders and links to folders, by name.
        files: regular files and links to them, by name.
        unusable: dangling links, pipes, sockets, devices, and the folder itself if it cannot be read.
        ignored: hidden entries, and what archives, editors and operating systems leave behind.
    """

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    unusable: tuple[LeftOut, ...]
    ignored: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The files in a folder and in all folders below it.

    Args:
        files: regular files and links to them, sorted by path.
        unusable: as in `FolderEntries`; sorted by path.
        ignored: as in `FolderEntries`, and links to folders that are listed already; sorted by path.
    """

    files: tuple[Path, ...]
    unusable: tuple[LeftOut, ...]
    ignored: tuple[LeftOut, ...]

    @property
    def entries(self) -> tuple[Path | LeftOut, ...]:
        """Files and unusable entries together, sorted by path."""
        by_path: dict[Path, Path | LeftOut] = {file: file for file in self.files}
        by_path |= {entry.path: entry for entry in self.unusable}
        return tuple(by_path[path] for path in sorted(by_path))


def list_files(folder: Path) -> FolderListing:
    """List the files in a folder and in all folders below it, and everything that is left out with the reason.

    Links to folders are followed. Each folder is listed once, by its device and inode: under its own path rather than
    through a link. A link to a folder that contains `folder` is not followed.

    Args:
        folder: the folder, which may be hidden itself.
    """
    files: list[Path] = []
    unusable: list[LeftOut] = []
    ignored: list[LeftOut] = []
    seen = {_identity(parent) for parent in Path(os.path.realpath(folder)).parents}
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        current = folders.popleft() if folders else links.popleft()
        identity = _identity(current)
        if identity is not None and identity in seen:
            ignored.append(LeftOut(path=current, reason="link to a folder that is listed already"))
            continue
        seen.add(identity)
        entries = scan_folder(current)
        files += entries.files
        unusable += entries.unusable
        ignored += entries.ignored
        for entry in entries.folders:
            (links if entry.is_symlink() else folders).append(entry)
    return FolderListing(files=tuple(sorted(files)), unusable=_by_path(unusable), ignored=_by_path(ignored))


def scan_folder(folder: Path) -> FolderEntries:
    """List what lies directly in a folder.

    Args:
        folder: the folder, which may be hidden itself.
    """
    folders: list[Path] = []
    files: list[Path] = []
    unusable: list[LeftOut] = []
    ignored: list[LeftOut] = []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        unusable.append(LeftOut(path=folder, reason=f"cannot be read: {error.strerror}"))
        paths = []
    for path in paths:
        if (leftover := leftover_kind(path.name)) is not None:
            ignored.append(LeftOut(path=path, reason=leftover, files=_count_files(path)))
        elif os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises for names that are too long
            folders.append(path)
        elif (problem := file_problem(path)) is None:
            files.append(path)
        else:
            unusable.append(LeftOut(path=path, reason=problem))
    return FolderEntries(folders=tuple(folders), files=tuple(files), unusable=tuple(unusable), ignored=tuple(ignored))


def file_problem(path: str | Path) -> str | None:
    """Describe why a path cannot be read as a file, without opening it.

    Args:
        path: the path, which may not exist.

    Returns:
        The reason, or None for a regular file or a link to one.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - as os.path.isdir() above
    except FileNotFoundError:
        return "a dangling link" if os.path.islink(path) else "no such file"  # noqa: PTH114
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return next((reason for is_kind, reason in _NOT_A_FILE if is_kind(mode)), None)


def count_by_reason(entries: Iterable[LeftOut]) -> dict[str, int]:
    """Count files by the reason why they are left out, the most frequent reason first."""
    counts = Counter[str]()
    for entry in entries:
        counts[entry.reason] += entry.files
    return dict((+counts).most_common())


def summarize_ignored(ignored: Iterable[LeftOut]) -> str:
    """Say in one line how many files of which kind were ignored; empty if there are none.

    Args:
        ignored: entries of a listing.
    """
    counts = count_by_reason(ignored)
    total = sum(counts.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return f"ignored {counted(total, 'file')}: {kinds}" if total else ""


def _count_files(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return 1
    return sum(len(names) for _, _, names in os.walk(path))


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _by_path(entries: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.path))

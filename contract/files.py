"""Find the files of a folder that somebody means when naming it, and write one whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def visible_files(folder: Path) -> list[Path]:
    """List the files in a folder and the folders below, in the order of their names, without what is hidden.

    Args:
        folder: which may be hidden itself.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside another and put it in its place when it is whole, and on the disk.

    Args:
        path: of the file, which may exist; whatever goes wrong, it stays as it is.

    Yields:
        The new file, to write to.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Give what changes when a file does: its time, its size and its place on the disk; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino

"""Write files so that a crash leaves no partially written file, and tell whether a file has changed."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a new file next to the old one, and replace the old one when the new one is complete and on disk.

    Args:
        path: the file to replace, which may not exist; after an error it is unchanged.

    Yields:
        The new file, open for writing.
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


def replace_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file in UTF-8, as `replacing` does; the first row names the columns."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode("utf-8"))


def write_durably(path: Path, content: bytes) -> None:
    """Write a file, create its folder if needed, and flush both to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that renames in it survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Return values that change when a file does: modification time, size and inode; None if there is no such file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino

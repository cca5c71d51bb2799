"""A model's folder on this machine, or on a network folder or a USB stick that is mounted here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from unfreeze.contract.errors import SourceError, first_line
from unfreeze.contract.files import fingerprint
from unfreeze.device.sources.source import Transfer
from unfreeze.device.versions import list_versions

CHUNK_BYTES = 1 << 18


class FolderSource:
    """A source that is a folder.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """Read a small file; see `Source`."""
        _check_regular(self._folder / path)
        try:
            with (self._folder / path).open("rb") as file:
                content = file.read(most_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            self._check()
            return None
        except OSError as error:
            raise SourceError(f"cannot read {self._folder / path}: {error.strerror}") from error
        if len(content) > most_bytes:
            raise SourceError(f"{self._folder / path} has more than {most_bytes:,} bytes")
        return content

    def versions(self) -> tuple[int, ...]:
        """List the versions; see `Source`."""
        self._check()
        try:
            return list_versions(self._folder)
        except OSError as error:
            raise SourceError(f"cannot read {self._folder}: {error.strerror}") from error

    @contextmanager
    def open(self, path: str, start: int, state: str) -> Iterator[Transfer]:
        """Begin to copy a file; see `Source`."""
        file = self._folder / path
        _check_regular(file)
        found = str(fingerprint(file))
        begin = start if state == found else 0
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                opened.seek(begin)
                yield Transfer(start=begin, total=size, state=found, chunks=read_chunks(opened, str(file)))
        except FileNotFoundError as error:
            raise SourceError(f"there is no file {file}") from error

    def _check(self) -> None:
        if not self._folder.is_dir():
            raise SourceError(f"there is no folder {self._folder}")


def _check_regular(path: Path) -> None:
    """Refuse pipes and devices, which may have no end."""
    if path.exists() and not path.is_file():
        raise SourceError(f"{path} is not a regular file")


def read_chunks(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Read a file to its end.

    Args:
        file: open for reading.
        name: of the file, for messages.

    Raises:
        SourceError: it cannot be read.
    """
    while True:
        try:
            chunk = file.read(CHUNK_BYTES)
        except OSError as error:
            raise SourceError(f"cannot read {name}: {error.strerror or error}") from error
        except Exception as error:  # drivers of fsspec raise errors of many types
            raise SourceError(f"cannot read {name}: {first_line(error)}") from error
        if not chunk:
            return
        yield chunk

"""Where recorded images are stored: the interface, and the choice between a folder and a bucket."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """A stored image.

    Args:
        path: of the image.
        document: path of its description; None without one.
        size: of both in bytes.
        time: when the image was stored, in seconds since 1970.
    """

    path: str
    document: str | None
    size: int
    time: float


@runtime_checkable
class Storage(Protocol):
    """Files below one place; paths are relative to it, with slashes. Methods block, and may raise any exception."""

    reads_fast: bool  # whether thousands of small files can be read in seconds

    def prepare(self) -> None:
        """Make the place ready.

        Raises:
            OptionsError: it cannot be written, or a package is missing.
        """

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from writing while the body runs, where that is possible."""

    def read(self, path: str) -> bytes | None:
        """Read a file; None if there is none."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file as a whole: it has its old or its new content, whatever happens."""

    def delete(self, path: str) -> None:
        """Delete a file, if there is one."""

    def images(self) -> Iterator[StoredImage]:
        """List the images; clears what writers that were killed have left behind."""

    def used(self) -> int | None:
        """Return the bytes of all images, as last noted; None if that is not known."""

    def note_used(self, size: int) -> None:
        """Note the bytes of all images."""


def open_storage(where: str) -> Storage:
    """Return the storage at a path or URL; nothing is read or written yet."""
    if _URL.match(where):
        from unfreeze.serve.recording.bucket import Bucket

        return Bucket(where)
    from unfreeze.serve.recording.local_folder import LocalFolder

    return LocalFolder(where)

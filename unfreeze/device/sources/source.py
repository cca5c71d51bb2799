"""What a device takes new versions from: the interface of its kinds."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A file that is being received.

    Args:
        start: position of the first byte that comes: the requested one, or 0 if the file has changed or the source
            cannot start elsewhere.
        total: size of the whole file in bytes; None if unknown.
        state: changes when the file does; empty if unknown.
        chunks: the content from `start`. May end early without an error: compare with `total`.
    """

    start: int
    total: int | None
    state: str
    chunks: Iterator[bytes]


@runtime_checkable
class Source(Protocol):
    """The folder of a model, here or elsewhere. Paths are relative to it, with `/`."""

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """Read a small file.

        Returns:
            Its content; None if there is no such file.

        Raises:
            SourceError: it cannot be read, or is larger than `most_bytes`.
        """

    def versions(self) -> tuple[int, ...] | None:
        """List the versions, oldest first; None if this kind of source cannot list.

        Raises:
            SourceError: the folder cannot be read.
        """

    def open(self, path: str, start: int, state: str) -> AbstractContextManager[Transfer]:
        """Begin to receive a file.

        Args:
            path: of the file.
            start: number of bytes that are here already.
            state: of the file when these were received.

        Raises:
            SourceError: it cannot be read.
        """

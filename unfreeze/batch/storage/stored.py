"""What is stored at a path or URL, and the interface of file systems."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable


@runtime_checkable
class OpenFile(Protocol):
    """A file that is open for reading: Python's own, pyarrow's or fsspec's."""

    def __enter__(self) -> Self:
        """Use the file in a `with` statement."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object:
        """Close the file."""

    def read(self, size: int = -1, /) -> bytes:
        """Read bytes."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Change the position."""

    def close(self) -> None:
        """Close the file; may be called again."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file or folder.

    Args:
        path: path or URL.
        is_folder: whether it is a folder.
        version: changes when the content does: size and modification time, as far as they are known.
        size: in bytes; 0 if it is not known.
    """

    path: str
    is_folder: bool
    version: str = ""
    size: int = 0


@runtime_checkable
class FileSystem(Protocol):
    """Files behind URLs. Every method takes a URL, and raises OSError or one of the driver's own errors."""

    def look_up(self, url: str) -> Stored | None:
        """Look up a file or a folder; None if there is none."""

    def list_folder(self, url: str) -> list[Stored]:
        """List what lies directly in a folder."""

    def read_bytes(self, url: str) -> bytes:
        """Read a whole file."""

    def open_stream(self, url: str) -> OpenFile:
        """Open a file for reading from its beginning to its end."""

    def open_file(self, url: str) -> OpenFile:
        """Open a file for reading at any position."""

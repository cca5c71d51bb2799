"""URLs of all other protocols, such as HTTP, through fsspec and its drivers."""

from typing import Any, cast

import fsspec

from unfreeze.batch.storage.stored import OpenFile, Stored
from unfreeze.contract.errors import first_line


class FsspecUrls:
    """Implements `unfreeze.batch.storage.stored.FileSystem`."""

    def look_up(self, url: str) -> Stored | None:
        """Look up a file or a folder; None if there is none."""
        system, path = resolve(url)
        try:
            return _stored(url, system.info(path))
        except FileNotFoundError:
            return None

    def list_folder(self, url: str) -> list[Stored]:
        """List what lies directly in a folder."""
        system, path = resolve(url)
        names = [(info["name"].rstrip("/").rpartition("/")[2], info) for info in system.ls(path, detail=True)]
        return [_stored(f"{url.rstrip('/')}/{name}", info) for name, info in names]

    def read_bytes(self, url: str) -> bytes:
        """Read a whole file."""
        system, path = resolve(url)
        return cast("bytes", system.cat_file(path))

    def open_stream(self, url: str) -> OpenFile:
        """Open a file for reading from its beginning to its end."""
        return self.open_file(url)

    def open_file(self, url: str) -> OpenFile:
        """Open a file for reading at any position, if its server allows that."""
        system, path = resolve(url)
        return cast("OpenFile", system.open(path, "rb"))


def resolve(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        ImportError: its driver is not installed.
        OSError: the protocol is unknown.
    """
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ValueError as error:
        raise OSError(f"{url} cannot be read: {first_line(error)}") from error
    return system, path


def _stored(url: str, info: dict[str, Any]) -> Stored:
    if info["type"] == "directory":
        return Stored(path=url, is_folder=True)
    size = info.get("size") or 0  # times are left out: drivers write them in one way in a listing, in another elsewhere
    return Stored(path=url, is_folder=False, version=str(size), size=size)

"""A model's folder in a bucket or anywhere else that fsspec reads, which is an extra."""

from collections.abc import Iterator
from contextlib import contextmanager

from unfreeze.contract.errors import SourceError, first_line
from unfreeze.device.sources.folder import read_chunks
from unfreeze.device.sources.source import Transfer
from unfreeze.device.versions import parse_version

_STATES = ("ETag", "etag", "md5", "version_id", "generation", "LastModified", "last_modified", "mtime", "created")


class FsspecSource:
    """A source at a URL of another protocol, such as `s3://`.

    Args:
        url: of the model's folder.

    Raises:
        SourceError: a package is missing, or the protocol is not known.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            scheme = url.partition("://")[0]
            raise SourceError(
                f"{scheme}:// needs packages that are not installed ({first_line(error)}): pip install fsspec and its "
                f"driver for {scheme}"
            ) from error
        except Exception as error:  # drivers raise errors of many types
            raise SourceError(f"{url} cannot be used: {first_line(error)}") from error

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """Read a small file; see `Source`."""
        try:
            with self._files.open(f"{self._root}/{path}", "rb") as file:
                content: bytes = file.read(most_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            raise SourceError(f"cannot read {path}: {first_line(error)}") from error
        if len(content) > most_bytes:
            raise SourceError(f"{path} has more than {most_bytes:,} bytes")
        return content

    def versions(self) -> tuple[int, ...]:
        """List the versions; see `Source`."""
        try:
            names = [entry.rstrip("/").rpartition("/")[2] for entry in self._files.ls(self._root, detail=False)]
        except Exception as error:
            raise SourceError(f"cannot list {self._root}: {first_line(error)}") from error
        return tuple(sorted(number for number in map(parse_version, names) if number is not None))

    @contextmanager
    def open(self, path: str, start: int, state: str) -> Iterator[Transfer]:
        """Begin to receive a file; see `Source`."""
        where = f"{self._root}/{path}"
        try:
            info = self._files.info(where)
            file = self._files.open(where, "rb")
        except Exception as error:
            raise SourceError(f"cannot read {path}: {first_line(error)}") from error
        with file:
            found = next((str(info[key]) for key in _STATES if info.get(key)), "")
            begin = start if found and state == found else 0
            try:
                file.seek(begin)
            except Exception:  # noqa: BLE001 - some files cannot be read from the middle
                begin = 0
            yield Transfer(start=begin, total=info.get("size"), state=found, chunks=read_chunks(file, path))

"""URLs of pyarrow's own file systems: S3, Google Cloud Storage, Azure, HDFS."""

import re
from functools import lru_cache
from typing import cast

import pyarrow as pa
from pyarrow import fs

from unfreeze.batch.storage.stored import OpenFile, Stored
from unfreeze.contract.errors import first_line

SCHEMES = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file"})
# Options of pyarrow's file systems, at the end of a URL; any other question mark belongs to a name.
_NAMES = "region|scheme|endpoint_override|retry_limit_seconds|tls_verify_certificates|(?:blob|dfs)_storage_\\w+"
_OPTIONS = re.compile(rf"(.*)\?((?:(?:{_NAMES})=[^?&]*&?)+)", re.DOTALL)


class ArrowUrls:
    """Implements `unfreeze.batch.storage.stored.FileSystem`."""

    def look_up(self, url: str) -> Stored | None:
        """Look up a file or a folder; None if there is none."""
        system, path = resolve(url)
        info = system.get_file_info(path)
        return None if info.type in (fs.FileType.NotFound, fs.FileType.Unknown) else _stored(url, info)

    def list_folder(self, url: str) -> list[Stored]:
        """List what lies directly in a folder."""
        system, path = resolve(url)
        head, options = split_options(url)
        found = system.get_file_info(fs.FileSelector(path, recursive=False))
        return [_stored(f"{head.rstrip('/')}/{info.base_name}{options}", info) for info in found]

    def read_bytes(self, url: str) -> bytes:
        """Read a whole file."""
        with self.open_stream(url) as stream:
            return stream.read()

    def open_stream(self, url: str) -> OpenFile:
        """Open a file for reading from its beginning to its end."""
        system, path = resolve(url)
        return cast("OpenFile", system.open_input_stream(path, compression=None))

    def open_file(self, url: str) -> OpenFile:
        """Open a file for reading at any position."""
        system, path = resolve(url)
        return cast("OpenFile", system.open_input_file(path))


def resolve(url: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        ImportError: pyarrow was built without it.
        OSError: the URL is malformed.
    """
    head, options = split_options(url)
    scheme, _, rest = head.partition("://")
    authority, slash, key = rest.partition("/")
    try:
        system, root = _open(f"{scheme.lower()}://{authority}/{options}")
    except pa.ArrowNotImplementedError as error:
        raise ImportError(str(error)) from error
    except (pa.ArrowException, ValueError) as error:
        raise OSError(f"{url} is not a URL that can be read: {first_line(error)}") from error
    return system, f"{root.rstrip('/')}{slash}{key}"


def split_options(url: str) -> tuple[str, str]:
    """Split the options from a URL; they begin with a question mark."""
    found = _OPTIONS.fullmatch(url)
    return (found[1], f"?{found[2]}") if found else (url, "")


@lru_cache(maxsize=64)
def _open(root: str) -> tuple[fs.FileSystem, str]:
    return cast("tuple[fs.FileSystem, str]", fs.FileSystem.from_uri(root))


def _stored(url: str, info: fs.FileInfo) -> Stored:
    if info.type == fs.FileType.Directory:
        return Stored(path=url, is_folder=True)
    return Stored(path=url, is_folder=False, version=f"{info.size} {info.mtime_ns}", size=info.size or 0)

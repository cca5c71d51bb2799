"""Local paths and URLs behind the same few functions: pyarrow's file systems, and fsspec's for all other protocols."""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, TypeVar, cast

import fsspec
import pyarrow as pa
from pyarrow import fs as arrow_fs

from unfreeze.contract.errors import UnfreezeError, first_line
from unfreeze.contract.folders import file_problem

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Options of pyarrow's file systems, at the end of a URL; any other question mark belongs to a name.
_NAMES = "region|scheme|endpoint_override|retry_limit_seconds|tls_verify_certificates|(?:blob|dfs)_storage_\\w+"
_OPTIONS = re.compile(rf"(.*)\?((?:(?:{_NAMES})=[^?&]*&?)+)", re.DOTALL)
_ARROW_SCHEMES = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file"})
_ATTEMPTS, _FIRST_WAIT_S = 4, 0.5
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file or folder.

    Args:
        path: path or URL.
        is_folder: whether it is a folder.
        version: changes when the content does: size and modification time.
        size: in bytes.
    """

    path: str
    is_folder: bool
    version: str = ""
    size: int = 0


def is_url(path: str) -> bool:
    """Return whether a path names a protocol, such as `s3://`."""
    return _SCHEME.match(path) is not None


def located(path: str, base: str) -> str:
    """Return a URL as it is, and a local path relative to a folder."""
    return path if is_url(path) else os.path.join(base, path)  # noqa: PTH118 - paths stay text, as they were given


def beside(path: str, file: str) -> str:
    """Return a path that a file lists: absolute, a URL, or relative to the file's folder."""
    if is_url(path) or os.path.isabs(path):  # noqa: PTH117
        return path
    folder = file.rpartition("/")[0] if is_url(file) else os.path.dirname(file)  # noqa: PTH120
    if is_url(file):
        return f"{folder}/{path}"
    return os.path.normpath(os.path.join(folder, path))  # noqa: PTH118


def look_up(path: str) -> Stored | None:
    """Look up a file or a folder.

    Returns:
        None if there is nothing of this name, or neither a file nor a folder.

    Raises:
        UnfreezeError: a package is missing, or the storage does not answer.
    """
    if not is_url(path):
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises for names that are too long
            return Stored(path=path, is_folder=True)
        return None if file_problem(path) else local_file(path)
    system, inner = _resolve(path)
    info = _retried(lambda: system.get_file_info(inner), path)
    return None if info.type in (arrow_fs.FileType.NotFound, arrow_fs.FileType.Unknown) else _stored(path, info)


def local_file(path: str) -> Stored:
    """Describe a local file.

    Raises:
        OSError: it cannot be read.
    """
    found = os.stat(path)  # noqa: PTH116
    return Stored(path=path, is_folder=False, version=f"{found.st_size} {found.st_mtime_ns}", size=found.st_size)


def list_url(folder: str) -> list[Stored]:
    """List what lies directly in a folder of a URL, by name.

    Raises:
        UnfreezeError: a package is missing, or the storage does not answer.
    """
    system, inner = _resolve(folder)
    selector = arrow_fs.FileSelector(inner, recursive=False)
    found = _retried(lambda: system.get_file_info(selector), folder)
    head, options = _split_options(folder)
    prefix = head.rstrip("/")
    return sorted(
        (_stored(f"{prefix}/{info.base_name}{options}", info) for info in found), key=lambda stored: stored.path
    )


def read_bytes(path: str) -> bytes:
    """Read a whole file.

    Raises:
        OSError: it cannot be read.
    """
    if not is_url(path):
        if problem := file_problem(path):  # opening a pipe would wait for ever
            raise OSError(problem)
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    system, inner = _resolve(path)

    def read() -> bytes:
        with system.open_input_stream(inner, compression=None) as stream:
            return cast("bytes", stream.read())

    return _retried(read, path)


def open_stream(path: str) -> BinaryIO:
    """Open a file for reading from its beginning to its end.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_url(path):
        return open_file(path)
    system, inner = _resolve(path)
    return cast("BinaryIO", _retried(lambda: system.open_input_stream(inner, compression=None), path))


def open_file(path: str) -> BinaryIO:
    """Open a file for reading at any position.

    Raises:
        OSError: it cannot be opened, or its server does not allow to read from a position.
    """
    if not is_url(path):
        if problem := file_problem(path):
            raise OSError(problem)
        return open(path, "rb")  # noqa: PTH123 - the caller closes it
    system, inner = _resolve(path)
    return cast("BinaryIO", _retried(lambda: system.open_input_file(inner), path))


def _stored(path: str, info: arrow_fs.FileInfo) -> Stored:
    version = f"{info.size} {info.mtime_ns}"
    is_folder = info.type == arrow_fs.FileType.Directory
    return Stored(path=path, is_folder=is_folder, version="" if is_folder else version, size=info.size or 0)


def _split_options(url: str) -> tuple[str, str]:
    """Split pyarrow's options from a URL; they begin with a question mark."""
    scheme = cast("re.Match[str]", _SCHEME.match(url))[1].lower()
    found = _OPTIONS.fullmatch(url) if scheme in _ARROW_SCHEMES else None
    return (found[1], f"?{found[2]}") if found else (url, "")


def _resolve(url: str) -> tuple[arrow_fs.FileSystem, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        UnfreezeError: a package is missing.
        OSError: the protocol is unknown, or the URL is malformed.
    """
    head, options = _split_options(url)
    scheme, _, rest = head.partition("://")
    if scheme.lower() not in _ARROW_SCHEMES:
        return _open_fsspec(url)
    authority, slash, key = rest.partition("/")
    try:
        system, root = _open_arrow(f"{scheme.lower()}://{authority}/{options}")
    except (ImportError, pa.ArrowNotImplementedError):  # pyarrow was built without it
        return _open_fsspec(head)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise OSError(f"{url} is not a URL that can be read: {first_line(error)}") from error
    return system, f"{root.rstrip('/')}{slash}{key}"


@lru_cache(maxsize=64)
def _open_arrow(root: str) -> tuple[arrow_fs.FileSystem, str]:
    return arrow_fs.FileSystem.from_uri(root)  # type: ignore[no-any-return]


def _open_fsspec(url: str) -> tuple[arrow_fs.FileSystem, str]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UnfreezeError(f"{url} needs a package that is not installed: {first_line(error)}") from error
    except ValueError as error:
        raise OSError(f"{url} cannot be read: {first_line(error)}") from error
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(system)), path


def _retried(work: Callable[[], _Result], path: str) -> _Result:
    """Do something over a network again after an error that may pass.

    Raises:
        OSError: all attempts failed; drivers' errors, which have no common base class, become one.
    """
    for wait in _waits():
        try:
            return work()
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception as error:
            if wait is None:
                raise OSError(f"{path} cannot be read: {first_line(error)}") from error
            time.sleep(wait)
    raise AssertionError(path)


def _waits() -> Iterator[float | None]:
    for attempt in range(_ATTEMPTS - 1):
        yield _FIRST_WAIT_S * 2**attempt
    yield None

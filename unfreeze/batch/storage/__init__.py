"""Local paths and URLs behind the same few functions."""

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from unfreeze.batch.storage.arrow_urls import SCHEMES, ArrowUrls
from unfreeze.batch.storage.fsspec_urls import FsspecUrls
from unfreeze.batch.storage.stored import FileSystem, OpenFile, Stored
from unfreeze.contract.errors import UnfreezeError, first_line
from unfreeze.contract.folders import file_problem

__all__ = [
    "OpenFile",
    "Stored",
    "beside",
    "is_url",
    "list_url",
    "local_file",
    "located",
    "look_up",
    "open_file",
    "open_stream",
    "read_bytes",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ATTEMPTS, _FIRST_WAIT_S = 4, 0.5
_ARROW, _FSSPEC = ArrowUrls(), FsspecUrls()
_Result = TypeVar("_Result")


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
    if is_url(file):
        return f"{file.rpartition('/')[0]}/{path}"
    return os.path.normpath(os.path.join(os.path.dirname(file), path))  # noqa: PTH118, PTH120


def look_up(path: str) -> Stored | None:
    """Look up a file or a folder.

    Returns:
        None if there is nothing of this name, or neither a file nor a folder.

    Raises:
        UnfreezeError: a package is missing.
        OSError: it cannot be read.
    """
    if is_url(path):
        return _on(path, lambda system: system.look_up(path))
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises for names that are too long
        return Stored(path=path, is_folder=True)
    return None if file_problem(path) else local_file(path)


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
        UnfreezeError: a package is missing.
        OSError: it cannot be read.
    """
    return sorted(_on(folder, lambda system: system.list_folder(folder)), key=lambda stored: stored.path)


def read_bytes(path: str) -> bytes:
    """Read a whole file.

    Raises:
        UnfreezeError: a package is missing.
        OSError: it cannot be read.
    """
    if is_url(path):
        return _on(path, lambda system: system.read_bytes(path))
    with open_file(path) as file:
        return bytes(file.read())


def open_stream(path: str) -> OpenFile:
    """Open a file for reading from its beginning to its end.

    Raises:
        UnfreezeError: a package is missing.
        OSError: it cannot be opened.
    """
    return _on(path, lambda system: system.open_stream(path)) if is_url(path) else open_file(path)


def open_file(path: str) -> OpenFile:
    """Open a file for reading at any position.

    Raises:
        UnfreezeError: a package is missing.
        OSError: it cannot be opened.
    """
    if is_url(path):
        return _on(path, lambda system: system.open_file(path))
    if problem := file_problem(path):  # opening a pipe would wait for ever
        raise FileNotFoundError(path) if problem == "no such file" else OSError(problem)
    return open(path, "rb")  # noqa: PTH123 - the caller closes it


def _on(url: str, work: Callable[[FileSystem], _Result]) -> _Result:
    """Do something on the file system of a URL, again after an error that may pass.

    Raises:
        UnfreezeError: a package is missing.
        OSError: it failed several times; drivers' errors, which have no common base class, become one.
    """
    scheme = url.partition("://")[0].lower()
    system: FileSystem = _ARROW if scheme in SCHEMES else _FSSPEC
    for wait in _waits():
        try:
            return work(system)
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
            raise
        except ImportError as error:
            raise UnfreezeError(f"{url} needs a package that is not installed: {first_line(error)}") from error
        except (AttributeError, LookupError, TypeError):  # mistakes of ours
            raise
        except Exception as error:
            if wait is None or isinstance(error, ValueError | NotImplementedError):
                raise OSError(f"{url} cannot be read: {first_line(error)}") from error
            time.sleep(wait)
    raise AssertionError(url)


def _waits() -> Iterator[float | None]:
    for attempt in range(_ATTEMPTS - 1):
        yield _FIRST_WAIT_S * 2**attempt
    yield None

"""Recorded images in a bucket, or anywhere else that fsspec writes, which is an extra."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unfreeze.contract.errors import OptionsError, first_line
from unfreeze.serve.recording.storage import StoredImage

_OF_ARROW = frozenset({"s3", "gs", "gcs"})  # pyarrow has the drivers built in
_OPTIONS = re.compile(r"\?(?:[a-z_]+=[^?&]*&?)+$")
_TIMES = ("LastModified", "last_modified", "mtime", "created", "updated")
_IMAGE = re.compile(r"[^/]+/[^/]+/[0-9a-f]{2}/[0-9a-f]{64}\.[a-z0-9]+")


class Bucket:
    """Implements `Storage`. Processes do not lock it: what they count or delete at the same time is approximate.

    Args:
        url: of the folder; options of pyarrow's drivers may follow a question mark.
    """

    reads_fast = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._files: Any = None
        self._root = ""
        self._used: int | None = None

    def prepare(self) -> None:
        """Load the driver; nothing is requested, so that a server also starts while the bucket is out of reach.

        Raises:
            OptionsError: a package is missing, or the URL is malformed.
        """
        try:
            self._files, root = _opened(self._url)
        except ImportError as error:
            raise OptionsError(
                f"--record {self._url} needs packages that are not installed ({first_line(error)}): pip install "
                "'unfreeze[batch]'"
            ) from None
        except Exception as error:  # noqa: BLE001 - drivers raise errors of many types
            raise OptionsError(f"--record {self._url} cannot be used: {first_line(error)}") from None
        self._root = root.rstrip("/")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Do not lock: buckets have no locks."""
        yield

    def read(self, path: str) -> bytes | None:
        """Read a file; None if there is none."""
        try:
            content: bytes = self._files.cat_file(self._at(path))
        except FileNotFoundError:
            return None
        return content

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""
        try:
            self._files.info(self._at(path))
        except FileNotFoundError:
            return False
        return True

    def write(self, path: str, content: bytes) -> None:
        """Write a file; a bucket shows it when it is complete."""
        self._files.pipe_file(self._at(path), content)

    def delete(self, path: str) -> None:
        """Delete a file, if there is one."""
        try:
            self._files.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def images(self) -> Iterator[StoredImage]:
        """List the images; deletes descriptions whose image somebody has deleted."""
        self._files.invalidate_cache()
        found = self._files.find(self._root, detail=True)
        start = len(self._files._strip_protocol(self._root)) + 1  # noqa: SLF001 - fsspec has no public function for it
        entries = {name[start:]: info for name, info in found.items()}
        images = {path: info for path, info in entries.items() if _IMAGE.fullmatch(path) and not path.endswith(".json")}
        stems = {path.rpartition(".")[0] for path in images}
        for path in entries:
            if _IMAGE.fullmatch(path) and path.endswith(".json") and path.rpartition(".")[0] not in stems:
                self.delete(path)
        for path, info in images.items():
            document = f"{path.rpartition('.')[0]}.json"
            beside = entries.get(document)
            size = (info.get("size") or 0) + (0 if beside is None else beside.get("size") or 0)
            time = _time_of(info)
            yield StoredImage(path=path, document=None if beside is None else document, size=size, time=time)

    def used(self) -> int | None:
        """Return the bytes of all images, as this process knows them."""
        return self._used

    def note_used(self, size: int) -> None:
        """Note the bytes of all images in this process."""
        self._used = size

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


def _opened(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0].lower()
    if scheme not in _OF_ARROW:
        return url_to_fs(url)  # type: ignore[no-any-return]
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    found = _OPTIONS.search(url)
    head, options = (url[: found.start()], found[0]) if found else (url, "")
    authority, _, key = head.partition("://")[2].partition("/")
    system, root = FileSystem.from_uri(f"{scheme}://{authority}/{options}")
    return ArrowFSWrapper(system), f"{root.rstrip('/')}/{key}"


def _time_of(info: dict[str, Any]) -> float:
    """Return when a file was written, as far as its driver says; drivers have no common name for it."""
    found = next((info[name] for name in _TIMES if info.get(name)), None)
    if found is None:
        return float("inf")  # its age is not known: it is not deleted for it
    return float(found.timestamp() if hasattr(found, "timestamp") else found)

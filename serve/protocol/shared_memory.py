"""Regions of POSIX shared memory objects that clients register, for the contents of their requests and responses.

This is Triton's system shared memory. Nothing is mapped: a client may truncate its object at any time, and touching a
truncated mapping would end the server with SIGBUS. Contents are copied through a descriptor, where a truncated object
only has fewer bytes. Objects are opened for each request, so a registration keeps neither a descriptor nor memory, and
an object that has been replaced by another one is noticed.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.errors import ForbiddenError, InvalidRequestError, RegionExistsError, UnknownRegionError
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget

_FOLDER = "/dev/shm/"  # noqa: S108 - where shm_open(3) keeps its objects on Linux
# No links to other folders, and no waiting for the other end of a pipe.
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_MOST_REGIONS, _MOST_NAME_BYTES = 1024, 255


@dataclass(frozen=True, kw_only=True)
class Region:
    """Bytes of an object that were registered under a name.

    Args:
        name: of the region.
        key: name of the object, as it was registered.
        offset: of the region in the object, in bytes.
        size: in bytes.
        identity: device and inode of the object, which tell it from a later one of the same name.
    """

    name: str
    key: str
    offset: int
    size: int
    identity: tuple[int, int]

    def read(self, offset: int, size: int) -> memoryview:
        """Copy bytes out of the region, which contains them.

        Args:
            offset: of the first byte in the region.
            size: number of bytes.

        Raises:
            InvalidRequestError: the object is gone, has been replaced or truncated, or cannot be read.
        """
        contents, start, done = np.empty(size, np.uint8).data, self.offset + offset, 0
        with self._opened(os.O_RDONLY, start + size) as descriptor:
            while done < size:
                count = os.preadv(descriptor, [contents[done:]], start + done)
                if not count:  # truncated since it was opened
                    raise self._truncated(start + done, start + size)
                done += count
        return contents

    def write(self, offset: int, contents: bytes) -> None:
        """Copy bytes into the region, which has room for them.

        Args:
            offset: of the first byte in the region.
            contents: bytes to write.

        Raises:
            InvalidRequestError: the object is gone, has been replaced or truncated, or cannot be written.
        """
        rest, start = memoryview(contents), self.offset + offset
        with self._opened(os.O_WRONLY, start + len(rest)) as descriptor:
            while rest:
                count = os.pwrite(descriptor, rest, start)
                rest, start = rest[count:], start + count

    @contextmanager
    def _opened(self, mode: int, end: int) -> Iterator[int]:
        with _opened(self.key, mode) as descriptor:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != self.identity:
                raise InvalidRequestError(
                    f"the shared memory object {self.key!r} of region {self.name!r:.100} has been replaced by another "
                    "one; unregister the region, and register it again"
                )
            if found.st_size < end:
                raise self._truncated(found.st_size, end)
            yield descriptor

    def _truncated(self, found: int, expected: int) -> InvalidRequestError:
        return InvalidRequestError(
            f"the shared memory object {self.key!r} of region {self.name!r:.100} has been truncated: it has {found:,} "
            f"bytes, and the request needs {expected:,}"
        )


@runtime_checkable
class RegionTable(Protocol):
    """Where the registered regions are kept."""

    def get(self, name: str) -> Region | None:
        """Return the region of a name, if there is one."""

    def add(self, region: Region) -> bool:
        """Add a region unless there is one of its name; return whether it was added."""

    def remove(self, name: str) -> None:
        """Forget a region, if there is one of this name."""

    def all(self) -> list[Region]:
        """Return all regions, sorted by name."""


class OwnRegions:
    """Regions of this process alone."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def get(self, name: str) -> Region | None:
        """Return the region of a name, if there is one."""
        return self._regions.get(name)

    def add(self, region: Region) -> bool:
        """Add a region unless there is one of its name; return whether it was added."""
        return self._regions.setdefault(region.name, region) is region

    def remove(self, name: str) -> None:
        """Forget a region, if there is one of this name."""
        self._regions.pop(name, None)

    def all(self) -> list[Region]:
        """Return all regions, sorted by name."""
        return [self._regions[name] for name in sorted(self._regions)]


class SharedMemoryRegions:
    """The regions that clients have registered.

    Args:
        prefix: what the names of objects must begin with, without a slash; empty for any name, None if no object may be
            registered.
        most_tensor_bytes: the largest contents of a tensor in a region.
        budget: memory of large contents while they are copied, as of messages that are received.
        regions: where they are kept; in this process by default.
    """

    def __init__(
        self, prefix: str | None, most_tensor_bytes: int, budget: ReceiveBudget, regions: RegionTable | None = None
    ) -> None:
        self._prefix, self.most_tensor_bytes, self.budget = prefix, most_tensor_bytes, budget
        self._regions = OwnRegions() if regions is None else regions

    @property
    def enabled(self) -> bool:
        """Whether objects may be registered."""
        return self._prefix is not None

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Register a region.

        Args:
            name: of the region.
            key: name of the object, with or without a slash before it.
            offset: of the region in the object, in bytes.
            size: in bytes.

        Raises:
            ForbiddenError: shared memory is off, or the object's name does not have the prefix.
            RegionExistsError: there is a region of this name.
            InvalidRequestError: a name is not valid, there is no such object, the object is not as large as that, or
                there are too many regions.
        """
        self._check_enabled()
        self._check_names(name, key)
        if self._regions.get(name) is not None:
            raise _exists(name)
        if len(self._regions.all()) >= _MOST_REGIONS:
            raise InvalidRequestError(f"{_MOST_REGIONS:,} shared memory regions are registered; unregister some first")
        with _opened(key, os.O_RDONLY) as descriptor:
            found = os.fstat(descriptor)
        if not size or offset + size > found.st_size:
            raise InvalidRequestError(
                f"the region's offset is {offset:,} and its size {size:,} bytes, but the shared memory object {key!r} "
                f"has {found.st_size:,} bytes"
            )
        identity = found.st_dev, found.st_ino
        if not self._regions.add(Region(name=name, key=key, offset=offset, size=size, identity=identity)):
            raise _exists(name)

    def unregister(self, name: str) -> None:
        """Forget a region, if there is one of this name, or all regions if the name is empty."""
        for one in (name,) if name else [region.name for region in self._regions.all()]:
            self._regions.remove(one)

    def registered(self, name: str) -> list[Region]:
        """Return all regions if the name is empty, else the one of this name.

        Raises:
            UnknownRegionError: there is none.
        """
        return [self.find(name)] if name else self._regions.all()

    def find(self, name: str) -> Region:
        """Return the region of a name.

        Raises:
            ForbiddenError: shared memory is off.
            UnknownRegionError: there is none.
        """
        self._check_enabled()
        region = self._regions.get(name)
        if region is None:
            raise UnknownRegionError(f"there is no shared memory region {name!r:.100}; register it first")
        return region

    def _check_enabled(self) -> None:
        if not self.enabled:
            raise ForbiddenError("shared memory is off on this server (it runs without --shared-memory)")

    def _check_names(self, name: str, key: str) -> None:
        if not name or len(name.encode()) > _MOST_NAME_BYTES:
            raise InvalidRequestError(
                f"the name of a shared memory region must have 1 to {_MOST_NAME_BYTES} bytes, got {name!r:.100}"
            )
        object_name = key.removeprefix("/")
        if object_name in ("", ".", "..") or {"/", "\0"} & set(object_name) or len(key.encode()) > _MOST_NAME_BYTES:
            raise InvalidRequestError(
                f"the key must be the name of a shared memory object: at most {_MOST_NAME_BYTES} bytes, and no slash "
                f"but one at its start, got {key!r:.100}"
            )
        if not object_name.startswith(self._prefix or ""):
            raise ForbiddenError(
                f"only shared memory objects whose names begin with {self._prefix!r} may be registered on this server "
                f"(--shared-memory), got {key!r:.100}"
            )


def _exists(name: str) -> RegionExistsError:
    return RegionExistsError(f"the shared memory region {name!r} is registered already; unregister it first")


@contextmanager
def _opened(key: str, mode: int) -> Iterator[int]:
    """Open an object.

    Raises:
        InvalidRequestError: there is none, or it cannot be used.
    """
    try:
        descriptor = os.open(_FOLDER + key.removeprefix("/"), mode | _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidRequestError(f"{key!r} is not a shared memory object")
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InvalidRequestError(f"cannot use the shared memory object {key!r}: {error.strerror}") from None

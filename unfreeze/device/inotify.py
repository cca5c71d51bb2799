"""Linux's inotify: which files of a folder were written or moved there. No library is needed: the C library has it."""

import ctypes
import os
import select
import struct
from pathlib import Path
from typing import NamedTuple

_MODIFY, _CLOSE_WRITE, _MOVED_TO, _OVERFLOW = 0x2, 0x8, 0x80, 0x4000
_HEADER = struct.Struct("iIII")
_BUFFER_BYTES = 65_536


class Change(NamedTuple):
    """What happened to a file.

    Args:
        name: of the file in its folder; empty if events were lost.
        complete: whether its writer has closed it, or it was moved here; otherwise it was written to.
    """

    name: str
    complete: bool


class FolderEvents:
    """The events of a folder, not of those below it.

    Args:
        folder: to watch.

    Raises:
        OSError: the system has no inotify, or no more watches.
    """

    def __init__(self, folder: Path) -> None:
        try:
            library = ctypes.CDLL(None, use_errno=True)
            self._descriptor: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except (AttributeError, TypeError) as error:  # macOS, Windows
            raise OSError("the system has no inotify") from error
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if library.inotify_add_watch(self._descriptor, os.fsencode(folder), _MODIFY | _CLOSE_WRITE | _MOVED_TO) < 0:
            code = ctypes.get_errno()
            self.close()
            raise OSError(code, os.strerror(code), str(folder))

    def wait(self, seconds: float) -> list[Change]:
        """Wait until something happens, at most so long.

        Returns:
            What happened, in order; empty if nothing did.
        """
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        return _parse(os.read(self._descriptor, _BUFFER_BYTES)) if ready else []

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)


def _parse(data: bytes) -> list[Change]:
    changes, at = [], 0
    while at < len(data):
        _, mask, _, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length
        changes.append(Change("" if mask & _OVERFLOW else name, bool(mask & (_CLOSE_WRITE | _MOVED_TO))))
    return changes

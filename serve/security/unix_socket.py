"""A Unix socket: a path on which only programs of this machine can connect, those that may write to it."""

import os
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from unfreeze.contract.errors import OptionsError, ServingError
from unfreeze.serve.security.binding import is_unix_target

# `sun_path` of unix(7) has 108 bytes with its final zero, and gRPC counts the slashes of unix:// too.
_MOST_PATH_BYTES = 105 if sys.platform == "linux" else 101
_MODE = re.compile("[0-7]{3}")
_PROBE_S, _LOCK_S = 1.0, 1.0


class UnixSocket:
    """The path of a server's socket, which exists while the server listens.

    Args:
        path: where the socket is created.
        mode: permissions of the file, in octal; a client must be allowed to write to it.

    Raises:
        OptionsError: the path is too long or not a path, or the mode is not valid.
    """

    def __init__(self, path: Path, mode: str = "600") -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise OptionsError("--uds needs an operating system with Unix sockets")
        if is_unix_target(str(path)) or "\0" in str(path):
            raise OptionsError(f"--uds must be a path, such as /run/unfreeze/grpc.sock, got {str(path)!r}")
        if not _MODE.fullmatch(mode):
            raise OptionsError(f"--uds-mode must be three octal digits, such as 660, got {mode!r}")
        self.path, self._mode = path.absolute(), int(mode, 8)
        self._identity: tuple[int, int] | None = None
        if (size := len(os.fsencode(self.path))) > _MOST_PATH_BYTES:
            raise OptionsError(
                f"--uds {self.path} has {size} bytes, and the path of a gRPC server's socket at most "
                f"{_MOST_PATH_BYTES}: choose a shorter one, for example in /run or /tmp"
            )

    @property
    def target(self) -> str:
        """The address for gRPC, on the server and on clients: a URI."""
        return f"unix://{quote(os.fsencode(self.path))}"

    @contextmanager
    def binding(self) -> Iterator[str]:
        """Remove the socket of a server that was killed; the body then creates the socket, with this object's mode.

        Yields:
            The address to listen on.

        Raises:
            ServingError: another server answers there, something else is there, or the folder does not exist.
        """
        with _locked(self.path.parent):
            self._remove_stale()
            before = os.umask(0o777 & ~self._mode)  # set before the file exists: later, somebody could have connected
            try:
                yield self.target
            finally:
                os.umask(before)
            self._identity = _identity(self.path)

    def remove(self) -> None:
        """Remove the socket, unless another server has replaced it."""
        if self._identity is not None and _identity(self.path) == self._identity:
            with suppress(OSError):
                self.path.unlink()
        self._identity = None

    def _remove_stale(self) -> None:
        try:
            mode = self.path.lstat().st_mode
            if not stat.S_ISSOCK(mode):
                raise ServingError(f"cannot listen on {self.path}: it exists and is not a socket; choose another --uds")
            if _answers(self.path):
                raise ServingError(f"cannot listen on {self.path}: another server answers there; choose another --uds")
            self.path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ServingError(
                f"cannot listen on {self.path}: {error.strerror or error}; remove it if no server uses it, or choose "
                "another --uds"
            ) from None


def _answers(path: Path) -> bool:
    """Return whether a process listens on a socket.

    Raises:
        OSError: this cannot be determined, for example because the socket belongs to another user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except (BlockingIOError, TimeoutError):  # its queue of connections is full
            return True
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder, so that of two servers that start at the same time one finds the other's socket.

    Another program may hold the lock of a shared folder for as long as it likes: after a second, this goes on without.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ServingError(f"cannot listen in {folder}: {error.strerror}; choose another --uds") from None
    try:
        until = time.monotonic() + _LOCK_S
        while not _try_to_lock(descriptor) and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _try_to_lock(descriptor: int) -> bool:
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

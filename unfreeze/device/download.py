"""Receive a file so that nothing is received twice: after an interruption, it continues where it ended."""

import errno
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.errors import RefusedVersionError, SourceError, UnfreezeError
from unfreeze.contract.files import flush_folder, sha256_of, write_durably
from unfreeze.device.sources import Source, Transfer

MOST_BYTES = 2**31  # protobuf's limit, and so ONNX's
_SPARE_BYTES = 1 << 20  # of the disk, for everything else
_WAITS_S = (0.5, 1.0, 2.0)
_DAY_S = 86_400.0  # it may have been in the middle of an upload
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class Received:
    """What came over the network for a file.

    Args:
        bytes: received now.
        resumed: received earlier, and not again.
    """

    bytes: int
    resumed: int


class Download:
    """A file that is received into a folder for unfinished files.

    The unfinished file's name is the digest that the whole file must have, so that parts of different files never meet.

    Args:
        source: of the model.
        path: of the file in the source.
        digest: SHA-256 of the whole file.
        parts: the folder for unfinished files.
    """

    def __init__(self, source: Source, path: str, digest: str, parts: Path) -> None:
        self._source, self._path, self._digest = source, path, digest
        self._part, self._state = parts / f"{digest}.part", parts / f"{digest}.state"
        self._received = self._resumed = 0

    @property
    def file(self) -> Path:
        """Where the file is once it is whole."""
        return self._part

    def run(self) -> Received:
        """Receive the file, in several attempts if need be; afterwards it is at `file`.

        Raises:
            SourceError: the source cannot be read; what was received stays for the next time.
            RefusedVersionError: the source's file does not have the digest.
            UnfreezeError: the disk is full; what was received is deleted.
        """
        try:
            self._receive_all()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._forget()
            raise UnfreezeError(f"no space is left for {self._path}: {error.strerror}") from error
        return Received(bytes=self._received, resumed=self._resumed)

    def _receive_all(self) -> None:
        self._resumed = self._size()
        if self._resumed and self._has_digest():
            return
        failures, largest = 0, self._resumed
        while True:
            was_resumed = self._size() > 0
            try:
                self._receive()
            except SourceError:  # from a source that always begins anew, more bytes alone are no progress
                failures = 1 if self._size() > largest else failures + 1
                largest = max(largest, self._size())
                if failures > len(_WAITS_S):
                    raise
                time.sleep(_WAITS_S[failures - 1])
                continue
            if self._has_digest():
                return
            self._forget()
            if not was_resumed:
                raise RefusedVersionError(
                    f"{self._path} does not have the SHA-256 of SHA256SUMS, {self._digest}", retry_s=_DAY_S
                )

    def _receive(self) -> None:
        """Receive from where the unfinished file ends, to the end."""
        start = self._size()
        state = self._state.read_text() if start and self._state.is_file() else ""
        with self._source.open(self._path, start, state) as transfer:
            if transfer.start != start:
                self._forget()
                if transfer.start != 0:
                    raise SourceError(f"{self._path} comes from byte {transfer.start:,}, requested was {start:,}")
            self._check_size(transfer)
            write_durably(self._state, transfer.state.encode())
            with self._part.open("ab", buffering=0) as file:
                for chunk in transfer.chunks:
                    file.write(chunk)
                    self._received += len(chunk)
                    if file.tell() > MOST_BYTES:
                        raise RefusedVersionError(f"{self._path} has more than {MOST_BYTES:,} bytes")
                os.fsync(file.fileno())
        if transfer.total is not None and self._size() < transfer.total:
            raise SourceError(f"{self._path} ended after {self._size():,} of {transfer.total:,} bytes")

    def _check_size(self, transfer: Transfer) -> None:
        if transfer.total is None:
            return
        if transfer.total > MOST_BYTES:
            raise RefusedVersionError(f"{self._path} has {transfer.total:,} bytes; at most {MOST_BYTES:,} are allowed")
        free, missing = shutil.disk_usage(self._part.parent).free, transfer.total - transfer.start
        if missing + _SPARE_BYTES > free:
            raise OSError(errno.ENOSPC, f"it needs {missing:,} bytes, and {free:,} are free")

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _has_digest(self) -> bool:
        with self._part.open("ab"):  # an empty file has a digest, too
            pass
        return sha256_of(self._part) == self._digest

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
        self._resumed = 0
        flush_folder(self._part.parent)

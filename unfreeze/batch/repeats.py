"""Find what is listed more than once, in bounded memory."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from unfreeze.contract.arrays import Int64

_DIGEST_BYTES = 16
_SORTED_AT_A_TIME = 1 << 22
_READ_AT_A_TIME = 1 << 20


class Repeats:
    """Digests of names in a file on disk; a context manager, which deletes the file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._count = 0

    def add(self, name: str) -> None:
        """Add the next name."""
        self._file.write(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest())
        self._count += 1

    def find(self, at_a_time: int = _SORTED_AT_A_TIME) -> Int64[np.ndarray, " n"]:
        """Return the numbers of the names, from 0, that are repetitions of an earlier one, in ascending order.

        Args:
            at_a_time: largest number of digests to sort in memory, about.
        """
        self._file.flush()
        if not self._count:
            return np.empty(0, np.int64)
        digests = np.memmap(self._path, np.uint64, "r").reshape(self._count, 2)
        parts = -(-self._count // at_a_time)
        found = [_repeated(*_part(digests, part, parts)) for part in range(parts)]
        return np.sort(np.concatenate(found))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _part(digests: np.ndarray, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Select the digests that belong to a part, and their numbers; equal ones belong to the same part."""
    chosen = [_chosen(digests[start : start + _READ_AT_A_TIME], part, parts) + start for start in _starts(len(digests))]
    numbers = np.concatenate(chosen)
    return digests[numbers], numbers


def _starts(count: int) -> Iterator[int]:
    yield from range(0, count, _READ_AT_A_TIME)


def _chosen(digests: np.ndarray, part: int, parts: int) -> np.ndarray:
    return np.flatnonzero(digests[:, 0] % np.uint64(parts) == part)


def _repeated(digests: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    order = np.lexsort((numbers, digests[:, 1], digests[:, 0]))
    same = (digests[order[1:]] == digests[order[:-1]]).all(1)
    repeated: np.ndarray = numbers[order[1:][same]].astype(np.int64)
    return repeated

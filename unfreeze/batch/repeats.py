"""Find what is listed more than once, in bounded memory."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from unfreeze.contract.arrays import Int64

_DIGEST_BYTES = 16
_SORTED_AT_A_TIME = 1 << 19
_READ_AT_A_TIME = 1 << 18


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
        parts = -(-self._count // at_a_time)
        found = [_repeated(*self._part(part, parts)) for part in range(parts)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def _part(self, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the digests of a part, and their numbers; equal digests belong to the same part."""
        digests, numbers = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
        with self._path.open("rb") as file:
            for start in range(0, self._count, _READ_AT_A_TIME):
                read = np.fromfile(file, np.uint64, 2 * _READ_AT_A_TIME).reshape(-1, 2)
                chosen = np.flatnonzero(read[:, 0] % np.uint64(parts) == part)
                digests.append(read[chosen])
                numbers.append(chosen + start)
        return np.concatenate(digests), np.concatenate(numbers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _repeated(digests: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    order = np.lexsort((numbers, digests[:, 1], digests[:, 0]))
    same = (digests[order[1:]] == digests[order[:-1]]).all(1)
    repeated: np.ndarray = numbers[order[1:][same]]
    return repeated

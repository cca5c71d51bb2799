"""Shared memory of one front-end process: prepared images on their way to the models, and probabilities back."""

import bisect
import mmap
import os

import numpy as np

from unfreeze.contract.arrays import UInt8

_ALIGNMENT = 64
_KEPT_BYTES = 2**25  # of memory that is free, to serve the next requests without asking the kernel for pages


class Region:
    """A block of shared memory, and the parts of it that are in use; use it in one thread.

    It has no name: the kernel frees it with the last process that has it, however that ends. Pages take memory only
    once they have been written.

    Args:
        size: number of bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.descriptor = os.memfd_create("unfreeze-images")
        os.ftruncate(self.descriptor, self.size)
        self._map = mmap.mmap(self.descriptor, self.size)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._free = [(0, self.size)]  # of each free part where it begins and ends, in order
        self._used: dict[int, int] = {}
        self._touched = 0

    def allocate(self, size: int) -> int | None:
        """Take the first free part that is large enough.

        Args:
            size: number of bytes, at least 1.

        Returns:
            Where it begins; None if there is none.
        """
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        for index, (begin, end) in enumerate(self._free):
            if end - begin >= size:
                if end - begin == size:
                    del self._free[index]
                else:
                    self._free[index] = begin + size, end
                self._used[begin] = size
                self._touched = max(self._touched, begin + size)
                return begin
        return None

    def release(self, begin: int) -> None:
        """Give a part back, and when all are free, most of the memory."""
        end = begin + self._used.pop(begin)
        index = bisect.bisect(self._free, (begin, end))
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == begin:
            begin = self._free.pop(index - 1)[0]
            index -= 1
        self._free.insert(index, (begin, end))
        if not self._used and self._touched > _KEPT_BYTES:
            kept = -(-_KEPT_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_REMOVE, kept, self.size - kept)
            self._touched = kept

    def view(self, begin: int, size: int) -> UInt8[np.ndarray, " n"]:
        """Return the bytes of a part."""
        return self._bytes[begin : begin + size]


def map_region(descriptor: int) -> UInt8[np.ndarray, " n"]:
    """Map the region of another process, and close the descriptor.

    Args:
        descriptor: file descriptor of the region.
    """
    try:
        return np.frombuffer(mmap.mmap(descriptor, os.fstat(descriptor).st_size), np.uint8)
    finally:
        os.close(descriptor)

"""A fake device in main memory, which executes every operation at once and checks its arguments."""

import ctypes
import itertools

import numpy as np


class HostDevice:
    """Implements `Device` with real addresses; keeps track of memory and streams that are not freed yet."""

    name = "cpu"

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.streams: set[int] = set()
        self._numbers = itertools.count(1)

    def allocate_host(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Allocate host memory."""
        return np.zeros(shape, dtype)

    def allocate(self, size: int) -> int:
        """Allocate device memory and return its address."""
        memory = np.zeros(size, np.uint8)
        self.memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def create_stream(self) -> int:
        """Create a stream, which is only a number."""
        number = next(self._numbers)
        self.streams.add(number)
        return number

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copy at once."""
        self._check(pointer, array, stream)
        ctypes.memmove(pointer, array.ctypes.data, array.nbytes)

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Copy at once."""
        self._check(pointer, array, stream)
        ctypes.memmove(array.ctypes.data, pointer, array.nbytes)

    def wait_for_stream(self, stream: int, other: int) -> None:
        """Check that both streams exist."""
        assert {stream, other} <= self.streams

    def synchronize(self, stream: int) -> None:
        """Check that the stream exists."""
        assert stream in self.streams

    def free(self, pointer: int) -> None:
        """Free memory; fails if it is not allocated."""
        del self.memory[pointer]

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream; fails if it does not exist."""
        self.streams.remove(stream)

    def _check(self, pointer: int, array: np.ndarray, stream: int) -> None:
        assert stream in self.streams
        assert array.flags.c_contiguous
        assert array.nbytes <= self.memory[pointer].nbytes

"""A device in main memory: does at once, and checks, what `unfreeze.serve.runtimes.device_pipeline` asks of a GPU."""

import ctypes
import itertools

import numpy as np


class HostDevice:
    """Memory and streams that know what has been given back; addresses are real ones."""

    name = "cpu"

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.streams: set[int] = set()
        self._numbers = itertools.count(1)

    def host(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Allocate what is copied from and to."""
        return np.zeros(shape, dtype)

    def allocate(self, size: int) -> int:
        """Allocate what is computed on."""
        memory = np.zeros(size, np.uint8)
        self.memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def stream(self) -> int:
        """Make a stream: a number."""
        number = next(self._numbers)
        self.streams.add(number)
        return number

    def copy_in(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copy at once."""
        self._check(pointer, array, stream)
        ctypes.memmove(pointer, array.ctypes.data, array.nbytes)

    def copy_out(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Copy at once."""
        self._check(pointer, array, stream)
        ctypes.memmove(array.ctypes.data, pointer, array.nbytes)

    def follow(self, stream: int, other: int) -> None:
        """See that both are there."""
        assert {stream, other} <= self.streams

    def wait(self, stream: int) -> None:
        """See that it is there."""
        assert stream in self.streams

    def free(self, pointer: int) -> None:
        """Give memory back, once."""
        del self.memory[pointer]

    def end(self, stream: int) -> None:
        """Give a stream back, once."""
        self.streams.remove(stream)

    def _check(self, pointer: int, array: np.ndarray, stream: int) -> None:
        assert stream in self.streams
        assert array.flags.c_contiguous
        assert array.nbytes <= self.memory[pointer].nbytes

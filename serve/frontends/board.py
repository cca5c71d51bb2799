"""Counters in shared memory: every process of a server reads all of them, and writes those in its own row."""

import mmap
import os
from typing import Self

import numpy as np

MAX_MODELS = 256  # versions that are loaded at the same time
_MODELS_ROW = 0
_RECEIVING, _CONNECTED, _RESTARTS, _BEATS = range(4)
_FIRST_MODEL = 8
_IMAGES, _BYTES, _IMAGE_NS = range(3)
_COLUMNS = _FIRST_MODEL + 4 * MAX_MODELS


class Board:
    """The counters of one process, and sums over all processes.

    Row 0 is that of the process that executes the models; row n is that of front-end process n, which is numbered from
    1. Every value is an aligned integer of 8 bytes, so that a reader never sees a part of one.

    Args:
        descriptor: file descriptor of the shared memory.
        frontends: number of front-end processes.
        row: the row to write.
    """

    def __init__(self, descriptor: int, frontends: int, row: int) -> None:
        self.descriptor, self.row = descriptor, row
        shape = (frontends + 1, _COLUMNS)
        self._values = np.frombuffer(mmap.mmap(descriptor, 8 * shape[0] * shape[1]), np.int64).reshape(shape)
        self._own = self._values[row]

    @classmethod
    def create(cls, frontends: int) -> Self:
        """Create the shared memory, which exists until the last process has closed it."""
        descriptor = os.memfd_create("unfreeze-counters")
        os.ftruncate(descriptor, 8 * (frontends + 1) * _COLUMNS)
        return cls(descriptor, frontends, _MODELS_ROW)

    def clear(self, row: int) -> None:
        """Forget what a process that has ended held; the number of its restarts stays."""
        self._values[row, :_RESTARTS] = 0
        self._values[row, _RESTARTS + 1 :] = 0

    def count_restart(self, row: int) -> None:
        """Count a restart of a process."""
        self._values[row, _RESTARTS] += 1

    def beat(self) -> None:
        """Show that the event loop of this process runs."""
        self._own[_BEATS] += 1

    def beats(self, row: int) -> int:
        """Return how often a process has shown that its event loop runs."""
        return int(self._values[row, _BEATS])

    @property
    def restarts(self) -> tuple[int, int]:
        """How often the process of the models was restarted, and how often front-end processes were."""
        return int(self._values[_MODELS_ROW, _RESTARTS]), int(self._values[1:, _RESTARTS].sum())

    @property
    def connected(self) -> int:
        """Number of front-end processes that are connected to the process of the models."""
        return int(self._values[1:, _CONNECTED].sum())

    def set_connected(self, connected: bool) -> None:  # noqa: FBT001
        """Publish whether this process is connected."""
        self._own[_CONNECTED] = connected

    def set_receiving(self, size: int) -> None:
        """Publish the bytes of the requests that this process is receiving."""
        self._own[_RECEIVING] = size

    def received_elsewhere(self) -> int:
        """Sum the bytes of the requests that other processes are receiving."""
        return int(self._values[:, _RECEIVING].sum() - self._own[_RECEIVING])

    def set_accepted(self, handle: int, images: int, size: int) -> None:
        """Publish what this process has accepted for a model: images and their bytes."""
        column = _column(handle)
        self._own[column + _IMAGES] = images
        self._own[column + _BYTES] = size

    def accepted_elsewhere(self, handle: int) -> tuple[int, int]:
        """Sum what other processes have accepted for a model: images and their bytes."""
        column = _column(handle)
        sums = self._values[:, column : column + 2].sum(axis=0) - self._own[column : column + 2]
        return int(sums[0]), int(sums[1])

    def accepted(self, handle: int) -> int:
        """Sum the images that all processes have accepted for a model."""
        return int(self._values[:, _column(handle) + _IMAGES].sum())

    def set_speed(self, handle: int, image_s: float) -> None:
        """Publish the seconds that each image of a model takes."""
        self._values[_MODELS_ROW, _column(handle) + _IMAGE_NS] = int(1e9 * image_s)

    def speed(self, handle: int) -> float:
        """Return the seconds that each image of a model takes; 0 if they have not been measured."""
        return float(self._values[_MODELS_ROW, _column(handle) + _IMAGE_NS] / 1e9)


def _column(handle: int) -> int:
    return _FIRST_MODEL + 4 * handle

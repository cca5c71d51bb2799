"""The interface between the pipeline and a device with separate memory."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32


@runtime_checkable
class Device(Protocol):
    """A device: memory, and streams whose operations run in order. `unfreeze.serve.runtimes.cuda` implements it."""

    name: str

    def allocate_host(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Allocate host memory that the device can copy to and from asynchronously."""

    def allocate(self, size: int) -> int:
        """Allocate bytes on the device and return their address."""

    def create_stream(self) -> int:
        """Create a stream."""

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Queue a copy to the device."""

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Queue a copy from the device."""

    def wait_for_stream(self, stream: int, other: int) -> None:
        """Make a stream's later operations wait for all operations that are queued in another stream now."""

    def synchronize(self, stream: int) -> None:
        """Block until all operations of a stream have finished."""

    def free(self, pointer: int) -> None:
        """Free memory on the device."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slot:
    """The buffers of one batch; several slots let copies overlap with computation.

    Args:
        number: index of the slot, from 0.
        pixels: device address of the input, large enough for the largest batch.
        probabilities: device address of the output.
        host_probabilities: host memory that the output is copied to.
        stream: the stream of the slot's copies.
    """

    number: int
    pixels: int
    probabilities: int
    host_probabilities: Float32[np.ndarray, "n c"]
    stream: int

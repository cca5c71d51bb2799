"""Batches through a device with memory of its own: copies and computing overlap, and sizes repeat."""

import itertools
import logging
import queue
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.closing import Closing
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.manifest import Manifest

_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|ALLOC_FAILED|bad_?alloc", re.IGNORECASE)
_log = logging.getLogger(__name__)


@runtime_checkable
class Device(Protocol):
    """A device: memory, and streams whose work runs in order. `unfreeze.serve.runtimes.cuda` implements it."""

    name: str

    def host(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Allocate memory of this machine that the device copies from and to by itself."""

    def allocate(self, size: int) -> int:
        """Allocate bytes on the device."""

    def stream(self) -> int:
        """Make a stream."""

    def copy_in(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Queue a copy to the device."""

    def copy_out(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Queue a copy from the device."""

    def follow(self, stream: int, other: int) -> None:
        """Let what is queued in a stream from now on wait for what is queued in another one by now."""

    def wait(self, stream: int) -> None:
        """Wait until a stream is done."""

    def free(self, pointer: int) -> None:
        """Give memory back."""

    def end(self, stream: int) -> None:
        """Give a stream back."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slot:
    """Where one batch lies while others are on their way.

    Args:
        number: from 0 on.
        pixels: address on the device, of as many images as the largest batch has.
        probabilities: address on the device, of their probabilities.
        answers: memory of this machine that these are copied to.
        stream: of its copies.
    """

    number: int
    pixels: int
    probabilities: int
    answers: Float32[np.ndarray, "n c"]
    stream: int


Enqueue = Callable[[Slot, int], None]


class DevicePipeline(Closing):
    """A model on a device, behind the interface of every runtime; a context manager.

    A batch is filled up to the next of a few sizes, for devices prepare themselves for each. While one is computed, the
    next is copied to the device in a stream of its own. Where the device's memory is too short for a size, it is
    halved, from then on.

    Args:
        manifest: of the model.
        device: that executes it.
        most: images of the largest batch.
        slots: batches that are on their way at once.
        load: loads the model, from the stream that batches are computed in, and gives what queues the computing of a
            slot's batch, of one of the sizes, in that stream; this is always called from the same thread.
        name: of the model, for messages.

    Raises:
        ModelError: the model cannot be loaded, or the device's memory is too short for the slots or a single image.
    """

    def __init__(
        self,
        manifest: Manifest,
        device: Device,
        *,
        most: int,
        slots: int,
        load: Callable[[int], Enqueue],
        name: str,
    ) -> None:
        self.manifest, self._name = manifest, name
        self._device = device
        self._sizes = tuple(batch_sizes(most))
        self._launcher: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="launch")
        self._memory: list[int] = []
        self._streams: list[int] = []
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._enqueue: Enqueue = _closed
        try:
            self._compute = self._stream()
            self._enqueue = load(self._compute)
            for number in range(slots):
                self._free.put(self._slot(number, most))
            self._warm_up(slots)
        except BaseException:
            self.close()
            raise

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of batches that are computed, the smallest first."""
        return self._sizes

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate memory for prepared images that the device copies by itself, while this machine goes on."""
        return self._device.host((images, *self.manifest.preprocess.shape), np.uint8)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify prepared images, in as many batches as it takes; from any thread.

        Args:
            pixels: RGB, of the manifest's crop size.

        Returns:
            Probabilities, in the order of the manifest's labels.

        Raises:
            ModelError: images of another size, the device failed, or this was closed.
        """
        if pixels.shape[1:] != self.manifest.preprocess.shape:
            raise ModelError(f"{self._name} takes images of {self.manifest.preprocess.shape}, not {pixels.shape[1:]}")
        answers = np.empty((len(pixels), len(self.manifest.labels)), np.float32)
        done = 0
        while done < len(pixels):
            sizes = self._sizes  # another thread may halve them
            part = np.ascontiguousarray(pixels[done : done + sizes[-1]])
            size = next(size for size in sizes if size >= len(part))
            try:
                answers[done : done + len(part)] = self._run(part, size)
            except ModelError as error:
                if not _OUT_OF_MEMORY.search(str(error)):
                    raise
                self._halve(size, error)
            else:
                done += len(part)
        return answers

    def _run(self, pixels: np.ndarray, size: int) -> np.ndarray:
        launcher = self._launcher
        if launcher is None:
            raise ModelError(f"{self._name} was closed")
        slot, device = self._free.get(), self._device
        try:
            device.copy_in(slot.pixels, pixels, slot.stream)
            try:
                launcher.submit(self._launch, slot, size).result()
                device.copy_out(slot.answers[: len(pixels)], slot.probabilities, slot.stream)
            finally:
                device.wait(slot.stream)  # nothing is on its way when the slot is taken again
            return slot.answers[: len(pixels)].copy()
        finally:
            self._free.put(slot)

    def _launch(self, slot: Slot, size: int) -> None:
        self._device.follow(self._compute, slot.stream)
        try:
            self._enqueue(slot, size)
        except ModelError:
            raise
        except Exception as error:  # runtimes' errors have no common base
            raise ModelError(f"{self._name} failed on a batch of {size}: {first_line(error)}") from error
        self._device.follow(slot.stream, self._compute)

    def _halve(self, failed: int, error: ModelError) -> None:
        left = tuple(size for size in self._sizes if size <= failed // 2)
        if not left:
            raise ModelError(f"{self._name} does not fit: {error}") from error
        if self._sizes[-1] > left[-1]:  # nobody else has seen it before
            self._sizes = left
            _log.warning("%s: too little memory for %d images; at most %d from now on", self._name, failed, left[-1])

    def _warm_up(self, slots: int) -> None:
        """Compute every size in every slot, the largest first, so that memory is allocated once."""
        shape = self.manifest.preprocess.shape
        for size in reversed(self._sizes):
            for _ in range(slots):  # they are taken in turn
                if size <= self._sizes[-1]:
                    self.run(np.zeros((size, *shape), np.uint8))

    def _slot(self, number: int, most: int) -> Slot:
        labels, device = len(self.manifest.labels), self._device
        return Slot(
            number=number,
            pixels=self._allocate(most * int(np.prod(self.manifest.preprocess.shape))),
            probabilities=self._allocate(most * labels * np.dtype(np.float32).itemsize),
            answers=device.host((most, labels), np.float32),
            stream=self._stream(),
        )

    def _allocate(self, size: int) -> int:
        self._memory.append(self._device.allocate(size))
        return self._memory[-1]

    def _stream(self) -> int:
        self._streams.append(self._device.stream())
        return self._streams[-1]

    def close(self) -> None:
        """Finish what is on its way and give everything back; a second time does nothing."""
        launcher, self._launcher = self._launcher, None
        if launcher is None:
            return
        launcher.shutdown()
        self._enqueue = _closed  # so that nothing holds the session any more
        for pointer in self._memory:
            self._device.free(pointer)
        for stream in self._streams:
            self._device.end(stream)


def batch_sizes(most: int) -> Iterator[int]:
    """Give 1, 2, 3, 4, 6, 8, 12, 16 and so on, and the largest: no batch is filled up by more than a half.

    Args:
        most: images of the largest batch.
    """
    for power in itertools.count():
        for size in sorted({2**power, 3 * 2 ** (power - 1)} if power else {1}):
            if size >= most:
                yield most
                return
            yield size


def _closed(_slot: Slot, _size: int) -> None:
    raise ModelError("the model was closed")

"""Pipelined execution on a device with separate memory: copies overlap with computation."""

import itertools
import logging
import queue
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.closing import Closing
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.manifest import Manifest
from unfreeze.serve.runtimes.device import Device, Slot

_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|ALLOC_FAILED|bad_?alloc", re.IGNORECASE)
_log = logging.getLogger(__name__)


Launch = Callable[[Slot, int], None]


class DevicePipeline(Closing):
    """A model on a device, as a `Runtime`; a context manager.

    Batches are padded to one of a few sizes, because devices prepare kernels for each size. While one batch is
    computed, the next is copied to the device in a separate stream. If the device runs out of memory, the largest
    batch is halved from then on.

    Args:
        manifest: the model's manifest.
        device: the device that executes it.
        max_batch: images in the largest batch.
        slots: number of batches in flight.
        load: loads the model, given the stream that computes, and returns a function that queues the computation of a
            slot's batch of a given size in that stream; that function is always called from the same thread.
        name: name of the model in messages.

    Raises:
        ModelError: the model cannot be loaded, or the device's memory is too small for the slots or a single image.
    """

    def __init__(
        self,
        manifest: Manifest,
        device: Device,
        *,
        max_batch: int,
        slots: int,
        load: Callable[[int], Launch],
        name: str,
    ) -> None:
        self.manifest, self._name = manifest, name
        self._device = device
        self._sizes = tuple(batch_sizes(max_batch))
        self._launcher: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="launch")
        self._memory: list[int] = []
        self._streams: list[int] = []
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._launch_batch: Launch = _closed
        try:
            self._compute = self._create_stream()
            self._launch_batch = load(self._compute)
            for number in range(slots):
                self._free.put(self._create_slot(number, max_batch))
            self._warm_up(slots)
        except BaseException:
            self.close()
            raise

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that are computed, in ascending order."""
        return self._sizes

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate page-locked memory for preprocessed images, which the device copies asynchronously."""
        return self._device.allocate_host((images, *self.manifest.preprocess.shape), np.uint8)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify preprocessed images, in several batches if necessary; may be called from any thread.

        Args:
            pixels: RGB, of the manifest's crop size.

        Returns:
            Probabilities, in the order of the manifest's labels, and the score behind them if the model has one.

        Raises:
            ModelError: the images have another size, the device failed, or the runtime is closed.
        """
        if pixels.shape[1:] != self.manifest.preprocess.shape:
            raise ModelError(
                f"{self._name} expects images of shape {self.manifest.preprocess.shape}, got {pixels.shape[1:]}"
            )
        probabilities = np.empty((len(pixels), self.manifest.answer_width), np.float32)
        done = 0
        while done < len(pixels):
            sizes = self._sizes  # another thread may halve them
            batch = np.ascontiguousarray(pixels[done : done + sizes[-1]])
            size = next(size for size in sizes if size >= len(batch))
            try:
                probabilities[done : done + len(batch)] = self._run(batch, size)
            except ModelError as error:
                if not _OUT_OF_MEMORY.search(str(error)):
                    raise
                self._halve(size, error)
            else:
                done += len(batch)
        return probabilities

    def _run(self, pixels: np.ndarray, size: int) -> np.ndarray:
        launcher = self._launcher
        if launcher is None:
            raise ModelError(f"{self._name} is closed")
        slot, device = self._free.get(), self._device
        try:
            device.copy_to_device(slot.pixels, pixels, slot.stream)
            try:
                launcher.submit(self._launch, slot, size).result()
                device.copy_to_host(slot.host_probabilities[: len(pixels)], slot.probabilities, slot.stream)
            finally:
                device.synchronize(slot.stream)  # the slot may be reused only when its copies have finished
            return slot.host_probabilities[: len(pixels)].copy()
        finally:
            self._free.put(slot)

    def _launch(self, slot: Slot, size: int) -> None:
        self._device.wait_for_stream(self._compute, slot.stream)
        try:
            self._launch_batch(slot, size)
        except ModelError:
            raise
        except Exception as error:  # the libraries' errors have no common base class
            raise ModelError(f"{self._name} failed on a batch of {size}: {first_line(error)}") from error
        self._device.wait_for_stream(slot.stream, self._compute)

    def _halve(self, failed: int, error: ModelError) -> None:
        remaining = tuple(size for size in self._sizes if size <= failed // 2)
        if not remaining:
            raise ModelError(f"{self._name} does not fit in the device's memory: {error}") from error
        if self._sizes[-1] > remaining[-1]:  # else another thread has halved them already
            self._sizes = remaining
            _log.warning(
                "%s: out of device memory for a batch of %d; batches are limited to %d from now on",
                self._name,
                failed,
                remaining[-1],
            )

    def _warm_up(self, slots: int) -> None:
        """Compute every size in every slot, the largest first, so that memory is allocated only once."""
        shape = self.manifest.preprocess.shape
        for size in reversed(self._sizes):
            for _ in range(slots):  # the slots are used in turn
                if size <= self._sizes[-1]:
                    self.run(np.zeros((size, *shape), np.uint8))

    def _create_slot(self, number: int, max_batch: int) -> Slot:
        width, device = self.manifest.answer_width, self._device
        return Slot(
            number=number,
            pixels=self._allocate(max_batch * int(np.prod(self.manifest.preprocess.shape))),
            probabilities=self._allocate(max_batch * width * np.dtype(np.float32).itemsize),
            host_probabilities=device.allocate_host((max_batch, width), np.float32),
            stream=self._create_stream(),
        )

    def _allocate(self, size: int) -> int:
        self._memory.append(self._device.allocate(size))
        return self._memory[-1]

    def _create_stream(self) -> int:
        self._streams.append(self._device.create_stream())
        return self._streams[-1]

    def close(self) -> None:
        """Finish the batches in flight and free all resources; may be called again."""
        launcher, self._launcher = self._launcher, None
        if launcher is None:
            return
        launcher.shutdown()
        self._launch_batch = _closed  # drops the reference to the session
        for pointer in self._memory:
            self._device.free(pointer)
        for stream in self._streams:
            self._device.destroy_stream(stream)


def batch_sizes(max_batch: int) -> Iterator[int]:
    """Generate 1, 2, 3, 4, 6, 8, 12, 16 and so on up to the largest batch: padding adds at most a half.

    Args:
        max_batch: images in the largest batch.
    """
    for power in itertools.count():
        for size in sorted({2**power, 3 * 2 ** (power - 1)} if power else {1}):
            if size >= max_batch:
                yield max_batch
                return
            yield size


def _closed(_slot: Slot, _size: int) -> None:
    raise ModelError("the model is closed")

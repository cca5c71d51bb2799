"""The activations at a cut, as training reads them: from a cache, or computed from the images whenever needed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.prefetch import map_ahead
from unfreeze.tune.data.views import Views, load_view
from unfreeze.tune.device.memory import halve_on_oom
from unfreeze.tune.device.precision import CPU, Precision
from unfreeze.tune.device.staging import empty_batch, stack_images
from unfreeze.tune.features.stored import NOTHING_STORED, StoredRows

_BATCHES_AHEAD = 4
BatchIndices = tuple[Tensor, Tensor]  # the images of a batch, int64 [n], and the view of each, int64 [n]


@runtime_checkable
class ActivationSource(Protocol):
    """Activations of N images in V views, at a cut.

    Args:
        position: number of blocks that computed them; at 0 they are the prepared images.
        labels: int64 [N].
        views: V.
    """

    @property
    def position(self) -> int: ...  # noqa: D102

    @property
    def labels(self) -> Tensor: ...  # noqa: D102

    @property
    def views(self) -> int: ...  # noqa: D102

    def batches(self, indices: Iterable[BatchIndices]) -> Iterator[Tensor]:
        """Yield the batch for each of the indices: [n, ...]."""

    def take(self, rows: np.ndarray) -> "ActivationSource":
        """Select images by their numbers; they are numbered from 0 in the result."""


@dataclass(frozen=True, kw_only=True)
class Cached:
    """Cached activations.

    Args:
        position: number of blocks that computed them; at 0 they are the prepared images.
        activations: [N, V, ...]: bfloat16, or uint8 [N, V, H, W, 3] at position 0.
        labels: int64 [N].
        device: the device that computes on them.
    """

    position: int
    activations: Tensor
    labels: Tensor
    device: torch.device = CPU

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.activations.shape[1]

    def batches(self, indices: Iterable[BatchIndices]) -> Iterator[Tensor]:
        """Yield batches in the memory of the activations; for another device, threads collect them in advance."""
        stored = self.activations.device
        if stored.type != self.device.type:
            yield from map_ahead(self._collect, indices, _BATCHES_AHEAD)
            return
        for rows, views in indices:
            yield self.activations[rows.to(stored, non_blocking=True), views.to(stored, non_blocking=True)]

    def take(self, rows: np.ndarray) -> "Rows":
        """Select images by their numbers, without a copy."""
        return Rows(whole=self, rows=torch.from_numpy(rows))

    def _collect(self, indices: BatchIndices) -> Tensor:
        rows, views = indices
        batch = empty_batch((len(rows), *self.activations.shape[2:]), self.activations.dtype, self.device)
        return torch.index_select(self.activations.flatten(0, 1), 0, rows * self.views + views, out=batch)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A subset of the images of a source.

    Args:
        whole: the source of all images.
        rows: the numbers of the selected images, int64 [n].
    """

    whole: ActivationSource
    rows: Tensor

    @property
    def position(self) -> int:
        """Number of blocks that computed the activations."""
        return self.whole.position

    @property
    def labels(self) -> Tensor:
        """Labels of the selected images, int64 [n]."""
        return self.whole.labels[self.rows]

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.whole.views

    def batches(self, indices: Iterable[BatchIndices]) -> Iterator[Tensor]:
        """Yield the batch for each of the indices, which number the selected images from 0."""
        return self.whole.batches((self.rows[rows], views) for rows, views in indices)

    def take(self, rows: np.ndarray) -> "Rows":
        """Select some of the selected images."""
        return Rows(whole=self.whole, rows=self.rows[torch.from_numpy(rows)])


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """Activations that are computed from the images for each batch, because they exceed the cache budget.

    Args:
        network: its first blocks compute them.
        position: number of those blocks.
        images: N images, all known to decode.
        recipe: how their views are made.
        precision: device and numeric type to compute in.
        labels: int64 [N].
        stored: results of earlier runs, which a cache is filled from.
    """

    network: Network
    position: int
    images: tuple[LabeledImage, ...]
    recipe: Views
    precision: Precision
    labels: Tensor
    stored: StoredRows = NOTHING_STORED

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.recipe.count

    def batches(self, indices: Iterable[BatchIndices]) -> Iterator[Tensor]:
        """Yield batches, computed by the frozen blocks from images that threads decode in advance."""
        batches = list(indices)
        flat = [(row, view) for rows, views in batches for row, view in zip(rows.tolist(), views.tolist(), strict=True)]
        computed, shape = self._computed(map_ahead(self._load, flat)), self.network.border_shape(self.position)
        ready = torch.empty(0, *shape, dtype=cache_dtype(self.position), device=self._device)
        for rows, _ in batches:
            while len(ready) < len(rows):
                ready = torch.cat([ready, next(computed)])
            yield ready[: len(rows)]
            ready = ready[len(rows) :]

    def take(self, rows: np.ndarray) -> Rows:
        """Select images by their numbers."""
        return Rows(whole=self, rows=torch.from_numpy(rows))

    @property
    def _device(self) -> torch.device:
        """Where the activations are computed; images stay in main memory."""
        return self.precision.device if self.position else CPU

    def _computed(self, loaded: Iterator[np.ndarray]) -> Iterator[Tensor]:
        """Run the frozen blocks on full batches, whatever the size of those in training.

        The last one is filled up: in batches of one size, values do not depend on the other images.
        """
        size = self.precision.trunk_batch
        while images := list(islice(loaded, size)):
            filled = images + images[-1:] * (size - len(images)) if self.position else images
            pixels = stack_images(filled, self.precision.device)
            yield torch.cat([*run_trunk(self.network, pixels, 0, self.position, self.precision)])[: len(images)]

    def _load(self, row_and_view: tuple[int, int]) -> np.ndarray:
        row, view = row_and_view
        return load_view(self.images[row], self.recipe, view)


@dataclass(frozen=True, kw_only=True)
class PartlyCached:
    """Activations of which the budget holds a part; those of the other images are computed for each batch.

    Args:
        cached: the activations of K images.
        rows: their numbers, increasing, int64 [K].
        streamed: computes the activations of all N images.
    """

    cached: Cached
    rows: Tensor
    streamed: Streamed

    @property
    def position(self) -> int:
        """Number of blocks that computed the activations."""
        return self.streamed.position

    @property
    def labels(self) -> Tensor:
        """Labels of all images, int64 [N]."""
        return self.streamed.labels

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.streamed.views

    def batches(self, indices: Iterable[BatchIndices]) -> Iterator[Tensor]:
        """Yield batches in the order of the indices, wherever the activations come from."""
        places = torch.full((len(self.labels),), -1)
        places[self.rows] = torch.arange(len(self.rows))
        batches = [(rows, views, places[rows] >= 0) for rows, views in indices]
        stored = self.cached.batches((places[rows[kept]], views[kept]) for rows, views, kept in batches)
        computed = self.streamed.batches((rows[~kept], views[~kept]) for rows, views, kept in batches)
        yield from merge_batches((kept for _, _, kept in batches), stored, computed)

    def take(self, rows: np.ndarray) -> Rows:
        """Select images by their numbers."""
        return Rows(whole=self, rows=torch.from_numpy(rows))


def merge_batches(from_first: Iterable[Tensor], first: Iterable[Tensor], second: Iterable[Tensor]) -> Iterator[Tensor]:
    """Merge the batches of two sources.

    Args:
        from_first: which samples of each batch the first source has, bool [n].
        first: its samples of each batch.
        second: the other samples of each batch.

    Yields:
        The batches, on the device of the second source.
    """
    for kept, one, other in zip(from_first, first, second, strict=True):
        merged = torch.empty((len(kept), *one.shape[1:]), dtype=one.dtype, device=other.device)
        merged[kept.to(other.device)] = one.to(other.device, non_blocking=True)
        merged[~kept.to(other.device)] = other
        yield merged


def cache_dtype(position: int) -> torch.dtype:
    """Return the type in which the activations after `position` blocks are cached; at 0, that of the images."""
    return torch.bfloat16 if position else torch.uint8


def run_trunk(network: Network, batch: Tensor, first: int, last: int, precision: Precision) -> Iterator[Tensor]:
    """Run blocks `first` to `last - 1` without gradients, `precision.trunk_batch` images at a time.

    Args:
        network: the network, in eval mode, on the precision's device.
        batch: [n, ...].
        first: the first block.
        last: the block after the last one.
        precision: device and numeric type to compute in.

    Yields:
        Slices of the result, [m, ...], in order: bfloat16 on the precision's device; slices of `batch` itself where
        `first` equals `last`.

    Raises:
        UnfreezeError: the GPU has too little memory for a single image.
    """
    for inputs in batch.split(precision.trunk_batch):
        if first == last:
            yield inputs
            continue
        for outputs in halve_on_oom(partial(run_frozen, network, precision, first, last), inputs):
            yield outputs.to(torch.bfloat16)


def run_frozen(network: Network, precision: Precision, first: int, last: int, batch: Tensor) -> Tensor:
    """Run blocks `first` to `last - 1` on a whole batch without gradients."""
    with torch.inference_mode(), precision.autocast():
        return network.run_blocks(precision.to_device(batch), first, last)

"""Activations at a cut: computed once and kept, or computed anew where there is no room to keep them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.backbones.network import Network, pool
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.prefetch import map_ahead
from unfreeze.tune.data.views import Views, load_view
from unfreeze.tune.device.memory import in_halves
from unfreeze.tune.device.precision import CPU, Precision
from unfreeze.tune.device.staging import stacked, staged
from unfreeze.tune.features.placement import CachePlacement

_BATCHES_AHEAD = 4
Advance = Callable[[int], None]
Deal = tuple[Tensor, Tensor]  # which images, int64 [n], and which view of each, int64 [n]


@runtime_checkable
class Source(Protocol):
    """Where training gets its activations from: N images in V views, at a cut.

    Args:
        position: how many blocks made them; at 0 they are the prepared images themselves.
        labels: int64 [N].
        views: V.
    """

    position: int
    labels: Tensor

    @property
    def views(self) -> int: ...  # noqa: D102

    def batches(self, deals: Iterable[Deal]) -> Iterator[Tensor]:
        """Give one batch a deal: [n, ...]."""

    def take(self, rows: np.ndarray) -> "Source":
        """Take some of the images, by their numbers."""


@dataclass(frozen=True, kw_only=True)
class Cached:
    """Activations that are kept.

    Args:
        position: how many blocks made them; at 0 they are the prepared images themselves.
        activations: [N, V, ...]: bfloat16 [F, h, w] each, or uint8 [H, W, 3] each at position 0.
        labels: int64 [N].
        device: what computes on them.
    """

    position: int
    activations: Tensor
    labels: Tensor
    device: torch.device = CPU

    @property
    def views(self) -> int:
        """How many there are of each image."""
        return self.activations.shape[1]

    def batches(self, deals: Iterable[Deal]) -> Iterator[Tensor]:
        """Give one batch a deal, where the activations lie; those for another device are collected ahead in threads."""
        lie = self.activations.device
        if lie.type != self.device.type:
            yield from map_ahead(self._collect, deals, _BATCHES_AHEAD)
            return
        for rows, views in deals:
            yield self.activations[rows.to(lie, non_blocking=True), views.to(lie, non_blocking=True)]

    def take(self, rows: np.ndarray) -> "Rows":
        """Take some of the images, by their numbers, without copying them."""
        return Rows(whole=self, rows=torch.from_numpy(rows))

    def _collect(self, deal: Deal) -> Tensor:
        rows, views = deal
        batch = staged((len(rows), *self.activations.shape[2:]), self.activations.dtype, self.device)
        return torch.index_select(self.activations.flatten(0, 1), 0, rows * self.views + views, out=batch)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some images of a source.

    Args:
        whole: all of them.
        rows: the numbers of those taken, int64 [n].
    """

    whole: "Cached | Streamed"
    rows: Tensor

    @property
    def position(self) -> int:
        """How many blocks made the activations."""
        return self.whole.position

    @property
    def labels(self) -> Tensor:
        """Of the images taken, int64 [n]."""
        return self.whole.labels[self.rows]

    @property
    def views(self) -> int:
        """How many there are of each image."""
        return self.whole.views

    def batches(self, deals: Iterable[Deal]) -> Iterator[Tensor]:
        """Give one batch a deal."""
        return self.whole.batches((self.rows[rows], views) for rows, views in deals)

    def take(self, rows: np.ndarray) -> "Rows":
        """Take some of those taken."""
        return Rows(whole=self.whole, rows=self.rows[torch.from_numpy(rows)])


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """Activations that are computed whenever they are asked for, because there is no room to keep them.

    Args:
        network: whose first blocks compute them.
        position: how many.
        images: N of them, all known to decode.
        recipe: how their views are made.
        precision: to run in.
        labels: int64 [N].
    """

    network: Network
    position: int
    images: tuple[LabeledImage, ...]
    recipe: Views
    precision: Precision
    labels: Tensor

    @property
    def views(self) -> int:
        """How many there are of each image."""
        return self.recipe.count

    def batches(self, deals: Iterable[Deal]) -> Iterator[Tensor]:
        """Decode, run the frozen blocks, and give one batch a deal; images are decoded ahead in threads."""
        dealt = list(deals)
        wanted = [(row, view) for rows, views in dealt for row, view in zip(rows.tolist(), views.tolist(), strict=True)]
        loaded = map_ahead(self._load, wanted)
        for rows, _ in dealt:
            if not len(rows):  # a small batch, of which another process has all images
                yield torch.empty(0, *self.network.border_shape(self.position), dtype=kept_type(self.position))
                continue
            pixels = stacked(list(islice(loaded, len(rows))), self.precision.device)
            yield torch.cat([*run_trunk(self.network, pixels, 0, self.position, self.precision)])

    def take(self, rows: np.ndarray) -> Rows:
        """Take some of the images, by their numbers."""
        return Rows(whole=self, rows=torch.from_numpy(rows))

    def _load(self, wanted: tuple[int, int]) -> np.ndarray:
        row, view = wanted
        return load_view(self.images[row], self.recipe, view)


def kept_type(position: int) -> torch.dtype:
    """Tell in which type activations behind so many blocks are kept; at 0, the images themselves."""
    return torch.bfloat16 if position else torch.uint8


def cache_bytes(network: Network, position: int, images: int, views: int) -> int:
    """Work out how much room activations take."""
    return images * views * math.prod(network.border_shape(position)) * kept_type(position).itemsize


def fits(network: Network, position: int, images: int, views: int, placement: CachePlacement) -> bool:
    """Tell whether activations may be kept."""
    return cache_bytes(network, position, images, views) <= placement.budget_bytes


def allocate_at(network: Network, position: int, images: int, views: int, placement: CachePlacement) -> Tensor:
    """Make room for the activations behind so many blocks: [N, V, ...].

    Raises:
        UnfreezeError: there is no room on the disk.
    """
    return placement.allocate((images, views, *network.border_shape(position)), kept_type(position))


def run_trunk(network: Network, batch: Tensor, first: int, last: int, precision: Precision) -> Iterator[Tensor]:
    """Run blocks `first` to `last - 1` without gradients, a few images at a time.

    Args:
        network: in eval mode, on the precision's device.
        batch: [n, ...].
        first: the first block.
        last: the one behind the last.
        precision: to run in.

    Yields:
        Parts of the result, [m, ...], in order: bfloat16 on the precision's device; what came in where there is nothing
        to run.

    Raises:
        UnfreezeError: the GPU's memory does not hold a single image.
    """
    for part in batch.split(precision.trunk_batch):
        if first == last:
            yield part
            continue
        for computed in in_halves(partial(_run_frozen, network, precision, first, last), part):
            yield computed.to(torch.bfloat16)


def _run_frozen(network: Network, precision: Precision, first: int, last: int, batch: Tensor) -> Tensor:
    with torch.inference_mode(), precision.autocast():
        return network.run_blocks(precision.lay_out(batch), first, last)


def advance_cache(
    network: Network, cached: Cached, position: int, precision: Precision, placement: CachePlacement
) -> Cached:
    """Take cached activations on to a later cut."""
    if position == cached.position:
        return cached
    kept = allocate_at(network, position, *cached.activations.shape[:2], placement)
    flat, done = kept.flatten(0, 1), 0
    for part in run_trunk(network, cached.activations.flatten(0, 1), cached.position, position, precision):
        flat[done : done + len(part)] = part
        done += len(part)
    return replace(cached, position=position, activations=kept)


def keep(streamed: Streamed, placement: CachePlacement, reporter: Reporter | None = None) -> "Cached | Streamed":
    """Compute activations once and keep them; where there is no placement, leave them to be computed when wanted.

    Args:
        streamed: what computes them.
        placement: where to keep them.
        reporter: shows progress.
    """
    network, count, views = streamed.network, len(streamed.images), streamed.views
    if not fits(network, streamed.position, count, views, placement):
        return streamed
    advance = (reporter or Silent()).track("keeping the activations", count)
    kept = allocate_at(network, streamed.position, count, views, placement)
    size = max(1, streamed.precision.trunk_batch // views)
    deals = [
        (rows.repeat_interleave(views), torch.arange(views).repeat(len(rows)))
        for rows in torch.arange(count).split(size)
    ]
    for (rows, _), batch in zip(deals, streamed.batches(deals), strict=True):
        first, last = int(rows[0]), int(rows[-1]) + 1
        kept[first:last] = batch.unflatten(0, (last - first, views))
        advance(last - first)
    return Cached(
        position=streamed.position, activations=kept, labels=streamed.labels, device=streamed.precision.device
    )


def pooled_features(network: Network, source: Source, precision: Precision, views: int | None = None) -> Tensor:
    """Run the rest of the blocks in eval mode and pool, for the first `views` views: float32 [N, V, F] on the CPU."""
    last, count = len(network.block_names), views or source.views
    numbers = torch.arange(len(source.labels))
    deals = [
        (rows, torch.full_like(rows, view)) for rows in numbers.split(precision.trunk_batch) for view in range(count)
    ]
    pooled = [_pooled(network, batch, source.position, last, precision) for batch in source.batches(deals)]
    return torch.cat([torch.stack(pooled[first : first + count], 1) for first in range(0, len(pooled), count)])


def _pooled(network: Network, batch: Tensor, first: int, last: int, precision: Precision) -> Tensor:
    computed = in_halves(partial(_run_frozen, network, precision, first, last), batch)
    return torch.cat([pool(activations).cpu() for activations in computed])

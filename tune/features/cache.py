"""Compute activations once and cache them, within a budget."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import DataError
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.memory import halve_on_oom
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.activations import (
    ActivationSource,
    Cached,
    PartlyCached,
    Streamed,
    cache_dtype,
    run_frozen,
    run_trunk,
)
from unfreeze.tune.features.collect import FrozenPass
from unfreeze.tune.features.columns import Columns
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.features.rows import CollectedRows

_MAP_AXES = 3  # features, height and width; tokens and features have fewer


def cache_bytes(network: Network, position: int, images: int, views: int) -> int:
    """Return the size of the activations after `position` blocks."""
    return images * views * math.prod(network.border_shape(position)) * cache_dtype(position).itemsize


def choose_cached(network: Network, position: int, images: int, views: int, free_bytes: int) -> np.ndarray:
    """Choose the images whose activations after `position` blocks are cached: evenly spaced, as many as fit.

    The images of a dataset are in the order of their classes, so that the choice is balanced.

    Args:
        network: the network.
        position: number of blocks.
        images: N.
        views: of each image.
        free_bytes: what is left of the budget.

    Returns:
        Their numbers, increasing, int64.
    """
    fitting = min(images, max(0, free_bytes) // cache_bytes(network, position, 1, views))
    return np.arange(fitting, dtype=np.int64) * images // max(1, fitting)


def allocate_at(network: Network, position: int, images: int, views: int, placement: CachePlacement) -> Tensor:
    """Allocate a cache for the activations after `position` blocks: [N, V, ...].

    Maps [F, h, w] are stored with their features innermost, as `Precision.to_device` returns them, so that training
    does not transpose every batch.

    Raises:
        UnfreezeError: the disk is full.
    """
    shape, dtype = network.border_shape(position), cache_dtype(position)
    if len(shape) == _MAP_AXES and position:
        features, height, width = shape
        return placement.allocate((images, views, height, width, features), dtype).movedim(-1, 2)
    return placement.allocate((images, views, *shape), dtype)


def advance_cache(
    network: Network,
    cached: Cached,
    position: int,
    precision: Precision,
    placement: CachePlacement,
    rows: Tensor | None = None,
) -> Cached:
    """Compute the activations at a later cut from cached ones, into a new cache.

    Args:
        network: the network.
        cached: activations at an earlier cut.
        position: number of blocks before the later cut.
        precision: device and numeric type to compute in.
        placement: where to cache them.
        rows: numbers of the cached images to compute, int64; all by default.
    """
    if position == cached.position:
        return cached
    rows, views = torch.arange(len(cached.labels)) if rows is None else rows, cached.views
    allocated = allocate_at(network, position, len(rows), views, placement)
    flat, done = allocated.flatten(0, 1), 0
    places = (rows[:, None] * views + torch.arange(views)).flatten().to(cached.activations.device)
    inputs = (cached.activations.flatten(0, 1)[some] for some in places.split(precision.trunk_batch))
    for batch in inputs:
        for outputs in run_trunk(network, batch, cached.position, position, precision):
            flat[done : done + len(outputs)] = outputs
            done += len(outputs)
    return replace(cached, position=position, activations=allocated, labels=cached.labels[rows])


def cache_activations(
    streamed: Streamed, placement: CachePlacement, reporter: Reporter | None = None, taken_bytes: int = 0
) -> Cached | PartlyCached | Streamed:
    """Compute activations once and cache as many as the budget holds; return `streamed` unchanged where it holds none.

    Args:
        streamed: computes the activations.
        placement: where to cache them.
        reporter: shows progress.
        taken_bytes: what another cache takes of the budget.

    Raises:
        DataError: an image no longer decodes.
    """
    network, count, views = streamed.network, len(streamed.images), streamed.views
    rows = choose_cached(network, streamed.position, count, views, placement.budget_bytes - taken_bytes)
    if not len(rows):
        return streamed
    count = len(rows)
    advance = (reporter or Silent()).track("caching the activations", count)
    allocated = allocate_at(network, streamed.position, count, views, placement)
    columns = Columns(position=streamed.position)
    collected = CollectedRows(count, views, {})
    collected.allocate(columns.activations, allocated.flatten(0, 1))
    run = FrozenPass(
        network=network,
        precision=streamed.precision,
        images=[streamed.images[row] for row in rows],
        views=streamed.recipe,
        stored=streamed.stored,
        batch=streamed.precision.trunk_batch,
    )
    if skipped := run.collect(columns, collected.receive, advance):
        raise DataError(f"{skipped[0].path} can no longer be decoded: {skipped[0].reason}")
    return with_cached(streamed, allocated, torch.from_numpy(rows))


def with_cached(streamed: Streamed, activations: Tensor, rows: Tensor) -> Cached | PartlyCached:
    """Combine cached activations of some images with what computes the others.

    Args:
        streamed: computes the activations of N images.
        activations: cached ones, [K, V, ...].
        rows: the numbers of their images, int64 [K].
    """
    cached = Cached(
        position=streamed.position,
        activations=activations,
        labels=streamed.labels[rows],
        device=streamed.precision.device,
    )
    return cached if len(rows) == len(streamed.labels) else PartlyCached(cached=cached, rows=rows, streamed=streamed)


def pooled_features(
    network: Network, source: ActivationSource, precision: Precision, views: int | None = None
) -> Tensor:
    """Run the remaining blocks in eval mode and pool the result.

    Args:
        network: the network, in eval mode, on the precision's device.
        source: the activations to start from.
        precision: device and numeric type to compute in.
        views: number of views to use, V, from the first on; all by default.

    Returns:
        Float32 [N, V, F] on the CPU.
    """
    last, count = len(network.block_names), views or source.views
    numbers = torch.arange(len(source.labels))
    indices = [
        (rows, torch.full_like(rows, view)) for rows in numbers.split(precision.trunk_batch) for view in range(count)
    ]
    pooled = [_pooled(network, batch, source.position, last, precision) for batch in source.batches(indices)]
    return torch.cat([torch.stack(pooled[first : first + count], 1) for first in range(0, len(pooled), count)])


def _pooled(network: Network, batch: Tensor, first: int, last: int, precision: Precision) -> Tensor:
    outputs = halve_on_oom(partial(run_frozen, network, precision, first, last), batch)
    return torch.cat([network.head.pool(activations).cpu() for activations in outputs])

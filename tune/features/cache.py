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
    Streamed,
    cache_dtype,
    run_frozen,
    run_trunk,
)
from unfreeze.tune.features.collect import FrozenPass
from unfreeze.tune.features.columns import Columns
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.features.rows import CollectedRows


def cache_bytes(network: Network, position: int, images: int, views: int) -> int:
    """Return the size of the activations after `position` blocks."""
    return images * views * math.prod(network.border_shape(position)) * cache_dtype(position).itemsize


def fits(network: Network, position: int, images: int, views: int, placement: CachePlacement) -> bool:
    """Return whether the activations after `position` blocks are within the budget of a cache."""
    return cache_bytes(network, position, images, views) <= placement.budget_bytes


def allocate_at(network: Network, position: int, images: int, views: int, placement: CachePlacement) -> Tensor:
    """Allocate a cache for the activations after `position` blocks: [N, V, ...].

    Raises:
        UnfreezeError: the disk is full.
    """
    return placement.allocate((images, views, *network.border_shape(position)), cache_dtype(position))


def advance_cache(
    network: Network, cached: Cached, position: int, precision: Precision, placement: CachePlacement
) -> Cached:
    """Compute the activations at a later cut from cached ones, into a new cache."""
    if position == cached.position:
        return cached
    images, views = cached.activations.shape[:2]
    allocated = allocate_at(network, position, images, views, placement)
    flat, done = allocated.flatten(0, 1), 0
    for outputs in run_trunk(network, cached.activations.flatten(0, 1), cached.position, position, precision):
        flat[done : done + len(outputs)] = outputs
        done += len(outputs)
    return replace(cached, position=position, activations=allocated)


def cache_activations(
    streamed: Streamed, placement: CachePlacement, reporter: Reporter | None = None
) -> Cached | Streamed:
    """Compute activations once and cache them; return `streamed` unchanged where they exceed the budget.

    Args:
        streamed: computes the activations.
        placement: where to cache them.
        reporter: shows progress.

    Raises:
        DataError: an image no longer decodes.
    """
    network, count, views = streamed.network, len(streamed.images), streamed.views
    if not fits(network, streamed.position, count, views, placement):
        return streamed
    advance = (reporter or Silent()).track("caching the activations", count)
    allocated = allocate_at(network, streamed.position, count, views, placement)
    columns = Columns(position=streamed.position)
    collected = CollectedRows(views, np.zeros(count, bool))
    collected.allocate(columns.activations, allocated.flatten(0, 1))
    run = FrozenPass(
        network=network,
        precision=streamed.precision,
        images=streamed.images,
        views=streamed.recipe,
        stored=streamed.stored,
        batch=streamed.precision.trunk_batch,
    )
    if skipped := run.collect(columns, collected.receive, advance):
        raise DataError(f"{skipped[0].path} can no longer be decoded: {skipped[0].reason}")
    return Cached(
        position=streamed.position, activations=allocated, labels=streamed.labels, device=streamed.precision.device
    )


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

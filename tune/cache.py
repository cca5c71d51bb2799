"""Run the frozen trunk once and keep what it gives."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contract.errors import UnfreezeError
from tune.dataset import Picture, Skipped
from tune.network import Network, pool
from tune.precision import Precision
from tune.views import Views, load_views

_CHUNK = 32
Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Cached:
    """Activations at a cut.

    Args:
        position: how many blocks made them; at 0 they are the prepared pictures themselves.
        activations: [N, V, ...]: bfloat16 [F, h, w] each, or uint8 [H, W, 3] each at position 0.
        labels: int64 [N].
        pictures: the N pictures.
        skipped: the files that did not decode.
    """

    position: int
    activations: Tensor
    labels: Tensor
    pictures: tuple[Picture, ...]
    skipped: tuple[Skipped, ...]

    def take(self, rows: np.ndarray) -> "Cached":
        """Take some of the pictures, by their numbers."""
        numbers = torch.from_numpy(rows)
        return replace(
            self,
            activations=self.activations[numbers],
            labels=self.labels[numbers],
            pictures=tuple(self.pictures[row] for row in rows),
        )


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where activations may be kept.

    Args:
        memory_bytes: in memory; above it they go to an unnamed file.
        folder: where that file is made; it is gone with the process.
    """

    memory_bytes: int
    folder: Path


def fill_cache(
    network: Network,
    position: int,
    pictures: Sequence[Picture],
    views: Views,
    precision: Precision,
    room: Room,
    advance: Advance = lambda _: None,
) -> Cached:
    """Run the blocks before `position` over every view of every picture, once.

    Args:
        network: in eval mode, on the precision's device.
        position: how many blocks to run.
        pictures: N of them; those that do not decode are left out.
        views: V per picture.
        precision: to run in.
        room: where to keep the activations.
        advance: called with the number of pictures done.

    Raises:
        UnfreezeError: there is no room on the disk.
    """
    skipped: list[Skipped] = []
    kept: list[Picture] = []
    store: Tensor | None = None
    for chunk in _chunks(load_views(pictures, views, skipped)):
        computed = run_trunk(network, np.stack([made for _, made in chunk]), 0, position, precision)
        if store is None:
            store = _allocate((len(pictures), *computed.shape[1:]), computed.dtype, room)
        store[len(kept) : len(kept) + len(chunk)] = computed
        kept += [picture for picture, _ in chunk]
        advance(len(chunk))
    return Cached(
        position=position,
        activations=torch.empty(0) if store is None else store[: len(kept)],
        labels=torch.tensor([picture.label for picture in kept], dtype=torch.int64),
        pictures=tuple(kept),
        skipped=tuple(skipped),
    )


def run_trunk(network: Network, inputs: np.ndarray | Tensor, first: int, last: int, precision: Precision) -> Tensor:
    """Run blocks `first` to `last - 1` without gradients: [n, V, ...] to [n, V, ...], bfloat16, on the CPU."""
    batch = torch.as_tensor(inputs)
    if last == 0:
        return batch
    flat = precision.lay_out(batch.flatten(0, 1))
    with torch.inference_mode(), precision.autocast():
        computed = network.run_blocks(flat, first, last)
    return computed.to("cpu", torch.bfloat16).unflatten(0, batch.shape[:2])


def advance_cache(network: Network, cached: Cached, position: int, precision: Precision) -> Cached:
    """Take cached activations on to a later cut."""
    if position == cached.position:
        return cached
    parts = [
        run_trunk(network, part, cached.position, position, precision) for part in cached.activations.split(_CHUNK)
    ]
    return replace(cached, position=position, activations=torch.cat(parts))


def cache_at(network: Network, cached: Cached, features: Tensor, position: int, precision: Precision) -> Cached:
    """Take cached activations on to a later cut; behind the last block, pooled `features` [N, V, F] stand for them."""
    if position == len(network.block_names):
        return replace(cached, position=position, activations=features[..., None, None])
    return advance_cache(network, cached, position, precision)


def pooled_features(network: Network, cached: Cached, precision: Precision, views: int | None = None) -> Tensor:
    """Run the rest of the blocks in eval mode and pool, for the first `views` views: float32 [N, V, F] on the CPU."""
    last = len(network.block_names)
    parts = []
    for part in cached.activations[:, :views].split(_CHUNK):
        flat = precision.lay_out(part.flatten(0, 1))
        with torch.inference_mode(), precision.autocast():
            computed = pool(network.run_blocks(flat, cached.position, last))
        parts.append(computed.float().cpu().unflatten(0, part.shape[:2]))
    return torch.cat(parts).clone()


def _chunks(loaded: Iterator[tuple[Picture, np.ndarray]]) -> Iterator[list[tuple[Picture, np.ndarray]]]:
    while chunk := list(islice(loaded, _CHUNK)):
        yield chunk


def _allocate(shape: tuple[int, ...], dtype: torch.dtype, room: Room) -> Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    if size <= room.memory_bytes:
        return torch.empty(shape, dtype=dtype)
    try:
        with tempfile.NamedTemporaryFile(dir=room.folder, prefix=".activations-") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, and not a crash later
            storage = torch.from_file(file.name, shared=True, size=int(np.prod(shape)), dtype=dtype)
    except (OSError, RuntimeError) as error:
        raise UnfreezeError(
            f"the activations need {size / 1e9:.1f} GB: more than --cache-gb allows in memory, and {room.folder} "
            f"cannot take them ({error}); free some space there, or use fewer --views or a later --cut"
        ) from error
    return storage.view(shape)

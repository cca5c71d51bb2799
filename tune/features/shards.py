"""The activations that one of several processes caches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unfreeze.tune.device.distributed import Workers
from unfreeze.tune.features.activations import BatchIndices, Cached, PartlyCached, Rows, Streamed


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The activations of this process's images, addressed by the image numbers that all processes share.

    Args:
        own: the activations of this process's images.
        labels: of all images, int64 [N].
        workers: the processes.
    """

    own: Cached | PartlyCached | Streamed
    labels: Tensor
    workers: Workers

    @property
    def position(self) -> int:
        """Number of blocks that computed the activations."""
        return self.own.position

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.own.views

    def batches(self, indices: Iterable[BatchIndices]) -> Iterator[Tensor]:
        """Yield this process's images of each batch."""
        count = self.workers.count
        owned = ((self.workers.owns(rows), rows, views) for rows, views in indices)
        return self.own.batches((rows[mask] // count, views[mask]) for mask, rows, views in owned)

    def take(self, rows: np.ndarray) -> Rows:
        """Raise, because only a single process cross-validates."""
        raise NotImplementedError(rows)

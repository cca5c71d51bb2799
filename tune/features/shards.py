"""The activations that one of several processes keeps."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from unfreeze.tune.device.distributed import Workers
from unfreeze.tune.features.cache import Cached, Deal, Rows, Streamed


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The part of the images whose activations this process has, under the numbers that all processes use.

    Args:
        own: the activations of this process's images.
        labels: of all images, int64 [N].
        workers: the processes.
    """

    own: Cached | Streamed
    labels: Tensor
    workers: Workers

    @property
    def position(self) -> int:
        """How many blocks made the activations."""
        return self.own.position

    @property
    def views(self) -> int:
        """How many there are of each image."""
        return self.own.views

    def batches(self, deals: Iterable[Deal]) -> Iterator[Tensor]:
        """Give this process's part of each deal."""
        count = self.workers.count
        mine = ((self.workers.own(rows), rows, views) for rows, views in deals)
        return self.own.batches((rows[own] // count, views[own]) for own, rows, views in mine)

    def take(self, rows: Sequence[int]) -> Rows:
        """Refuse: what is chosen by cross-validation is chosen by one process."""
        raise NotImplementedError(rows)

"""The activations of labeled images and of images without a label, as one source."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfreeze.tune.features.activations import ActivationSource, BatchIndices, Rows, merge_batches


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The images of one source, followed by those of another, at the same cut and in as many views.

    Args:
        first: has the first images.
        second: has the others.
    """

    first: ActivationSource
    second: ActivationSource

    @property
    def position(self) -> int:
        """Number of blocks that computed the activations."""
        return self.first.position

    @property
    def labels(self) -> Tensor:
        """Labels of all images, int64 [N]."""
        return torch.cat([self.first.labels, self.second.labels])

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.first.views

    def batches(self, indices: Iterable[BatchIndices]) -> Iterator[Tensor]:
        """Yield batches in the order of the indices, whichever source has the images."""
        count = len(self.first.labels)
        batches = [(rows, views, rows < count) for rows, views in indices]
        first = self.first.batches((rows[own], views[own]) for rows, views, own in batches)
        second = self.second.batches((rows[~own] - count, views[~own]) for rows, views, own in batches)
        yield from merge_batches((own for _, _, own in batches), first, second)

    def take(self, rows: np.ndarray) -> Rows:
        """Select images by their numbers."""
        return Rows(whole=self, rows=torch.from_numpy(rows))

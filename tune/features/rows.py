"""Columns of numbers for the views of images, gathered in the order of the images."""

import numpy as np
import torch
from torch import Tensor

from unfreeze.tune.features.columns import border_position


class CollectedRows:
    """The columns of N images in V views, received in any order.

    Args:
        views: V.
        surveyed: which images have columns after every block, bool [N].

    Attributes:
        columns: values by column, [n V, ...]: of all images, or of the surveyed ones.
    """

    def __init__(self, views: int, surveyed: np.ndarray) -> None:
        self._views, self._surveyed = views, surveyed
        self._places = torch.from_numpy(np.cumsum(surveyed) - 1)  # of the surveyed images among themselves
        self.columns: dict[str, Tensor] = {}

    def allocate(self, column: str, values: Tensor) -> None:
        """Use a tensor for a column, [N V, ...]; a column without one is allocated when it is received."""
        self.columns[column] = values

    def receive(self, column: str, rows: Tensor, values: Tensor) -> None:
        """Put the values of some rows in their places."""
        count = len(self._surveyed)
        if border_position(column):
            count = int(self._surveyed.sum())
            rows = self._places[rows // self._views] * self._views + rows % self._views
        if column not in self.columns:
            shape = (count * self._views, *values.shape[1:])
            self.columns[column] = torch.empty(shape, dtype=values.dtype)
        first, last = int(rows[0]), int(rows[-1]) + 1
        in_order = last - first == len(rows) and bool((rows.diff() == 1).all())
        target = self.columns[column]
        target[slice(first, last) if in_order else rows.to(target.device)] = values.to(target.device)

    def by_image(self, kept: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Return the columns of the images that decode.

        Args:
            kept: which images do, bool [N].

        Returns:
            Values by column, [n, V, ...], in the memory of the columns; and the numbers of the surveyed images among
            those that decode, int64.
        """
        of_surveyed = kept[self._surveyed]
        columns = {
            column: _compacted(values.unflatten(0, (-1, self._views)), of_surveyed if border_position(column) else kept)
            for column, values in self.columns.items()
        }
        return columns, torch.from_numpy(np.flatnonzero(self._surveyed[kept]))


def _compacted(values: Tensor, kept: np.ndarray) -> Tensor:
    """Move the images that are kept together, without a second copy of all: a cache may fill half of the memory."""
    numbers = np.flatnonzero(kept).tolist()
    for place, number in enumerate(numbers):
        if place != number:
            values[place] = values[number]
    return values[: len(numbers)]

"""Columns of numbers for the views of images, gathered in the order of the images."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class CollectedRows:
    """The columns of N images in V views, received in any order.

    Args:
        images: N.
        views: V.
        only: of which images a column is kept, bool [N], by its name; of all images if it is not named.

    Attributes:
        columns: values by column, [n V, ...].
    """

    def __init__(self, images: int, views: int, only: Mapping[str, np.ndarray]) -> None:
        self._images, self._views, self._only = images, views, only
        self._places = {column: torch.from_numpy(np.cumsum(chosen) - 1) for column, chosen in only.items()}
        self.columns: dict[str, Tensor] = {}

    def allocate(self, column: str, values: Tensor) -> None:
        """Use a tensor for a column, [n V, ...]; a column without one is allocated when it is received."""
        self.columns[column] = values

    def receive(self, column: str, rows: Tensor, values: Tensor) -> None:
        """Put the values of some rows in their places."""
        count = self._images
        if column in self._only:
            count = int(self._only[column].sum())
            rows = self._places[column][rows // self._views] * self._views + rows % self._views
        if column not in self.columns:
            shape = (count * self._views, *values.shape[1:])
            self.columns[column] = torch.empty(shape, dtype=values.dtype)
        first, last = int(rows[0]), int(rows[-1]) + 1
        in_order = last - first == len(rows) and bool((rows.diff() == 1).all())
        target = self.columns[column]
        target[slice(first, last) if in_order else rows.to(target.device)] = values.to(target.device)

    def by_image(self, kept: np.ndarray) -> dict[str, Tensor]:
        """Return the columns of the images that decode, [n, V, ...], in the memory of the columns.

        Args:
            kept: which images do, bool [N].
        """
        return {
            column: _compacted(
                values.unflatten(0, (-1, self._views)), kept[self._only[column]] if column in self._only else kept
            )
            for column, values in self.columns.items()
        }


def _compacted(values: Tensor, kept: np.ndarray) -> Tensor:
    """Move the images that are kept together, without a second copy of all: a cache may fill half of the memory."""
    numbers = np.flatnonzero(kept).tolist()
    for place, number in enumerate(numbers):
        if place != number:
            values[place] = values[number]
    return values[: len(numbers)]

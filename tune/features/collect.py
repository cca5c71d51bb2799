"""Collect what the frozen blocks compute for images: read what is stored, compute and store the rest."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import ImageError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.images import LabeledImage, Skipped
from unfreeze.tune.data.prefetch import map_ahead
from unfreeze.tune.data.views import Views, make_views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.device.staging import stack_images
from unfreeze.tune.features.columns import (
    Columns,
    ReceiveRows,
    border_columns,
    compute_columns,
    from_array,
    to_array,
)
from unfreeze.tune.features.stored import StoredRows, row_key

Advance = Callable[[int], None]
Only = Mapping[str, np.ndarray]
NO_LIMITS: Only = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Row:
    """One view of an image.

    Args:
        number: of the row.
        key: of the row in the store.
        pixels: the prepared view, [H, W, 3].
    """

    number: int
    key: str
    pixels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FrozenPass:
    """One pass of the frozen blocks over N images in V views; row n V + v is view v of image n.

    Args:
        network: the network, in eval mode, on the precision's device.
        precision: device and numeric type to compute in.
        images: those that do not decode are left out.
        views: how the V views of an image are made.
        stored: rows that earlier runs computed.
        batch: rows that are computed at a time. Every batch has this size, the last one is filled up, so that the
            values of an image do not depend on the other images.
    """

    network: Network
    precision: Precision
    images: Sequence[LabeledImage]
    views: Views
    stored: StoredRows
    batch: int

    def collect(
        self, columns: Columns, receive: ReceiveRows, advance: Advance, only: Only = NO_LIMITS
    ) -> tuple[Skipped, ...]:
        """Collect the columns of all images.

        Args:
            columns: the columns.
            receive: called with a column, the numbers of rows and their values, in any order. What is received for an
                image that does not decode has no meaning.
            advance: called with the number of images done since the last call.
            only: of which images a column is received, bool [N], by its name; of all images if it is not named. Columns
                that are read together have the same images.

        Returns:
            The files that do not decode.

        Raises:
            UnfreezeError: the GPU has too little memory for a single image.
        """
        done = self._read(columns, only, receive)
        advance(int(done.sum()))
        skipped: list[Skipped] = []
        pending = np.flatnonzero(~done).tolist()
        with self.precision.kernels(len(pending) * self.views.count // self.batch):
            rows = self._load_rows(pending, skipped, advance)
            while batch := list(islice(rows, self.batch)):
                self._compute(batch, columns, only, receive)
        return tuple(skipped)

    def _read(self, columns: Columns, only: Only, receive: ReceiveRows) -> np.ndarray:
        """Read the images of which all columns are stored; return which ones, bool [N]."""
        views, done = self.views.count, np.ones(len(self.images), bool)
        if not self.stored.space.is_on:
            return ~done
        keys = self.stored.keys(self.images, self.views)
        every = np.arange(len(keys))
        groups = [
            (names, every[only[names[0]][every // views]] if names[0] in only else every)
            for names in columns.groups(self.network)
        ]
        for names, rows in groups:
            found = self.stored.space.find([keys[row] for row in rows], names)
            done[rows[~found] // views] = False
        for names, rows in groups:
            chosen = rows[done[rows // views]]
            found = self.stored.space.read([keys[row] for row in chosen], names, partial(_deliver, receive, chosen))
            done[chosen[~found] // views] = False
        return done

    def _load_rows(self, pending: Sequence[int], skipped: list[Skipped], advance: Advance) -> Iterator[_Row]:
        """Decode images ahead of their use."""
        load = partial(load_keyed_views, self.views)
        for number, loaded in zip(pending, map_ahead(load, (self.images[one] for one in pending)), strict=True):
            advance(1)
            if isinstance(loaded, Skipped):
                skipped.append(loaded)
                continue
            for view, (key, pixels) in enumerate(loaded):
                yield _Row(number=number * self.views.count + view, key=key, pixels=pixels)

    def _compute(self, batch: list[_Row], columns: Columns, only: Only, receive: ReceiveRows) -> None:
        """Compute, deliver and store a batch."""
        images = np.array([row.number for row in batch]) // self.views.count
        surveyed = only.get(border_columns(self.network)[0])
        needed = replace(columns, borders=columns.borders and (surveyed is None or bool(surveyed[images].any())))
        filled = [row.pixels for row in batch] + [batch[-1].pixels] * (self.batch - len(batch))
        pixels = stack_images(filled, self.precision.device)
        computed = compute_columns(self.network, self.precision, needed, pixels)
        for names in needed.groups(self.network):
            chosen = only[names[0]][images] if names[0] in only else np.ones(len(batch), bool)
            kept = np.flatnonzero(chosen).tolist()
            if not kept:
                continue
            numbers = torch.tensor([batch[index].number for index in kept])
            values = {name: _take(computed[name], kept) for name in names}
            for name in names:
                receive(name, numbers, values[name])
            if self.stored.space.accepts_rows:
                arrays = {name: to_array(rows) for name, rows in values.items()}
                self.stored.space.add([batch[index].key for index in kept], arrays)


def _deliver(receive: ReceiveRows, rows: np.ndarray, column: str, positions: np.ndarray, values: np.ndarray) -> None:
    receive(column, torch.from_numpy(rows[positions]), from_array(values))


def _take(values: Tensor, kept: Sequence[int]) -> Tensor:
    """Select rows; without a copy if they are the first ones."""
    return values[: len(kept)] if len(kept) == kept[-1] + 1 else values[list(kept)]


def load_keyed_views(views: Views, image: LabeledImage) -> list[tuple[str, np.ndarray]] | Skipped:
    """Decode an image; return the key and the pixels of each view.

    The key is of the bytes that are decoded here: the file may have changed since the inspection.
    """
    try:
        data = image.path.read_bytes()
        made = make_views(data, image.path.name, views)
    except (ImageError, OSError) as error:
        return Skipped(path=image.path, reason=str(error))
    digest = hashlib.sha256(data).digest()
    return [(row_key(digest, image.path.name, views, number), pixels) for number, pixels in enumerate(made)]

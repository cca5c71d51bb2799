"""What one pass of the frozen blocks computes for a view of an image, each under the name of a column."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.memory import halve_on_oom
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.store.columns import BORDER, FEATURES, activations_column, border_column, position_in

_BITS = {torch.bfloat16: torch.uint16}  # numpy has no bfloat16
ReceiveRows = Callable[[str, Tensor, Tensor], None]  # a column, the numbers of rows, int64 [n], and their values


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns to compute.

    Args:
        position: cut at which activations are taken; None for none.
        dtype: of the activations; the images at position 0 stay uint8.
        features: whether the averages after the last block are computed.
        borders: whether averages and maxima are computed after every block.
    """

    position: int | None = None
    dtype: torch.dtype = torch.bfloat16
    features: bool = False
    borders: bool = False

    def names(self, network: Network) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(name for group in self.groups(network) for name in group)

    def groups(self, network: Network) -> tuple[tuple[str, ...], ...]:
        """Return the names of the columns that are read together, in groups."""
        return (
            *([(FEATURES,)] if self.features else []),
            *([(self.activations,)] if self.position is not None else []),
            *([border_columns(network)] if self.borders else []),
        )

    @property
    def activations(self) -> str:
        """Name of the column of activations."""
        dtype = self.dtype if self.position else torch.uint8
        return activations_column(self.position or 0, str(dtype).removeprefix("torch."))

    def last_block(self, network: Network) -> int:
        """Return the number of blocks that have to run."""
        return len(network.block_names) if self.features or self.borders else self.position or 0


def border_columns(network: Network) -> tuple[str, ...]:
    """Return the columns of averages and maxima after each block, float32 [2 F]."""
    return tuple(border_column(position) for position in range(1, len(network.block_names) + 1))


def border_position(column: str) -> int | None:
    """Return the number of blocks before a column of averages and maxima; None for another column."""
    return position_in(column) if column.startswith(BORDER) else None


def compute_columns(network: Network, precision: Precision, columns: Columns, batch: Tensor) -> dict[str, Tensor]:
    """Run the blocks over a batch of images, [n, H, W, 3].

    Args:
        network: the network, in eval mode, on the precision's device.
        precision: device and numeric type to compute in.
        columns: what to compute.
        batch: the images, uint8 in RGB.

    Returns:
        Values by column, [n, ...]: activations on the device, all others float32 on the CPU.

    Raises:
        UnfreezeError: the GPU has too little memory for a single image.
    """
    parts = halve_on_oom(partial(_compute, network, precision, columns), batch)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]


def _compute(network: Network, precision: Precision, columns: Columns, batch: Tensor) -> dict[str, Tensor]:
    activations, computed = precision.to_device(batch), dict[str, Tensor]()
    last = columns.last_block(network)
    for position in range(last + 1):
        with torch.inference_mode(), precision.autocast():
            if position:
                activations = network.run_blocks(activations, position - 1, position)
            if position == columns.position:
                computed[columns.activations] = activations.to(columns.dtype) if position else activations
            if position and columns.borders:
                computed[border_column(position)] = network.pool_border(activations, position).cpu()
    if columns.features:
        computed[FEATURES] = network.head.pool(activations).cpu()
    return computed


def to_array(values: Tensor) -> np.ndarray:
    """Convert a tensor to an array; bfloat16 to its bits."""
    values = values.detach().cpu()
    array: np.ndarray = values.view(_BITS.get(values.dtype, values.dtype)).numpy()
    return array


def from_array(values: np.ndarray) -> Tensor:
    """Convert the result of `to_array` back."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor

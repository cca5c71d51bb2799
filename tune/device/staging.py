"""Batches made in main memory for a device that computes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def staged(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make an empty batch for a device: for a GPU in pinned memory, which it copies from while others go on.

    Torch keeps pinned memory for the next batch, and gives it out again only when the copy is done.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda" and torch.cuda.is_available())


def stacked(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Put images, uint8, or their views together in a batch for a device: [n, ...]."""
    batch = staged((len(images), *images[0].shape), torch.uint8, device)
    np.stack(images, out=batch.numpy())
    return batch

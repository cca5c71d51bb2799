"""Batches in main memory that a device will copy."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def empty_batch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocate a batch in main memory; for a GPU in pinned memory, from which it copies asynchronously.

    Torch caches pinned memory and reuses it only after the copy has finished.

    Args:
        shape: of the batch.
        dtype: of the batch.
        device: the device that will copy the batch.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda" and torch.cuda.is_available())


def stack_images(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Stack uint8 images of equal shape to a batch in main memory, [n, ...], for a device to copy."""
    batch = empty_batch((len(images), *images[0].shape), torch.uint8, device)
    np.stack(images, out=batch.numpy())
    return batch

"""Where cached activations are stored: on the computing device, in main memory, or in a file."""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]  # psutil ships no types
import torch
from torch import Tensor

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.device.precision import CPU

Place = Literal["device", "memory", "file"]
_DEVICE_MARGIN = 1 << 30  # for copies of the weights and the workspaces of kernels


@dataclass(frozen=True, kw_only=True)
class CachePlacement:
    """Where activations may be cached.

    Args:
        budget_bytes: largest size of all caches that exist at the same time.
        folder: gets a file for activations that do not fit into memory. The file has no name and disappears when
            the process ends.
        device: the device that computes on the activations.
    """

    budget_bytes: int
    folder: Path
    device: torch.device = CPU

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate a cache in the place that `place_for` chooses.

        Raises:
            UnfreezeError: the disk is full.
        """
        size = math.prod(shape) * dtype.itemsize
        memory_free = psutil.virtual_memory().available
        place = place_for(size, device_free=free_device_memory(self.device), memory_free=memory_free)
        if place == "file":
            return self._allocate_file(shape, dtype, size)
        return torch.empty(shape, dtype=dtype, device=self.device if place == "device" else CPU)

    def _allocate_file(self, shape: tuple[int, ...], dtype: torch.dtype, size: int) -> Tensor:
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".activations-") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a bus error later
                storage = torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype)
        except (OSError, RuntimeError) as error:
            raise UnfreezeError(
                f"the activations need {size / 1e9:.1f} GB, more than the free memory, and cannot be written to "
                f"{self.folder} ({error}); free disk space there, or use a smaller --cache-gb, fewer --views or a "
                "later --cut"
            ) from error
        return storage.view(shape)


def place_for(size: int, *, device_free: int, memory_free: int) -> Place:
    """Choose the nearest place to the computing device that has half of its free memory left afterwards.

    Args:
        size: of the activations, in bytes.
        device_free: free memory of the computing device, in bytes; 0 for a CPU, which uses main memory.
        memory_free: free main memory, in bytes.
    """
    if device_free and 2 * size + _DEVICE_MARGIN <= device_free:
        return "device"
    return "memory" if size <= memory_free // 2 else "file"


def free_device_memory(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes, including what torch has cached; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]

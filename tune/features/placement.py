"""Where activations are kept: on the device that computes, in main memory, or in a file."""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.device.precision import CPU

CACHES = 2  # at most so many are kept at the same time, and share the budget
Place = Literal["device", "memory", "file"]
_DEVICE_MARGIN = 1 << 30  # for the weights' copies and the kernels' workspaces, however small the activations are


@dataclass(frozen=True, kw_only=True)
class CachePlacement:
    """Where activations may be kept.

    Args:
        budget_bytes: the most that they may take.
        folder: where a file for them is made if they would fill memory; it has no name and is gone with the process.
        device: what computes on them.
    """

    budget_bytes: int
    folder: Path
    device: torch.device = CPU

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Make room as near to what computes as `place_for` allows.

        Raises:
            UnfreezeError: there is no room on the disk.
        """
        size = math.prod(shape) * dtype.itemsize
        place = place_for(size, device_free=free_on(self.device), memory_free=psutil.virtual_memory().available)
        if place == "file":
            return self._allocate_file(shape, dtype, size)
        return torch.empty(shape, dtype=dtype, device=self.device if place == "device" else CPU)

    def _allocate_file(self, shape: tuple[int, ...], dtype: torch.dtype, size: int) -> Tensor:
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".activations-") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, and not a crash later
                storage = torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype)
        except (OSError, RuntimeError) as error:
            raise UnfreezeError(
                f"the activations need {size / 1e9:.1f} GB: too much for the memory that is free, and {self.folder} "
                f"cannot take them ({error}); free some space there, or give a smaller --cache-gb, fewer --views or a "
                "later --cut"
            ) from error
        return storage.view(shape)


def place_for(size: int, *, device_free: int, memory_free: int) -> Place:
    """Choose where to keep activations: as near to what computes as half of what is free there is left.

    Args:
        size: what they take, in bytes.
        device_free: bytes free on the device that computes; 0 where that is the CPU, whose memory is the main memory.
        memory_free: bytes free in main memory.
    """
    if device_free and 2 * size + _DEVICE_MARGIN <= device_free:
        return "device"
    return "memory" if size <= memory_free // 2 else "file"


def free_on(device: torch.device) -> int:
    """Count the bytes that are free on a GPU, those among them that torch has kept from earlier; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]

"""Where and in which precision to compute."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from contract.errors import UnfreezeError

_CPU_TRUNK_BATCH, _CUDA_TRUNK_BATCH = 8, 64


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A device and the type that training computes in there.

    Args:
        device: where.
        dtype: of autocast regions: bfloat16 where the hardware has it, else float16 on CUDA and float32 on a CPU.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in `dtype` where that is safe, in float32 where it is not."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def trunk_batch(self) -> int:
        """How many pictures to run through frozen blocks at a time: on a CPU, as many as its caches like."""
        return _CPU_TRUNK_BATCH if self.device.type == "cpu" else _CUDA_TRUNK_BATCH

    def lay_out(self, batch: Tensor) -> Tensor:
        """Put activations on the device as convolutions like them best: in `dtype`, channels last. Pictures are so."""
        if batch.dtype == torch.uint8:
            return batch.to(self.device, non_blocking=True)
        moved = batch.to(self.device, self.dtype, non_blocking=True)
        is_map = moved.ndim == 4  # noqa: PLR2004 - tokens of transformers are [N, T, F]
        return moved.contiguous(memory_format=torch.channels_last) if is_map else moved

    def for_training(self, network: nn.Module) -> "Precision":
        """Pick what training computes in.

        The backward pass of grouped convolutions is slow in bfloat16 on CPUs: the second half of a MobileNetV3 trains
        1.5 to 1.8 times as fast in float32, although its forward pass alone takes 1.6 to 2 times as long.
        """
        grouped = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())
        return replace(self, dtype=torch.float32) if self.device.type == "cpu" and grouped else self

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scale gradients, which float16 needs and the others do not."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def choose_precision(device: Literal["auto", "cpu", "cuda"]) -> Precision:
    """Pick the device and the precision.

    Args:
        device: "auto" takes CUDA where there is one.

    Raises:
        UnfreezeError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnfreezeError(
            f"--device cuda: torch {torch.__version__} finds no usable NVIDIA GPU; see nvidia-smi, or use --device cpu"
        )
    if device != "cpu" and torch.cuda.is_available():
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return Precision(device=torch.device("cuda"), dtype=dtype)
    return Precision(device=torch.device("cpu"), dtype=torch.bfloat16 if _cpu_has_bf16() else torch.float32)


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

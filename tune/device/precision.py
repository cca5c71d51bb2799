"""Where and in which precision to compute."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.options import PrecisionName

CPU = torch.device("cpu")
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CPU_TRUNK_BATCH, _CUDA_TRUNK_BATCH = 8, 64
_FIRST_SCALE = 2.0**12  # from torch's own, 2**16, short trainings lose their first step
_REPAID = 200  # cuDNN tries up to ten kernels for each convolution, direction and shape, and each of them a few times


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A device and the type that training computes in there.

    Args:
        device: where.
        dtype: of autocast regions.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in `dtype` where that is safe, in float32 where it is not."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def trunk_batch(self) -> int:
        """How many images to run through frozen blocks at a time: on a CPU, as many as its caches like."""
        return _CPU_TRUNK_BATCH if self.device.type == "cpu" else _CUDA_TRUNK_BATCH

    def lay_out(self, batch: Tensor) -> Tensor:
        """Put activations on the device as convolutions like them best: in `dtype`, channels last. Images are so."""
        if batch.dtype == torch.uint8:
            return batch.to(self.device, non_blocking=True)
        # Moved and then cast: in one step, torch casts on the CPU into memory that is not pinned.
        moved = batch.to(self.device, non_blocking=True).to(self.dtype)
        is_map = moved.ndim == 4  # noqa: PLR2004 - tokens of transformers are [N, T, F]
        return moved.contiguous(memory_format=torch.channels_last) if is_map else moved

    @property
    def remedy(self) -> str:
        """What else helps where numbers are none any more: float16 ends at 65,504."""
        return ", or --precision fp32" if self.dtype == torch.float16 else ""

    def for_training(self, network: nn.Module) -> "Precision":
        """Pick what training computes in.

        The backward pass of grouped convolutions is slow in bfloat16 on CPUs: the second half of a MobileNetV3 trains
        1.5 to 1.8 times as fast in float32, although its forward pass alone takes 1.6 to 2 times as long.
        """
        grouped = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())
        return replace(self, dtype=torch.float32) if self.device.type == "cpu" and grouped else self

    def kernels(self, rounds: int = 0) -> AbstractContextManager[object]:
        """Compute float32 as float32, not TF32, and try out cuDNN's kernels where that pays; afterwards, as before.

        Args:
            rounds: how many batches will be run, of two shapes at most.
        """
        if self.device.type != "cuda":
            return nullcontext()
        cudnn = torch.backends.cudnn
        return cudnn.flags(
            enabled=cudnn.enabled, benchmark=rounds >= _REPAID, deterministic=cudnn.deterministic, allow_tf32=False
        )

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scale gradients, which float16 needs and the others do not."""
        enabled = self.dtype == torch.float16
        return torch.amp.GradScaler(self.device.type, init_scale=_FIRST_SCALE, enabled=enabled)


def choose_precision(device: Literal["auto", "cpu", "cuda"], wanted: PrecisionName = "auto") -> Precision:
    """Pick the device and the precision.

    Args:
        device: "auto" takes CUDA where there is one.
        wanted: "auto" takes bfloat16 where the hardware has it, else float16 on CUDA and float32 on a CPU.

    Raises:
        UnfreezeError: CUDA was asked for and there is none, or float16 on a CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnfreezeError(
            f"--device cuda: torch {torch.__version__} finds no usable NVIDIA GPU; see nvidia-smi, or use --device cpu"
        )
    if device != "cpu" and torch.cuda.is_available():
        best = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return Precision(device=torch.device("cuda"), dtype=_TYPES[best if wanted == "auto" else wanted])
    if wanted == "fp16":
        raise UnfreezeError("--precision fp16 is for GPUs: a CPU is slow in it; use bf16 or fp32, or leave it to auto")
    best = "bf16" if _cpu_has_bf16() else "fp32"
    return Precision(device=CPU, dtype=_TYPES[best if wanted == "auto" else wanted])


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

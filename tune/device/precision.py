"""The device and the precision to compute in."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.options import PrecisionName

CPU = torch.device("cpu")
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CPU_TRUNK_BATCH, _CUDA_TRUNK_BATCH = 8, 64  # a CPU is fastest with activations that fit its caches
_INITIAL_LOSS_SCALE = 2.0**12  # with torch's default of 2**16, the first step of a short training overflows
# cuDNN's benchmark times up to ten kernels per convolution, direction and shape, each several times.
_BATCHES_WORTH_BENCHMARKING = 200


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A device and the type to compute in.

    Args:
        device: the device to compute on.
        dtype: numeric type of autocast regions.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which operations run in `dtype` where that is numerically safe, else in float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def trunk_batch(self) -> int:
        """Number of images in a batch of the frozen blocks."""
        return _CPU_TRUNK_BATCH if self.device.type == "cpu" else _CUDA_TRUNK_BATCH

    def to_device(self, batch: Tensor) -> Tensor:
        """Move images unchanged, and activations in `dtype` and in channels-last memory format, to the device."""
        if batch.dtype == torch.uint8:
            return batch.to(self.device, non_blocking=True)
        # In one step, torch would cast on the CPU, into memory that is not pinned.
        moved = batch.to(self.device, non_blocking=True).to(self.dtype)
        is_map = moved.ndim == 4  # noqa: PLR2004 - tokens are [N, T, F]
        return moved.contiguous(memory_format=torch.channels_last) if is_map else moved

    @property
    def overflow_advice(self) -> str:
        """Advice for messages about NaN and infinity, in float16 only: its largest number is 65,504."""
        return ", or use --precision fp32" if self.dtype == torch.float16 else ""

    def for_training(self, network: nn.Module) -> "Precision":
        """Return the precision for training a network: float32 for grouped convolutions on a CPU.

        Their backward pass is slow in bfloat16: the second half of a MobileNetV3 trains 1.5 to 1.8 times as fast in
        float32, although its forward pass takes 1.6 to 2 times as long.
        """
        grouped = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())
        return replace(self, dtype=torch.float32) if self.device.type == "cpu" and grouped else self

    def kernels(self, rounds: int = 0) -> AbstractContextManager[object]:
        """Return a context without TF32, in which cuDNN benchmarks its kernels if that pays off. Settings are restored.

        Args:
            rounds: number of batches that will be run, of at most two shapes.
        """
        if self.device.type != "cuda":
            return nullcontext()
        cudnn = torch.backends.cudnn
        return cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=rounds >= _BATCHES_WORTH_BENCHMARKING,
            deterministic=cudnn.deterministic,
            allow_tf32=False,
        )

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler, enabled for float16 only."""
        enabled = self.dtype == torch.float16
        return torch.amp.GradScaler(self.device.type, init_scale=_INITIAL_LOSS_SCALE, enabled=enabled)


def choose_precision(device: Literal["auto", "cpu", "cuda"], wanted: PrecisionName = "auto") -> Precision:
    """Choose the device and the precision.

    Args:
        device: "auto" uses CUDA where it is available.
        wanted: "auto" uses bfloat16 where the hardware supports it, else float16 on CUDA and float32 on a CPU.

    Raises:
        UnfreezeError: CUDA is requested and not available, or float16 is requested on a CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnfreezeError(
            f"--device cuda: torch {torch.__version__} found no usable GPU; check nvidia-smi, or use --device cpu"
        )
    if device != "cpu" and torch.cuda.is_available():
        best = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return Precision(device=torch.device("cuda"), dtype=_TYPES[best if wanted == "auto" else wanted])
    if wanted == "fp16":
        raise UnfreezeError("--precision fp16 requires a GPU, because CPUs are slow in it; use bf16, fp32 or auto")
    best = "bf16" if _cpu_has_bf16() else "fp32"
    return Precision(device=CPU, dtype=_TYPES[best if wanted == "auto" else wanted])


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))

"""Export options, validated at construction."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.model.engine import Flavor
from unfreeze.contract.options import check_ranges

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["cpu", "arm", "tensorrt"]
AUTO: Final = "auto"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_ARM = ("aarch64", "arm64", "armv7l", "armv8l")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The engine to build.

    Args:
        flavor: "tensorrt" builds for this machine's GPU, "tensorrt_rtx" for the given compute capabilities.
        targets: compute capabilities, like "SM89"; for "tensorrt_rtx" only.
        batches: the smallest, the optimal and the largest batch size of the engine's profile.
    """

    flavor: Flavor
    targets: tuple[str, ...]
    batches: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export.

    Args:
        precision: "fp32", "fp16" or "int8", or several of them separated by commas, or "auto" for all. With several,
            the fastest on this machine whose accuracy drops by at most `max_drop` is published; fp32 if no other one
            is faster.
        target: the kernels that int8 is quantized for: "cpu" (x86), "arm" or "tensorrt"; "auto" is this machine's CPU.
        max_drop: largest accepted drop in top-1 accuracy on the validation images, in percentage points, 0 to 100.
        finish_epochs: epochs of quantization-aware training where int8 loses more than `max_drop`, 0 to 1000;
            0 for none.
        tolerance: largest accepted difference of a probability between torch and the fp32 graph, 0 to 1.
        max_batch: largest batch size that the model is served with, 1 to 4096.
        serving_batch: typical batch size, at which latency is measured in addition to 1, 1 to 4096.
        features: whether the graph also returns the pooled features that the head takes.
        tensorrt: also build a TensorRT engine.
        compute_capability: build the engine with TensorRT for RTX for these compute capabilities, separated by commas,
            like "SM89,SM120"; empty to build it with TensorRT for this machine's GPU.
        sign_key: file with a PEM elliptic-curve key that signs the version's folder.

    Raises:
        OptionsError: a value is out of range, a precision is unknown, options contradict each other, or several
            precisions would be compared for another machine's kernels.
    """

    precision: str = "fp32"
    target: Literal["auto", "cpu", "arm", "tensorrt"] = AUTO
    max_drop: float = 0.5
    finish_epochs: int = 5
    tolerance: float = 1e-4
    max_batch: int = 64
    serving_batch: int = 8
    features: bool = False
    tensorrt: bool = False
    compute_capability: str = ""
    sign_key: Path | None = None

    def __post_init__(self) -> None:
        """Validate the options."""
        ranges = {
            "max_drop": (0.0, 100.0),
            "finish_epochs": (0, 1000),
            "tolerance": (0.0, 1.0),
            "max_batch": (1, 4096),
            "serving_batch": (1, 4096),
        }
        check_ranges(vars(self), ranges)
        unknown = [one for one in self._named if one not in PRECISIONS]
        if unknown and self.precision != AUTO:
            raise OptionsError(
                f"--precision must be auto, or one or more of {', '.join(PRECISIONS)}; got {unknown[0]!r}"
            )
        if self.compute_capability and not self.tensorrt:
            raise OptionsError("--compute-capability requires --tensorrt")
        if self.sign_key is not None and not self.sign_key.is_file():
            raise OptionsError(f"--sign-key: no such file: {self.sign_key}")
        if self.chooses and self.kernels != _local_kernels():
            raise OptionsError(
                f"--precision {self.precision} measures latency on this machine, which has other kernels than --target "
                f"{self.target}; give a single precision"
            )

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions to build; where one is chosen among them, "fp32" is included and first."""
        wanted = PRECISIONS if self.precision == AUTO else self._named
        return tuple(one for one in PRECISIONS if one in wanted or (one == "fp32" and self.chooses))

    @property
    def chooses(self) -> bool:
        """Whether several precisions are built and one of them is published."""
        return self.precision == AUTO or len(set(self._named)) > 1

    @property
    def kernels(self) -> Target:
        """The kernels that int8 is quantized for."""
        return _local_kernels() if self.target == AUTO else self.target

    @property
    def engine(self) -> EngineOptions | None:
        """The engine to build, if any."""
        if not self.tensorrt:
            return None
        names = tuple(name.strip().upper() for name in self.compute_capability.split(",") if name.strip())
        batches = 1, min(self.serving_batch, self.max_batch), self.max_batch
        return EngineOptions(flavor="tensorrt_rtx" if names else "tensorrt", targets=names, batches=batches)

    @property
    def _named(self) -> tuple[str, ...]:
        return tuple(one.strip() for one in self.precision.split(","))


def _local_kernels() -> Target:
    return "arm" if platform.machine().lower() in _ARM else "cpu"

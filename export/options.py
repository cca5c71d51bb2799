"""What an export may be told, validated once."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.model.engine import Flavour
from unfreeze.contract.options import check_ranges

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["cpu", "arm", "tensorrt"]
AUTO = "auto"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_ARM = ("aarch64", "arm64", "armv7l", "armv8l")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Which engine to build.

    Args:
        flavour: "tensorrt" builds for the GPU in this machine, "tensorrt_rtx" for the compute capabilities named.
        targets: compute capabilities, like "SM89"; for "tensorrt_rtx" alone.
        batches: the smallest, the usual and the largest batch.
    """

    flavour: Flavour
    targets: tuple[str, ...]
    batches: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to export.

    Args:
        precision: "fp32", "fp16" or "int8" is published as asked for; of several, with commas in between, or of all
            ("auto"), the fastest on this machine is, of those that lose no more than `max_drop`, and only where it is
            faster than "fp32".
        target: whose kernels int8 is made for: "cpu" (x86), "arm" or "tensorrt"; "auto" is this machine's.
        max_drop: how many points of top-1 accuracy on the validation images may be lost, 0 to 100.
        tolerance: the largest difference of a probability between torch and the fp32 graph that is let pass.
        max_batch: the largest batch to serve the model with.
        serving_batch: a usual batch, at which candidates are timed, besides single images.
        tensorrt: whether to build an engine beside the model.
        compute_capability: build it with TensorRT for RTX, for these, with commas in between, like "SM89,SM120"; empty
            builds it with TensorRT for the GPU in this machine.
        sign_key: an elliptic-curve key in PEM to sign the version's folder with.

    Raises:
        OptionsError: a value is out of its range, there is no such precision, or "auto" would time what is made for
            another machine.
    """

    precision: str = "fp32"
    target: Literal["auto", "cpu", "arm", "tensorrt"] = AUTO
    max_drop: float = 0.5
    tolerance: float = 1e-4
    max_batch: int = 64
    serving_batch: int = 8
    tensorrt: bool = False
    compute_capability: str = ""
    sign_key: Path | None = None

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        ranges = {
            "max_drop": (0.0, 100.0),
            "tolerance": (0.0, 1.0),
            "max_batch": (1, 4096),
            "serving_batch": (1, 4096),
        }
        check_ranges(vars(self), ranges)
        unknown = [one for one in self._named if one not in PRECISIONS]
        if unknown and self.precision != AUTO:
            raise OptionsError(f"--precision is auto alone, or some of {', '.join(PRECISIONS)}, found {unknown[0]!r}")
        if self.compute_capability and not self.tensorrt:
            raise OptionsError("--compute-capability says what --tensorrt builds an engine for: say that too")
        if self.sign_key is not None and not self.sign_key.is_file():
            raise OptionsError(f"--sign-key: there is no file {self.sign_key}")
        if self.chooses and self.kernels != _this_machines():
            raise OptionsError(
                f"--precision {self.precision} times candidates on this machine, which is not --target {self.target}; "
                "name one precision"
            )

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions to build, each once: always with "fp32" first where one is chosen."""
        wanted = PRECISIONS if self.precision == AUTO else self._named
        return tuple(one for one in PRECISIONS if one in wanted or (one == "fp32" and self.chooses))

    @property
    def chooses(self) -> bool:
        """Whether several are built, of which one is published."""
        return self.precision == AUTO or len(set(self._named)) > 1

    @property
    def kernels(self) -> Target:
        """Whose kernels int8 is made for."""
        return _this_machines() if self.target == AUTO else self.target

    @property
    def engine(self) -> EngineOptions | None:
        """The engine to build, if one was asked for."""
        if not self.tensorrt:
            return None
        names = tuple(name.strip().upper() for name in self.compute_capability.split(",") if name.strip())
        batches = 1, min(self.serving_batch, self.max_batch), self.max_batch
        return EngineOptions(flavour="tensorrt_rtx" if names else "tensorrt", targets=names, batches=batches)

    @property
    def _named(self) -> tuple[str, ...]:
        return tuple(one.strip() for one in self.precision.split(","))


def _this_machines() -> Target:
    return "arm" if platform.machine().lower() in _ARM else "cpu"

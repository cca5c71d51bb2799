"""TensorRT engines: a cache beside a `model.onnx`, with a note of what it was built from and for."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from unfreeze.contract.errors import ModelError

ENGINE_FILE, FACTS_FILE = "model.plan", "model.plan.json"
Flavour = Literal["tensorrt", "tensorrt_rtx"]
_INSTALL: dict[Flavour, str] = {
    "tensorrt": "pip install 'unfreeze[tensorrt]', with NVIDIA's own package index, which has its libraries",
    "tensorrt_rtx": "pip install 'unfreeze[tensorrt-rtx]'",
}


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What `model.plan.json` says of the engine beside it.

    Args:
        onnx_sha256: of the `model.onnx` that it was built from.
        plan_sha256: of the engine itself.
        flavour: "tensorrt", or "tensorrt_rtx" for TensorRT for RTX.
        version: of the library that built it: another one's engines cannot be loaded.
        targets: compute capabilities that it runs on, like "SM89".
        driver: of the machine that built it; empty where there was none.
        batches: the smallest, the usual and the largest batch.
        flags: what else the builder was told.

    Raises:
        ValueError: the batches are not three that grow.
    """

    onnx_sha256: str
    plan_sha256: str
    flavour: Flavour
    version: str
    targets: tuple[str, ...]
    driver: str
    batches: tuple[int, ...]
    flags: tuple[str, ...]

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        if len(self.batches) != 3 or not 1 <= self.batches[0] <= self.batches[1] <= self.batches[2]:  # noqa: PLR2004
            raise ValueError(f"batches are the smallest, the usual and the largest, found {self.batches}")


def load_tensorrt(flavour: Flavour) -> ModuleType:
    """Import TensorRT or TensorRT for RTX, whose Python interfaces are alike.

    Raises:
        ModelError: it is not installed, or its libraries cannot be loaded; the message says what to install.
    """
    try:
        return importlib.import_module(flavour)
    except ImportError as error:
        raise ModelError(f"{flavour} cannot be used here ({error}): {_INSTALL[flavour]}") from error


def check_engine(facts: EngineFacts, onnx_sha256: str, version: str, target: str) -> None:
    """Refuse an engine that was built from another model, by another version, or for other devices.

    Args:
        facts: what its note says.
        onnx_sha256: of the `model.onnx` beside it.
        version: of the library that is to run it.
        target: this device's compute capability, like "SM89".

    Raises:
        ModelError: naming every difference.
    """
    differences = [
        f"it was built {text}"
        for differs, text in (
            (
                facts.onnx_sha256 != onnx_sha256,
                f"from another model.onnx ({facts.onnx_sha256[:12]}, not {onnx_sha256[:12]})",
            ),
            (facts.version != version, f"by {facts.flavour} {facts.version}, and {version} is installed"),
            (target not in facts.targets, f"for {', '.join(facts.targets)}, and this device is {target}"),
        )
        if differs
    ]
    if differences:
        raise ModelError(f"the engine cannot be used: {'; '.join(differences)}; build it here with export --tensorrt")

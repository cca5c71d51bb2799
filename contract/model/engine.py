"""TensorRT engines: a cache next to a `model.onnx`, with a JSON file that records what it was built from and for."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.schema import decode, loads

ENGINE_FILE, FACTS_FILE = "model.plan", "model.plan.json"
Flavor = Literal["tensorrt", "tensorrt_rtx"]
_INSTALL: dict[Flavor, str] = {
    "tensorrt": "pip install 'unfreeze[tensorrt]' from NVIDIA's package index (docs/install.md)",
    "tensorrt_rtx": "pip install 'unfreeze[tensorrt-rtx]'",
}


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The content of `model.plan.json`: what the engine next to it was built from and for.

    Args:
        onnx_sha256: SHA-256 of the `model.onnx` that it was built from.
        plan_sha256: SHA-256 of the engine itself.
        flavor: "tensorrt", or "tensorrt_rtx" for TensorRT for RTX.
        version: of the library that built it; other versions cannot load it.
        targets: compute capabilities that it runs on, like "SM89".
        driver: the driver's version on the machine that built it; empty without one.
        batches: the smallest, the optimal and the largest batch size.
        flags: the builder's other flags.

    Raises:
        ValueError: the batches are not three ascending sizes.
    """

    onnx_sha256: str
    plan_sha256: str
    flavor: Flavor
    version: str
    targets: tuple[str, ...]
    driver: str
    batches: tuple[int, ...]
    flags: tuple[str, ...]

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        if len(self.batches) != 3 or not 1 <= self.batches[0] <= self.batches[1] <= self.batches[2]:  # noqa: PLR2004
            raise ValueError(f"batches must be the smallest, the optimal and the largest size, got {self.batches}")


def read_engine_facts(text: str | bytes) -> EngineFacts:
    """Parse a `model.plan.json`, also of earlier versions, which spell `flavour`.

    Raises:
        ManifestError: not valid; the message ends with the path.
    """
    document = loads(text)
    if isinstance(document, dict) and "flavor" not in document:
        document = {"flavor" if key == "flavour" else key: value for key, value in document.items()}
    return decode(EngineFacts, document)


def load_tensorrt(flavor: Flavor) -> ModuleType:
    """Import TensorRT or TensorRT for RTX, whose Python interfaces are alike.

    Raises:
        ModelError: it is not installed, or its libraries cannot be loaded; the message says how to install it.
    """
    try:
        return importlib.import_module(flavor)
    except ImportError as error:
        raise ModelError(f"{flavor} cannot be loaded ({error}): {_INSTALL[flavor]}") from error


def check_engine(facts: EngineFacts, onnx_sha256: str, version: str, target: str) -> None:
    """Reject an engine that was built from another model, by another version, or for other devices.

    Args:
        facts: of the engine.
        onnx_sha256: SHA-256 of the `model.onnx` next to it.
        version: of the installed library.
        target: this device's compute capability, like "SM89".

    Raises:
        ModelError: the engine does not match; the message lists every difference.
    """
    differences = [
        f"it was built {text}"
        for differs, text in (
            (
                facts.onnx_sha256 != onnx_sha256,
                f"from another model.onnx ({facts.onnx_sha256[:12]}, not {onnx_sha256[:12]})",
            ),
            (facts.version != version, f"by {facts.flavor} {facts.version}, and {version} is installed"),
            (target not in facts.targets, f"for {', '.join(facts.targets)}, and this device is {target}"),
        )
        if differs
    ]
    if differences:
        raise ModelError(f"the engine cannot be used: {'; '.join(differences)}; build it here with export --tensorrt")

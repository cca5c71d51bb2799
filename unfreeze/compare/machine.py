"""What a latency depends on besides the model: the machine and the libraries."""

import platform
from contextlib import suppress
from pathlib import Path

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.versions import installed_versions

_PACKAGES = ("unfreeze", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision", "timm", "scikit-learn")


def describe_machine() -> dict[str, str]:
    """Return the processor's name and the number of cores that this process may use."""
    return {"cpu": _processor(), "cores": str(usable_cores())}


def describe_versions() -> dict[str, str]:
    """Return the versions of the packages that are installed and change results."""
    return installed_versions(*_PACKAGES)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()

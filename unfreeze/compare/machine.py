"""What a latency depends on besides the model: the machine and the libraries."""

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.processor import processor_name
from unfreeze.contract.versions import installed_versions

_PACKAGES = ("unfreeze", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision", "timm", "scikit-learn")


def describe_machine() -> dict[str, str]:
    """Return the processor's name and the number of cores that this process may use."""
    return {"cpu": processor_name(), "cores": str(usable_cores())}


def describe_versions() -> dict[str, str]:
    """Return the versions of the packages that are installed and change results."""
    return installed_versions(*_PACKAGES)

"""The machine of a GPU benchmark, and the GPU's utilization."""

import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from statistics import mean

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.versions import installed_versions

_EVERY_S = 0.2
_PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "grpcio", "pillow")


def gpu_named() -> tuple[str, str]:
    """Return the first GPU's name and its driver's version; both empty without a GPU."""
    name, _, driver = _ask_nvidia_smi("name,driver_version").partition(", ")
    return name, driver


def describe_machine(device: str) -> dict[str, str]:
    """Describe the machine and the versions of a measurement.

    Args:
        device: "cuda" or "cpu".
    """
    name, driver = gpu_named() if device == "cuda" else ("not used", "")
    return {
        "GPU": name or "none",
        "driver": driver or "none",
        **_versions(),
        "CPU": f"{platform.machine()}, {usable_cores()} cores",
        "Python": platform.python_version(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": " ".join(["python -m bench.gpu", *sys.argv[1:]]),
    }


def _versions() -> dict[str, str]:
    found = installed_versions(*_PACKAGES)
    try:
        import torch
    except ImportError:
        return found
    found["CUDA of torch"] = torch.version.cuda or "none"
    cudnn = torch.backends.cudnn.version()
    return found | {"cuDNN of torch": "none" if cudnn is None else str(cudnn)}


@contextmanager
def sampled_utilization(device: str) -> Iterator[list[float]]:
    """Sample the first GPU's utilization while the body runs.

    Args:
        device: nothing is sampled on "cpu".

    Yields:
        A list that samples, in percent, are appended to.
    """
    read = _reader() if device == "cuda" else None
    seen: list[float] = []
    done = threading.Event()

    def sample(read: Callable[[], float]) -> None:
        while not done.wait(_EVERY_S):
            with suppress(ValueError):  # nvidia-smi prints [N/A] for some GPUs
                seen.append(read())

    thread = None if read is None else threading.Thread(target=sample, args=(read,), daemon=True)
    if thread is not None:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        if thread is not None:
            thread.join()


def mean_percent(seen: list[float]) -> float | None:
    """Average samples; None without any."""
    return mean(seen) if seen else None


def _reader() -> Callable[[], float] | None:
    """Return a function that reads the utilization in percent: by NVIDIA's library, else by nvidia-smi."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # noqa: BLE001 - not installed, or no driver, which raises other errors
        return (lambda: float(_ask_nvidia_smi("utilization.gpu"))) if _ask_nvidia_smi("utilization.gpu") else None
    return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _ask_nvidia_smi(names: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={names}", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""

"""The list of runtimes, from which `--device` and `--runtime` take their choices."""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from unfreeze.contract.errors import ModelError, OptionsError
from unfreeze.contract.model.model_file import ModelFile, read_model
from unfreeze.serve.runtimes.base import Runtime, RuntimeModule, RuntimeOptions

RuntimeName = str
AUTO: RuntimeName = "auto"
PRECISIONS = frozenset({"fp32", "fp16", "int8"})
_DEFAULT_OPTIONS = RuntimeOptions()


@dataclass(frozen=True, kw_only=True)
class RuntimeSpec:
    """A runtime: what the command line and the server know of it before its libraries are imported.

    Args:
        name: value of `--device` and `--runtime`.
        summary: a few words for help texts.
        module: the module that implements `RuntimeModule`.
        extra: the extra of `unfreeze` that installs its libraries.
        uses_cpu: whether it computes on the CPU's cores, so that threads and instances are measured at warm-up.
        starts_threads: whether it starts threads even if one is to execute a batch; then a model is never loaded at low
            priority, which they would keep.
        options: the fields of `RuntimeOptions` that this runtime supports and others may not.
        precisions: the model precisions that it can execute.
    """

    name: RuntimeName
    summary: str
    module: str
    extra: str
    uses_cpu: bool = False
    starts_threads: bool = True
    options: frozenset[str] = frozenset()
    precisions: frozenset[str] = PRECISIONS

    def load(self) -> RuntimeModule:
        """Import the runtime's file and check that it can run here.

        Raises:
            ModelError: a library or a device is missing; the message names the extra to install.
        """
        try:
            module = cast("RuntimeModule", importlib.import_module(self.module))
        except ImportError as error:
            raise ModelError(
                f"runtime {self.name!r} is not available: {error}; pip install 'unfreeze[{self.extra}]'"
            ) from error
        module.check_available()
        return module


_RUNTIMES: dict[RuntimeName, RuntimeSpec] = {}


def register(spec: RuntimeSpec) -> None:
    """Add a runtime to the choices; replaces one of the same name."""
    _RUNTIMES[spec.name] = spec


def unregister(name: RuntimeName) -> None:
    """Remove a runtime from the choices."""
    del _RUNTIMES[name]


def runtime_names() -> tuple[RuntimeName, ...]:
    """List the names of all runtimes."""
    return tuple(_RUNTIMES)


def runtime_summaries() -> str:
    """Describe all runtimes in one line, for help texts."""
    return ", ".join(f'"{spec.name}" ({spec.summary})' for spec in _RUNTIMES.values())


def cpu_runtimes() -> tuple[RuntimeSpec, ...]:
    """List the runtimes that compute on the CPU, ONNX Runtime first; "auto" chooses among them."""
    return tuple(spec for spec in _RUNTIMES.values() if spec.uses_cpu and spec.name != AUTO)


def find_runtime(name: RuntimeName, option: str = "--runtime") -> RuntimeSpec:
    """Look up a runtime.

    Args:
        name: as registered.
        option: the command-line option to name in the error.

    Raises:
        OptionsError: there is no such runtime.
    """
    spec = _RUNTIMES.get(name)
    if spec is None:
        raise OptionsError(f"{option} must be one of {', '.join(_RUNTIMES)}, got {name!r}")
    return spec


def specific_options() -> dict[str, list[RuntimeName]]:
    """List the options that not every runtime has, each with the runtimes that have it."""
    options = sorted({option for spec in _RUNTIMES.values() for option in spec.options})
    return {option: [spec.name for spec in _RUNTIMES.values() if option in spec.options] for option in options}


def open_runtime(
    source: str | os.PathLike[str] | ModelFile, name: RuntimeName, options: RuntimeOptions = _DEFAULT_OPTIONS
) -> Runtime:
    """Load a model into a runtime.

    Args:
        source: the path of a `model.onnx`, or a file that was read already.
        name: a registered runtime.
        options: how to execute the model.

    Raises:
        OptionsError: there is no such runtime.
        ModelError: the file is damaged, or the runtime is not available here or cannot execute the model.
    """
    spec = find_runtime(name)
    module = spec.load()
    model = source if isinstance(source, ModelFile) else read_model(Path(source))
    if model.manifest.precision not in spec.precisions:
        raise ModelError(
            f"{model.path} has precision {model.manifest.precision}, and runtime {name!r} executes only "
            f"{', '.join(sorted(spec.precisions))}; export the model again with another --precision"
        )
    return module.open_model(model, options)


_HERE = "unfreeze.serve.runtimes"
_CUDA_OPTIONS = frozenset({"gpu_memory_mib", "cuda_graphs", "cudnn_search"})
# Each runtime is registered here.
register(
    RuntimeSpec(
        name="cpu",
        summary="ONNX Runtime on the CPU",
        module=f"{_HERE}.onnx_cpu",
        extra="cpu",
        uses_cpu=True,
        starts_threads=False,
    )
)
register(
    RuntimeSpec(
        name="openvino",
        summary="OpenVINO, for Intel CPUs",
        module=f"{_HERE}.openvino",
        extra="openvino",
        uses_cpu=True,
    )
)
register(
    RuntimeSpec(
        name="openvino-bf16",
        summary="OpenVINO in bfloat16, if the CPU has it",
        module=f"{_HERE}.openvino_bf16",
        extra="openvino",
        uses_cpu=True,
    )
)
register(
    RuntimeSpec(
        name=AUTO, summary="the fastest of those, measured", module=f"{_HERE}.auto", extra="openvino", uses_cpu=True
    )
)
register(
    RuntimeSpec(
        name="cuda", summary="ONNX Runtime on a GPU", module=f"{_HERE}.onnx_cuda", extra="gpu", options=_CUDA_OPTIONS
    )
)
register(
    RuntimeSpec(
        name="tensorrt",
        summary="TensorRT engine of the model",
        module=f"{_HERE}.tensorrt",
        extra="tensorrt",
    )
)

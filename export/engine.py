"""Build TensorRT engines from a published graph: TensorRT 10 or 11, or TensorRT for RTX, which needs no GPU."""

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from unfreeze.contract.errors import OptionsError, ProofError
from unfreeze.contract.model.engine import EngineFacts, load_tensorrt
from unfreeze.contract.model.manifest import INPUT
from unfreeze.contract.reporting import Reporter
from unfreeze.export.options import EngineOptions

_NO_GPU = "TensorRT builds engines for the GPU that it finds, and finds none"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine.

    Args:
        plan: the content of `model.plan`.
        facts: what is to stand beside it.
    """

    plan: bytes
    facts: EngineFacts


def build_engine(model: bytes, shape: tuple[int, int, int], options: EngineOptions, reporter: Reporter) -> Engine:
    """Parse a graph and build an engine that keeps its types: what is float16 in the graph is float16 in the engine.

    Args:
        model: the content of a `model.onnx`.
        shape: height, width and channels of a prepared image.
        options: what to build.
        reporter: shows progress.

    Raises:
        ModelError: the library is not installed.
        OptionsError: it does not know a target.
        ProofError: it cannot parse the graph, or not build it; with its own words.
    """
    trt = load_tensorrt(options.flavour)
    log = _log(trt)
    builder = trt.Builder(log)
    if not builder:
        raise ProofError(
            f"{options.flavour} cannot build here: {_NO_GPU if options.flavour == 'tensorrt' else log.last}"
        )
    network = builder.create_network(_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        words = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ProofError(f"{options.flavour} {trt.__version__} does not parse the graph: {words}")
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, reporter)
    targets = _set_targets(trt, config, options)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((batch, *shape) for batch in options.batches))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ProofError(f"{options.flavour} {trt.__version__} does not build the engine: {log.last}")
    facts = EngineFacts(
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        flavour=options.flavour,
        version=trt.__version__,
        targets=targets,
        driver=_driver(),
        batches=options.batches,
        flags=("STRONGLY_TYPED",),
    )
    return Engine(plan=bytes(plan), facts=facts)


def _typed(trt: ModuleType) -> int:
    """Give the flag for a strongly typed network, where it is not the only kind there is."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_targets(trt: ModuleType, config: Any, options: EngineOptions) -> tuple[str, ...]:
    if options.flavour == "tensorrt":
        return (this_target(),)
    known = trt.ComputeCapability.__members__
    unknown = [target for target in options.targets if target not in known]
    if unknown or not options.targets:
        names = ", ".join(name for name in known if name.startswith("SM"))
        raise OptionsError(
            f"{options.flavour} {trt.__version__} builds for {names}, found {', '.join(unknown) or 'none'}"
        )
    config.num_compute_capabilities = len(options.targets)
    for index, target in enumerate(options.targets):
        config.set_compute_capability(known[target], index)
    return options.targets


def this_target() -> str:
    """Name this machine's compute capability, like "SM89".

    Raises:
        ProofError: there is no NVIDIA GPU.
    """
    capability = _device_attribute("compute_cap")
    if not capability:
        raise ProofError(f"{_NO_GPU}; tensorrt_rtx builds without one: pip install 'unfreeze[tensorrt-rtx]'")
    return f"SM{capability.replace('.', '')}"


def _driver() -> str:
    return _device_attribute("driver_version")


def _device_attribute(name: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={name}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - found on the path
    return done.stdout.strip() if done.returncode == 0 else ""


def _log(trt: ModuleType) -> Any:
    """Make a logger that keeps the last error, to be told where something fails."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it does not say why"

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = message

    return Log()


def _monitor(trt: ModuleType, reporter: Reporter) -> Any:
    """Make a progress monitor that shows the outermost phase; Ctrl-C ends the build at its next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.advances: dict[str, Callable[[int], None]] = {}
            self.lock = threading.Lock()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                with self.lock:
                    self.advances[name] = reporter.track(f"building the engine: {name}", steps)

        def step_complete(self, name: str, _step: int) -> bool:
            with self.lock:
                if name in self.advances:
                    self.advances[name](1)
            return True

        def phase_finish(self, name: str) -> None:
            with self.lock:
                self.advances.pop(name, None)

    return Monitor()

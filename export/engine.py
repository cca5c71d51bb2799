"""Build engines from an exported graph: with TensorRT 10 or 11, or with TensorRT for RTX, which needs no GPU."""

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
from unfreeze.contract.model.manifest import INPUT, OUTPUT
from unfreeze.contract.reporting import Reporter
from unfreeze.export.options import EngineOptions

_NO_GPU = "TensorRT builds an engine for the GPU of this machine, and found none"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A TensorRT engine.

    Args:
        plan: the content of `model.plan`.
        facts: the content of `model.plan.json`.
    """

    plan: bytes
    facts: EngineFacts


def build_engine(
    model: bytes, shape: tuple[int, int, int], options: EngineOptions, reporter: Reporter, answer_output: str = OUTPUT
) -> Engine:
    """Parse a graph and build a strongly typed engine, whose layers compute in the graph's types.

    Args:
        model: the content of a `model.onnx`.
        shape: height, width and channels of a prepared image.
        options: options of the engine.
        reporter: shows progress.
        answer_output: the only output of the engine.

    Raises:
        ModelError: the library is not installed.
        OptionsError: the library does not support a target.
        ProofError: the library cannot parse the graph or build the engine; the message quotes the library.
    """
    trt = load_tensorrt(options.flavor)
    log = _log(trt)
    builder = trt.Builder(log)
    if not builder:
        raise ProofError(f"{options.flavor} cannot build here: {_NO_GPU if options.flavor == 'tensorrt' else log.last}")
    network = builder.create_network(_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ProofError(f"{options.flavor} {trt.__version__} cannot parse the graph: {errors}")
    _keep_output(network, answer_output)
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, reporter)
    targets = _set_targets(trt, config, options)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((batch, *shape) for batch in options.batches))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ProofError(f"{options.flavor} {trt.__version__} cannot build the engine: {log.last}")
    facts = EngineFacts(
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        flavor=options.flavor,
        version=trt.__version__,
        targets=targets,
        driver=_driver(),
        batches=options.batches,
        flags=("STRONGLY_TYPED",),
    )
    return Engine(plan=bytes(plan), facts=facts)


def _keep_output(network: Any, name: str) -> None:
    """Leave the engine one output, because each needs memory of its own when it is executed."""
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    for tensor in outputs:
        if tensor.name != name:
            network.unmark_output(tensor)


def _typed(trt: ModuleType) -> int:
    """Return the flag for a strongly typed network; TensorRT 11 has no other kind and no flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_targets(trt: ModuleType, config: Any, options: EngineOptions) -> tuple[str, ...]:
    if options.flavor == "tensorrt":
        return (local_compute_capability(),)
    known = trt.ComputeCapability.__members__
    unknown = [target for target in options.targets if target not in known]
    if unknown or not options.targets:
        names = ", ".join(name for name in known if name.startswith("SM"))
        raise OptionsError(
            f"{options.flavor} {trt.__version__} builds engines for {names}; got {', '.join(unknown) or 'none'}"
        )
    config.num_compute_capabilities = len(options.targets)
    for index, target in enumerate(options.targets):
        config.set_compute_capability(known[target], index)
    return options.targets


def local_compute_capability() -> str:
    """Return the compute capability of this machine's GPU, like "SM89".

    Raises:
        ProofError: there is no NVIDIA GPU.
    """
    capability = _device_attribute("compute_cap")
    if not capability:
        raise ProofError(f"{_NO_GPU}; tensorrt_rtx needs no GPU: pip install 'unfreeze[tensorrt-rtx]'")
    return f"SM{capability.replace('.', '')}"


def _driver() -> str:
    return _device_attribute("driver_version")


def _device_attribute(name: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={name}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a full path
    return done.stdout.strip() if done.returncode == 0 else ""


def _log(trt: ModuleType) -> Any:
    """Create a logger that keeps the last error for our error messages."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = message

    return Log()


def _monitor(trt: ModuleType, reporter: Reporter) -> Any:
    """Create a progress monitor that shows the outermost phases; Ctrl-C ends the build at its next step."""

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

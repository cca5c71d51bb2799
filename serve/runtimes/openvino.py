"""OpenVINO on Intel CPUs: executes the same `model.onnx`, in float32 or in bfloat16.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

import queue
from typing import Any, Literal

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.closing import Closing
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import FEATURES, INPUT
from unfreeze.contract.model.model_file import ModelFile
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.golden import verify_answers
from unfreeze.serve.runtimes.openvino_library import DEVICE, error_reason, openvino, openvino_core

Precision = Literal["f32", "bf16"]
_GOLDEN_TOLERANCES: dict[Precision, float] = {"f32": 0.0, "bf16": 0.5}  # in nats; that of bfloat16 is that of int8


def check_available() -> None:
    """Check that OpenVINO has a plugin for this CPU.

    Raises:
        ModelError: it has none.
    """
    if DEVICE not in openvino_core().available_devices:
        raise ModelError("OpenVINO finds no CPU that it supports; use --device cpu")


def open_model(model: ModelFile, options: RuntimeOptions) -> "OpenVinoRuntime":
    """Load a model for execution in float32, and in int8 where it is quantized.

    Args:
        model: the model file.
        options: execution options; only `threads` and `instances` apply.

    Raises:
        ModelError: the graph is not valid or differs from its manifest, or it is quantized and OpenVINO classifies its
            golden images differently.
    """
    return open_in_precision(model, "f32", options)


def open_in_precision(model: ModelFile, precision: Precision, options: RuntimeOptions) -> "OpenVinoRuntime":
    """Load a model; where it is computed in less than float32, its golden images must pass.

    OpenVINO's int8 kernels round differently from those of ONNX Runtime, for which models are quantized: some networks
    lose accuracy.

    Args:
        model: the model file.
        precision: of everything that the graph computes in float.
        options: execution options; only `threads` and `instances` apply.

    Raises:
        ModelError: the graph is not valid, differs from its manifest, or classifies its golden images differently, or
            it has none.
    """
    is_exact = precision == "f32" and model.manifest.precision != "int8"
    if not is_exact and not model.manifest.golden:
        raise ModelError(
            f"{model.path} has no golden images, without which OpenVINO is not trusted in a low precision; export it "
            "again, or use the runtime cpu"
        )
    runtime = OpenVinoRuntime(model, precision, threads=options.threads, instances=options.instances)
    if not is_exact:
        try:
            verify_answers(runtime, str(model.path))
        except ModelError as error:
            runtime.close()
            raise ModelError(f"{error}; OpenVINO is not accurate enough for it, the runtime cpu is") from error
    return runtime


class OpenVinoRuntime(Closing):
    """A model in OpenVINO; a context manager, because it holds threads and memory.

    One compiled model, with a batch dimension of any size, serves all batches: compiled once per batch size it would be
    a little faster, and need the memory of each.

    Args:
        model: the model file.
        precision: of everything that the graph computes in float: "f32" or "bf16".
        threads: CPU threads per batch; 0 for one per core.
        instances: number of batches executed at the same time.

    Raises:
        ModelError: the file has no valid graph, or one that differs from its manifest.
    """

    def __init__(self, model: ModelFile, precision: Precision, *, threads: int = 0, instances: int = 1) -> None:
        self.path, self.manifest = model.path, model.manifest
        self.golden_tolerance = _GOLDEN_TOLERANCES[precision]
        self._compiled: openvino.CompiledModel | None = _compile(model, precision, threads or usable_cores(), instances)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def buffer(self, images: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Allocate memory for preprocessed images."""
        return np.empty((images, *self.manifest.preprocess.shape), np.uint8)

    def run(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Classify preprocessed images.

        Args:
            pixels: RGB, of the manifest's crop size.

        Returns:
            Probabilities, in the order of the manifest's labels, and the score behind them if the model has one.

        Raises:
            ModelError: OpenVINO failed, for example out of memory, or the runtime is closed.
        """
        return self._output(self.manifest.answer_output, pixels)

    def features(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n f"]:
        """Compute the pooled features of preprocessed images; the model was exported with them.

        Raises:
            ModelError: as `run`.
        """
        return self._output(FEATURES, pixels)

    def _output(self, name: str, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n a"]:
        compiled = self._compiled
        if compiled is None:
            raise ModelError(f"{self.path} is closed")
        try:
            request = self._request(compiled)
            found = np.asarray(request.infer({INPUT: pixels}, share_inputs=True)[name])
        except Exception as error:  # OpenVINO's errors have no common base class
            raise ModelError(f"{self.path} failed on a batch of {len(pixels)}: {error_reason(error)}") from error
        self._idle.put(request)
        return found

    def close(self) -> None:
        """Release the compiled model; may be called again."""
        self._compiled = None
        self._idle = queue.SimpleQueue()

    def _request(self, compiled: openvino.CompiledModel) -> Any:
        """Take an idle request, or create one: there are as many as batches that were executed at the same time."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return compiled.create_infer_request()


def _compile(model: ModelFile, precision: Precision, threads: int, instances: int) -> openvino.CompiledModel:
    settings = {
        "INFERENCE_PRECISION_HINT": precision,  # the default is bfloat16 where the CPU has it
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": instances,
        "INFERENCE_NUM_THREADS": threads * instances,
        # Pinned to cores, the threads of two models or processes would share one core and leave another idle.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        graph = openvino_core().read_model(model.content)
    except Exception as error:  # OpenVINO's errors have no common base class
        raise ModelError(f"{model.path} is not an ONNX model that OpenVINO can load: {error_reason(error)}") from error
    _check_tensors(graph, model)
    try:
        return openvino_core().compile_model(graph, DEVICE, settings)
    except Exception as error:
        raise ModelError(f"OpenVINO cannot compile {model.path}: {error_reason(error)}") from error


def _check_tensors(graph: openvino.Model, model: ModelFile) -> None:
    """Check that the graph's input and output are those of the manifest."""
    found = [
        (sorted(port.names), port.element_type.to_string(), str(port.partial_shape))
        for port in (*graph.inputs, *graph.outputs)
    ]
    tensors: list[tuple[str, str, tuple[int, ...]]] = [(INPUT, "u8", model.manifest.preprocess.shape)]
    tensors += [(name, "f32", (width,)) for name, width in model.manifest.outputs.items()]
    expected = [([name], kind, f"[{','.join(['?', *map(str, shape)])}]") for name, kind, shape in tensors]
    if found != expected:
        raise ModelError(f"{model.path} has the tensors {found}, but its manifest declares {expected}")

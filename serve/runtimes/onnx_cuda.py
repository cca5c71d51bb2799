"""ONNX Runtime on CUDA, with inputs and outputs bound to device memory and launched in the pipeline's stream."""

import ctypes
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import INPUT, Manifest
from unfreeze.contract.model.model_file import ModelFile
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.cuda import Cuda, load_libraries
from unfreeze.serve.runtimes.device import Slot
from unfreeze.serve.runtimes.device_pipeline import DevicePipeline
from unfreeze.serve.runtimes.onnx_session import open_session

_PROVIDER = "CUDAExecutionProvider"
_LIBRARY = "libonnxruntime_providers_cuda.so"


def check_available() -> None:
    """Check that ONNX Runtime has its CUDA provider.

    Raises:
        ModelError: this is ONNX Runtime's CPU package.
    """
    if _PROVIDER not in onnxruntime.get_available_providers():
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} has no {_PROVIDER}: pip uninstall onnxruntime, then pip install "
            "'unfreeze[gpu]'"
        )


def open_model(model: ModelFile, options: RuntimeOptions) -> DevicePipeline:
    """Load a model on the first GPU and compute every batch size once.

    Args:
        model: the model file.
        options: instances, batch size, memory and graphs.

    Raises:
        ModelError: there is no GPU, a library is missing, or the model does not fit; never falls back to the CPU.
    """
    device = Cuda()
    load_libraries()
    _load_provider()
    return DevicePipeline(
        model.manifest,
        device,
        max_batch=options.max_batch or model.manifest.max_batch,
        slots=options.instances,
        load=partial(_load_graph, model, options, device.name),
        name=str(model.path),
    )


def _load_graph(model: ModelFile, options: RuntimeOptions, device: str, compute: int) -> "BoundGraph":
    session = open_session(model, (_PROVIDER, provider_options(options, compute)))
    return BoundGraph(session, model.manifest, device, graphs=options.cuda_graphs)


def provider_options(options: RuntimeOptions, compute: int) -> dict[str, str]:
    """Translate options into those of the CUDA execution provider.

    Args:
        options: memory and graphs.
        compute: the stream for the kernels.
    """
    provider = {
        "user_compute_stream": str(compute),
        # An exhaustive search times every algorithm of every convolution for every batch size, at every reload.
        "cudnn_conv_algo_search": "EXHAUSTIVE" if options.cudnn_search else "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # float32 results must match the CPU's; float16 models are for speed
        "enable_cuda_graph": "1" if options.cuda_graphs else "0",
    }
    return provider | ({"gpu_mem_limit": str(options.gpu_memory_mib * 2**20)} if options.gpu_memory_mib else {})


class BoundGraph:
    """Launches a session on batches in device memory; for use by one thread.

    Args:
        session: the loaded model.
        manifest: its manifest.
        device: ONNX Runtime's name of the device.
        graphs: whether to capture each slot's batch of each size as a CUDA graph and replay it.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, manifest: Manifest, device: str, *, graphs: bool = False
    ) -> None:
        self._session, self._manifest, self._device, self._graphs = session, manifest, device, graphs
        self._bound: dict[tuple[int, int], tuple[onnxruntime.IOBinding, onnxruntime.RunOptions]] = {}

    def __call__(self, slot: Slot, size: int) -> None:
        """Launch a slot's batch of a given size."""
        key = slot.number, size
        if key not in self._bound:
            self._bound[key] = self._binding(slot, size), self._options()
        self._session.run_with_iobinding(*self._bound[key])

    def _binding(self, slot: Slot, size: int) -> onnxruntime.IOBinding:
        binding = self._session.io_binding()
        shape = (size, *self._manifest.preprocess.shape)
        binding.bind_input(INPUT, self._device, 0, np.uint8, shape, slot.pixels)
        output, output_shape = self._manifest.answer_output, (size, self._manifest.answer_width)
        binding.bind_output(output, self._device, 0, np.float32, output_shape, slot.probabilities)
        return binding

    def _options(self) -> onnxruntime.RunOptions:
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(len(self._bound) + 1))
        return options


def _load_provider() -> None:
    """Load the provider's library first: ONNX Runtime itself would fall back to the CPU instead of raising an error."""
    library = Path(onnxruntime.__file__).with_name("capi") / _LIBRARY
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        # Undefined symbols are expected, because ONNX Runtime loads another library first; a missing file is not.
        if "cannot open shared object file" in str(error):
            raise ModelError(
                f"ONNX Runtime's CUDA provider cannot be loaded: {error}; pip install 'unfreeze[gpu]'"
            ) from error

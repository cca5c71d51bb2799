"""ONNX Runtime on CUDA: inputs and outputs bound to the device's memory, launched in a stream of ours."""

import ctypes
from pathlib import Path

import numpy as np
import onnxruntime

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest
from unfreeze.serve.runtimes.cuda import Cuda, load_libraries
from unfreeze.serve.runtimes.device_pipeline import DevicePipeline, Slot
from unfreeze.serve.runtimes.onnx_cpu import RuntimeOptions, open_session, read_checked

_PROVIDER = "CUDAExecutionProvider"
_LIBRARY = "libonnxruntime_providers_cuda.so"


def open_on_cuda(path: Path, options: RuntimeOptions, checked: tuple[bytes, Manifest] | None = None) -> DevicePipeline:
    """Load a model on the first GPU, and compute every size of batch once.

    Args:
        path: of its `model.onnx`.
        options: sizes, memory and graphs.
        checked: what `read_checked` gave of it, where that was asked before.

    Raises:
        ModelError: there is no GPU, a library is missing, or the model does not fit; never falls back to the CPU.
    """
    model, manifest = checked or read_checked(path)
    if _PROVIDER not in onnxruntime.get_available_providers():
        raise ModelError(
            f"this ONNX Runtime ({onnxruntime.__version__}) has no {_PROVIDER}: "
            "pip uninstall onnxruntime, then pip install 'unfreeze[gpu]'"
        )
    cuda = Cuda()
    load_libraries()
    _load_provider()

    def load(compute: int) -> BoundGraph:
        session = open_session(model, manifest, path, (_PROVIDER, provider_options(options, compute)))
        return BoundGraph(session, manifest, cuda.name, graphs=options.graphs)

    most = options.max_batch or manifest.max_batch
    return DevicePipeline(manifest, cuda, most=most, slots=options.instances, load=load, name=str(path))


def provider_options(options: RuntimeOptions, compute: int) -> dict[str, str]:
    """Say how ONNX Runtime's provider is to work.

    Args:
        options: memory and graphs.
        compute: the stream for its kernels.
    """
    told = {
        "user_compute_stream": str(compute),
        # Searching exhaustively would time every algorithm of every convolution for every size, at every swap.
        "cudnn_conv_algo_search": "EXHAUSTIVE" if options.search else "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # float32 answers as a CPU does; who wants the speed exports float16
        "enable_cuda_graph": "1" if options.graphs else "0",
    }
    return told | ({"gpu_mem_limit": str(options.memory_mib * 2**20)} if options.memory_mib else {})


class BoundGraph:
    """Launches a session on batches where they lie; for one thread.

    Args:
        session: of the model.
        manifest: of the model.
        device: as ONNX Runtime calls it.
        graphs: whether each slot's batch of each size is captured as a CUDA graph and replayed, by the same thread.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, manifest: Manifest, device: str, *, graphs: bool = False
    ) -> None:
        self._session, self._manifest, self._device, self._graphs = session, manifest, device, graphs
        self._bound: dict[tuple[int, int], tuple[onnxruntime.IOBinding, onnxruntime.RunOptions]] = {}

    def __call__(self, slot: Slot, size: int) -> None:
        """Launch a slot's batch of some size."""
        key = slot.number, size
        if key not in self._bound:
            self._bound[key] = self._binding(slot, size), self._options()
        self._session.run_with_iobinding(*self._bound[key])

    def _binding(self, slot: Slot, size: int) -> onnxruntime.IOBinding:
        binding = self._session.io_binding()
        shape = (size, *self._manifest.preprocess.shape)
        binding.bind_input(INPUT, self._device, 0, np.uint8, shape, slot.pixels)
        answers = (size, len(self._manifest.labels))
        binding.bind_output(OUTPUT, self._device, 0, np.float32, answers, slot.probabilities)
        return binding

    def _options(self) -> onnxruntime.RunOptions:
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(len(self._bound) + 1))
        return options


def _load_provider() -> None:
    """Load ONNX Runtime's provider itself: its own error would not come before it had turned to the CPU."""
    library = Path(onnxruntime.__file__).with_name("capi") / _LIBRARY
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        # It needs symbols of a library that ONNX Runtime loads first; what is missing in a file says so.
        if "cannot open shared object file" in str(error):
            raise ModelError(
                f"ONNX Runtime's CUDA provider cannot be loaded: {error}; pip install 'unfreeze[gpu]'"
            ) from error

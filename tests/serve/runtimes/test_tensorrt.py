"""TensorRT engines and ONNX Runtime on a GPU; engines that do not belong to their model are rejected."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.manifests import MANIFEST
from support.runs import SPEC, write_run
from support.servers import running_server

from unfreeze.contract.errors import ModelError, OptionsError, ProofError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.engine import load_tensorrt
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.engine import local_compute_capability
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.models.verification import verify
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.cuda import Cuda
from unfreeze.serve.runtimes.onnx_cpu import open_path
from unfreeze.serve.runtimes.registry import open_runtime
from unfreeze.serve.runtimes.tensorrt import read_engine

BATCHES = (1, 3, 8, 21)  # the last is larger than the engine's largest batch
METADATA = {
    "onnx_sha256": "ab" * 32,
    "plan_sha256": hashlib.sha256(b"engine").hexdigest(),
    "flavor": "tensorrt_rtx",
    "version": "1.7",
    "targets": ["SM89"],
    "driver": "",
    "batches": [1, 8, 16],
    "flags": [],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights."""
    return write_run(tmp_path_factory.mktemp("run"), backbone="resnet18")


def _published(run: Path, repository: Path, flavor: str, target: str = "", precision: str = "fp32") -> Published:
    options = ExportOptions(
        precision=precision, max_batch=8, max_drop=100, tensorrt=True, compute_capability=target, target="tensorrt"
    )
    assert options.engine is not None
    assert options.engine.flavor == flavor
    return export_model(run, repository, "colors", options)


def _edit(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        metadata = folder / "model.plan.json"
        metadata.write_text(json.dumps(json.loads(metadata.read_text()) | changes))

    return edit


def _flip_bit(folder: Path) -> None:
    plan = bytearray((folder / "model.plan").read_bytes())
    plan[len(plan) // 2] ^= 1
    (folder / "model.plan").write_bytes(plan)


@pytest.mark.parametrize(
    ("change", "kept", "message"),
    [
        (_flip_bit, {"SHA256SUMS"}, "model.plan is not the file that was published"),
        (_edit(driver="1"), {"SHA256SUMS"}, "model.plan.json is not the file that was published"),
        (_flip_bit, set(), "model.plan is not the engine that model.plan.json describes"),
        (_edit(flavor="antigravity"), set(), "expected one of 'tensorrt', 'tensorrt_rtx', got 'antigravity'"),
        (_edit(batches=[1, 8, 4]), set(), r"the smallest, the optimal and the largest size, got \(1, 8, 4\)"),
        (_edit(more=1), set(), r"unknown field @ \$.more"),
        (lambda folder: (folder / "model.plan").unlink(), set(), "no engine next to .*build one with"),
    ],
)
def test_rejects_damaged_engines_and_metadata(
    change: Callable[[Path], None], kept: set[str], message: str, tmp_path: Path
) -> None:
    """Without a GPU, before the engine is loaded, and without importing a module that its metadata names."""
    model, files = b"model", {"model.plan": b"engine", "model.plan.json": json.dumps(METADATA).encode()}
    repository = ModelRepository(tmp_path)
    version = repository.publish("colors", model, MANIFEST, files)
    folder = repository.path("colors", version).parent
    change(folder)
    for index in {"SHA256SUMS"} - kept:  # as copied to a device without it
        (folder / index).unlink()
    with pytest.raises(ModelError, match=message):
        read_engine(folder / "model.onnx")


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2), ("int8", 0.1)])
@pytest.mark.parametrize("flavor", ["tensorrt", "tensorrt_rtx"])
def test_engine_results_match_the_graph(
    flavor: str, precision: str, tolerance: float, run: Path, tmp_path: Path
) -> None:
    """For batches of any size, also larger than the engine's largest; and its golden images verify."""
    target = local_compute_capability() if flavor == "tensorrt_rtx" else ""
    try:
        load_tensorrt(flavor)
        published = _published(run, tmp_path / "models", flavor, target, precision)
    except (ModelError, OptionsError) as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    with (
        open_runtime(published.path, "tensorrt", RuntimeOptions(instances=2)) as engine,
        open_path(published.path) as graph,
    ):
        for batch in BATCHES:
            pixels = rng.integers(0, 256, (batch, *SPEC.shape), np.uint8)
            expected = graph.run(pixels)
            np.testing.assert_allclose(engine.run(pixels), expected, atol=tolerance)
            assert np.ptp(expected, axis=0).max() > 0 or batch == 1
    if precision == "fp32":
        assert verify(published.path, runtime="tensorrt").golden == 5
    with pytest.raises(ModelError, match="is closed"):
        engine.run(pixels)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options", [RuntimeOptions(instances=2), RuntimeOptions(instances=2, cuda_graphs=True)], ids=str
)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2)])
def test_cuda_results_match_the_cpu(
    precision: str, tolerance: float, options: RuntimeOptions, run: Path, tmp_path: Path
) -> None:
    """Also when several threads call the runtime at the same time."""
    published = export_model(
        run, tmp_path / "models", "colors", ExportOptions(max_batch=8, precision=precision, max_drop=100)
    )
    try:
        on_gpu = open_runtime(published.path, "cuda", options)
    except ModelError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    with on_gpu, open_path(published.path) as on_cpu:
        for batch in BATCHES:
            pixels = rng.integers(0, 256, (batch, *SPEC.shape), np.uint8)
            with ThreadPoolExecutor(4) as pool:
                results = list(pool.map(on_gpu.run, [pixels, pixels[::-1]] * 4))
            expected = on_cpu.run(pixels)
            for number, result in enumerate(results):
                np.testing.assert_allclose(result[:: (-1) ** number], expected, atol=tolerance)


@pytest.mark.gpu
def test_a_server_on_a_gpu_classifies_as_the_cpu(run: Path, tmp_path: Path, images: list[bytes]) -> None:
    """Sixteen clients get the labels and probabilities that the CPU computes."""
    published = export_model(run, tmp_path / "models", "colors", ExportOptions(max_batch=8))
    with open_path(published.path) as on_cpu:
        spec = on_cpu.manifest.preprocess
        expected = on_cpu.run(np.stack([prepare(image, spec) for image in images]))
    labels = published.manifest.labels
    with (
        running_server(tmp_path / "models", "--device", "cuda") as server,
        Client(server.target) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        results = list(pool.map(lambda image: client.predict([image], top_k=1)[0], images * 10))
    for result, row in zip(results, np.tile(expected, (10, 1)), strict=True):
        assert result[0].label == labels[row.argmax()]
        assert result[0].score == pytest.approx(row.max(), abs=1e-3)


@pytest.mark.gpu
def test_asynchronous_copies_preserve_the_content() -> None:
    """A copy to the GPU in one stream and back in another returns the same values."""
    cuda = Cuda()
    sent, received = cuda.allocate_host((3, 5), np.float32), cuda.allocate_host((3, 5), np.float32)
    sent[:] = np.random.default_rng(0).random((3, 5))
    first, second, pointer = cuda.stream(), cuda.stream(), cuda.allocate(sent.nbytes)
    cuda.copy_to_device(pointer, sent, first)
    cuda.wait_for_stream(second, first)
    cuda.copy_to_host(received, pointer, second)
    cuda.synchronize(second)
    np.testing.assert_array_equal(sent, received)
    cuda.free(pointer)


def test_a_missing_gpu_is_an_error() -> None:
    """It names the CUDA call that failed, or the package that is missing."""
    with contextlib.suppress(ProofError):
        local_compute_capability()
        pytest.skip("needs a machine without an NVIDIA GPU")
    with pytest.raises(
        ModelError, match=r"CUDA: cuda.* failed with .*is there an NVIDIA GPU|cuda-bindings is not installed"
    ):
        Cuda()

"""Engines are run on the GPU that they were built for; what else lies beside a model is refused."""

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
from unfreeze.export.engine import this_target
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.models.verification import verify
from unfreeze.serve.runtimes.cuda import Cuda
from unfreeze.serve.runtimes.onnx_cpu import OnnxRuntime, RuntimeOptions
from unfreeze.serve.runtimes.onnx_cuda import open_on_cuda
from unfreeze.serve.runtimes.tensorrt import open_engine, read_engine

BATCHES = (1, 3, 8, 21)  # the last is more than the engine takes at once
NOTE = {
    "onnx_sha256": "ab" * 32,
    "plan_sha256": hashlib.sha256(b"engine").hexdigest(),
    "flavour": "tensorrt_rtx",
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


def _published(run: Path, repository: Path, flavour: str, target: str = "", precision: str = "fp32") -> Published:
    options = ExportOptions(
        precision=precision, max_batch=8, max_drop=100, tensorrt=True, compute_capability=target, target="tensorrt"
    )
    assert options.engine is not None
    assert options.engine.flavour == flavour
    return export_model(run, repository, "colors", options)


def _edit(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        note = folder / "model.plan.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | changes))

    return edit


def _flip(folder: Path) -> None:
    plan = bytearray((folder / "model.plan").read_bytes())
    plan[len(plan) // 2] ^= 1
    (folder / "model.plan").write_bytes(plan)


@pytest.mark.parametrize(
    ("change", "kept", "message"),
    [
        (_flip, {"SHA256SUMS"}, "model.plan is not the file that was published"),
        (_edit(driver="1"), {"SHA256SUMS"}, "model.plan.json is not the file that was published"),
        (_flip, set(), "model.plan is not the engine that model.plan.json tells of"),
        (_edit(flavour="antigravity"), set(), "expected one of 'tensorrt', 'tensorrt_rtx', found 'antigravity'"),
        (_edit(batches=[1, 8, 4]), set(), r"the smallest, the usual and the largest, found \(1, 8, 4\)"),
        (_edit(more=1), set(), r"unknown field @ \$.more"),
        (lambda folder: (folder / "model.plan").unlink(), set(), "no engine beside .*build one with"),
    ],
)
def test_what_is_no_engine_of_this_model_is_refused(
    change: Callable[[Path], None], kept: set[str], message: str, tmp_path: Path
) -> None:
    """Before anything is loaded, and no module that its note names is imported: a GPU is not needed to see it."""
    model, more = b"model", {"model.plan": b"engine", "model.plan.json": json.dumps(NOTE).encode()}
    repository = ModelRepository(tmp_path)
    version = repository.publish("colors", model, MANIFEST, more)
    folder = repository.path("colors", version).parent
    change(folder)
    for index in {"SHA256SUMS"} - kept:  # copied to a device without it
        (folder / index).unlink()
    with pytest.raises(ModelError, match=message):
        read_engine(folder / "model.onnx")


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2), ("int8", 0.1)])
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_an_engine_answers_as_the_graph(
    flavour: str, precision: str, tolerance: float, run: Path, tmp_path: Path
) -> None:
    """In batches of any size, also of more than it takes at once; and it passes its golden images."""
    target = this_target() if flavour == "tensorrt_rtx" else ""
    try:
        load_tensorrt(flavour)
        published = _published(run, tmp_path / "models", flavour, target, precision)
    except (ModelError, OptionsError) as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    with open_engine(published.path, RuntimeOptions(instances=2)) as engine, OnnxRuntime(published.path) as graph:
        for batch in BATCHES:
            pixels = rng.integers(0, 256, (batch, *SPEC.shape), np.uint8)
            expected = graph.run(pixels)
            np.testing.assert_allclose(engine.run(pixels), expected, atol=tolerance)
            assert np.ptp(expected, axis=0).max() > 0 or batch == 1
    if precision == "fp32":
        assert verify(published.path, runtime="tensorrt").golden == 5
    with pytest.raises(ModelError, match="was closed"):
        engine.run(pixels)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [RuntimeOptions(instances=2), RuntimeOptions(instances=2, graphs=True)], ids=str)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2)])
def test_the_graph_answers_alike_on_a_gpu(
    precision: str, tolerance: float, options: RuntimeOptions, run: Path, tmp_path: Path
) -> None:
    """ONNX Runtime's CUDA provider gives what its CPU provider gives, also from several threads at once."""
    published = export_model(
        run, tmp_path / "models", "colors", ExportOptions(max_batch=8, precision=precision, max_drop=100)
    )
    try:
        on_gpu = open_on_cuda(published.path, options)
    except ModelError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    with on_gpu, OnnxRuntime(published.path) as on_cpu:
        for batch in BATCHES:
            pixels = rng.integers(0, 256, (batch, *SPEC.shape), np.uint8)
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(on_gpu.run, [pixels, pixels[::-1]] * 4))
            expected = on_cpu.run(pixels)
            for number, answer in enumerate(answers):
                np.testing.assert_allclose(answer[:: (-1) ** number], expected, atol=tolerance)


@pytest.mark.gpu
def test_a_server_on_a_gpu(run: Path, tmp_path: Path, images: list[bytes]) -> None:
    """Many callers at once get what a CPU would have told each of them."""
    published = export_model(run, tmp_path / "models", "colors", ExportOptions(max_batch=8))
    with OnnxRuntime(published.path) as on_cpu:
        spec = on_cpu.manifest.preprocess
        expected = on_cpu.run(np.stack([prepare(image, spec) for image in images]))
    labels = published.manifest.labels
    with (
        running_server(tmp_path / "models", "--device", "cuda") as server,
        Client(server.target) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = list(pool.map(lambda image: client.predict([image], top=1)[0], images * 10))
    for answer, row in zip(answers, np.tile(expected, (10, 1)), strict=True):
        assert answer[0].label == labels[row.argmax()]
        assert answer[0].score == pytest.approx(row.max(), abs=1e-3)


@pytest.mark.gpu
def test_memory_that_the_gpu_copies_by_itself() -> None:
    """What is copied there and back is the same, in whichever stream."""
    cuda = Cuda()
    there, back = cuda.host((3, 5), np.float32), cuda.host((3, 5), np.float32)
    there[:] = np.random.default_rng(0).random((3, 5))
    first, second, pointer = cuda.stream(), cuda.stream(), cuda.allocate(there.nbytes)
    cuda.copy_in(pointer, there, first)
    cuda.follow(second, first)
    cuda.copy_out(back, pointer, second)
    cuda.wait(second)
    np.testing.assert_array_equal(there, back)
    cuda.free(pointer)


def test_without_a_gpu_it_says_so() -> None:
    """With the name of the call that failed, and what may be missing."""
    with contextlib.suppress(ProofError):
        this_target()
        pytest.skip("needs a machine without an NVIDIA GPU")
    with pytest.raises(ModelError, match=r"CUDA: cuda.* failed with .*is there an NVIDIA GPU|needs cuda-bindings"):
        Cuda()

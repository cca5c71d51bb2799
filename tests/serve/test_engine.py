"""Engines are run on the GPU that they were built for; what else lies beside a model is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.manifests import MANIFEST
from support.runs import SPEC, write_run

from contract.engine import load_tensorrt
from contract.errors import ModelError, OptionsError
from contract.repository import ModelRepository
from export.engine import this_target
from export.options import ExportOptions
from export.run import Published, export
from serve.engine import EngineRuntime, read_engine
from serve.runtime import OnnxRuntime
from serve.verify import verify

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
    return export(run, repository, "colours", options)


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
    version = repository.publish("colours", model, MANIFEST, more)
    folder = repository.path("colours", version).parent
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
    """In batches of any size, also of more than it takes at once; and it passes its golden pictures."""
    target = this_target() if flavour == "tensorrt_rtx" else ""
    try:
        load_tensorrt(flavour)
        published = _published(run, tmp_path / "models", flavour, target, precision)
    except (ModelError, OptionsError) as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    with EngineRuntime(published.path) as engine, OnnxRuntime(published.path) as graph:
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
def test_the_graph_answers_alike_on_a_gpu(run: Path, tmp_path: Path) -> None:
    """ONNX Runtime's CUDA provider gives what its CPU provider gives."""
    published = export(run, tmp_path / "models", "colours", ExportOptions(max_batch=8))
    try:
        on_gpu = OnnxRuntime(published.path, device="cuda")
    except ModelError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(0)
    with on_gpu, OnnxRuntime(published.path) as on_cpu:
        for batch in BATCHES:
            pixels = rng.integers(0, 256, (batch, *SPEC.shape), np.uint8)
            np.testing.assert_allclose(on_gpu.run(pixels), on_cpu.run(pixels), atol=1e-3)

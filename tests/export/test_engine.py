"""Engines: built by TensorRT for RTX without a GPU, and rejected where they cannot be used."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
from support.cli import run_cli
from support.runs import SPEC

from unfreeze.contract.errors import ModelError, OptionsError, ProofError
from unfreeze.contract.model.engine import EngineFacts, check_engine, load_tensorrt
from unfreeze.contract.reporting import Silent
from unfreeze.export.engine import build_engine
from unfreeze.export.options import EngineOptions, ExportOptions
from unfreeze.export.run import Published, export_model

RTX = EngineOptions(flavor="tensorrt_rtx", targets=("SM89", "SM120"), batches=(1, 8, 16))


class RecordingReporter:
    """Records the steps of progress bars."""

    def __init__(self) -> None:
        self.bars: dict[str, list[int]] = {}

    def info(self, text: str) -> None:
        """Ignore messages."""

    def track(self, what: str, total: int):  # noqa: ANN201
        """Count the steps of a bar."""
        self.bars[what] = [0, total]

        def advance(steps: int) -> None:
            self.bars[what][0] += steps

        return advance


pytestmark = pytest.mark.xdist_group("export")


@pytest.fixture(scope="module")
def with_engine(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The shared run, exported together with an engine."""
    options = ExportOptions(max_batch=16, tensorrt=True, compute_capability="sm89, SM120")
    return export_model(run, tmp_path_factory.mktemp("engine") / "models", "colors", options)


def test_an_engine_is_published_with_the_facts_to_check_it(with_engine: Published) -> None:
    """The facts are the checksums, the library's version, the devices and the batch sizes."""
    folder = with_engine.path.parent
    facts = json.loads((folder / "model.plan.json").read_text())
    trt = load_tensorrt("tensorrt_rtx")
    assert facts == {
        "onnx_sha256": hashlib.sha256(with_engine.path.read_bytes()).hexdigest(),
        "plan_sha256": hashlib.sha256((folder / "model.plan").read_bytes()).hexdigest(),
        "flavor": "tensorrt_rtx",
        "version": trt.__version__,
        "targets": ["SM89", "SM120"],
        "driver": "",
        "batches": [1, 8, 16],
        "flags": ["STRONGLY_TYPED"],
    }
    assert (folder / "model.plan").stat().st_size > 1_000_000
    names = [line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert names == ["model.onnx", "MODEL_CARD.md", "model.plan", "model.plan.json"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("precision", "least", "most"), [("fp16", 0.4, 0.8), ("int8", 0.3, 3)])
def test_engines_compute_in_the_types_of_the_graph(
    precision: str, least: float, most: float, run: Path, with_engine: Published, tmp_path: Path
) -> None:
    """An engine of a float16 graph is smaller than that of the float32 graph."""
    options = ExportOptions(
        precision=precision,
        target="tensorrt",
        max_drop=100,
        max_batch=16,
        tensorrt=True,
        compute_capability="SM89,SM120",
    )
    smaller = export_model(run, tmp_path, "colors", options)
    sizes = [(one.path.parent / "model.plan").stat().st_size for one in (smaller, with_engine)]
    assert least < sizes[0] / sizes[1] < most


@pytest.mark.exhaustive
def test_building_shows_its_progress(published: Published) -> None:
    """The outermost phases of the build are progress bars."""
    reporter = RecordingReporter()
    engine = build_engine(published.path.read_bytes(), SPEC.shape, RTX, reporter)
    assert len(engine.plan) > 1_000_000
    assert reporter.bars
    assert all(what.startswith("building the engine: ") for what in reporter.bars)
    assert all(0 < done <= total for done, total in reporter.bars.values())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("SM90",), r"tensorrt_rtx .* builds engines for SM75, .*; got SM90"),
        (("SM89", "VOLTA"), "got VOLTA"),
        ((), "got none"),
    ],
)
def test_rejects_unsupported_devices(targets: tuple[str, ...], message: str, published: Published) -> None:
    """The message lists the supported ones."""
    options = EngineOptions(flavor="tensorrt_rtx", targets=targets, batches=(1, 8, 16))
    with pytest.raises(OptionsError, match=message):
        build_engine(published.path.read_bytes(), SPEC.shape, options, Silent())


def test_quotes_the_parser_where_it_rejects_a_graph() -> None:
    """For example a file that is not a model."""
    with pytest.raises(ProofError, match=r"tensorrt_rtx .* cannot parse the graph: .*\w{5}"):
        build_engine(b"no model", SPEC.shape, RTX, Silent())


def test_without_tensorrt_the_error_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names NVIDIA's own package index, and nothing is published."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = run_cli("export", run, "--repository", tmp_path / "models", "--name", "colors", "--tensorrt")
    assert done.returncode != 0
    assert "tensorrt cannot be loaded" in done.stderr
    assert "pip install 'unfreeze[tensorrt]' from NVIDIA's package index" in done.stderr
    assert not (tmp_path / "models").exists()


FACTS = EngineFacts(
    onnx_sha256="ab" * 32,
    plan_sha256="cd" * 32,
    flavor="tensorrt_rtx",
    version="1.7",
    targets=("SM89", "SM120"),
    driver="",
    batches=(1, 8, 64),
    flags=(),
)


@pytest.mark.parametrize(
    ("onnx", "version", "target", "message"),
    [
        ("cd" * 32, "1.7", "SM89", r"built from another model.onnx \(abababababab, not cdcdcdcdcdcd\); build it here"),
        ("ab" * 32, "1.8", "SM89", "built by tensorrt_rtx 1.7, and 1.8 is installed"),
        ("ab" * 32, "1.7", "SM90", "built for SM89, SM120, and this device is SM90"),
        ("cd" * 32, "1.8", "SM90", "another model.onnx .* by tensorrt_rtx 1.7, .* for SM89"),
    ],
)
def test_rejects_an_engine_of_another_model_version_or_device(
    onnx: str, version: str, target: str, message: str
) -> None:
    """All differences are listed."""
    with pytest.raises(ModelError, match=message):
        check_engine(FACTS, onnx, version, target)


def test_accepts_an_engine_for_this_device() -> None:
    """Either of its devices."""
    for target in FACTS.targets:
        check_engine(FACTS, "ab" * 32, "1.7", target)


def test_compute_capabilities_require_an_engine() -> None:
    """They have no effect without one."""
    with pytest.raises(OptionsError, match="--compute-capability requires --tensorrt"):
        ExportOptions(compute_capability="SM89")

"""Engines: built by TensorRT for RTX on a machine with no GPU, and told apart from those that cannot be used here."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import SPEC, write_run

from unfreeze.contract.errors import ModelError, OptionsError, ProofError
from unfreeze.contract.model.engine import EngineFacts, check_engine, load_tensorrt
from unfreeze.contract.reporting import Silent
from unfreeze.export.engine import build_engine
from unfreeze.export.options import EngineOptions, ExportOptions
from unfreeze.export.run import Published, export_model

RTX = EngineOptions(flavour="tensorrt_rtx", targets=("SM89", "SM120"), batches=(1, 8, 16))


class Heard:
    """Keeps what a reporter is told."""

    def __init__(self) -> None:
        self.bars: dict[str, list[int]] = {}

    def info(self, text: str) -> None:
        """Take no note."""

    def track(self, what: str, total: int):  # noqa: ANN201
        """Count the steps."""
        self.bars[what] = [0, total]

        def advance(steps: int) -> None:
            self.bars[what][0] += steps

        return advance


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights."""
    return write_run(tmp_path_factory.mktemp("run"), backbone="mobilenet_v3_small")


@pytest.fixture(scope="module")
def published(run: Path) -> Published:
    """It, exported with an engine beside it."""
    options = ExportOptions(max_batch=16, tensorrt=True, compute_capability="sm89, SM120")
    return export_model(run, run.parent / "models", "colors", options)


def test_an_engine_lies_beside_the_model_with_a_note_of_what_it_is(published: Published) -> None:
    """It loads in the library that built it, and its note names the model's file, the devices, and the batches."""
    folder = published.path.parent
    facts = json.loads((folder / "model.plan.json").read_text())
    trt = load_tensorrt("tensorrt_rtx")
    assert facts == {
        "onnx_sha256": hashlib.sha256(published.path.read_bytes()).hexdigest(),
        "plan_sha256": hashlib.sha256((folder / "model.plan").read_bytes()).hexdigest(),
        "flavour": "tensorrt_rtx",
        "version": trt.__version__,
        "targets": ["SM89", "SM120"],
        "driver": "",
        "batches": [1, 8, 16],
        "flags": ["STRONGLY_TYPED"],
    }
    assert (folder / "model.plan").stat().st_size > 1_000_000
    names = [line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert names == ["model.onnx", "model.plan", "model.plan.json"]


@pytest.mark.parametrize(("precision", "least", "most"), [("fp16", 0.4, 0.8), ("int8", 0.3, 3)])
def test_typed_graphs_become_engines(
    precision: str, least: float, most: float, run: Path, published: Published, tmp_path: Path
) -> None:
    """The engine keeps the graph's types: halves make it smaller than float32's."""
    options = ExportOptions(
        precision=precision,
        target="tensorrt",
        max_drop=100,
        max_batch=16,
        tensorrt=True,
        compute_capability="SM89,SM120",
    )
    smaller = export_model(run, tmp_path, "colors", options)
    sizes = [(one.path.parent / "model.plan").stat().st_size for one in (smaller, published)]
    assert least < sizes[0] / sizes[1] < most


def test_building_shows_its_progress(published: Published) -> None:
    """The builder's outermost phases are bars that come to their end."""
    heard = Heard()
    engine = build_engine(published.path.read_bytes(), SPEC.shape, RTX, heard)
    assert len(engine.plan) > 1_000_000
    assert heard.bars
    assert all(what.startswith("building the engine: ") for what in heard.bars)
    assert all(0 < done <= total for done, total in heard.bars.values())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("SM90",), r"tensorrt_rtx .* builds for SM75, .*, found SM90"),
        (("SM89", "VOLTA"), "found VOLTA"),
        ((), "found none"),
    ],
)
def test_devices_that_the_library_does_not_know_are_refused(
    targets: tuple[str, ...], message: str, published: Published
) -> None:
    """With those that it knows."""
    options = EngineOptions(flavour="tensorrt_rtx", targets=targets, batches=(1, 8, 16))
    with pytest.raises(OptionsError, match=message):
        build_engine(published.path.read_bytes(), SPEC.shape, options, Silent())


def test_a_graph_that_is_not_parsed_is_refused_in_the_parsers_words() -> None:
    """What is no model at all is one."""
    with pytest.raises(ProofError, match=r"tensorrt_rtx .* does not parse the graph: .*\w{5}"):
        build_engine(b"no model", SPEC.shape, RTX, Silent())


def test_without_the_library_it_says_what_to_install(run: Path, tmp_path: Path) -> None:
    """TensorRT's libraries are in NVIDIA's own index: the message says so, and nothing is published."""
    code = "import sys; sys.modules['tensorrt'] = None\nfrom unfreeze.command import app\napp(sys.argv[1:])"
    words = ["export", str(run), "--repository", str(tmp_path / "models"), "--name", "colors", "--tensorrt"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "tensorrt cannot be used here" in done.stderr
    assert "pip install 'unfreeze[tensorrt]', with NVIDIA's own package index" in done.stderr
    assert not (tmp_path / "models").exists()


FACTS = EngineFacts(
    onnx_sha256="ab" * 32,
    plan_sha256="cd" * 32,
    flavour="tensorrt_rtx",
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
def test_an_engine_for_something_else_is_refused(onnx: str, version: str, target: str, message: str) -> None:
    """Another model's, another version's, another device's: every difference is named."""
    with pytest.raises(ModelError, match=message):
        check_engine(FACTS, onnx, version, target)


def test_an_engine_for_this_is_taken() -> None:
    """On either of its devices."""
    for target in FACTS.targets:
        check_engine(FACTS, "ab" * 32, "1.7", target)


def test_devices_without_an_engine_are_refused() -> None:
    """They say what is built for them, so something is to be built."""
    with pytest.raises(OptionsError, match="says what --tensorrt builds an engine for: say that too"):
        ExportOptions(compute_capability="SM89")

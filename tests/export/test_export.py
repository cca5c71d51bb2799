"""Export: one self-describing file with the trained network's probabilities, or nothing."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from support.cli import run_cli
from support.runs import SPEC, write_run

from unfreeze.contract.errors import CheckpointError, ProofError, RepositoryError
from unfreeze.contract.model.manifest import METADATA_KEY, Manifest
from unfreeze.contract.reporting import Silent
from unfreeze.export.graph import CalibratedNetwork
from unfreeze.export.prepared import prepare_images
from unfreeze.export.prove import Reference, check_proof, compute_reference, prove
from unfreeze.export.run import Published, export_model
from unfreeze.serve.models.verification import verify
from unfreeze.tune.artifacts.checkpoint import RunFacts, load_run

pytestmark = pytest.mark.xdist_group("export")


def test_graph_maps_uint8_images_to_probabilities_in_any_batch_size(published: Published) -> None:
    """Uint8 [N, H, W, 3] to float32 [N, C] with a dynamic N; rows sum to 1."""
    session = onnxruntime.InferenceSession(published.path)
    (input_,), (output,) = session.get_inputs(), session.get_outputs()
    assert (input_.name, input_.type, input_.shape[1:]) == ("pixels", "tensor(uint8)", [32, 32, 3])
    assert (output.name, output.type, output.shape[1:]) == ("probabilities", "tensor(float)", [3])
    assert isinstance(input_.shape[0], str)
    for batch in (1, 2, 5, 33):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        (rows,) = session.run(None, {"pixels": pixels})
        assert rows.shape == (batch, 3)
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)


def test_probabilities_are_those_of_torch_with_the_temperature(run: Path, published: Published) -> None:
    """ONNX Runtime computes softmax(logits / temperature) of the saved network."""
    network, facts = load_run(run)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = torch.softmax(network(torch.from_numpy(pixels)) / facts.temperature, 1).numpy()
    (found,) = onnxruntime.InferenceSession(published.path).run(None, {"pixels": pixels})
    assert expected.std() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Second:
    """A run, and its export into a repository that has a version."""

    run: Path
    published: Published


@pytest.fixture(scope="module")
def second(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Second:
    """A run with sigmoids, of few images, which have moved, and of a package with a name as in the manifest."""
    folder = tmp_path_factory.mktemp("second")
    run = write_run(folder, per_class=2, link="sigmoid", abstain_below=0.75)
    _versions(run)
    (folder / "images").rename(folder / "elsewhere")
    shutil.copytree(published.path.parents[2], folder / "models")
    return Second(run=run, published=export_model(run, folder / "models", "colors", data=folder / "elsewhere"))


def test_the_sigmoid_link_is_exported_and_recorded(second: Second) -> None:
    """The graph ends in sigmoids divided by their sum; link and abstention threshold are in the manifest."""
    published = second.published
    network, facts = load_run(second.run)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        own = torch.sigmoid(network(torch.from_numpy(pixels)) / facts.temperature)
    (found,) = onnxruntime.InferenceSession(published.path).run(None, {"pixels": pixels})
    np.testing.assert_allclose(found, own / own.sum(1, keepdim=True), atol=1e-5)
    assert np.abs(found - own.softmax(1).numpy()).max() > 0.05
    assert (published.manifest.link, published.manifest.abstain_below) == ("sigmoid", 0.75)


def test_file_describes_itself(published: Published) -> None:
    """The manifest contains labels, preprocessing, proof and provenance; only the checksum is in another file."""
    model = onnx.load(published.path)
    manifest = Manifest.from_json({item.key: item.value for item in model.metadata_props}[METADATA_KEY])
    assert manifest == published.manifest
    assert manifest.precision == "fp32"
    assert manifest.labels == ("blue", "green", "red")
    assert manifest.preprocess == SPEC
    assert manifest.proof.images == 18
    assert manifest.proof.batch_sizes == (1, 2, 7, 16)
    assert 0 <= manifest.proof.largest_difference <= 1e-4
    assert manifest.proof.same_top1 == 1
    assert manifest.proof.accuracy == manifest.proof.trained_accuracy
    assert manifest.provenance.versions["onnxruntime"] == onnxruntime.__version__
    assert sorted(file.name for file in published.path.parent.iterdir()) == [
        "MODEL_CARD.md",
        "SHA256SUMS",
        "model.onnx",
    ]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=published.path.parent, check=True)
    beside = sorted(file.name for file in published.path.parents[1].iterdir())
    assert beside == ["1", "config.pbtxt", "kserve.yaml", "labels.txt"]


def test_file_contains_nothing_of_the_machine(run: Path, published: Published) -> None:
    """No path, stack trace or class name of the exporting process is in the file."""
    content = published.path.read_bytes()
    for trace in (b"stack_trace", str(Path.cwd()).encode(), str(run).encode(), b"site-packages", b"torch.nn.modules"):
        assert trace not in content


def test_equal_runs_give_equal_bytes(run: Path, published: Published, tmp_path: Path) -> None:
    """Exporting again, in another process, gives the same file."""
    command = ["export", run, "--repository", tmp_path / "third", "--name", "colors", "--max-batch", "16"]
    subprocess.run([sys.executable, "-m", "unfreeze.command", *map(str, command)], check=True, capture_output=True)
    assert (tmp_path / "third/colors/1/model.onnx").read_bytes() == published.path.read_bytes()


def test_versions_count_up(published: Published, second: Second) -> None:
    """A second export is version 2, and version 1 is kept."""
    assert (published.version, second.published.version) == (1, 2)
    assert second.published.path.parent.name == "2"
    first = second.published.path.parents[1] / "1" / "model.onnx"
    assert first.read_bytes() == published.path.read_bytes() != second.published.path.read_bytes()


def _reference(network: CalibratedNetwork, facts: RunFacts) -> Reference:
    images = prepare_images(facts.images(), facts.preprocess, "preparing", Silent())
    return compute_reference(network, images, 16, Silent())


def test_rejects_the_graph_of_another_network(run: Path, published: Published) -> None:
    """Other weights fail the check, and the message says by how much."""
    network, facts = load_run(run)
    with torch.no_grad():
        network.head.linear.weight[0] += 0.2
    served = CalibratedNetwork(network, facts.temperature, facts.link).eval()
    with pytest.raises(
        ProofError,
        match=r"differs from the trained network: a probability by \d\.\d+e-\d+, more than --tolerance 1e-04",
    ):
        check_proof(prove(published.path.read_bytes(), "fp32", _reference(served, facts), 1e-4, Silent()), 0.5)


def test_publishes_nothing_above_the_tolerance(run: Path, tmp_path: Path) -> None:
    """The exit code is 1, the message says so, and the repository is not created."""
    repository = tmp_path / "models"
    done = run_cli("export", run, "--repository", repository, "--name", "colors", "--tolerance", "0")
    assert done.returncode == 1
    assert "nothing was published" in done.stderr
    assert not repository.exists()


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def change_both(run: Path) -> None:
        state = safetensors.torch.load_file(run / "model.safetensors")
        change(state)
        safetensors.torch.save_file(state, run / "model.safetensors")
        digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
        _facts(weights_sha256=digest)(run)

    return change_both


def _facts(**changes: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        document = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(document | changes))

    return change


def _versions(run: Path) -> None:
    """Name a package so that the manifest seems to contain two seals."""
    provenance = json.loads((run / "run.json").read_text())["provenance"]
    _facts(provenance=provenance | {"versions": {"sha256": "0" * 64}})(run)


def _swap_weights(run: Path) -> None:
    (run / "model.safetensors").write_bytes(
        (write_run(run.parent / "other", seed=1) / "model.safetensors").read_bytes()
    )


def _pipe(run: Path) -> None:
    (run / "model.safetensors").unlink()
    os.mkfifo(run / "model.safetensors")


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda run: (run / "run.json").unlink(), CheckpointError, "contains no finished run"),
        (lambda run: (run / "run.json").write_text("{"), CheckpointError, "not valid JSON"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x" * 99), CheckpointError, "was changed after tuning"),
        (_swap_weights, CheckpointError, "was changed after tuning: its SHA-256 is"),
        (_pipe, CheckpointError, "there is no file model.safetensors"),
        (
            _weights(lambda state: state.pop(next(iter(state)))),
            CheckpointError,
            "is damaged: the weights' names differ",
        ),
        (
            _weights(lambda state: state["unfreeze_head.linear.bias"].fill_(math.nan)),
            ProofError,
            "a probability by 2.00e",
        ),
        (_facts(metrics={"\ud800": 1.0}), CheckpointError, "expected text in UTF-8"),
        (lambda run: next((run.parent / "images/val").rglob("*.jpg")).unlink(), ProofError, "images are missing"),
    ],
)
def test_rejects_broken_runs(break_it, error, message, tmp_path: Path) -> None:  # noqa: ANN001
    """Missing or damaged files and NaN are reported, and nothing is published."""
    run = write_run(tmp_path, per_class=2)
    break_it(run)
    with pytest.raises(error, match=message):
        export_model(run, tmp_path / "models", "colors")
    assert not (tmp_path / "models").exists()


def test_a_package_may_have_the_name_of_the_seal(second: Second) -> None:
    """Another field of the manifest that looks like the seal is left unchanged."""
    published = second.published
    assert published.manifest.provenance.versions["sha256"] == "0" * 64
    assert verify(published.path).sha256 == published.manifest.sha256 != "0" * 64


def test_reads_runs_of_many_images(tmp_path: Path) -> None:
    """A `run.json` may be larger than a manifest."""
    run = write_run(tmp_path, per_class=2)
    document = json.loads((run / "run.json").read_text())
    document["calibration"] *= 1000
    many = json.dumps(document, indent=400)  # as large as hundreds of thousands of images make it
    (run / "run.json").write_text(many)
    assert len(many) > 16 * 2**20
    assert len(load_run(run)[1].calibration) == 6000


def test_reference_does_not_depend_on_the_number_of_threads(run: Path) -> None:
    """The trained network's probabilities, and so the manifest, are the same bit for bit."""
    network, facts = load_run(run)
    served = CalibratedNetwork(network, facts.temperature, facts.link).eval()
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(_reference(served, facts).probabilities)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_finds_moved_images(second: Second) -> None:
    """The `data` option gives their new folder."""
    assert not (second.run.parent / "images").exists()
    assert second.published.manifest.proof.images == 6


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "colors.encoded", "with space"])
def test_rejects_invalid_names_before_any_work(name: str, run: Path, tmp_path: Path) -> None:
    """Names that are not a plain folder name are rejected."""
    with pytest.raises(RepositoryError, match="is not a valid model name"):
        export_model(run, tmp_path, name)


def test_run_json_lists_relative_paths(run: Path) -> None:
    """The validation images are listed relative to the data folder."""
    document = json.loads((run / "run.json").read_text())
    assert all(not file["path"].startswith("/") for file in document["val"])

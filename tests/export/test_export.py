"""Exporting: one file that describes itself, equal to what was trained, or nothing."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from support.runs import SPEC, write_run

from unfreeze.contract.errors import CheckpointError, ProofError, RepositoryError
from unfreeze.contract.model.manifest import METADATA_KEY, Manifest
from unfreeze.contract.reporting import Silent
from unfreeze.export.graph import Served
from unfreeze.export.options import ExportOptions
from unfreeze.export.prepared import prepare_all
from unfreeze.export.prove import Expected, check_proof, expect, prove
from unfreeze.export.run import Published, export_model
from unfreeze.serve.models.verification import verify
from unfreeze.tune.artifacts.checkpoint import RunFacts, load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights."""
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def published(run: Path) -> Published:
    """That run, exported."""
    return export_model(run, run.parent / "models", "colors", ExportOptions(max_batch=16))


def test_graph_takes_uint8_images_and_gives_probabilities_in_any_batch(published: Published) -> None:
    """The graph is uint8 [N, H, W, 3] to float32 [N, C] with a dynamic N, and its rows sum to 1."""
    session = onnxruntime.InferenceSession(published.path)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("pixels", "tensor(uint8)", [32, 32, 3])
    assert (given.name, given.type, given.shape[1:]) == ("probabilities", "tensor(float)", [3])
    assert isinstance(taken.shape[0], str)
    for batch in (1, 2, 5, 33):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        (rows,) = session.run(None, {"pixels": pixels})
        assert rows.shape == (batch, 3)
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)


def test_answers_are_torchs_with_the_temperature(run: Path, published: Published) -> None:
    """ONNX Runtime gives softmax(logits / temperature) of the network that was saved."""
    network, facts = load_run(run)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = torch.softmax(network(torch.from_numpy(pixels)) / facts.temperature, 1).numpy()
    (found,) = onnxruntime.InferenceSession(published.path).run(None, {"pixels": pixels})
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_answers_of_separate_sigmoids_are_torchs_and_the_manifest_says_so(tmp_path: Path) -> None:
    """A run whose link is the sigmoid ends in sigmoids divided by their sum, and tells so and when it is unsure."""
    run = write_run(tmp_path, link="sigmoid", abstain_below=0.75)
    published = export_model(run, tmp_path / "models", "colors")
    network, facts = load_run(run)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        own = torch.sigmoid(network(torch.from_numpy(pixels)) / facts.temperature)
    (found,) = onnxruntime.InferenceSession(published.path).run(None, {"pixels": pixels})
    np.testing.assert_allclose(found, own / own.sum(1, keepdim=True), atol=1e-5)
    assert np.abs(found - own.softmax(1).numpy()).max() > 0.05
    assert (published.manifest.link, published.manifest.abstain_below) == ("sigmoid", 0.75)


def test_file_describes_itself(published: Published) -> None:
    """The manifest inside says labels, preparation, proof and provenance; only its checksum lies beside the model."""
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
    assert sorted(file.name for file in published.path.parent.iterdir()) == ["SHA256SUMS", "model.onnx"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=published.path.parent, check=True)
    beside = sorted(file.name for file in published.path.parents[1].iterdir())
    assert beside == ["1", "config.pbtxt", "kserve.yaml", "labels.txt"]


def test_file_tells_nothing_of_the_machine(run: Path, published: Published) -> None:
    """No path, stack trace or class name of the exporting process is left in the file."""
    content = published.path.read_bytes()
    for trace in (b"stack_trace", str(Path.cwd()).encode(), str(run).encode(), b"site-packages", b"torch.nn.modules"):
        assert trace not in content


def test_equal_runs_give_equal_bytes(run: Path, published: Published, tmp_path: Path) -> None:
    """Exporting twice gives the same file, in another process too."""
    again = export_model(run, tmp_path / "models", "colors", ExportOptions(max_batch=16))
    assert again.path.read_bytes() == published.path.read_bytes()
    command = ["export", run, "--repository", tmp_path / "third", "--name", "colors", "--max-batch", "16"]
    subprocess.run([sys.executable, "-m", "unfreeze.command", *map(str, command)], check=True, capture_output=True)
    assert (tmp_path / "third/colors/1/model.onnx").read_bytes() == published.path.read_bytes()


def test_versions_count_up(run: Path, tmp_path: Path) -> None:
    """A second export is version 2, and version 1 stays."""
    first, second = (export_model(run, tmp_path, "colors") for _ in range(2))
    assert (first.version, second.version) == (1, 2)
    assert first.path.is_file()


def _expected(served: Served, facts: RunFacts) -> Expected:
    images = prepare_all(facts.images(), facts.preprocess, "preparing", Silent())
    return expect(served, images, 16, Silent())


def test_another_networks_graph_is_not_published(run: Path, published: Published) -> None:
    """A graph whose weights are not the run's fails the proof, and the message says by how much."""
    network, facts = load_run(run)
    with torch.no_grad():
        network.head.linear.weight[0] += 0.05
    served = Served(network, facts.temperature, facts.link).eval()
    with pytest.raises(
        ProofError, match=r"not what was trained: a probability differs by \d\.\d+e-\d+, more than 1e-04"
    ):
        check_proof(prove(published.path.read_bytes(), "fp32", _expected(served, facts), 1e-4, Silent()), 0.5)


def test_too_strict_a_tolerance_publishes_nothing(run: Path, tmp_path: Path) -> None:
    """Above the tolerance the exit code is 1, the message says so and the repository is not even made."""
    repository = tmp_path / "models"
    command = ["export", run, "--repository", repository, "--name", "colors", "--tolerance", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "unfreeze.command", *map(str, command)], capture_output=True, text=True, check=False
    )
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
    """Name a package so that the manifest would hold two seals."""
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
        (lambda run: (run / "run.json").unlink(), CheckpointError, "holds no finished run"),
        (lambda run: (run / "run.json").write_text("{"), CheckpointError, "no JSON"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x" * 99), CheckpointError, "is not what was tuned"),
        (_swap_weights, CheckpointError, "is not what was tuned: its SHA-256 is"),
        (_pipe, CheckpointError, "there is no file model.safetensors"),
        (
            _weights(lambda state: state.pop(next(iter(state)))),
            CheckpointError,
            "is damaged: the weights' names differ",
        ),
        (_weights(lambda state: state["unfreeze_head.linear.bias"].fill_(math.nan)), ProofError, "differs by 2.00e"),
        (_facts(metrics={"\ud800": 1.0}), CheckpointError, "expected text in UTF-8"),
        (lambda run: next((run.parent / "images/val").rglob("*.jpg")).unlink(), ProofError, "images are gone"),
    ],
)
def test_broken_runs_are_refused(break_it, error, message, tmp_path: Path) -> None:  # noqa: ANN001
    """A run that is missing something, damaged or full of NaN is refused with the reason, and nothing is published."""
    run = write_run(tmp_path, per_class=2)
    break_it(run)
    with pytest.raises(error, match=message):
        export_model(run, tmp_path / "models", "colors")
    assert not (tmp_path / "models").exists()


def test_a_package_may_be_called_like_the_seal(tmp_path: Path) -> None:
    """What else in the manifest looks like the seal's place is left as it is."""
    run = write_run(tmp_path, per_class=2)
    _versions(run)
    published = export_model(run, tmp_path / "models", "colors")
    assert published.manifest.provenance.versions["sha256"] == "0" * 64
    assert verify(published.path).sha256 == published.manifest.sha256 != "0" * 64


def test_runs_of_many_images_are_read(tmp_path: Path) -> None:
    """A `run.json` of more bytes than a manifest may have is no reason to tune again."""
    run = write_run(tmp_path, per_class=2)
    document = json.loads((run / "run.json").read_text())
    document["calibration"] *= 1000
    many = json.dumps(document, indent=400)  # as large as hundreds of thousands of images make it
    (run / "run.json").write_text(many)
    assert len(many) > 16 * 2**20
    assert len(load_run(run)[1].calibration) == 6000


def test_answers_do_not_depend_on_the_number_of_threads(run: Path) -> None:
    """What the trained network is taken to answer, and so the manifest, is the same to the bit."""
    network, facts = load_run(run)
    served = Served(network, facts.temperature, facts.link).eval()
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(_expected(served, facts).probabilities)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_moved_images_are_found_again(tmp_path: Path) -> None:
    """Where the images have moved, `data` says where they are now."""
    run = write_run(tmp_path, per_class=2)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    published = export_model(run, tmp_path / "models", "colors", data=tmp_path / "elsewhere")
    assert published.manifest.proof.images == 6


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "colors.encoded", "with space"])
def test_bad_names_are_refused_before_any_work(name: str, run: Path, tmp_path: Path) -> None:
    """A name that could leave the repository or mean something else is refused."""
    with pytest.raises(RepositoryError, match="is no model's name"):
        export_model(run, tmp_path, name)


def test_run_json_holds_no_more_than_it_says(run: Path) -> None:
    """`run.json` is plain JSON whose validation files are relative paths."""
    document = json.loads((run / "run.json").read_text())
    assert all(not file["path"].startswith("/") for file in document["val"])

"""Verification: any change to a model is detected, on a device without the data and without torch."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.cli import run_cli
from support.runs import SPEC

import unfreeze.serve.models.verification
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import METADATA_KEY, Manifest
from unfreeze.contract.model.seal import UNSEALED, check_seal
from unfreeze.export.graph import with_manifest
from unfreeze.export.run import Published
from unfreeze.serve.models.verification import verify
from unfreeze.serve.runtimes.onnx_cpu import open_path

pytestmark = pytest.mark.xdist_group("export")


def _manifest(model: onnx.ModelProto) -> Manifest:
    return Manifest.from_json({item.key: item.value for item in model.metadata_props}[METADATA_KEY])


def _spec(manifest: Manifest, **changes: object) -> Manifest:
    return dataclasses.replace(manifest, preprocess=dataclasses.replace(manifest.preprocess, **changes))


def _labels(manifest: Manifest) -> Manifest:
    """Swap the label that the first golden image has with the next one."""
    first = manifest.labels.index(manifest.golden[0].label)
    labels = list(manifest.labels)
    labels[first], labels[first - 1] = labels[first - 1], labels[first]
    return dataclasses.replace(manifest, labels=tuple(labels))


def _altered(published: Published, folder: Path, graph: Callable, manifest: Callable) -> Path:
    """Alter a model and seal it again, as an attacker would."""
    model = onnx.load(published.path)
    unsealed = dataclasses.replace(_manifest(model), sha256=UNSEALED)
    graph(model)
    path = folder / "model.onnx"
    path.write_bytes(with_manifest(model, manifest(unsealed)))
    return path


def _change_a_weight(model: onnx.ModelProto) -> None:
    """Add a tenth to one weight of the first convolution."""
    tensor = next(one for one in model.graph.initializer if len(one.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 0.1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _change_the_mean(model: onnx.ModelProto) -> None:
    """Add a hundredth to the mean of red: what is subtracted is the mean divided by the standard deviation."""
    tensor = next(one for one in model.graph.initializer if one.name.endswith("normalize.shift"))
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 0.01 / SPEC.std[0]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _unchanged(part: object) -> object:
    return part


def test_accepts_the_exported_model(published: Published) -> None:
    """On the machine that exported it, all golden examples give the recorded probabilities."""
    found = verify(published.path)
    assert found.sha256 == check_seal(published.path.read_bytes()) == published.manifest.sha256
    assert found.golden == 5
    assert found.largest_difference < 1e-6
    assert found.tolerance == 0.01


def test_golden_probabilities_differ_between_images(published: Published) -> None:
    """Equal probabilities for all images would verify nothing."""
    answers = np.array([golden.probabilities for golden in published.manifest.golden])
    logarithms = np.log(answers)
    assert (
        np.abs(logarithms[:, None] - logarithms[None]).max(2)[~np.eye(5, dtype=bool)].min() > 0.1
    )  # ten times the tolerance
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)
    assert sum(len(golden.image) for golden in published.manifest.golden) < 200_000


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_detects_one_changed_bit(place: str, published: Published, tmp_path: Path) -> None:
    """By the published checksum where it is present, and by the seal without."""
    content = bytearray(published.path.read_bytes())
    content[{"first": 40, "middle": len(content) // 2, "last": -1}[place]] ^= 1
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is not the file that was exported|has no manifest with a seal"):
        verify(path)
    (tmp_path / "SHA256SUMS").write_bytes((published.path.parent / "SHA256SUMS").read_bytes())
    with pytest.raises(ModelError, match="is not the file that was published"):
        open_path(path)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (b'"mean": [0.485, ', b'"mean": [0.486, '),
        (b'"resize": [40]', b'"resize": [41]'),
        (b'"interpolation": "bilinear"', b'"interpolation": "lanczos" '),
        (b'"labels": ["blue", ', b'"labels": ["glue", '),
        (b'"max_batch": 16', b'"max_batch": 17'),
    ],
)
def test_detects_one_change_in_the_manifest(text: bytes, other: bytes, published: Published, tmp_path: Path) -> None:
    """Mean, resize, interpolation, labels: changed to valid JSON of the same length."""
    content = published.path.read_bytes()
    assert content.count(text) == 1
    path = tmp_path / "model.onnx"
    path.write_bytes(content.replace(text, other.ljust(len(text))))
    with pytest.raises(ModelError, match="is not the file that was exported: its SHA-256 is"):
        verify(path)


@pytest.mark.parametrize(
    ("graph", "manifest", "message"),
    [
        (_change_a_weight, _unchanged, r"golden image \d of 5: a log-probability differs by \d"),
        (_change_the_mean, _unchanged, r"golden image \d of 5: a log-probability differs by \d"),
        (_unchanged, lambda one: _spec(one, resize=(41,)), "golden image 1 of 5 is preprocessed to different pixels"),
        (
            _unchanged,
            lambda one: _spec(one, interpolation="bicubic"),
            "is preprocessed to different pixels than at export: Pillow",
        ),
        (_unchanged, _labels, r"is classified as '\w+', expected '\w+': the labels were changed"),
        (_unchanged, lambda one: dataclasses.replace(one, golden=()), "has no golden images; export it again"),
    ],
)
def test_golden_examples_detect_a_model_that_was_altered_and_sealed_again(
    graph: Callable, manifest: Callable, message: str, published: Published, tmp_path: Path
) -> None:
    """With a valid seal, the probabilities on the golden images still differ."""
    with pytest.raises(ModelError, match=message):
        verify(_altered(published, tmp_path, graph, manifest))


def test_sealing_again_gives_the_same_file(published: Published, tmp_path: Path) -> None:
    """The same graph and manifest have the same bytes."""
    path = _altered(published, tmp_path, _unchanged, _unchanged)
    assert path.read_bytes() == published.path.read_bytes()
    verify(path)


def test_the_command_fails_for_an_altered_model(published: Published, tmp_path: Path) -> None:
    """It exits with 0 for an intact model, given as file or folder, with 1 for an altered one, and loads no torch."""
    for named in (published.path, published.path.parent, published.path.parents[1]):
        done = run_cli("verify", named)
        assert done.returncode == 0, done.stderr
        assert f"SHA-256 {published.manifest.sha256}" in done.stdout
        assert "golden images: 5" in done.stdout
    path = _altered(published, tmp_path, _change_a_weight, _unchanged)
    done = run_cli("verify", path)
    assert done.returncode == 1
    assert "a log-probability differs by" in done.stderr
    code = "import sys; from unfreeze.serve.models.verification import verify; "
    code += f"verify({str(published.path)!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_verifier_imports_only_what_a_device_has() -> None:
    """NumPy, Pillow and ONNX Runtime."""
    source = Path(unfreeze.serve.models.verification.__file__).read_text()
    imported = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import", "from"))
    }
    assert imported <= {*sys.stdlib_module_names, "numpy", "PIL", "unfreeze"}

"""Verifying: a model that was altered by one step is told, on a device that has no data and no training stack."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.runs import SPEC, write_run

import unfreeze.serve.models.verification
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import METADATA_KEY, Manifest
from unfreeze.contract.model.seal import UNSEALED, check_seal
from unfreeze.export.graph import with_manifest
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.serve.models.verification import verify
from unfreeze.serve.runtimes.onnx_cpu import OnnxRuntime


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A model with random weights, whose answers are not quite sure even of images that it was not made for."""
    run = write_run(tmp_path_factory.mktemp("run"), temperature=5.0)
    return export_model(run, run.parent / "models", "colors", ExportOptions(max_batch=16))


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
    """Alter a model and seal it anew, as somebody would who means it."""
    model = onnx.load(published.path)
    said = dataclasses.replace(_manifest(model), sha256=UNSEALED)
    graph(model)
    path = folder / "model.onnx"
    path.write_bytes(with_manifest(model, manifest(said)))
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


def _leave(part: object) -> object:
    return part


def test_a_model_is_what_was_exported(published: Published) -> None:
    """On the machine that made it, every golden image is answered to the last digit that the manifest keeps."""
    found = verify(published.path)
    assert found.sha256 == check_seal(published.path.read_bytes()) == published.manifest.sha256
    assert found.golden == 5
    assert found.largest_difference < 1e-6
    assert found.tolerance == 0.01


def test_golden_answers_differ_from_image_to_image(published: Published) -> None:
    """Images that were all answered alike would prove nothing."""
    answers = np.array([golden.probabilities for golden in published.manifest.golden])
    logarithms = np.log(answers)
    assert (
        np.abs(logarithms[:, None] - logarithms[None]).max(2)[~np.eye(5, dtype=bool)].min() > 0.1
    )  # ten times what is let pass
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)
    assert sum(len(golden.image) for golden in published.manifest.golden) < 200_000


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_bit_of_the_file_is_told(place: str, published: Published, tmp_path: Path) -> None:
    """With the published checksum beside it, and, by the seal, without."""
    content = bytearray(published.path.read_bytes())
    content[{"first": 40, "middle": len(content) // 2, "last": -1}[place]] ^= 1
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is not what was exported|carries no manifest with a seal"):
        verify(path)
    (tmp_path / "SHA256SUMS").write_bytes((published.path.parent / "SHA256SUMS").read_bytes())
    with pytest.raises(ModelError, match="is not the file that was published"):
        OnnxRuntime(path)


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
def test_one_step_in_the_manifest_is_told(text: bytes, other: bytes, published: Published, tmp_path: Path) -> None:
    """Mean, resize rule, filter, labels: the same number of bytes, and JSON as before."""
    content = published.path.read_bytes()
    assert content.count(text) == 1
    path = tmp_path / "model.onnx"
    path.write_bytes(content.replace(text, other.ljust(len(text))))
    with pytest.raises(ModelError, match="is not what was exported: its SHA-256 is"):
        verify(path)


@pytest.mark.parametrize(
    ("graph", "manifest", "message"),
    [
        (_change_a_weight, _leave, r"golden image \d of 5: the logarithm of a probability differs by \d"),
        (_change_the_mean, _leave, r"golden image \d of 5: the logarithm of a probability differs by \d"),
        (_leave, lambda one: _spec(one, resize=(41,)), "golden image 1 of 5 is prepared into other pixels"),
        (
            _leave,
            lambda one: _spec(one, interpolation="bicubic"),
            "is prepared into other pixels: this device's Pillow",
        ),
        (_leave, _labels, r"is called '\w+', and was '\w+': the labels were changed"),
        (_leave, lambda one: dataclasses.replace(one, golden=()), "carries no golden images to try it on"),
    ],
)
def test_what_was_altered_and_sealed_anew_is_told_by_its_answers(
    graph: Callable, manifest: Callable, message: str, published: Published, tmp_path: Path
) -> None:
    """Whoever makes the seal fit still has other answers to the golden images."""
    with pytest.raises(ModelError, match=message):
        verify(_altered(published, tmp_path, graph, manifest))


def test_a_model_that_was_only_sealed_anew_is_what_it_was(published: Published, tmp_path: Path) -> None:
    """The same graph and manifest give the same file again."""
    path = _altered(published, tmp_path, _leave, _leave)
    assert path.read_bytes() == published.path.read_bytes()
    verify(path)


def test_the_command_says_so_and_fails(published: Published, tmp_path: Path) -> None:
    """It exits with 0 for a whole model, named by file or folder, with 1 for a changed one, and loads no torch."""
    for named in (published.path, published.path.parent, published.path.parents[1]):
        done = _command("verify", str(named))
        assert done.returncode == 0, done.stderr
        assert f"SHA-256 {published.manifest.sha256}" in done.stdout
        assert "5 images of its own are answered here" in done.stdout
    path = _altered(published, tmp_path, _change_a_weight, _leave)
    done = _command("verify", str(path))
    assert done.returncode == 1
    assert "the logarithm of a probability differs by" in done.stderr
    code = "import sys; from unfreeze.serve.models.verification import verify; "
    code += f"verify({str(published.path)!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def _command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "unfreeze.command", *words], capture_output=True, text=True, check=False
    )


def test_the_verifier_needs_no_more_than_a_device_has() -> None:
    """Numpy, Pillow and ONNX Runtime: the module names nothing else."""
    source = Path(unfreeze.serve.models.verification.__file__).read_text()
    imported = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import", "from"))
    }
    assert imported <= {*sys.stdlib_module_names, "numpy", "PIL", "unfreeze"}

"""Model files that mean harm are refused with a clear error, and nothing outside them is read or written."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.manifests import MANIFEST

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import METADATA_KEY
from unfreeze.contract.model.seal import sealed
from unfreeze.serve.runtimes.onnx_cpu import OnnxRuntime


def _model(change: Callable[[onnx.ModelProto], None] = lambda _: None, manifest: str | None = None) -> bytes:
    """Make a sealed model that answers with a constant of its images, and change it."""
    height, width, channels = MANIFEST.preprocess.shape
    weight = numpy_helper.from_array(np.ones((channels, 2), np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    taken = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", height, width, channels])
    given = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "hostile", [taken], [given], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    change(model)
    model.metadata_props.add(key=METADATA_KEY, value=MANIFEST.to_json() if manifest is None else manifest)
    return sealed(model.SerializeToString())


def _from_file(location: str) -> Callable[[onnx.ModelProto], None]:
    """Let the weights be read from another file."""

    def change(model: onnx.ModelProto) -> None:
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "24")):
            tensor.external_data.add(key=key, value=value)

    return change


def _of_shape(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def _with_node(op_type: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(op_type, ["logits"], ["more"], domain=domain))

    return change


def _in_a_circle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "logits"


@pytest.fixture
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a relative path could find something."""
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/secret.bin").write_bytes(bytes(24))
    monkeypatch.chdir(tmp_path / "inside")


def test_the_same_model_without_harm_is_loaded(tmp_path: Path) -> None:
    """So that what follows is refused for what it is."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model())
    with OnnxRuntime(path) as runtime:
        np.testing.assert_allclose(runtime.run(np.zeros((2, *MANIFEST.preprocess.shape), np.uint8)), 0.5)


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize(
    "change",
    [
        _from_file("secret.bin"),
        _from_file("../secret.bin"),
        _from_file("/etc/passwd"),
        _from_file("/dev/zero"),
        _from_file("model.onnx"),
        _of_shape(2**40, 2),
        _of_shape(2**62, 2**62),
        _of_shape(-1, 2),
        _of_shape(3),
        _with_node("Anything"),
        _with_node("Anything", "evil.example"),
        _in_a_circle,
    ],
)
def test_hostile_graphs_are_refused(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    """Weights from other files, wherever they are; absurd and wrong shapes; operators that nobody knows; circles."""
    path = tmp_path / "inside" / "model.onnx"
    path.write_bytes(_model(change))
    before = sorted((tmp_path / "inside").iterdir())
    with pytest.raises(ModelError, match=r"model\.onnx"):
        OnnxRuntime(path)
    assert sorted((tmp_path / "inside").iterdir()) == before


def _too_large_when_run(model: onnx.ModelProto) -> None:
    """Add a constant of 2^40 numbers to what is multiplied."""
    value = numpy_helper.from_array(np.zeros(1, np.float32))
    shape = numpy_helper.from_array(np.array([2**38, 4, 2]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(2, helper.make_node("ConstantOfShape", ["shape"], ["huge"], value=value))
    model.graph.node.insert(3, helper.make_node("ReduceMax", ["huge"], ["none"], axes=[0, 1], keepdims=0))
    model.graph.node[4].output[0] = "before"
    model.graph.node.insert(5, helper.make_node("Add", ["before", "none"], ["logits"]))


def test_a_graph_that_fails_when_it_is_run_says_so(tmp_path: Path) -> None:
    """In one line, whatever ONNX Runtime raises; it can be asked again."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model(_too_large_when_run))
    with OnnxRuntime(path) as runtime:
        for _ in range(2):
            with pytest.raises(ModelError, match=r"model\.onnx failed on a batch of 1: .*"):
                runtime.run(np.zeros((1, *MANIFEST.preprocess.shape), np.uint8))


@pytest.mark.parametrize(
    "manifest",
    [
        '{"sha256": "' + "0" * 64 + '"' + ', "a": ' + "[" * 100_000,
        '{"sha256": "' + "0" * 64 + '", "schema": "2.0"}',
        '{"sha256": "' + "0" * 64 + '", "schema": "9.0"}',
        MANIFEST.to_json().replace("[224, 200]", "[100000000, 200]"),
        MANIFEST.to_json().replace("[224, 200]", "[224, -200]"),
        MANIFEST.to_json() + " " * 17 * 2**20,
    ],
)
def test_hostile_manifests_are_refused(manifest: str, tmp_path: Path) -> None:
    """Too deep, too long, of another schema, or with sizes that no image has."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model(manifest=manifest))
    with pytest.raises(ModelError, match=r"model\.onnx has a manifest that cannot be used"):
        OnnxRuntime(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b'"sha256": "' + b"0" * 64 + b'"', os.urandom(1000)])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    """Empty, zeros, a seal alone, noise."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        OnnxRuntime(path)

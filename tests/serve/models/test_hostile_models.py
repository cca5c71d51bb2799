"""Malicious model files are rejected with a clear error, and no other file is read or written."""

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
from unfreeze.serve.runtimes.onnx_cpu import open_path


def _model(change: Callable[[onnx.ModelProto], None] = lambda _: None, manifest: str | None = None) -> bytes:
    """Return a sealed model that computes the mean of each image, after a change to its graph."""
    height, width, channels = MANIFEST.preprocess.shape
    weight = numpy_helper.from_array(np.ones((channels, 2), np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    model_input = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", height, width, channels])
    model_output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "hostile", [model_input], [model_output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    change(model)
    model.metadata_props.add(key=METADATA_KEY, value=MANIFEST.to_json() if manifest is None else manifest)
    return sealed(model.SerializeToString())


def _external_weights(location: str) -> Callable[[onnx.ModelProto], None]:
    """Store the weights in another file."""

    def change(model: onnx.ModelProto) -> None:
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "24")):
            tensor.external_data.add(key=key, value=value)

    return change


def _with_shape(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def _with_node(op_type: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(op_type, ["logits"], ["more"], domain=domain))

    return change


def _with_cycle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "logits"


@pytest.fixture
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory in which relative paths to the secret file exist."""
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/secret.bin").write_bytes(bytes(24))
    monkeypatch.chdir(tmp_path / "inside")


def test_loads_the_unchanged_model(tmp_path: Path) -> None:
    """The models below are rejected because of their change only."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model())
    with open_path(path) as runtime:
        np.testing.assert_allclose(runtime.run(np.zeros((2, *MANIFEST.preprocess.shape), np.uint8)), 0.5)


@pytest.mark.usefixtures("_in_folder")
@pytest.mark.parametrize(
    "change",
    [
        _external_weights("secret.bin"),
        _external_weights("../secret.bin"),
        _external_weights("/etc/passwd"),
        _external_weights("/dev/zero"),
        _external_weights("model.onnx"),
        _with_shape(2**40, 2),
        _with_shape(2**62, 2**62),
        _with_shape(-1, 2),
        _with_shape(3),
        _with_node("Anything"),
        _with_node("Anything", "evil.example"),
        _with_cycle,
    ],
)
def test_rejects_hostile_graphs(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    """External weights, absurd and wrong shapes, unknown operators, and cycles."""
    path = tmp_path / "inside" / "model.onnx"
    path.write_bytes(_model(change))
    before = sorted((tmp_path / "inside").iterdir())
    with pytest.raises(ModelError, match=r"model\.onnx"):
        open_path(path)
    assert sorted((tmp_path / "inside").iterdir()) == before


def _huge_at_run_time(model: onnx.ModelProto) -> None:
    """Add a constant with 2^40 elements to the logits."""
    value = numpy_helper.from_array(np.zeros(1, np.float32))
    shape = numpy_helper.from_array(np.array([2**38, 4, 2]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(2, helper.make_node("ConstantOfShape", ["shape"], ["huge"], value=value))
    model.graph.node.insert(3, helper.make_node("ReduceMax", ["huge"], ["none"], axes=[0, 1], keepdims=0))
    model.graph.node[4].output[0] = "before"
    model.graph.node.insert(5, helper.make_node("Add", ["before", "none"], ["logits"]))


def test_a_graph_that_fails_at_run_time_is_an_error(tmp_path: Path) -> None:
    """A one-line ModelError, whatever ONNX Runtime raises; the runtime stays usable."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model(_huge_at_run_time))
    with open_path(path) as runtime:
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
def test_rejects_hostile_manifests(manifest: str, tmp_path: Path) -> None:
    """Too deeply nested, too long, of an unknown schema, or with impossible image sizes."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model(manifest=manifest))
    with pytest.raises(ModelError, match=r"model\.onnx has an invalid manifest"):
        open_path(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b'"sha256": "' + b"0" * 64 + b'"', os.urandom(1000)])
def test_rejects_files_that_are_not_models(content: bytes, tmp_path: Path) -> None:
    """Empty files, zeros, a seal without a model, and random bytes."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        open_path(path)

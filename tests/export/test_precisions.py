"""fp16 and int8: types for each target, calibration on training images only, choice by latency and accuracy."""

import dataclasses
import json
import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, numpy_helper
from support.runs import SPEC, write_run
from support.tuning import small_network

from unfreeze.contract.errors import OptionsError, ProofError
from unfreeze.contract.model.manifest import Candidate, Proof
from unfreeze.contract.reporting import Silent
from unfreeze.export.candidates import CandidateGraph, choose
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.options import ExportOptions
from unfreeze.export.prepared import PreparedImages, prepare_images
from unfreeze.export.prove import accuracy_drop, check_graph, check_proof
from unfreeze.export.quantize import Quantizer
from unfreeze.export.run import Published, export_model
from unfreeze.tune.artifacts.checkpoint import load_run

pytestmark = pytest.mark.xdist_group("export")
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet18 with random weights whose probabilities are far from 0 and 1."""
    return write_run(tmp_path_factory.mktemp("run"), backbone="resnet18", temperature=5.0)


@pytest.fixture(scope="module")
def exported_graph(run: Path) -> bytes:
    """The run's graph in float32."""
    network, facts = load_run(run)
    return onnx_from_network(CalibratedNetwork(network, facts.temperature, facts.link), SPEC.shape).SerializeToString()


@pytest.fixture
def graph(exported_graph: bytes) -> onnx.ModelProto:
    """A copy of it."""
    return onnx.load_from_string(exported_graph)


@pytest.fixture(scope="module")
def calibration(run: Path) -> PreparedImages:
    """The run's training images."""
    _, facts = load_run(run)
    return prepare_images(facts.images(calibration=True), facts.preprocess, "preparing", Silent())


def _exported(run: Path, folder: Path, precision: str, **options: object) -> Published:
    return export_model(
        run, folder, "colors", ExportOptions(precision=precision, max_batch=16, max_drop=100, **options)
    )


@pytest.fixture(scope="module")
def halved(run: Path) -> Published:
    """The run in float16."""
    return _exported(run, run.parent / "fp16", "fp16")


@pytest.fixture(scope="module")
def quantized(run: Path) -> Published:
    """The run in int8."""
    return _exported(run, run.parent / "int8", "int8")


def _weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def test_fp16_blocks_are_float16_and_the_rest_float32(halved: Published) -> None:
    """Convolutions have float16 weights; head and softmax are float32; input and output are unchanged."""
    model = onnx.load(halved.path)
    weights = _weights(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 20
    assert {weights[node.input[1]].data_type for node in convolutions} == {TensorProto.FLOAT16}
    (head,) = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    assert {weights[name].data_type for name in head.input if name in weights} == {TensorProto.FLOAT}
    (taken,), (given,) = model.graph.input, model.graph.output
    assert (taken.type.tensor_type.elem_type, given.type.tensor_type.elem_type) == (
        TensorProto.UINT8,
        TensorProto.FLOAT,
    )
    assert not any(tensor.data_type == TensorProto.DOUBLE for tensor in weights.values())


def test_fp16_probabilities_are_those_of_the_network_within_a_hundredth(run: Path, halved: Published) -> None:
    """They are not equal, which shows that the graph computes in float16."""
    network, facts = load_run(run)
    pixels = np.random.default_rng(0).integers(0, 256, (7, *SPEC.shape), dtype=np.uint8)
    with torch.inference_mode():
        expected = torch.softmax(network(torch.from_numpy(pixels)) / facts.temperature, 1).numpy()
    (found,) = onnxruntime.InferenceSession(halved.path).run(None, {"pixels": pixels})
    assert 1e-6 < np.abs(found - expected).max() < 1e-2
    assert (halved.manifest.precision, halved.manifest.golden_tolerance) == ("fp16", 0.1)
    assert halved.manifest.proof.largest_difference < 1e-2


def _quantized_types(model: onnx.ModelProto) -> dict[str, set[tuple[int, bool]]]:
    """Return the types that activations and weights are quantized to, and whether symmetrically."""
    weights, found = _weights(model), {"activations": set(), "weights": set()}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[2] in weights:
            zero = weights[node.input[2]]
            if zero.data_type != TensorProto.INT32:
                kind = "weights" if node.input[0] in weights else "activations"
                found[kind].add((zero.data_type, not numpy_helper.to_array(zero).any()))
    return found


@pytest.mark.parametrize("target", ["cpu", "arm", "tensorrt"])
def test_int8_types_depend_on_the_target(
    target: str, graph: onnx.ModelProto, calibration: PreparedImages, tmp_path: Path
) -> None:
    """Unsigned activations for x86, symmetric signed ones for the others; signed weights, per channel."""
    quantizer = Quantizer(graph, calibration.pixels, target, tmp_path)
    model = quantizer.graph()
    assert len(quantizer.layers) == 20
    check_graph(model)
    types = _quantized_types(model)
    assert types["weights"] == {(TensorProto.INT8, True)}
    if target == "cpu":
        assert {kind for kind, _ in types["activations"]} == {TensorProto.UINT8}
    else:
        assert types["activations"] == {(TensorProto.INT8, True)}
    weights = _weights(model)
    scales = [
        weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights and len(weights[node.input[0]].dims) == 4
    ]
    assert len(scales) == 20
    assert all(list(scale.dims) == [channels] for scale, channels in zip(scales, _channels(model), strict=True))


def _channels(model: onnx.ModelProto) -> list[int]:
    weights = _weights(model)
    return [
        weights[node.input[0]].dims[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights and len(weights[node.input[0]].dims) == 4
    ]


def test_int8_is_a_quarter_of_the_size_with_similar_probabilities(run: Path, quantized: Published) -> None:
    """The recorded difference is more than float32's rounding and less than a tenth."""
    proof = quantized.manifest.proof
    assert 1e-5 < proof.largest_difference < 0.1
    assert proof.batch_sizes == (1, 2, 7, 16)
    assert quantized.bytes < 0.3 * (run / "model.safetensors").stat().st_size
    assert quantized.manifest.candidates[0].precision == quantized.manifest.precision == "int8"


def test_calibration_does_not_use_validation_images(run: Path, quantized: Published, tmp_path: Path) -> None:
    """Without half of the validation images, the graph has the same bytes."""
    document = json.loads((run / "run.json").read_text())
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    (copy / "run.json").write_text(json.dumps(document | {"val": document["val"][::2]}))
    other = _exported(copy, tmp_path / "models", "int8")
    graphs = [onnx.load(one.path).graph.SerializeToString(deterministic=True) for one in (quantized, other)]
    assert graphs[0] == graphs[1]
    assert other.manifest.proof.images == 9


@pytest.mark.exhaustive  # the quick tests compare a float32 file, and the graph in int8
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_exporting_twice_gives_equal_bytes(
    precision: str, run: Path, halved: Published, quantized: Published, tmp_path: Path
) -> None:
    """The same run gives the same file."""
    again = _exported(run, tmp_path, precision)
    first = halved if precision == "fp16" else quantized
    assert again.path.read_bytes() == first.path.read_bytes()
    assert again.manifest.sha256 == first.manifest.sha256


def test_int8_requires_calibration_images(run: Path, tmp_path: Path) -> None:
    """Runs of earlier versions have none; the message says what to do."""
    document = json.loads((run / "run.json").read_text())
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    (copy / "run.json").write_text(json.dumps(document | {"calibration": []}))
    with pytest.raises(ProofError, match="lists no training images, which int8 needs for calibration; tune again"):
        _exported(copy, tmp_path / "models", "int8")


def test_layers_are_ordered_by_quantization_noise(
    graph: onnx.ModelProto, calibration: PreparedImages, tmp_path: Path
) -> None:
    """The order is that of a ratio computed by hand; layers that are kept stay in float."""
    quantizer = Quantizer(graph, calibration.pixels, "cpu", tmp_path)
    ratios = _ratios(quantizer.graph(), calibration.pixels)
    layers = {node.name: node for node in onnx.load(tmp_path / "float.onnx").graph.node}
    expected = {
        name: min(ratios[one] for one in (*layers[name].input, *layers[name].output) if one in ratios)
        for name in quantizer.layers
    }
    order = quantizer.layers_by_error()
    assert sorted(order) == sorted(quantizer.layers)
    np.testing.assert_allclose([expected[name] for name in order], sorted(expected.values()), rtol=1e-3)
    assert max(expected.values()) > 1.5 * min(expected.values())
    kept = quantizer.graph(order[:3])
    weights = _weights(kept)
    assert {node.name for node in kept.graph.node if node.op_type == "Conv" and node.input[1] in weights} == {
        *order[:3]
    }


def _ratios(model: onnx.ModelProto, pixels: np.ndarray) -> dict[str, float]:
    """Return the signal-to-noise ratio of every quantized activation, by its name in the float graph."""
    weights = {name: numpy_helper.to_array(tensor) for name, tensor in _weights(model).items()}
    rounded = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in weights]
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    names = dict.fromkeys(node.input[0] for node in rounded)
    extended.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(extended.SerializeToString(), options)
    found = dict(zip(names, session.run([*names], {"pixels": np.array(pixels)}), strict=True))
    ratios = {}
    for node in rounded:
        signal, (scale, zero) = found[node.input[0]], (weights[name] for name in node.input[1:3])
        back = (np.clip(np.rint(signal / scale) + zero, 0, 255) - zero) * scale
        name = node.input[0].removesuffix("_QuantizeLinear_Input")
        ratios[name] = 20 * np.log10(np.linalg.norm(signal) / max(np.linalg.norm(signal - back), 1e-12))
    return ratios


def _built(graph: onnx.ModelProto, precision: str, accuracy: float = 0.9) -> CandidateGraph:
    return CandidateGraph(
        graph=graph,
        about=Candidate(precision=precision, bytes=1, kept_in_float=0, proof=_proof(accuracy=accuracy)),
    )


@pytest.fixture(scope="module")
def graphs() -> dict[str, onnx.ModelProto]:
    """A slow network and one several times as fast."""
    networks = {"slow": small_network("vgg13"), "fast": small_network("squeezenet1_1")}
    return {
        name: onnx_from_network(CalibratedNetwork(network, 1.0, "softmax"), SPEC.shape)
        for name, network in networks.items()
    }


OPTIONS = ExportOptions(precision="auto", serving_batch=4)


def test_publishes_the_fastest_within_the_accepted_drop(graphs: dict[str, onnx.ModelProto]) -> None:
    """Latency is measured at every batch size, and the slow candidate's verdict says so."""
    built = [_built(graphs["slow"], "fp32"), _built(graphs["fast"], "int8", 0.896)]
    first, second = choose(built, OPTIONS, SPEC.shape, Silent())
    assert (first.about.precision, first.verdict) == ("int8", "published")
    assert [speed.batch for speed in first.speeds] == [1, 4]
    assert all(speed.times_fp32 > 1.5 for speed in first.speeds)
    assert all(speed.times_fp32 == 1 for speed in second.speeds)
    assert second.verdict == "slower"
    for speed in first.speeds:
        assert speed.images_per_second == pytest.approx(1000 * speed.batch / speed.p50_ms)


def test_rejects_a_fast_candidate_with_too_large_a_drop(graphs: dict[str, onnx.ModelProto]) -> None:
    """A drop of 0.8 points exceeds the accepted 0.5."""
    built = [_built(graphs["slow"], "fp32"), _built(graphs["fast"], "int8", 0.892)]
    first, second = choose(built, OPTIONS, SPEC.shape, Silent())
    assert (first.about.precision, second.about.precision) == ("fp32", "int8")
    assert second.verdict == "loses 0.80 points"


def test_rejects_a_candidate_slower_than_fp32(graphs: dict[str, onnx.ModelProto]) -> None:
    """Even at equal accuracy."""
    built = [_built(graphs["fast"], "fp32"), _built(graphs["slow"], "int8")]
    first, second = choose(built, OPTIONS, SPEC.shape, Silent())
    assert (first.about.precision, second.about.precision) == ("fp32", "int8")
    assert second.verdict.endswith(" x as fast as fp32")
    assert float(second.verdict.split()[0]) < 0.7


def test_rejects_too_large_a_drop_of_accuracy() -> None:
    """Also where a single precision is requested."""
    proof = _proof(accuracy=0.885, trained_accuracy=0.9)
    assert accuracy_drop(proof) == pytest.approx(1.5)
    check_proof(proof, 1.6)
    with pytest.raises(ProofError, match=r"loses 1\.50 points of top-1 accuracy on 200 images \(0\.8850 of 0\.9000\)"):
        check_proof(proof, 1.4)


def _proof(**changes: float) -> Proof:
    proof = Proof(
        images=200,
        batch_sizes=(1,),
        largest_difference=0.3,
        tolerance=1.0,
        same_top1=0.98,
        accuracy=0.9,
        trained_accuracy=0.9,
    )
    return dataclasses.replace(proof, **changes)


def test_float16_overflow_is_detected_and_not_published(tmp_path: Path) -> None:
    """Where activations overflow, float32 is published, and float16 is listed with its verdict."""
    run = write_run(tmp_path)
    state = safetensors.torch.load_file(run / "model.safetensors")
    first, second = [name for name in state if name.endswith("weight") and state[name].ndim == 4][:2]
    state[first] *= 1e6
    state[second] *= 1e-6
    safetensors.torch.save_file(state, run / "model.safetensors")
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"weights_sha256": ""}))
    published = _exported(run, tmp_path / "models", "fp32,fp16")
    assert published.manifest.precision == "fp32"
    half = next(one for one in published.candidates if one["precision"] == "fp16")
    assert half["proof"]["largest_difference"] == 2.0
    assert "published" not in half["verdict"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_auto_publishes_a_table_of_candidates(run: Path, tmp_path: Path) -> None:
    """The table is a file beside the model, which itself contains no latencies."""
    published = _exported(run, tmp_path, "auto", serving_batch=4)
    assert [one.precision for one in published.manifest.candidates] == ["fp32", "fp16", "int8"]
    assert [one["verdict"] for one in published.candidates].count("published") == 1
    assert published.candidates[0]["precision"] == published.manifest.precision
    stored = json.loads((published.path.parent / "candidates.json").read_text())
    assert stored == json.loads(json.dumps(published.candidates))
    assert [speed["batch"] for speed in stored[0]["speeds"]] == [1, 4]
    assert b"p50_ms" not in published.path.read_bytes()
    sums = (published.path.parent / "SHA256SUMS").read_text()
    assert sums.splitlines()[2].endswith("  candidates.json")


@pytest.mark.parametrize(
    ("options", "precisions", "chooses"),
    [
        ({}, ("fp32",), False),
        ({"precision": "int8"}, ("int8",), False),
        ({"precision": "int8,int8"}, ("int8",), False),
        ({"precision": "int8, fp16"}, ("fp32", "fp16", "int8"), True),
        ({"precision": "auto"}, ("fp32", "fp16", "int8"), True),
    ],
)
def test_requested_precisions_are_built(
    options: dict[str, str],
    precisions: tuple[str, ...],
    chooses: bool,  # noqa: FBT001
) -> None:
    """A single one, or several and fp32 as the baseline."""
    assert (ExportOptions(**options).precisions, ExportOptions(**options).chooses) == (precisions, chooses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "--precision must be auto, or one or more of fp32, fp16, int8; got 'int4'"),
        ({"precision": "fp32,"}, "--precision must be auto, or one or more of fp32, fp16, int8; got ''"),
        (
            {"precision": "auto", "target": "tensorrt"},
            "measures latency on this machine, which has other kernels than --target tensorrt",
        ),
        ({"precision": "auto", "target": "arm" if X86 else "cpu"}, "give a single precision"),
        ({"max_drop": -1.0}, "--max-drop must be between 0.0 and 100.0, got -1.0"),
        ({"serving_batch": 0}, "--serving-batch must be between 1 and 4,096, got 0"),
    ],
)
def test_rejects_invalid_options(options: dict[str, object], message: str) -> None:
    """At construction."""
    with pytest.raises(OptionsError, match=message):
        ExportOptions(**options)


def test_rejects_a_fixed_batch_size(graph: onnx.ModelProto) -> None:
    """Exporters produce one where a network converts the batch size to a number."""
    check_graph(graph)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(ProofError, match=r"has a fixed batch size of 2; nothing was published|is not valid ONNX"):
        check_graph(graph)


def test_rejects_a_bias_of_another_rank() -> None:
    """ONNX Runtime accepts it on the CPU, TensorRT does not."""
    weight = numpy_helper.from_array(np.zeros((4, 3, 1, 1), np.float32), "weight")
    bias = numpy_helper.from_array(np.zeros((4, 1), np.float32), "bias")
    node = onnx.helper.make_node("Conv", ["x", "weight", "bias"], ["y"], name="first")
    shapes = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "g", shapes[:1], shapes[1:], [weight, bias])
    with pytest.raises(ProofError, match=r"the bias of first has rank 2, not 1|is not valid ONNX"):
        check_graph(onnx.helper.make_model(graph))

"""Quantization-aware finishing: what it improves, when it is used, and when it is not."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from support.tiny_networks import uneven

from unfreeze.contract.errors import OptionsError, ProofError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.reporting import Silent
from unfreeze.export.candidates import CandidateBuilder
from unfreeze.export.finish.finishing import Finishing, trained_weights
from unfreeze.export.finish.train import FinishOptions, finish
from unfreeze.export.finish.trainable import TrainableGraph
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.options import ExportOptions
from unfreeze.export.prepared import PreparedImages, prepare_images
from unfreeze.export.prove import accuracy_drop, compute_reference
from unfreeze.export.quantize import Quantizer
from unfreeze.export.session import Session
from unfreeze.tune.backbones.network import Network, pool
from unfreeze.tune.data.dataset import LabeledImage

SPEC = PreprocessSpec(resize=(32,), crop=(32, 32))
CLASSES = 6


class Told(Silent):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def info(self, text: str) -> None:
        """Remember a message."""
        self.messages.append(text)


@dataclass(frozen=True, kw_only=True)
class Spoiling(Finishing):
    """Returns a graph with the wrong answers."""

    def finish(self, model: onnx.ModelProto, *_: object) -> onnx.ModelProto:
        """Negate the head's weights."""
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(model)
        for tensor in spoiled.graph.initializer:
            if tensor.name == "network.head.linear.weight":
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        return spoiled


def _noise(count: int, seed: int) -> np.ndarray:
    """Images of blurred noise in one of many colors."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (count, 1, 1, 3))
    return (rng.integers(0, 256, (count, 32, 32, 3)) // 2 + colors // 2).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    """A network with one large channel, whose head's features are standardized."""
    torch.manual_seed(0)
    network = Network("support.tiny_networks:uneven", uneven(), SPEC, CLASSES).eval()
    with torch.inference_mode():
        features = pool(network.run_blocks(torch.from_numpy(_noise(64, 9)), 0, len(network.block_names)))
    network.head.mean.copy_(features.mean(0))
    network.head.inverse_std.copy_(1 / (features.std(0) + 1e-3))
    torch.nn.init.normal_(network.head.linear.weight, std=0.5)
    return CalibratedNetwork(network, 1.0, "softmax")


@pytest.fixture(scope="module")
def training() -> PreparedImages:
    """Training images."""
    return PreparedImages(pixels=_noise(96, 1), labels=np.zeros(96, np.int64))


@pytest.fixture(scope="module")
def builder(network: CalibratedNetwork, training: PreparedImages) -> Callable[..., CandidateBuilder]:
    """Makes builders that judge by images whose labels are the network's own answers."""
    pixels = _noise(200, 2)
    images = PreparedImages(pixels=pixels, labels=np.zeros(200, np.int64))
    reference = compute_reference(network, images, 8, Silent())
    labels = reference.probabilities.argmax(1)
    reference = replace(reference, images=replace(images, labels=labels))

    def make(finishing: Finishing | None = None, reporter: Silent | None = None, **options: object) -> CandidateBuilder:
        return CandidateBuilder(
            network=network,
            shape=SPEC.shape,
            reference=reference,
            calibration=lambda: training,
            options=ExportOptions(precision="int8", max_batch=8, target="cpu", **options),
            reporter=reporter or Silent(),
            finishing=finishing or _finishing(network, training),
        )

    return make


def _finishing(network: CalibratedNetwork, training: PreparedImages) -> Finishing:
    return Finishing(images=lambda: training, trained=trained_weights(network.network, "all"), seed=0)


@dataclass(frozen=True)
class Quantized:
    """A quantized graph with what it was made from."""

    model: onnx.ModelProto
    floats: onnx.ModelProto
    weights: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def quantized(
    network: CalibratedNetwork, training: PreparedImages, tmp_path_factory: pytest.TempPathFactory
) -> Quantized:
    """The network in int8, all layers."""
    graph = onnx_from_network(network, SPEC.shape)
    quantizer = Quantizer(graph, training.pixels, "cpu", tmp_path_factory.mktemp("int8"))
    return Quantized(quantizer.graph(), graph, quantizer.weights)


def _divergence(model: onnx.ModelProto, floats: onnx.ModelProto) -> float:
    """Return the mean divergence of the probabilities from those of the float graph, in nats."""
    pixels = _noise(200, 2)
    found, expected = (Session(one.SerializeToString(), "int8").run(pixels) for one in (model, floats))
    return float((expected * np.log(expected / np.maximum(found, 1e-9))).sum(1).mean())


@pytest.mark.parametrize("cut", ["all", "2", "head"])
def test_the_trainable_graph_computes_what_the_quantized_graph_computes(
    cut: str, network: CalibratedNetwork, quantized: Quantized
) -> None:
    """From the first trained layer on, and converted back it is the same graph."""
    graph = TrainableGraph(quantized.model, quantized.weights, trained_weights(network.network, cut))
    pixels = _noise(8, 3)
    border = _border(quantized.model, graph.border, pixels)
    with torch.no_grad():
        found = graph(border).exp().numpy()
    np.testing.assert_allclose(found, _plain(quantized.model).run(None, {"pixels": pixels})[0], atol=2e-2)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (quantized.model, graph.to_model())
    )
    for name, weight in before.items():
        np.testing.assert_allclose(after[name].astype(float), weight.astype(float), rtol=1e-6, atol=1, err_msg=name)


def _plain(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def _border(model: onnx.ModelProto, names: tuple[str, ...], pixels: np.ndarray) -> dict[str, torch.Tensor]:
    inferred = onnx.shape_inference.infer_shapes(model)
    del inferred.graph.output[:]
    inferred.graph.output.extend(value for value in inferred.graph.value_info if value.name in names)
    found = _plain(inferred).run(list(names), {"pixels": pixels})
    return {name: torch.from_numpy(one) for name, one in zip(names, found, strict=True)}


def test_finishing_repairs_a_network_with_one_large_channel(
    network: CalibratedNetwork, training: PreparedImages, quantized: Quantized
) -> None:
    """The divergence from the float graph, which static int8 makes large, becomes a tenth or less."""
    finished = _finishing(network, training).finish(quantized.model, quantized.weights, quantized.floats, 60, Silent())
    before, after = (_divergence(model, quantized.floats) for model in (quantized.model, finished))
    assert before > 1
    assert after < 0.1 * before


def test_the_same_seed_gives_the_same_bytes(
    network: CalibratedNetwork, training: PreparedImages, quantized: Quantized
) -> None:
    """Another seed gives others."""
    finishing = _finishing(network, training)
    graphs = [
        replace(finishing, seed=seed)
        .finish(quantized.model, quantized.weights, quantized.floats, 2, Silent())
        .SerializeToString()
        for seed in (0, 0, 1)
    ]
    assert graphs[0] == graphs[1] != graphs[2]


def test_scales_of_biases_follow_those_of_inputs_and_weights(
    network: CalibratedNetwork, training: PreparedImages, quantized: Quantized
) -> None:
    """Int8 kernels assume that the scale of a bias is their product; learning changes both."""
    finished = _finishing(network, training).finish(quantized.model, quantized.weights, quantized.floats, 3, Silent())
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in finished.graph.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.model.graph.initializer}
    producers = {name: node for node in finished.graph.node for name in node.output}
    layers = [node for node in finished.graph.node if node.op_type == "Conv" and node.input[1] in producers]
    assert len(layers) == 2
    for layer in layers:
        scales = [producers[name].input[1] for name in layer.input]
        product = weights[scales[0]] * weights[scales[1]]
        np.testing.assert_allclose(weights[scales[2]], product, rtol=1e-5)
        assert np.abs(weights[scales[2]] / before[scales[2]] - 1).max() > 1e-4
        name = producers[layer.input[2]].input[0]
        np.testing.assert_allclose(
            weights[name] * product,
            before[name] * before[scales[2]],
            atol=0.05 * np.abs(quantized.weights[layer.input[2]]).max(),
        )


def test_only_the_tuned_layers_change(
    network: CalibratedNetwork, training: PreparedImages, quantized: Quantized
) -> None:
    """Of a network whose head was tuned, the head; of one tuned from a block on, nothing before it."""
    for cut, expected in (("head", {"network.head.linear.weight", "network.head.linear.bias"}), ("4", None)):
        finishing = replace(_finishing(network, training), trained=trained_weights(network.network, cut))
        finished = finishing.finish(quantized.model, quantized.weights, quantized.floats, 2, Silent())
        before, after = (
            {t.name: t.SerializeToString() for t in m.graph.initializer} for m in (quantized.model, finished)
        )
        changed = {name for name in before if after[name] != before[name]}
        assert (
            changed == expected
            if expected
            else changed and not any("model.0" in name or "model.2" in name for name in changed)
        )


def test_an_export_uses_the_finished_graph_if_it_loses_less(builder: Callable[..., CandidateBuilder]) -> None:
    """Its accuracy is nearer, and the candidate says for how many epochs it was finished."""
    static, finished = (builder(finish_epochs=epochs, max_drop=1.0).build("int8") for epochs in (0, 40))
    assert static.about.finish_epochs == 0
    assert finished.about.finish_epochs == 40
    assert accuracy_drop(finished.about.proof) < accuracy_drop(static.about.proof) - 5


def test_an_export_does_not_use_a_finished_graph_that_loses_more(
    builder: Callable[..., CandidateBuilder], training: PreparedImages
) -> None:
    """The static one is returned, and the message says why."""
    spoiling = Spoiling(images=lambda: training, trained=frozenset(), seed=0)
    told = Told()
    found = builder(spoiling, told, max_drop=0.0).build("int8")
    assert found.about.finish_epochs == 0
    assert any("which is not less: not used" in message for message in told.messages)


def test_an_export_whose_static_graph_passes_is_not_finished(builder: Callable[..., CandidateBuilder]) -> None:
    """No training image is read."""

    def read() -> PreparedImages:
        raise AssertionError("images were read")

    found = builder(Finishing(images=read, trained=frozenset({"x"}), seed=0), max_drop=100.0).build("int8")
    assert found.about.finish_epochs == 0


def test_an_export_without_training_images_continues_with_static_int8(builder: Callable[..., CandidateBuilder]) -> None:
    """It says that they are missing."""
    told = Told()
    gone = (LabeledImage(path=Path("/nonexistent/1.jpg"), label=0),)
    finishing = Finishing(
        images=lambda: prepare_images(gone, SPEC, "", told),
        trained=frozenset({"network.head.linear.weight"}),
        seed=0,
    )
    found = builder(finishing, told, max_drop=0.0).build("int8")
    assert (found.about.precision, found.about.finish_epochs) == ("int8", 0)
    assert any("int8 is not finished: 1 of 1 images are missing" in message for message in told.messages)


def test_a_graph_without_a_tuned_layer_is_not_finished(quantized: Quantized, training: PreparedImages) -> None:
    """Its names are not those of the network: an exporter has transposed the weights, for example."""
    finishing = Finishing(images=lambda: training, trained=frozenset({"other"}), seed=0)
    with pytest.raises(ProofError, match="has no layer of those that were tuned"):
        finishing.finish(quantized.model, quantized.weights, quantized.floats, 1, Silent())


def test_finishing_ends_in_time(network: CalibratedNetwork, training: PreparedImages, quantized: Quantized) -> None:
    """What was learned until then is returned."""
    told = Told()
    graph = TrainableGraph(quantized.model, quantized.weights, trained_weights(network.network, "all"))
    options = FinishOptions(epochs=1000, seed=0, max_seconds=0.0)
    finish(graph, quantized.model, training.pixels, np.full((96, CLASSES), 1 / CLASSES, np.float32), options, told)
    assert told.messages == ["finishing stopped after 0 s"]


class Interrupting(Silent):
    """Raises what Ctrl-C raises when training begins."""

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Interrupt the training."""
        if what == "finishing int8":
            raise KeyboardInterrupt
        return super().track(what, total)


def test_an_interrupted_export_leaves_no_files(
    builder: Callable[..., CandidateBuilder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder with intermediate graphs is removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        builder(None, Interrupting(), max_drop=0.0).build("int8")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("epochs", [-1, 1001])
def test_rejects_invalid_numbers_of_epochs(epochs: int) -> None:
    """At construction."""
    with pytest.raises(OptionsError, match=f"--finish-epochs must be between 0 and 1,000, got {epochs}"):
        ExportOptions(finish_epochs=epochs)

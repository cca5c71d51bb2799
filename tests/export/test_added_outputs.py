"""Outputs that are added to a graph: the score equals its formula, and nothing else changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.runs import write_run

from unfreeze.contract.answers import probabilities_in, projected_in
from unfreeze.contract.errors import ProofError
from unfreeze.contract.model.ood import METHODS, Method, OutOfDistribution
from unfreeze.contract.reporting import Silent
from unfreeze.export.added_outputs import AddedOutputs, find_head
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.options import ExportOptions
from unfreeze.export.prepared import prepare_images
from unfreeze.export.projection import Projection
from unfreeze.export.prove import check_proof, compute_reference, prove
from unfreeze.export.run import export_model
from unfreeze.serve.models.verification import verify
from unfreeze.serve.runtimes.onnx_cpu import open_path
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.ood.gaussian import Gaussians
from unfreeze.tune.ood.score import FEATURE_METHODS, Score

pytestmark = pytest.mark.xdist_group("export")

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
FOREIGN = OutOfDistribution(
    method="energy", threshold=-1.0, false_alarms=0.05, false_alarms_low=0.0, false_alarms_high=0.2, images=18
)


def _gaussians(width: int) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians.fit(torch.rand(90, width, generator=generator), torch.arange(90) % 3)


def _score(method: Method, link: str, width: int) -> Score:
    gaussians = _gaussians(width) if method in FEATURE_METHODS else None
    return Score(method=method, temperature=1.7, link=link, gaussians=gaussians)


def _formula(score: Score, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The published formulas in float64."""
    if score.gaussians is None:
        scaled = logits / score.temperature
        if score.method == "max-softmax":
            weights = np.exp(scaled) if score.link == "softmax" else 1 / (1 + np.exp(-scaled))
            return -np.log((weights / weights.sum(1, keepdims=True)).max(1))
        temperature = score.temperature if score.method == "calibrated-energy" else 1.0
        return -temperature * np.log(np.exp(logits / temperature).sum(1))
    parts = {name: value.double().numpy() for name, value in vars(score.gaussians).items()}
    standard = (features - parts["center"]) * parts["scale"]
    components = standard @ parts["basis"]
    nearest = (((components @ parts["whitening"])[:, None] - parts["means"]) ** 2).sum(2).min(1)
    if score.method == "relative-mahalanobis":
        return nearest - ((components @ parts["whitening_of_all"]) ** 2).sum(1)
    return nearest + ((standard**2).sum(1) - (components**2).sum(1)) * parts["inverse_residual"]


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CalibratedNetwork:
    """A network with either link."""
    run = write_run(tmp_path_factory.mktemp("linked"), per_class=2, temperature=1.7, link=request.param)
    loaded, facts = load_run(run)
    return CalibratedNetwork(loaded, facts.temperature, facts.link)


@pytest.mark.parametrize("method", METHODS)
def test_the_score_in_the_graph_is_that_of_the_formula(network: CalibratedNetwork, method: Method) -> None:
    """Of torch's features and logits, numpy computes what the graph and `Score` give; batches of 1 are no exception."""
    with torch.inference_mode():
        features, logits = network.pooled(torch.from_numpy(PIXELS))
    score = _score(method, network.link, features.shape[1])
    expected = _formula(score, logits.double().numpy(), features.double().numpy())
    model = AddedOutputs(score=score, features=True).add_to(onnx_from_network(network, (32, 32, 3)))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [output.name for output in session.get_outputs()] == ["probabilities", "features", "answers"]
    probabilities, found, answers = session.run(None, {"pixels": PIXELS})
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(answers[:, :3], probabilities)
    np.testing.assert_allclose(answers[:, 3], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(score.of(logits, features), expected, rtol=1e-4, atol=1e-4)
    (single,) = session.run(["answers"], {"pixels": PIXELS[2:3]})
    np.testing.assert_allclose(single, answers[2:3], rtol=1e-3, atol=1e-4)


def test_probabilities_do_not_change_by_a_bit(network: CalibratedNetwork) -> None:
    """They are the first output, and equal to those of the graph without further outputs."""
    plain = onnx_from_network(network, (32, 32, 3))
    before = plain.SerializeToString()
    score = _score("relative-mahalanobis", network.link, find_head(plain).width)
    added = AddedOutputs(score=score, features=True).add_to(plain)
    assert plain.SerializeToString() == before
    expected, found = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"pixels": PIXELS})[0]
        for model in (plain, added)
    )
    np.testing.assert_array_equal(found, expected)
    assert AddedOutputs().add_to(plain) is plain


def test_energies_of_large_logits_do_not_overflow(network: CalibratedNetwork) -> None:
    """exp(200) is infinite in float32; the graph subtracts the largest logit first."""
    model = onnx_from_network(network, (32, 32, 3))
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith("head.linear.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, 200, np.float32), bias.name))
    score = Score(method="energy", temperature=1.0, link=network.link)
    session = onnxruntime.InferenceSession(AddedOutputs(score=score).add_to(model).SerializeToString())
    (answers,) = session.run(["answers"], {"pixels": PIXELS})
    assert ((answers[:, 3] < -190) & (answers[:, 3] > -230)).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_exports_of_every_precision_answer_with_the_score(precision: str, tmp_path: Path) -> None:
    """The runtime's rows have the score, golden images pass, and the added part is in float32 in every precision."""
    run = write_run(tmp_path, temperature=5.0, ood=FOREIGN)
    options = ExportOptions(precision=precision, features=True, max_drop=100)
    published = export_model(run, tmp_path / "models", "colors", options)
    manifest, model = published.manifest, onnx.load(published.path)
    assert (manifest.answer_output, manifest.answer_width, manifest.features) == ("answers", 8, 512)
    assert manifest.proof.score_difference is not None
    assert manifest.proof.score_difference < {"fp32": 1e-3, "fp16": 0.05, "int8": 2}[precision]
    assert manifest.ood is not None
    assert (manifest.ood == FOREIGN) == (precision == "fp32")  # the others' thresholds are chosen again
    kinds = {node.op_type for node in model.graph.node if node.name.startswith("ood_")}
    assert not kinds & {"QuantizeLinear", "DequantizeLinear", "Cast"}
    assert all(t.data_type == 1 for t in model.graph.initializer if t.name.startswith("ood_") and t.dims != [1])
    with open_path(published.path) as runtime:
        assert runtime.run(PIXELS).shape == (6, 8)
        assert runtime.features(PIXELS).shape == (6, 512)
    assert verify(published.path).golden == 5


def test_a_score_that_differs_from_torch_is_not_published(tmp_path: Path) -> None:
    """The proof compares scores, and refuses float32 graphs whose scores are not those of torch."""
    network, facts = load_run(write_run(tmp_path, per_class=3, ood=FOREIGN))
    calibrated = CalibratedNetwork(network, facts.temperature, facts.link)
    score = _score("energy", facts.link, 512)
    images = prepare_images(facts.images(), facts.preprocess, "", Silent())
    reference = compute_reference(calibrated, images, 4, Silent(), score)
    assert reference.scores is not None
    graph = AddedOutputs(score=score).add_to(onnx_from_network(calibrated, (32, 32, 3))).SerializeToString()
    check_proof(prove(graph, "fp32", reference, 1e-4, Silent()), 0.5, is_exact=True)
    other = replace(reference, scores=reference.scores + np.float32(0.1 * reference.scores.std()))
    proof = prove(graph, "fp32", other, 1e-4, Silent())
    assert proof.score_difference == pytest.approx(0.1, rel=0.01)
    with pytest.raises(ProofError, match=r"an out-of-distribution score by 1\.00e-01 standard deviations"):
        check_proof(proof, 0.5, is_exact=True)
    check_proof(proof, 0.5)


@pytest.mark.parametrize("ood", [FOREIGN, None], ids=["scored", "plain"])
def test_projected_features_follow_the_score(ood: OutOfDistribution | None, tmp_path: Path) -> None:
    """On the validation images, their mean is 0 and their covariance 1; without a score they follow probabilities."""
    run = write_run(tmp_path, per_class=12, ood=ood)
    published = export_model(run, tmp_path / "models", "colors", ExportOptions(features=True))
    manifest = published.manifest
    _, facts = load_run(run)
    pixels = prepare_images(facts.images(), facts.preprocess, "", Silent()).pixels
    with open_path(published.path) as runtime:
        rows, features = runtime.run(pixels), runtime.features(pixels)
    assert (manifest.projected, rows.shape) == (9, (36, 3 + (ood is not None) + 9))
    projected = projected_in(rows, manifest)
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(9), atol=1e-2)
    found = Projection.fit(features)
    np.testing.assert_allclose(projected, (features - found.mean.numpy()) @ found.basis.numpy(), atol=1e-2)
    np.testing.assert_allclose(probabilities_in(rows, manifest).sum(1), 1, atol=1e-5)
    assert verify(published.path).golden == 5

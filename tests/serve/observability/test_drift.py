"""A server says how far the images that it answers are from those that its model was validated on."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import onnx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from support.images import encode
from support.logged import LoggedServer, logged_server
from support.runs import write_run

from unfreeze.contract.drift.reference import LABEL, SIZE, reference_of
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED
from unfreeze.export.graph import with_manifest
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

pytestmark = pytest.mark.xdist_group("serve")

IMAGES = 120
RANGES = {"confidence": (0.3, 0.9), "brightness": (10, 80), "contrast": (5, 30), "sharpness": (1, 9)}
QUANTITIES = {"label", "confidence", "brightness", "contrast", "sharpness", "size"}


@pytest.fixture(scope="module")
def watched(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose model was validated on 200 dark images of 32 x 32 pixels, according to its manifest."""
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(low, high, 200) for name, (low, high) in RANGES.items()}
    drift = reference_of({LABEL: rng.integers(0, 3, 200).astype(np.float64), SIZE: np.full(200, 32.0), **values}, 3)
    manifest = dataclasses.replace(published.manifest, drift=drift, sha256=UNSEALED)
    repository = ModelRepository(tmp_path_factory.mktemp("watched") / "models")
    repository.publish("dark", with_manifest(onnx.load(published.path), manifest), manifest)
    return repository.root


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two front ends"])
def logged(
    request: pytest.FixtureRequest, watched: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedServer]:
    """A server after images that are all white and large."""
    log = tmp_path_factory.mktemp("drift") / "log"
    with logged_server(watched, log, "--drift-window", "200", "--frontends", request.param) as logged:
        white = encode(Image.new("RGB", (640, 480), (255, 255, 255)), "PNG")
        with grpc.insecure_channel(logged.server.target) as channel:
            before = ClassifierStub(channel).DescribeModel(pb.DescribeModelRequest())
            assert {one.quantity: one.images for one in before.drift} == dict.fromkeys(QUANTITIES, 0)
            for _ in range(IMAGES // 12):
                ClassifierStub(channel).Predict(pb.PredictRequest(images=[white] * 12))
        yield logged


def test_the_reference_counts_every_validation_image(published: Published) -> None:
    """In each quantity."""
    reference = published.manifest.drift
    assert reference is not None
    assert {one.name: sum(one.histogram.counts) for one in reference.quantities} == dict.fromkeys(
        QUANTITIES, reference.images
    )
    assert published.manifest.proof is not None
    assert reference.images == published.manifest.proof.images


def test_a_model_is_described_with_its_drift(logged: LoggedServer, request: pytest.FixtureRequest) -> None:
    """Brightness differs; front ends do not tell sizes."""
    with grpc.insecure_channel(logged.server.target) as channel:
        found = {one.quantity: one for one in ClassifierStub(channel).DescribeModel(pb.DescribeModelRequest()).drift}
    assert found.keys() == QUANTITIES
    assert all(found[name].images == IMAGES for name in QUANTITIES - {SIZE})
    assert found["brightness"].alarm
    assert found["brightness"].psi > 1 > found["brightness"].expected_psi > 0
    assert 0.2 < found["brightness"].js <= 1
    one_process = "one process" in request.node.name
    assert (found[SIZE].images, found[SIZE].alarm) == ((IMAGES, True) if one_process else (0, False))


def test_metrics_say_the_same(logged: LoggedServer) -> None:
    """By model, version and quantity."""
    with urlopen(logged.metrics_url(), timeout=10) as response:  # noqa: S310 - a test server
        families = list(text_string_to_metric_families(response.read().decode()))
    found = {
        (sample.name, sample.labels["quantity"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("unfreeze_drift")
    }
    assert found["unfreeze_drift_images", "brightness"] == IMAGES
    assert found["unfreeze_drift_alarm", "brightness"] == 1
    assert found["unfreeze_drift_psi", "brightness"] > 1
    assert 0.2 < found["unfreeze_drift_js", "brightness"] <= 1


def test_features_are_watched_where_the_model_returns_them(tmp_path: Path) -> None:
    """Their distances are described and in the metrics; other models have none."""
    export_model(write_run(tmp_path), tmp_path / "models", "colors", ExportOptions(features=True))
    white = encode(Image.new("RGB", (32, 32), (255, 255, 255)), "PNG")
    with logged_server(tmp_path / "models", tmp_path / "log") as logged:
        with grpc.insecure_channel(logged.server.target) as channel:
            ClassifierStub(channel).Predict(pb.PredictRequest(images=[white] * 10))
            found = ClassifierStub(channel).DescribeModel(pb.DescribeModelRequest()).feature_drift
        with urlopen(logged.metrics_url(), timeout=10) as response:  # noqa: S310 - a test server
            text = response.read().decode()
    assert found.images == 10
    assert found.mahalanobis > 0
    assert found.frechet >= found.mahalanobis**2 > 0
    assert not found.alarm
    assert f'unfreeze_drift_mahalanobis{{model="colors",version="1"}} {found.mahalanobis}' in text
    assert 'unfreeze_drift_images{model="colors",quantity="features",version="1"} 10.0' in text


def test_models_without_features_have_no_distance_of_them(logged: LoggedServer) -> None:
    """Nor has their description."""
    with grpc.insecure_channel(logged.server.target) as channel:
        assert not ClassifierStub(channel).DescribeModel(pb.DescribeModelRequest()).HasField("feature_drift")

"""Triton's protocol extensions, used with tritonclient; and streams and metadata of `unfreeze.v1.Classifier`."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.servers import server_thread

from unfreeze.export.run import Published
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.local import LocalClassifier

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture(scope="module")
def own_target(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a copy of the repository, so that tests can load and unload its models."""
    copy = tmp_path_factory.mktemp("extensions") / "models"
    shutil.copytree(repository, copy)
    with server_thread(copy) as address:
        yield address


@pytest.fixture(scope="module")
def results(own_target: str, images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The results of a session with tritonclient."""
    folder = tmp_path_factory.mktemp("images")
    files = [folder / str(number) for number in range(4)]
    for file, image in zip(files, images, strict=False):
        file.write_bytes(image)
    script = Path(__file__).parent / "triton_extensions.py"
    done = subprocess.run(
        [sys.executable, script, own_target, "colors", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(published: Published, images: list[bytes]) -> np.ndarray:
    """The probabilities computed in-process."""
    with LocalClassifier(published.path) as local:
        return local.probabilities(images)


def test_classification_output_has_the_top_labels(results: dict, expected: np.ndarray, published: Published) -> None:
    """Each is `value:index:label`, ordered by value."""
    for row, classes in zip(expected[:4], results["classes"], strict=True):
        order = np.argsort(-row, kind="stable")[:2]
        assert [text.split(":")[1:] for text in classes] == [
            [str(index), published.manifest.labels[index]] for index in order
        ]
        np.testing.assert_allclose([float(text.split(":")[0]) for text in classes], row[order], atol=2e-6)


def test_request_timeout_is_a_deadline(results: dict) -> None:
    """A timeout of one microsecond fails with DEADLINE_EXCEEDED."""
    assert results["late"][0] == "StatusCode.DEADLINE_EXCEEDED"
    assert re.search("which is after its deadline|the deadline passed while", results["late"][1])


def test_stream_continues_after_a_failed_request(results: dict, expected: np.ndarray) -> None:
    """The second of three requests has an invalid image and gets an error; the others succeed, in order."""
    first, second, third = results["stream"]
    assert (first[0], second[0], third[0]) == ("0", "error", "2")
    assert "image 1 of 1: not an image in a supported format" in second[1]
    np.testing.assert_allclose(first[1], expected[:1], atol=1e-5)
    np.testing.assert_allclose(third[1], expected[2:3], atol=1e-5)


def test_statistics_count_requests_images_and_batches(results: dict) -> None:
    """Of encoded images: one request with four images and two with one succeeded, and two failed."""
    assert "statistics" in results["extensions"]
    (statistics,) = results["statistics"]
    assert (statistics["name"], statistics["version"]) == ("colors.encoded", "1")
    assert int(statistics["inference_count"]) == 6
    stats = statistics["inference_stats"]
    assert (int(stats["success"]["count"]), int(stats["fail"]["count"])) == (3, 2)
    batches = {int(one["batch_size"]): int(one["compute_infer"]["count"]) for one in statistics["batch_stats"]}
    rows = sum(size * count for size, count in batches.items())
    assert rows in (6, 7), "the image that cannot be decoded may occupy a row of a batch"
    assert int(statistics["execution_count"]) == sum(batches.values())
    stages = [int(stats[stage]["ns"]) for stage in ("queue", "compute_input", "compute_infer")]
    # Images of a request may be decoded and classified at the same time, and the times of all of them are summed.
    assert all(
        0 < stage <= images * int(stats["success"]["ns"]) for stage, images in zip(stages, (1, 4, 4), strict=True)
    )


def test_clients_can_unload_and_load_models(results: dict) -> None:
    """The repository index has the state of each version and its reason."""
    assert results["index"] == [{"name": "colors", "version": "1", "state": "READY"}]
    ready, index = results["after unload"]
    assert (ready, index) == (
        False,
        [{"name": "colors", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}],
    )
    assert results["after load"] == [True, results["index"]]


def test_predict_stream_handles_more_requests_than_run_concurrently(
    own_target: str, images: list[bytes], expected: np.ndarray
) -> None:
    """Responses are in order; a request that fails gets its status as an error."""
    requests = [pb.PredictRequest(images=[images[number % 12]], top_k=1) for number in range(150)]
    requests[70] = pb.PredictRequest(images=[images[0], b""])
    with grpc.insecure_channel(own_target) as channel:
        responses = list(ClassifierStub(channel).PredictStream(iter(requests)))
    labels = [one.response.predictions[0].labels[0].index if one.HasField("response") else -1 for one in responses]
    expected_labels = [int(expected[number % 12].argmax()) for number in range(150)]
    expected_labels[70] = -1
    assert labels == expected_labels
    assert responses[70].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert responses[70].error.message == "image 2 of 2: the image is empty: it has no bytes"


def test_describe_model_returns_the_manifest_and_the_execution_plan(own_target: str, published: Published) -> None:
    """Labels, input size, precision and checksum are those of the manifest."""
    with grpc.insecure_channel(own_target) as channel:
        stub = ClassifierStub(channel)
        (listed,) = stub.ListModels(pb.ListModelsRequest()).models
        description = stub.DescribeModel(pb.DescribeModelRequest())
        with pytest.raises(grpc.RpcError) as failed:
            stub.DescribeModel(pb.DescribeModelRequest(model="unknown"))
    assert (listed.name, listed.version, listed.state) == ("colors", "1", "READY")
    assert tuple(description.labels) == published.manifest.labels
    assert (description.input_height, description.input_width, description.precision) == (32, 32, "fp32")
    assert description.sha256 == published.manifest.sha256
    assert "each, batches of up to" in description.execution_plan
    assert not description.HasField("abstain_below")
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND

"""Triton's extensions of the protocol, asked by NVIDIA's own client; streams and lists of our own service."""

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
from support.servers import RunningServer, running_server

from unfreeze.export.run import Published
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.local import LocalClassifier


@pytest.fixture(scope="module")
def own_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a copy of the repository, whose models come and go."""
    copy = tmp_path_factory.mktemp("extensions") / "models"
    shutil.copytree(repository, copy)
    with running_server(copy, "--poll-s", "0") as running:
        yield running


@pytest.fixture(scope="module")
def answers(own_server: RunningServer, images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What tritonclient heard."""
    folder = tmp_path_factory.mktemp("images")
    files = [folder / str(number) for number in range(4)]
    for file, image in zip(files, images, strict=False):
        file.write_bytes(image)
    script = Path(__file__).parents[1] / "triton_extensions.py"
    done = subprocess.run(
        [sys.executable, script, own_server.target, "colors", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(published: Published, images: list[bytes]) -> np.ndarray:
    """What the model gives in this process."""
    with LocalClassifier(published.path) as local:
        return local.probabilities(images)


def test_classification_names_the_most_probable_labels(
    answers: dict, expected: np.ndarray, published: Published
) -> None:
    """As `value:index:label`, the most probable first."""
    for row, named in zip(expected[:4], answers["classes"], strict=True):
        order = np.argsort(-row, kind="stable")[:2]
        assert [text.split(":")[1:] for text in named] == [
            [str(index), published.manifest.labels[index]] for index in order
        ]
        np.testing.assert_allclose([float(text.split(":")[0]) for text in named], row[order], atol=2e-6)


def test_a_timeout_of_the_request_is_its_deadline(answers: dict) -> None:
    """A microsecond is not enough for any image, and costs no computation."""
    assert answers["late"][0] == "StatusCode.DEADLINE_EXCEEDED"
    assert re.search("longer than the deadline leaves|the deadline passed while", answers["late"][1])


def test_a_stream_answers_in_order_and_goes_on_after_a_refusal(answers: dict, expected: np.ndarray) -> None:
    """The request in the middle holds no image, and its error says so; those around it are answered."""
    first, second, third = answers["stream"]
    assert (first[0], second[0], third[0]) == ("0", "error", "2")
    assert "image 1 of 1: the bytes are no image that we read" in second[1]
    np.testing.assert_allclose(first[1], expected[:1], atol=1e-5)
    np.testing.assert_allclose(third[1], expected[2:3], atol=1e-5)


def test_statistics_count_what_was_asked(answers: dict) -> None:
    """Requests, images and batches of encoded images: one request of four, two of one; two were refused."""
    assert "statistics" in answers["extensions"]
    (told,) = answers["statistics"]
    assert (told["name"], told["version"]) == ("colors.encoded", "1")
    assert int(told["inference_count"]) == 6
    stats = told["inference_stats"]
    assert (int(stats["success"]["count"]), int(stats["fail"]["count"])) == (3, 2)
    batches = {int(one["batch_size"]): int(one["compute_infer"]["count"]) for one in told["batch_stats"]}
    assert sum(size * count for size, count in batches.items()) == 6
    assert int(told["execution_count"]) == sum(batches.values())
    parts = [int(stats[part]["ns"]) for part in ("queue", "compute_input", "compute_infer")]
    assert all(0 < part <= int(stats["success"]["ns"]) for part in parts)


def test_models_are_unloaded_and_loaded_by_those_who_ask(answers: dict) -> None:
    """The index tells the state of each version, and why."""
    assert answers["index"] == [{"name": "colors", "version": "1", "state": "READY"}]
    ready, index = answers["after unload"]
    assert (ready, index) == (
        False,
        [{"name": "colors", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}],
    )
    assert answers["after load"] == [True, answers["index"]]


def test_our_own_stream_answers_whole_folders(
    own_server: RunningServer, images: list[bytes], expected: np.ndarray
) -> None:
    """More requests than are at work at once, in their order; one that is refused is answered by its status."""
    requests = [pb.PredictRequest(images=[images[number % 12]], top=1) for number in range(150)]
    requests[70] = pb.PredictRequest(images=[images[0], b""])
    with grpc.insecure_channel(own_server.target) as channel:
        found = list(ClassifierStub(channel).PredictStream(iter(requests)))
    labels = [one.response.predictions[0].labels[0].index if one.HasField("response") else -1 for one in found]
    wanted = [int(expected[number % 12].argmax()) for number in range(150)]
    wanted[70] = -1
    assert labels == wanted
    assert found[70].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert found[70].error.message == "image 2 of 2: the image is empty: it has no bytes"


def test_models_describe_themselves(own_server: RunningServer, published: Published) -> None:
    """What the manifest says, and how this server executes it."""
    with grpc.insecure_channel(own_server.target) as channel:
        stub = ClassifierStub(channel)
        (listed,) = stub.ListModels(pb.ListModelsRequest()).models
        told = stub.DescribeModel(pb.DescribeModelRequest())
        with pytest.raises(grpc.RpcError) as refused:
            stub.DescribeModel(pb.DescribeModelRequest(model="nobody"))
    assert (listed.name, listed.version, listed.state) == ("colors", "1", "READY")
    assert tuple(told.labels) == published.manifest.labels
    assert (told.height, told.width, told.precision) == (32, 32, "fp32")
    assert told.sha256 == published.manifest.sha256
    assert "instances of" in told.plan
    assert not told.HasField("abstain_below")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND

"""Ray Serve with two replicas answers as a server does, also while a replica is killed."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import psutil
import pytest
import ray
import ray.serve
from support.images import COLORS, draw_image, encode
from support.ray_cluster import ray_cluster
from support.servers import RunningServer

from unfreeze import Client, ray_serve
from unfreeze.protos import open_inference_pb2, unfreeze_pb2
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

TRITON_SESSION = Path(__file__).parents[2] / "serve" / "protocol" / "triton_session.py"
PREDICT = "/unfreeze.v1.Classifier/Predict"
IMAGES = [encode(draw_image(color, seed)) for seed, color in enumerate(COLORS.values())]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def repository(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, which tests may change."""
    return Path(shutil.copytree(folder / "models", tmp_path_factory.mktemp("ray") / "models"))


@pytest.fixture(scope="module")
def http_port() -> int:
    """The port of the HTTP proxy."""
    return _free_port()


@pytest.fixture(scope="module")
def target(repository: Path, http_port: int) -> Iterator[str]:
    """The address of a gRPC proxy with two replicas."""
    with ray_cluster(3):
        port = _free_port()
        ray.serve.start(grpc_options=ray_serve.grpc_options(port), http_options={"port": http_port})
        scaling = ray_serve.Scaling(min_replicas=2, max_replicas=2)
        ray.serve.run(ray_serve.application(repository, scaling=scaling, poll_s=0.2))
        yield f"127.0.0.1:{port}"


def _session(target: str, files: list[Path]) -> dict[str, object]:
    command = [sys.executable, str(TRITON_SESSION), target, "colors", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_tritonclient_gets_the_answers_of_a_server(target: str, server: RunningServer, tmp_path: Path) -> None:
    """NVIDIA's client, unmodified: metadata, configuration, predictions and errors are those of `unfreeze serve`."""
    files = [tmp_path / f"{number}.jpg" for number in range(len(IMAGES))]
    for file, image in zip(files, IMAGES, strict=True):
        file.write_bytes(image)
    assert _session(target, files) == _session(server.target, files)


def test_our_client_gets_the_answers_of_a_server(target: str, server: RunningServer) -> None:
    """Predictions, the list of models and the description of one."""
    with Client(target) as client, Client(server.target) as expected:
        assert client.predict(IMAGES) == expected.predict(IMAGES)
        assert client.list_models() == expected.list_models()
        description = client.describe_model("colors")
        assert description.sha256 == expected.describe_model("colors").sha256
        assert description.execution_plan.startswith("1 instance with 1 thread each")  # a replica has one core


def _outcome(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str | None]:
    """Return status and message of a call that fails, and the hint when to retry."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    trailing = dict(raised.value.trailing_metadata() or ())
    return raised.value.code(), raised.value.details(), trailing.get("grpc-retry-pushback-ms")


FAILURES: dict[str, Callable[[grpc.Channel], object]] = {
    "malformed": lambda channel: channel.unary_unary(PREDICT)(b"\xff\xff"),
    "not an image": lambda channel: ClassifierStub(channel).Predict(unfreeze_pb2.PredictRequest(images=[b"text"])),
    "unknown model": lambda channel: ClassifierStub(channel).DescribeModel(
        unfreeze_pb2.DescribeModelRequest(model="none")
    ),
    "more than the queue": lambda channel: ClassifierStub(channel).Predict(
        unfreeze_pb2.PredictRequest(images=[IMAGES[0]] * 2000)
    ),
    "unknown method": lambda channel: channel.unary_unary("/unfreeze.v1.Classifier/Guess")(b""),
    "stream of malformed messages": lambda channel: list(
        channel.stream_stream(f"{PREDICT}Stream")(iter([b"\xff\xff"]))
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_those_of_a_server(name: str, target: str, server: RunningServer) -> None:
    """Each has the status and the message that `unfreeze serve` gives."""
    with grpc.insecure_channel(target) as channel, grpc.insecure_channel(server.target) as expected:
        assert _outcome(lambda: FAILURES[name](channel)) == _outcome(lambda: FAILURES[name](expected))


def test_clients_may_not_load_models(target: str) -> None:
    """A call reaches one replica only, so that replicas would differ."""
    request = open_inference_pb2.RepositoryModelUnloadRequest(model_name="colors")
    with grpc.insecure_channel(target) as channel:
        outcome = _outcome(lambda: GRPCInferenceServiceStub(channel).RepositoryModelUnload(request))
    assert outcome[0] == grpc.StatusCode.PERMISSION_DENIED


def test_a_stream_keeps_the_order_and_outlives_a_failed_request(target: str) -> None:
    """Requests of one stream are answered in order; one with a file that is no image gets an error in its place."""
    requests = [unfreeze_pb2.PredictRequest(images=[image]) for image in (*IMAGES, b"text", *IMAGES)]
    with grpc.insecure_channel(target) as channel, Client(target) as client:
        answers = list(ClassifierStub(channel).PredictStream(iter(requests)))
        expected = [predictions[0].label for predictions in client.predict(IMAGES)]
    labels = [
        answer.response.predictions[0].labels[0].label if answer.HasField("response") else "" for answer in answers
    ]
    assert labels == [*expected, "", *expected]
    assert answers[len(IMAGES)].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.usefixtures("target")
def test_http_says_that_this_is_grpc(http_port: int) -> None:
    """The route that Ray Serve reserves for HTTP answers 404 with the reason."""
    with pytest.raises(HTTPError, match="404") as raised:
        urlopen(f"http://127.0.0.1:{http_port}/", timeout=10)
    assert b"gRPC only" in raised.value.read()


def _replicas() -> list[psutil.Process]:
    processes = psutil.Process().children(recursive=True)
    return [process for process in processes if process.name().startswith("ray::ServeRepl")]


def test_a_killed_replica_loses_no_request(target: str) -> None:
    """While four callers send requests, one of two replicas is killed: all requests are answered."""
    stop, answered, failures = threading.Event(), [0] * 4, list[Exception]()

    def call(number: int) -> None:
        with Client(target) as client:
            while not stop.is_set():
                try:
                    client.predict(IMAGES)
                    answered[number] += 1
                except Exception as error:  # noqa: BLE001 - reported below
                    failures.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    victim = _replicas()[0]
    victim.send_signal(signal.SIGKILL)
    before = sum(answered)
    time.sleep(3)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(answered) > before + 8
    assert not victim.is_running()


def test_new_versions_are_served(target: str, repository: Path) -> None:
    """A version that is added to the repository is served by all replicas."""
    hidden = repository / "colors" / ".2"
    shutil.copytree(repository / "colors" / "1", hidden)
    hidden.rename(repository / "colors" / "2")
    versions: list[str] = []
    with grpc.insecure_channel(target) as channel:
        predict = ClassifierStub(channel).Predict

        def all_are_new() -> bool:
            versions.append(predict(unfreeze_pb2.PredictRequest(images=IMAGES[:1])).version)
            return versions[-10:] == ["2"] * 10

        _wait_until(all_are_new)


def _all_run() -> bool:
    return ray.serve.status().applications["default"].deployments["Classifier"].replica_states == {"RUNNING": 2}


def _is_healthy(actor: Any) -> bool:
    try:
        ray.get(actor.check_health.remote())
    except ray.exceptions.RayTaskError as error:
        assert "no model is loaded" in str(error)  # noqa: PT017 - healthy is the rule
        return False
    return True


def test_a_replica_without_models_is_unhealthy(target: str, repository: Path) -> None:
    """Ray Serve is told that a replica cannot answer while no model is in the repository, so that it replaces it."""
    _wait_until(_all_run)
    actors = ray.util.list_named_actors(all_namespaces=True)
    (name, *_) = [actor["name"] for actor in actors if "#Classifier#" in actor["name"]]
    actor = ray.get_actor(name, namespace="serve")
    assert _is_healthy(actor)
    models, away = repository / "colors", repository / ".colors"
    models.rename(away)
    _wait_until(lambda: not _is_healthy(actor))
    away.rename(models)
    _wait_until(lambda: _is_healthy(actor))
    with Client(target) as client:
        assert len(client.predict(IMAGES)) == len(IMAGES)


def _wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.1)

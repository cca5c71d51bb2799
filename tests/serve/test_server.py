"""A server from its start to its end: its port, its health, its reflection, its last answers."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from support.servers import RunningServer, running_server, serve_command

from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

SERVICES = {
    "inference.GRPCInferenceService",
    "unfreeze.v1.Classifier",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    """A connection to the server that all tests share."""
    with grpc.insecure_channel(server.target) as connected:
        yield connected


def test_health_knows_every_service_and_model(channel: grpc.Channel) -> None:
    """Check says SERVING for the server, each service, each model in both its forms, and NOT_FOUND for others."""
    stub = HealthStub(channel)
    for service in ("", *SERVICES, "colors", "colors.encoded"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING, service
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_one_watcher_leaving_takes_nothing_from_another(repository: Path) -> None:
    """Two watch the same service, one hangs up, and the other still learns that the server is going."""
    with running_server(repository) as server, grpc.insecure_channel(server.target) as channel:
        statuses, watching = _watch(channel)
        other = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(other).status == SERVING
        other.cancel()
        time.sleep(0.2)  # the server hears of it
        assert server.terminate() == 0
        watching.join(30)
        assert statuses == [SERVING, NOT_SERVING]


def test_reflection_describes_every_service(channel: grpc.Channel) -> None:
    """Tools that know no .proto file find all services and can read each one's methods."""
    stub = ServerReflectionStub(channel)

    def ask(**request: str) -> reflection_pb2.ServerReflectionResponse:
        return next(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**request)])))

    listed = {service.name for service in ask(list_services="").list_services_response.service}
    assert listed == SERVICES
    methods = {}
    for name in listed:
        (content,) = ask(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto
        file = FileDescriptorProto.FromString(content)
        methods |= {f"{file.package}.{one.name}": {method.name for method in one.method} for one in file.service}
    assert methods["inference.GRPCInferenceService"] >= {"ServerLive", "ModelReady", "ModelConfig", "ModelInfer"}
    assert methods["unfreeze.v1.Classifier"] == {"Predict", "PredictStream", "ListModels", "DescribeModel"}


def test_a_taken_port_is_an_error_that_says_so(server: RunningServer, repository: Path) -> None:
    """A second server on the same port does not start, and says why; the first goes on."""
    port = server.target.rpartition(":")[2]
    done = subprocess.run(serve_command(repository, port), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: is another server there already?" in " ".join(done.stderr.split())
    assert done.stdout == ""
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5):
        assert server.process.poll() is None


def test_an_empty_repository_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """Serving nothing is refused at the start."""
    done = subprocess.run(serve_command(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "publish one with `unfreeze export`" in " ".join(done.stderr.split())


def test_a_damaged_model_is_an_error_that_names_it(repository: Path, tmp_path: Path) -> None:
    """A model file of which half is missing is refused at the start, by name."""
    folder = tmp_path / "models" / "half" / "1"
    folder.mkdir(parents=True)
    content = (repository / "colors" / "1" / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    done = subprocess.run(serve_command(tmp_path / "models"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "half/1/model.onnx carries no manifest with a seal: it is cut off" in "".join(done.stderr.split("\n"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_in_flight_is_finished_before_it_goes(repository: Path, images: list[bytes], number: int) -> None:
    """After a signal: NOT_SERVING is told, every accepted request is answered right, and the exit code is 0."""
    calls, size = 5, 10 * len(images)
    request = pb.PredictRequest(images=images * 10, top=3)
    with (
        running_server(repository, "--max-queue", str(calls * size)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = ClassifierStub(channel)
        expected = stub.Predict(request).predictions
        statuses, watching = _watch(channel)
        pending = [stub.Predict.future(request, timeout=60) for _ in range(calls)]
        _wait_until(lambda: _refuses_for_want_of_room(stub, images[0]))  # so all of them are inside
        server.process.send_signal(number)
        for call in pending:
            for one, other in zip(call.result().predictions, expected, strict=True):
                assert [item.label for item in one.labels] == [item.label for item in other.labels]
                scores = [[item.score for item in answer.labels] for answer in (one, other)]
                np.testing.assert_allclose(*scores, atol=1e-5)
        assert server.process.wait(30) == 0
        watching.join(30)
        assert statuses == [SERVING, NOT_SERVING]


def _watch(channel: grpc.Channel) -> tuple[list[int], threading.Thread]:
    statuses: list[int] = []

    def read() -> None:
        with contextlib.suppress(grpc.RpcError):
            watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            statuses.extend(response.status for response in watch)

    thread = threading.Thread(target=read)
    thread.start()
    _wait_until(lambda: bool(statuses))
    return statuses, thread


def _refuses_for_want_of_room(stub: ClassifierStub, image: bytes) -> bool:
    time.sleep(0.02)  # a large request takes longer to come than this, which would leave it no room
    try:
        stub.Predict(pb.PredictRequest(images=[image]))
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


def _wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.001)


def test_a_signal_ends_the_start_too(repository: Path, tmp_path: Path) -> None:
    """Of twelve models one is loaded when it comes: the others are not, nothing is served, and the exit code is 0."""
    for number in range(12):
        shutil.copytree(repository / "colors", tmp_path / "models" / f"m{number}")
    with subprocess.Popen(
        serve_command(tmp_path / "models"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while "loaded" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said, log = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    assert log.count("loaded") < 11
    assert "stopped before it was ready" in log


def test_a_killed_server_leaves_the_port_free(repository: Path) -> None:
    """After kill -9, a server starts on the same port at once."""
    with running_server(repository) as first:
        first.process.kill()
        first.process.wait()
        port = first.target.rpartition(":")[2]
        with subprocess.Popen(
            serve_command(repository, port), stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        ) as second:
            assert second.stdout.readline().rstrip().endswith(f":{port}")
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0

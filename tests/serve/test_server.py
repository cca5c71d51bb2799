"""A server from start to end: port, health, reflection, signals and draining."""

import contextlib
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
from support.cli import run_cli
from support.servers import START_LINE, RunningServer, running_server, serve_command, server_thread

from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

pytestmark = pytest.mark.xdist_group("serve")

SERVICES = {
    "inference.GRPCInferenceService",
    "unfreeze.v1.Classifier",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    """A channel to the shared server."""
    with grpc.insecure_channel(server.target) as connected:
        yield connected


def test_health_reports_every_service_and_model(channel: grpc.Channel) -> None:
    """Check returns SERVING for the server, each service and both names of each model, and NOT_FOUND for others."""
    stub = HealthStub(channel)
    for service in ("", *SERVICES, "colors", "colors.encoded"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING, service
    with pytest.raises(grpc.RpcError) as rejected:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert rejected.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_watchers_are_independent(repository: Path) -> None:
    """After one of two watchers of a service disconnects, the other still receives NOT_SERVING."""
    server = server_thread(repository)
    with contextlib.ExitStack() as running, grpc.insecure_channel(running.enter_context(server)) as channel:
        statuses, watching = _watch(channel)
        other = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(other).status == SERVING
        other.cancel()
        time.sleep(0.2)  # until the server has received it
        running.close()
        watching.join(30)
        assert statuses == [SERVING, NOT_SERVING]


def test_reflection_describes_every_service(channel: grpc.Channel) -> None:
    """Tools without .proto files can list all services and their methods."""
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
    traffic = {"GetTraffic", "SetTraffic"}
    assert methods["unfreeze.v1.Classifier"] == {"Predict", "PredictStream", "ListModels", "DescribeModel"} | traffic


def test_a_port_in_use_is_an_error(server: RunningServer, repository: Path) -> None:
    """A second server on the same port does not start and says why; the first keeps running."""
    port = server.target.rpartition(":")[2]
    done = run_cli("serve", "--repository", repository, "--port", port, "--metrics-port", 0)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port may be in use" in " ".join(done.stderr.split())
    assert done.stdout == ""
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5):
        assert server.process.poll() is None


def test_an_empty_repository_is_an_error(tmp_path: Path) -> None:
    """The message says how to publish a model."""
    done = run_cli("serve", "--repository", tmp_path, "--port", 0, "--metrics-port", 0)
    assert done.returncode == 1
    assert "publish one with `unfreeze export`" in " ".join(done.stderr.split())


def test_a_truncated_model_is_an_error(repository: Path, tmp_path: Path) -> None:
    """If it is the only model, the server does not start; the message names the file."""
    folder = tmp_path / "models" / "half" / "1"
    folder.mkdir(parents=True)
    content = (repository / "colors" / "1" / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    done = run_cli("serve", "--repository", tmp_path / "models", "--port", 0, "--metrics-port", 0)
    assert done.returncode == 1
    assert "half/1/model.onnx has no manifest with a seal: it is truncated" in "".join(done.stderr.split("\n"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_server(repository: Path, images: list[bytes], number: int) -> None:
    """Health reports NOT_SERVING, every accepted request is answered correctly, and the exit code is 0."""
    calls, size = 5, 10 * len(images)
    request = pb.PredictRequest(images=images * 10, top_k=3)
    with (
        running_server(repository, "--max-queue", str(calls * size)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = ClassifierStub(channel)
        expected = stub.Predict(request).predictions
        statuses, watching = _watch(channel)
        pending = _fill_queue(stub, request, calls, images[0])
        server.process.send_signal(number)
        for call in pending:
            for found, wanted in zip(call.result().predictions, expected, strict=True):
                assert [item.label for item in found.labels] == [item.label for item in wanted.labels]
                scores = [[item.score for item in prediction.labels] for prediction in (found, wanted)]
                np.testing.assert_allclose(*scores, atol=1e-5)
        assert server.process.wait(30) == 0
        watching.join(30)
        assert statuses == [SERVING, NOT_SERVING]


def _fill_queue(
    stub: ClassifierStub, request: pb.PredictRequest, calls: int, image: bytes, timeout_s: float = 60
) -> list[grpc.Future]:
    """Start calls until all of a group are accepted at once: on a busy machine, the first may end before the last."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        pending = [stub.Predict.future(request, timeout=timeout_s) for _ in range(calls)]
        while not any(call.done() for call in pending):
            if _is_full(stub, image):
                return pending
        for call in pending:
            call.exception()  # wait for its end
    raise AssertionError("the queue was never full")


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


def _is_full(stub: ClassifierStub, image: bytes) -> bool:
    time.sleep(0.02)  # a small request must not take the place of a large one that is still being received
    try:
        stub.Predict(pb.PredictRequest(images=[image]))
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


def _wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.001)


def test_a_signal_stops_the_start(repository: Path, tmp_path: Path) -> None:
    """After the first of twelve models is loaded: the rest are not loaded, nothing is served, the exit code is 0."""
    for number in range(12):
        shutil.copytree(repository / "colors", tmp_path / "models" / f"m{number}")
    with subprocess.Popen(
        serve_command(tmp_path / "models"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while "loaded model" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output, log = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "")
    assert log.count("loaded model") < 11
    assert "stopped before the server was ready" in log


def test_a_killed_server_frees_its_port(repository: Path) -> None:
    """After kill -9, another server can start on the same port at once."""
    with running_server(repository) as first:
        first.process.kill()
        first.process.wait()
        port = first.target.rpartition(":")[2]
        with subprocess.Popen(serve_command(repository, port), stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout.readline() == f"{START_LINE}{repository} on 127.0.0.1:{port}\n"
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0

"""A server of several processes answers as one process does, and loses only what a killed process held."""

import asyncio
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from PIL import Image
from support.images import encode
from support.segments import PREFIX, segment
from support.servers import RunningServer, running_server

from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.serve.frontends import supervisor
from unfreeze.serve.frontends.supervisor import Supervisor
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions

pytestmark = pytest.mark.xdist_group("serve")

FRONTENDS, QUEUE_SIZE = 2, 32
CHANNELS = 12  # the kernel spreads them; that all reach the same of two processes happens once in 2,048 times
SLOW = encode(Image.new("RGB", (2500, 2500), (220, 40, 40)), "PNG")
COUNTS_S = 1.5  # more than the age of the counters of other processes
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@contextmanager
def _started(repository: Path, *arguments: str) -> Iterator[RunningServer]:
    with running_server(
        repository, "--frontends", str(FRONTENDS), "--max-queue", str(QUEUE_SIZE), "--shared-memory", PREFIX, *arguments
    ) as running:
        yield running


@pytest.fixture(scope="module")
def models(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that tests may change."""
    root = tmp_path_factory.mktemp("frontends") / "models"
    shutil.copytree(published.path.parents[2], root)
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    """A server with two front-end processes."""
    with _started(models) as running:
        yield running


@pytest.fixture(scope="module")
def channels(server: RunningServer) -> Iterator[list[grpc.Channel]]:
    """Connections that reach both front-end processes."""
    with _channels(server.target) as opened:
        yield opened


@contextmanager
def _channels(target: str) -> Iterator[list[grpc.Channel]]:
    with ExitStack() as stack:
        yield [stack.enter_context(grpc.insecure_channel(target, OWN_CONNECTION)) for _ in range(CHANNELS)]


def _children(server: RunningServer) -> tuple[psutil.Process, list[psutil.Process]]:
    """Return the process of the models, which has the port of the metrics, and those of the front ends."""
    found = psutil.Process(server.process.pid).children()
    ports = {process: _ports(process) for process in found}
    grpc_port = int(server.target.rpartition(":")[2])
    (models,) = [process for process, listening in ports.items() if listening - {grpc_port}]
    return models, [process for process, listening in ports.items() if grpc_port in listening]


def _ports(process: psutil.Process) -> set[int]:
    return {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}


def _until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.02)


def _metrics(server: RunningServer) -> str:
    models, _ = _children(server)
    (port,) = _ports(models)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def test_answers_are_those_of_the_file(channels: list[grpc.Channel], published: Published, images: list[bytes]) -> None:
    """Over every connection, for encoded images and for pixels."""
    manifest = read_manifest(published.path.read_bytes())
    with LocalClassifier(published.path) as local:
        expected = local.probabilities(images)
    pixels = np.stack([prepare(image, manifest.preprocess) for image in images])
    for channel in channels:
        answer = ClassifierStub(channel).Predict(pb.PredictRequest(images=images, top_k=3))
        scores = [[one.score for one in sorted(row.labels, key=lambda one: one.index)] for row in answer.predictions]
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        request = oip.ModelInferRequest(model_name="colors", raw_input_contents=[pixels.tobytes()])
        request.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
        response = GRPCInferenceServiceStub(channel).ModelInfer(request)
        found = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(len(images), -1)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_undecodable_image_fails_its_own_request(channels: list[grpc.Channel], images: list[bytes]) -> None:
    """The message says which image it is."""
    stub = ClassifierStub(channels[0])
    with pytest.raises(grpc.RpcError, match="image 2 of 2") as failed:
        stub.Predict(pb.PredictRequest(images=[images[0], images[1][:40]]))
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(stub.Predict(pb.PredictRequest(images=images)).predictions) == len(images)


def test_one_admission_for_all_processes(channels: list[grpc.Channel]) -> None:
    """Requests that arrive over many connections fill one queue."""
    accepted = threading.Semaphore(0)
    request = pb.PredictRequest(images=[SLOW] * 4)
    calls = [ClassifierStub(channel).Predict.future(request) for channel in channels]
    for call in calls:
        call.add_done_callback(lambda _: accepted.release())
    errors = [error for call in calls if (error := call.exception(timeout=60)) is not None]
    accepted_images = 4 * (CHANNELS - len(errors))
    # Of requests that reach the last places at the same time, all may be refused.
    assert QUEUE_SIZE - 4 * FRONTENDS < accepted_images <= QUEUE_SIZE
    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all("is full" in error.details() for error in errors)


def test_counters_are_those_of_all_processes(server: RunningServer, channels: list[grpc.Channel]) -> None:
    """Statistics, whichever process is asked, and metrics count every request once."""
    time.sleep(COUNTS_S)
    stub = GRPCInferenceServiceStub(channels[0])
    statistics = oip.ModelStatisticsRequest(name="colors.encoded")
    before = stub.ModelStatistics(statistics).model_stats[0].inference_stats.success.count
    small = pb.PredictRequest(images=[encode(Image.new("RGB", (40, 40)), "PNG")])
    for channel in channels:
        ClassifierStub(channel).Predict(small)
    for channel in channels:
        found = GRPCInferenceServiceStub(channel)
        _until(lambda found=found: _successes(found, statistics) == before + CHANNELS)
    line = f'nv_inference_request_success{{model="colors.encoded",version="1"}} {float(before + CHANNELS)}'
    _until(lambda: line in _metrics(server))
    assert f"unfreeze_frontends {float(FRONTENDS)}" in _metrics(server)


def _successes(stub: GRPCInferenceServiceStub, request: oip.ModelStatisticsRequest) -> int:
    return int(stub.ModelStatistics(request).model_stats[0].inference_stats.success.count)


def test_versions_change_in_all_processes(models: Path, channels: list[grpc.Channel], images: list[bytes]) -> None:
    """A new version is served over every connection; unloaded through one, a model is gone for all."""
    staged = models / ".staged"
    shutil.copytree(models / "colors" / "1", staged)
    staged.rename(models / "colors" / "2")
    request = pb.PredictRequest(images=images[:1])
    GRPCInferenceServiceStub(channels[0]).RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="colors"))
    for channel in channels:
        _until(lambda channel=channel: ClassifierStub(channel).Predict(request).version == "2")
    GRPCInferenceServiceStub(channels[0]).RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="colors"))
    for channel in channels:
        _until(lambda channel=channel: not _is_ready(channel))
    GRPCInferenceServiceStub(channels[0]).RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="colors"))
    for channel in channels:
        _until(lambda channel=channel: _is_ready(channel))


def _is_ready(channel: grpc.Channel) -> bool:
    stub = GRPCInferenceServiceStub(channel)
    return bool(stub.ModelReady(oip.ModelReadyRequest(name="colors")).ready)


def test_a_killed_front_end_loses_its_own_calls_only(server: RunningServer, images: list[bytes]) -> None:
    """Calls over other connections are answered, and it is restarted."""
    _, fronts = _children(server)
    request = pb.PredictRequest(images=images)
    with _channels(server.target) as opened:
        for channel in opened:
            ClassifierStub(channel).Predict(request)
        fronts[0].kill()
        codes = []
        for channel in opened:
            try:
                ClassifierStub(channel).Predict(request, timeout=20)
            except grpc.RpcError as error:
                codes.append(error.code())
    _until(lambda: len(_children(server)[1]) == FRONTENDS)
    assert len(codes) < CHANNELS
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}
    _until(lambda: f"unfreeze_frontends {float(FRONTENDS)}" in _metrics(server))
    assert 'unfreeze_process_restarts_total{process="frontend"} 1.0' in _metrics(server)


def test_without_the_models_health_is_not_serving(server: RunningServer, images: list[bytes]) -> None:
    """Calls fail at once with UNAVAILABLE until the process of the models runs again; none hangs."""
    models, _ = _children(server)
    request = pb.PredictRequest(images=images)
    with grpc.insecure_channel(server.target, OWN_CONNECTION) as channel:
        stub, health = ClassifierStub(channel), HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        models.kill()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError, match="is being restarted") as failed:
            stub.Predict(request, timeout=20)
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert len(stub.Predict(request, timeout=20).predictions) == len(images)
        watch.cancel()


def test_a_region_is_registered_in_all_processes(
    channels: list[grpc.Channel], published: Published, images: list[bytes]
) -> None:
    """Whichever of them a client has registered it with, and until it is unregistered with any."""
    stubs: list[Any] = [GRPCInferenceServiceStub(channel) for channel in channels]
    pixels = prepare(images[0], published.manifest.preprocess)
    request = oip.ModelInferRequest(model_name="colors")
    place = request.inputs.add(name="pixels", datatype="UINT8", shape=[1, *pixels.shape]).parameters
    place["shared_memory_region"].string_param = "pixels"
    place["shared_memory_byte_size"].int64_param = pixels.nbytes
    with segment(pixels.tobytes()) as made:
        register = oip.SystemSharedMemoryRegisterRequest(name="pixels", key=made.name, byte_size=pixels.nbytes)
        stubs[0].SystemSharedMemoryRegister(register)
        answers = {stub.ModelInfer(request).raw_output_contents[0] for stub in stubs}
        refused = [_code(stub.SystemSharedMemoryRegister, register) for stub in stubs]
        status = [stub.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest()).regions for stub in stubs]
        stubs[-1].SystemSharedMemoryUnregister(oip.SystemSharedMemoryUnregisterRequest(name="pixels"))
        forgotten = [_code(stub.ModelInfer, request) for stub in stubs]
    with LocalClassifier(published.path) as local:
        expected = local.probabilities([images[0]])[0]
    assert [np.frombuffer(answer, np.float32).tolist() for answer in answers] == [expected.tolist()]
    assert set(refused) == {grpc.StatusCode.ALREADY_EXISTS}
    assert [[region.byte_size for region in regions.values()] for regions in status] == [[pixels.nbytes]] * CHANNELS
    assert set(forgotten) == {grpc.StatusCode.NOT_FOUND}


def _code(call: Any, request: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as failed:
        call(request)
    code: grpc.StatusCode = failed.value.code()
    return code


def test_sigterm_finishes_accepted_requests(models: Path) -> None:
    """Every process ends, with exit code 0, and leaves no folder behind."""
    with _started(models) as running, grpc.insecure_channel(running.target, OWN_CONNECTION) as channel:
        processes = psutil.Process(running.process.pid).children()
        call = ClassifierStub(channel).Predict.future(pb.PredictRequest(images=[SLOW] * 8))
        time.sleep(0.3)
        assert running.terminate() == 0
        assert len(call.result(timeout=20).predictions) == 8
        _until(lambda: not any(process.is_running() for process in processes))


def test_processes_end_with_their_parent(models: Path) -> None:
    """They notice when it was killed."""
    with _started(models) as running:
        processes = psutil.Process(running.process.pid).children()
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(10)
        _until(lambda: not any(process.is_running() for process in processes))


def test_a_port_in_use_is_refused(server: RunningServer, models: Path) -> None:
    """Although the processes of one server share it."""
    port = server.target.rpartition(":")[2]
    with pytest.raises(AssertionError, match="did not start"), _started(models, "--port", port):
        pass


@pytest.mark.parametrize("hanging", [0, 1], ids=["models", "front end"])
def test_a_process_that_hangs_is_replaced(
    hanging: int, models: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose event loop stands still is killed, also while it starts again; another one answers, the others live."""
    monkeypatch.setattr(supervisor, "_HUNG_S", 2.0)
    options = ServeOptions(repository=models, port=0, metrics=False, frontends=FRONTENDS)
    request = pb.PredictRequest(images=images)

    def suspend_starting(started: Supervisor, killed: psutil.Process) -> psutil.Process:
        """Suspend the process that replaces one, after its first sign of life and before it is ready."""
        known = psutil.Process().children()
        killed.kill()
        _until(lambda: not killed.is_running() and started._board.beats(hanging) == 0)
        while not started._board.beats(hanging):
            time.sleep(0.001)
        (new,) = (one for one in psutil.Process().children() if one not in known)
        new.suspend()
        return new

    def all_answer(port: int) -> bool:
        with _channels(f"127.0.0.1:{port}") as opened:
            try:
                answers = [ClassifierStub(channel).Predict(request, timeout=2) for channel in opened]
            except grpc.RpcError:
                return False
        return [len(answer.predictions) for answer in answers] == [len(images)] * CHANNELS

    async def run() -> None:
        already = psutil.Process().children()
        async with Supervisor(options, LogOptions()) as started:
            processes = [one for one in psutil.Process().children() if one not in already]
            assert len(processes) == FRONTENDS + 1
            processes[hanging].suspend()
            await asyncio.to_thread(_until, lambda: not processes[hanging].is_running())
            await asyncio.to_thread(_until, lambda: all_answer(started.port))
            assert [one.is_running() for one in processes] == [number != hanging for number in range(len(processes))]
            (current,) = (one for one in psutil.Process().children() if one not in [*already, *processes])
            starting = await asyncio.to_thread(suspend_starting, started, current)
            await asyncio.to_thread(_until, lambda: not starting.is_running())
            await asyncio.to_thread(_until, lambda: all_answer(started.port))

    asyncio.run(run())

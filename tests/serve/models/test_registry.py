"""Models are loaded, replaced and unloaded while the server runs, and no request fails because of it."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.servers import RunningServer, running_server, server_thread

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture
def repository(published: Published, tmp_path: Path) -> Path:
    """A repository of one model in version 1."""
    _publish(published, tmp_path / "models", 1)
    return tmp_path / "models"


def _publish(published: Published, repository: Path, number: int, change: Callable[[Path], None] | None = None) -> None:
    """Add a version in one step, as `unfreeze export` does."""
    staged = repository / ".staging"
    shutil.copytree(published.path.parent, staged)
    if change is not None:
        change(staged / "model.onnx")
    (repository / "colors").mkdir(exist_ok=True)
    staged.rename(repository / "colors" / str(number))


@contextlib.contextmanager
def _serving(repository: Path, **options: object) -> Iterator[grpc.Channel]:
    """Serve a repository that is checked for new versions 20 times a second."""
    with (
        server_thread(repository, **{"poll_s": 0.05, **options}) as target,
        grpc.insecure_channel(target) as channel,
    ):
        yield channel


def _wait_until(condition: Callable[[], bool], timeout_s: float = 30, pause_s: float = 0.01) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(pause_s)


def _states(channel: grpc.Channel) -> dict[str, tuple[str, str]]:
    index = GRPCInferenceServiceStub(channel).RepositoryIndex(oip.RepositoryIndexRequest())
    return {model.version: (model.state, model.reason) for model in index.models}


def _version(channel: grpc.Channel, image: bytes, version: str = "") -> str:
    return ClassifierStub(channel).Predict(pb.PredictRequest(images=[image], version=version)).version


def test_new_versions_replace_old_ones_without_failed_requests(
    published: Published, repository: Path, images: list[bytes]
) -> None:
    """While four clients send requests, versions 2 and 3 are published: all requests succeed, and versions ascend."""
    seen: list[list[str]] = [[] for _ in range(4)]
    stop = threading.Event()
    with _serving(repository) as channel:

        def send_requests(versions: list[str]) -> None:
            while not stop.is_set():
                versions.append(_version(channel, images[0]))

        clients = [threading.Thread(target=send_requests, args=(versions,)) for versions in seen]
        for client in clients:
            client.start()
        try:
            for number in (2, 3):
                _publish(published, repository, number)
                _wait_until(lambda number=number: all(versions[-1:] == [str(number)] for versions in seen))
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert _states(channel)["3"] == ("READY", "")
        assert _states(channel)["1"] == ("UNAVAILABLE", "a newer version is served")
    for versions in seen:
        assert versions == sorted(versions)
        assert set(versions) == {"1", "2", "3"}


def test_cancelled_loads_leave_no_threads_behind(published: Published, repository: Path) -> None:
    """Twenty clients request a load and disconnect: the models are loaded once, and no thread remains."""
    for number in (2, 3):
        _publish(published, repository, number)
    with (
        running_server(repository, "--poll-s", "0", "--versions", "0", "--threads", "1") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        before = len(_thread_priorities(server))
        for number in (1, 2, 3):
            os.utime(repository / "colors" / str(number) / "model.onnx")  # counts as a changed file
        load = GRPCInferenceServiceStub(channel).RepositoryModelLoad
        for _ in range(20):
            with contextlib.suppress(grpc.RpcError):
                load(oip.RepositoryModelLoadRequest(model_name="colors"), timeout=0.03)
        load(oip.RepositoryModelLoadRequest(model_name="colors"))
        assert {state for state, _ in _states(channel).values()} == {"READY"}
        _wait_until(lambda: len(_thread_priorities(server)) <= before + 4)  # gRPC starts and stops some of its own


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_loads_leave_the_cores_to_the_served_version(
    published: Published, repository: Path, images: list[bytes]
) -> None:
    """A version is loaded in a thread of lower priority, and served at the usual one."""
    with (
        running_server(repository, "--poll-s", "0.05", "--threads", "1") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        _publish(published, repository, 2)
        seen: set[int] = set()
        _wait_until(lambda: seen.update(_thread_priorities(server)) or _version(channel, images[0]) == "2", pause_s=0)
        assert max(seen) > os.nice(0)  # a higher niceness is a lower priority
        _wait_until(lambda: set(_thread_priorities(server)) == {os.nice(0)})


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_a_runtime_that_starts_threads_is_never_loaded_at_low_priority(
    published: Published, repository: Path, images: list[bytes]
) -> None:
    """The threads of OpenVINO would keep it, and the version would be served slowly from then on."""
    options = ("--poll-s", "0.05", "--threads", "1", "--device", "openvino")
    with running_server(repository, *options) as server, grpc.insecure_channel(server.target) as channel:
        _publish(published, repository, 2)
        seen: set[int] = set()
        _wait_until(lambda: seen.update(_thread_priorities(server)) or _version(channel, images[0]) == "2", pause_s=0)
        assert seen == {os.nice(0)}


def _thread_priorities(server: RunningServer) -> list[int]:
    """Return the niceness of each of a server's threads."""
    found = []
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            found.append(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    return found


def _flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_version_does_not_replace_the_previous_one(
    published: Published, repository: Path, images: list[bytes]
) -> None:
    """The index gives the reason without the server's paths; the version is loaded once its file is repaired."""
    with _serving(repository) as channel:
        _publish(published, repository, 2, _flip_bit)
        _wait_until(lambda: _states(channel).get("2", ("", ""))[0] == "UNAVAILABLE")
        reason = _states(channel)["2"][1]
        assert reason.startswith("colors/2/model.onnx is not the file that was published")
        assert str(repository) not in reason
        assert _version(channel, images[0]) == "1"
        with pytest.raises(grpc.RpcError) as rejected:
            GRPCInferenceServiceStub(channel).RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="colors"))
        assert rejected.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert rejected.value.details() == reason
        _flip_bit(repository / "colors" / "2" / "model.onnx")
        _wait_until(lambda: _version(channel, images[0]) == "2")


def test_a_server_starts_with_the_newest_loadable_version(
    published: Published, repository: Path, images: list[bytes]
) -> None:
    """If the newest version is damaged at the start, the previous one is served."""
    _publish(published, repository, 2, _flip_bit)
    with _serving(repository) as channel:
        assert _version(channel, images[0]) == "1"
        assert _states(channel)["2"][0] == "UNAVAILABLE"


def test_serves_several_versions(published: Published, repository: Path, images: list[bytes]) -> None:
    """With two versions to serve, the newest two of three are available by number, and the newest by default."""
    for number in (2, 3):
        _publish(published, repository, number)
    with _serving(repository, versions=2) as channel:
        assert [_version(channel, images[0], version) for version in ("", "2", "3")] == ["3", "2", "3"]
        with pytest.raises(grpc.RpcError) as rejected:
            _version(channel, images[0], "1")
        assert rejected.value.code() == grpc.StatusCode.NOT_FOUND
        assert rejected.value.details() == "unknown version '1' of model colors; loaded versions: 2, 3"
        metadata = GRPCInferenceServiceStub(channel).ModelMetadata(oip.ModelMetadataRequest(name="colors"))
        assert list(metadata.versions) == ["2", "3"]


def test_removed_models_are_unloaded(published: Published, repository: Path, images: list[bytes]) -> None:
    """A removed version is replaced by the previous one; health watchers see a model disappear and return."""
    _publish(published, repository, 2)
    with _serving(repository) as channel:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="colors"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        shutil.rmtree(repository / "colors" / "2")
        _wait_until(lambda: _version(channel, images[0]) == "1")
        (repository / "colors").rename(repository / ".removed")
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as rejected:
            _version(channel, images[0])
        assert rejected.value.code() == grpc.StatusCode.NOT_FOUND
        assert ModelRepository(repository).models() == {}
        (repository / ".removed").rename(repository / "colors")
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert _version(channel, images[0]) == "1"

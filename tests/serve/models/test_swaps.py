"""Models come and go: new versions take the place of old ones, broken ones do not, and nobody who asks is harmed."""

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
from support.runs import write_run
from support.servers import RunningServer, running_server

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model in three versions, which differ in their weights."""
    folder = tmp_path_factory.mktemp("versions")
    for seed in range(3):
        export_model(
            write_run(folder / str(seed), seed=seed, per_class=2), folder / "models", "colors", ExportOptions()
        )
    return folder / "models"


@pytest.fixture
def repository(versions: Path, tmp_path: Path) -> Path:
    """A repository that holds its first version alone."""
    for number in (1,):
        shutil.copytree(versions / "colors" / str(number), tmp_path / "models" / "colors" / str(number))
    return tmp_path / "models"


@contextlib.contextmanager
def serving(repository: Path, *arguments: str) -> Iterator[tuple[RunningServer, grpc.Channel]]:
    """Serve a repository that is looked at many times a second."""
    with (
        running_server(repository, "--poll-s", "0.05", *arguments) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        yield server, channel


def _publish(versions: Path, repository: Path, number: int) -> None:
    """Put a version in, as `publish` does: all of it at once."""
    staged = repository / ".staging"
    shutil.copytree(versions / "colors" / str(number), staged)
    staged.rename(repository / "colors" / str(number))


def _wait_until(condition: Callable[[], bool], timeout_s: float = 20, pause_s: float = 0.01) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(pause_s)


def _states(channel: grpc.Channel) -> dict[str, tuple[str, str]]:
    index = GRPCInferenceServiceStub(channel).RepositoryIndex(oip.RepositoryIndexRequest())
    return {one.version: (one.state, one.reason) for one in index.models}


def _version(channel: grpc.Channel, image: bytes, version: str = "") -> str:
    return ClassifierStub(channel).Predict(pb.PredictRequest(images=[image], version=version)).version


def test_new_versions_take_over_and_nobody_is_refused(versions: Path, repository: Path, images: list[bytes]) -> None:
    """While four callers ask without a pause, versions 2 and 3 come: each answer is of one of them, in their order."""
    heard: list[list[str]] = [[] for _ in range(4)]
    stop = threading.Event()
    with serving(repository) as (_, channel):

        def ask(mine: list[str]) -> None:
            while not stop.is_set():
                mine.append(_version(channel, images[0]))

        callers = [threading.Thread(target=ask, args=(mine,)) for mine in heard]
        for caller in callers:
            caller.start()
        for number in (2, 3):
            _publish(versions, repository, number)
            _wait_until(lambda number=number: all(mine[-1:] == [str(number)] for mine in heard))
        stop.set()
        for caller in callers:
            caller.join()
        assert _states(channel)["3"] == ("READY", "")
        assert _states(channel)["1"] == ("UNAVAILABLE", "a newer version is served")
    for mine in heard:
        assert mine == sorted(mine)
        assert set(mine) == {"1", "2", "3"}


def test_who_gives_up_a_load_leaves_nothing_behind(versions: Path, repository: Path) -> None:
    """Twenty callers ask for a load and go: it is done once, to its end, and no thread of another one stays."""
    for number in (2, 3):
        _publish(versions, repository, number)
    with (
        running_server(repository, "--poll-s", "0", "--versions", "0", "--threads", "1") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        before = len(_priorities(server))
        for number in (1, 2, 3):
            os.utime(repository / "colors" / str(number) / "model.onnx")  # each is a new file now
        load = GRPCInferenceServiceStub(channel).RepositoryModelLoad
        for _ in range(20):
            with contextlib.suppress(grpc.RpcError):
                load(oip.RepositoryModelLoadRequest(model_name="colors"), timeout=0.03)
        load(oip.RepositoryModelLoadRequest(model_name="colors"))
        assert {state for state, _ in _states(channel).values()} == {"READY"}
        _wait_until(lambda: len(_priorities(server)) <= before + 4)  # gRPC's own may come and go


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_who_answers_has_the_cores(versions: Path, repository: Path, images: list[bytes]) -> None:
    """A version is loaded at a lower priority beside the one that answers, and answers at the usual one."""
    with serving(repository, "--threads", "1") as (server, channel):
        _publish(versions, repository, 2)
        seen: set[int] = set()
        _wait_until(lambda: seen.update(_priorities(server)) or _version(channel, images[0]) == "2", pause_s=0)
        assert max(seen) > os.nice(0)  # and a niceness is the opposite of a priority
        _wait_until(lambda: set(_priorities(server)) == {os.nice(0)})


def _priorities(server: RunningServer) -> list[int]:
    """The niceness of each of a server's threads."""
    found = []
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found.append(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    return found


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_broken_version_leaves_the_one_before(versions: Path, repository: Path, images: list[bytes]) -> None:
    """The index says why, and names no folder; when its file is put right, it takes over."""
    with serving(repository) as (_, channel):
        staged = repository / ".broken"
        shutil.copytree(versions / "colors" / "2", staged)
        _flip_a_bit(staged / "model.onnx")
        staged.rename(repository / "colors" / "2")
        _wait_until(lambda: _states(channel).get("2", ("", ""))[0] == "UNAVAILABLE")
        reason = _states(channel)["2"][1]
        assert reason.startswith("colors/2/model.onnx is not the file that was published")
        assert str(repository) not in reason
        assert _version(channel, images[0]) == "1"
        with pytest.raises(grpc.RpcError) as refused:
            GRPCInferenceServiceStub(channel).RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="colors"))
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert refused.value.details() == reason
        _flip_a_bit(repository / "colors" / "2" / "model.onnx")
        _wait_until(lambda: _version(channel, images[0]) == "2")


def test_a_server_starts_with_what_can_be_served(versions: Path, repository: Path, images: list[bytes]) -> None:
    """A newest version that is broken, from before the server was started, leaves the one before to be served."""
    _publish(versions, repository, 2)
    _flip_a_bit(repository / "colors" / "2" / "model.onnx")
    with serving(repository) as (_, channel):
        assert _version(channel, images[0]) == "1"
        assert _states(channel)["2"][0] == "UNAVAILABLE"


def test_several_versions_are_served_side_by_side(versions: Path, repository: Path, images: list[bytes]) -> None:
    """As many as were asked for, by their number; without one, the newest."""
    for number in (2, 3):
        _publish(versions, repository, number)
    with serving(repository, "--versions", "2") as (_, channel):
        assert [_version(channel, images[0], wanted) for wanted in ("", "2", "3")] == ["3", "2", "3"]
        with pytest.raises(grpc.RpcError) as refused:
            _version(channel, images[0], "1")
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert refused.value.details() == "colors has version 2, 3 loaded, not '1'"
        metadata = GRPCInferenceServiceStub(channel).ModelMetadata(oip.ModelMetadataRequest(name="colors"))
        assert list(metadata.versions) == ["2", "3"]


def test_what_is_gone_from_the_repository_is_served_no_more(
    versions: Path, repository: Path, images: list[bytes]
) -> None:
    """A removed version gives way to the one before; a removed model is told to health's watchers."""
    _publish(versions, repository, 2)
    with serving(repository) as (_, channel):
        watching = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="colors"))
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        shutil.rmtree(repository / "colors" / "2")
        _wait_until(lambda: _version(channel, images[0]) == "1")
        (repository / "colors").rename(repository / ".gone")
        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as refused:
            _version(channel, images[0])
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert ModelRepository(repository).models() == {}
        (repository / ".gone").rename(repository / "colors")
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        assert _version(channel, images[0]) == "1"

"""What a server keeps of the images that it has classified."""

import errno
import fcntl
import hashlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from support.http import call, encode_form
from support.images import COLORS, draw_image, encode
from support.servers import running_server, server_in_thread

from unfreeze.contract.errors import OptionsError
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.recording.recorder import RECORDED
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

YES = {"x-unfreeze-store": "yes"}


@pytest.fixture(autouse=True)
def _own_counts() -> Iterator[None]:
    """The counters are those of a process; each test begins at zero."""
    RECORDED.clear()
    yield
    RECORDED.clear()


def _until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"the condition was not met in time; {RECORDED}"
        time.sleep(0.02)


def _recorded(count: int) -> None:
    _until(lambda: RECORDED.total() >= count)
    assert RECORDED.total() == count


def _documents(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_bytes()) for path in folder.glob("*/*/??/*.json")}


def _digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def _server(careful: Path, folder: Path, **options: object) -> Any:
    return server_in_thread(careful.parents[2], record=str(folder), instances=1, threads=1, **options)


def test_images_are_kept_only_with_consent(careful: Path, images: list[bytes], tmp_path: Path) -> None:
    """Of four requests, by each protocol one with and one without: only those that say yes are stored."""
    with _server(careful, tmp_path / "kept", record_share=1.0, http=0) as server:
        target = f"127.0.0.1:{server.port}"
        with Client(target, store=True) as willing, Client(target) as silent:
            willing.predict([images[0]], model="careful")
            silent.predict([images[1]], model="careful")
        call(server, "/v1/models/careful:classify", images[2], YES)
        call(server, "/v1/models/careful:classify", images[3])
        call(server, "/v1/models/careful:classify", images[4], {"x-unfreeze-store": "1"})
        for index, headers in ((5, YES), (6, None)):
            tensor = triton.InferInput("image", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[images[index]]], object))
            with triton.InferenceServerClient(target) as client:
                client.infer("careful.encoded", [tensor], headers=headers)
        body, content_type = encode_form([("a.png", images[7]), ("b.png", images[8])])
        call(server, "/v1/models/careful:classify", body, YES | {"content-type": content_type})
        with grpc.insecure_channel(target) as channel:
            requests = (pb.PredictRequest(model="careful", images=[images[index]]) for index in (9, 10))
            list(ClassifierStub(channel).PredictStream(requests, metadata=tuple(YES.items())))
        _recorded(7)
    stored = [images[index] for index in (0, 2, 5, 7, 8, 9, 10)]
    assert _documents(tmp_path / "kept").keys() == {_digest(image) for image in stored}
    files = [path for path in (tmp_path / "kept").glob("careful/1/??/*") if path.suffix != ".json"]
    assert {path.read_bytes() for path in files} == set(stored)
    assert all(path.stem == _digest(path.read_bytes()) and path.parent.name == path.stem[:2] for path in files)
    assert {path.suffix for path in files} <= {".jpg", ".png", ".webp", ".bmp"}


def test_the_operator_may_declare_consent_for_all_but_not_against_a_caller(
    careful: Path, images: list[bytes], tmp_path: Path
) -> None:
    """A request that says no is not stored."""
    with _server(careful, tmp_path, record_share=1.0, record_consent="all", http=0) as server:
        call(server, "/v1/models/careful:classify", images[0])
        call(server, "/v1/models/careful:classify", images[1], {"x-unfreeze-store": "no"})
        call(server, "/v1/models/careful:classify", images[2], YES)
        _recorded(2)
    assert _documents(tmp_path).keys() == {_digest(images[0]), _digest(images[2])}


def test_unsure_images_are_kept_and_a_share_of_the_others(
    careful: Path, images: list[bytes], unsure: list[bool], tmp_path: Path
) -> None:
    """With a share of 0, exactly those that the model is unsure of; with the answer, and nothing about the caller."""
    with _server(careful, tmp_path, record_share=0.0, http=0) as server:
        body, content_type = encode_form([(f"{index}.img", image) for index, image in enumerate(images)])
        headers = YES | {"content-type": content_type, "x-request-id": "order-7", "authorization": "Bearer secret"}
        answers = call(server, "/v1/models/careful:classify", body, headers).json["predictions"]
        call(server, "/v1/models/colors:classify", body, headers)  # without a threshold: nothing is known
        _recorded(sum(unsure))
    documents = _documents(tmp_path)
    assert documents.keys() == {_digest(image) for image, mark in zip(images, unsure, strict=True) if mark}
    for image, answer, mark in zip(images, answers, unsure, strict=True):
        if not mark:
            continue
        document = documents[_digest(image)]
        assert document["label"] == answer["labels"][0]["label"]
        assert [one["label"] for one in document["labels"]] == [one["label"] for one in answer["labels"]]
        assert document["labels"][0]["score"] == pytest.approx(answer["labels"][0]["score"], abs=1e-6)
        expected = ("careful", "1", True, ["unsure"], "order-7", 32, 32, 1)
        keys = "model", "version", "unsure", "reasons", "request_id", "prepared_width", "prepared_height", "seen"
        assert tuple(document[key] for key in keys) == expected
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret" not in everything
    assert b"127.0.0.1" not in everything
    assert json.loads((tmp_path / "careful" / "1" / "labels.json").read_text()) == ["blue", "green", "red"]


def test_no_image_is_written_twice(careful: Path, images: list[bytes], tmp_path: Path) -> None:
    """The description counts how often it was seen, also after a restart; the image keeps its time."""
    for _ in range(2):
        with (
            _server(careful, tmp_path, record_share=1.0) as server,
            Client(f"127.0.0.1:{server.port}", store=True) as one,
        ):
            for _ in range(3):
                one.predict([images[0]], model="careful")
            _until(lambda: RECORDED.total() % 3 == 0 and RECORDED.total() > 0)
    (document,) = _documents(tmp_path).values()
    assert document["seen"] == 6
    assert document["last_seen"] > document["time"]
    assert (RECORDED["stored"], RECORDED["seen"]) == (1, 5)
    assert len(list(tmp_path.glob("*/*/??/*"))) == 2


def test_pixels_are_not_recorded(careful: Path, tmp_path: Path) -> None:
    """A request of prepared pixels with consent leaves nothing."""
    with _server(careful, tmp_path, record_share=1.0) as server:
        tensor = triton.InferInput("pixels", [1, 32, 32, 3], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, 32, 32, 3), np.uint8))
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            client.infer("careful", [tensor], headers=YES)
    assert RECORDED.total() == 0
    assert not list(tmp_path.glob("*/*/??/*"))


@pytest.mark.parametrize("place", ["file", "file/inside"])
def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(careful: Path, tmp_path: Path, place: str) -> None:
    """The message names the option and the folder."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(OptionsError, match=f"--record .*{place} cannot be written"),
        _server(careful, tmp_path / place, record_share=1.0),
    ):
        pass


def test_a_folder_that_fails_later_is_counted_and_harms_nobody(
    careful: Path, images: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: answers come as before, nothing half is left, and recording goes on when there is space again."""
    full = True
    whole = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if not full:
            return whole(path, content)
        whole(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with _server(careful, tmp_path / "kept", record_share=1.0) as server:
        monkeypatch.setattr(Path, "write_bytes", write)
        with Client(f"127.0.0.1:{server.port}", store=True, timeout_s=5) as client:
            assert len(client.predict(images[:3], model="careful")) == 3
            _recorded(3)
            assert RECORDED["failed"] == 3
            assert not [path for path in (tmp_path / "kept" / "careful").rglob("*") if path.is_file()]
            full = False
            client.predict(images[:3], model="careful")
            _recorded(6)
    assert RECORDED["stored"] == 3
    assert _documents(tmp_path / "kept").keys() == {_digest(image) for image in images[:3]}


def test_a_storage_that_hangs_slows_nobody(careful: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue fills, what does not fit is dropped and counted, and the server ends in time."""
    monkeypatch.setattr("unfreeze.serve.recording.recorder._CLOSE_S", 0.2)
    monkeypatch.setattr("unfreeze.serve.recording.recorder._MOST_WAITING", 10)
    with _server(careful, tmp_path, record_share=1.0) as server, (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process that never ends would
        with Client(f"127.0.0.1:{server.port}", store=True) as client:
            different = [encode(draw_image(COLORS["red"], seed)) for seed in range(40)]
            started = time.monotonic()
            assert len(client.predict(different, model="careful")) == 40
            assert len(client.predict(different, model="careful")) == 40
        assert time.monotonic() - started < 10
        assert RECORDED["dropped"] >= 80 - 2 * 10


def test_a_bucket_that_cannot_be_reached_harms_nobody(careful: Path, images: list[bytes]) -> None:
    """The server starts and answers; what could not be stored is counted."""
    options = {"record": "http://127.0.0.1:1/kept", "record_share": 1.0, "instances": 1, "threads": 1}
    with server_in_thread(careful.parents[2], **options) as server:
        with Client(f"127.0.0.1:{server.port}", store=True) as client:
            assert len(client.predict(images[:2], model="careful")) == 2
        _recorded(2)
        assert RECORDED["failed"] == 2


def test_metrics_say_what_became_of_images(careful: Path, images: list[bytes], tmp_path: Path) -> None:
    """By outcome; a server that records nothing has no such metric."""
    with _server(careful, tmp_path, record_share=1.0, metrics=True, metrics_port=0) as server:
        with Client(f"127.0.0.1:{server.port}", store=True) as client:
            client.predict([images[0], images[0], images[1]], model="careful")
        _recorded(3)
        text = _metrics(server)
        assert 'unfreeze_recorded_images_total{outcome="stored"} 2.0' in text
        assert 'unfreeze_recorded_images_total{outcome="seen"} 1.0' in text
        assert 'unfreeze_recorded_images_total{outcome="failed"} 0.0' in text
    RECORDED.clear()
    with server_in_thread(careful.parents[2], metrics=True, metrics_port=0) as server:
        assert "unfreeze_recorded" not in _metrics(server)


def _metrics(server: Server) -> str:
    assert server._metrics is not None
    return _scraped(server._metrics.port)


def _scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def _count(port: int, outcome: str) -> float:
    found = re.search(rf'unfreeze_recorded_images_total{{outcome="{outcome}"}} (\S+)', _scraped(port))
    return float(found[1]) if found else 0.0


def test_front_ends_record_into_one_folder(careful: Path, tmp_path: Path) -> None:
    """Several processes store the same images at the same time: each once, and every answer is counted."""
    different = [encode(draw_image(COLORS["red"], seed)) for seed in range(6)]
    folder, rounds = tmp_path / "kept", 8
    flags = f"--frontends 2 --record {folder} --record-share 1 --record-consent all --threads 1 --instances 1"
    with running_server(careful.parents[2], *flags.split()) as server:
        for _ in range(rounds):  # on a connection of its own, which the kernel gives to one of the processes
            with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                ClassifierStub(channel).Predict(pb.PredictRequest(model="careful", images=different))
        ports = [
            one.laddr.port
            for child in psutil.Process(server.process.pid).children()
            for one in child.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and not server.target.endswith(f":{one.laddr.port}")
        ]
        _until(lambda: _count(ports[0], "stored") == 6 and _count(ports[0], "seen") == 6 * (rounds - 1))
        assert server.terminate() == 0
    documents = _documents(folder)
    assert documents.keys() == {_digest(image) for image in different}
    assert {document["seen"] for document in documents.values()} == {rounds}
    assert not list(folder.rglob("*.new"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": ""}, "--record is empty"),
        ({"record_consent": "all"}, "--record-consent applies to --record"),
        ({"record": "x", "record_share": 1.5}, "--record-share must be between 0 and 1"),
        ({"record": "x", "record_max_mib": 0}, "--record-max-mib"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Each with a message that names it."""
    with pytest.raises(OptionsError, match=message):
        ServeOptions(repository=tmp_path, **options)

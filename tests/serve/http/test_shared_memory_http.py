"""Shared memory over HTTP, by hand: what `tritonclient.http` hides, and what it never sends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http import Answer, call
from support.segments import PREFIX, segment
from support.servers import server_in_thread

from unfreeze.contract.images.preprocess import prepare
from unfreeze.export.run import Published
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

IMAGE = 32 * 32 * 3
ROOT = "/v2/systemsharedmemory"


@pytest.fixture(scope="module")
def sharing(repository: Path) -> Iterator[Server]:
    """A server that allows the objects of these tests."""
    with server_in_thread(repository, http=0, shared_memory=PREFIX) as server:
        yield server


@pytest.fixture(autouse=True)
def _forget(sharing: Server) -> Iterator[None]:
    yield
    assert call(sharing, f"{ROOT}/unregister", b"").status == 200


def _register(server: Server, name: str, document: Any) -> Answer:
    return call(server, f"{ROOT}/region/{name}/register", json.dumps(document).encode())


def _infer(server: Server, tensor: dict[str, Any], outputs: list[dict[str, Any]]) -> Answer:
    whole = {"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8"} | tensor
    return call(server, "/v2/models/colors/infer", json.dumps({"inputs": [whole], "outputs": outputs}).encode())


def _place(region: str, size: object, offset: object = 0) -> dict[str, Any]:
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}
    return {"parameters": parameters}


def test_contents_stay_out_of_the_bodies(sharing: Server, published: Published, images: list[bytes]) -> None:
    """The answer says where they are."""
    with Client(f"127.0.0.1:{sharing.port}") as client:
        (answer,) = client.predict(images[0])
    expected = [one.score for one in sorted(answer, key=lambda one: one.index)]
    pixels = prepare(images[0], published.manifest.preprocess).tobytes()
    with segment(b"abc" + pixels) as made, segment(bytes(20)) as results:
        assert _register(sharing, "in", {"key": made.name, "offset": 3, "byte_size": IMAGE}).status == 200
        assert _register(sharing, "out", {"key": results.name, "offset": 0, "byte_size": 20}).status == 200
        assert call(sharing, f"{ROOT}/region/in/status").json == [
            {"name": "in", "key": made.name, "offset": 3, "byte_size": IMAGE}
        ]
        outputs = [{"name": "probabilities"} | _place("out", 16, 4)]
        answered = _infer(sharing, _place("in", IMAGE), outputs).json["outputs"]
        assert answered == [{"name": "probabilities", "datatype": "FP32", "shape": [1, 3]} | _place("out", 12, 4)]
        np.testing.assert_allclose(np.frombuffer(results.get()[4:16], "<f4"), expected, atol=1e-6)
        in_message = _infer(sharing, _place("in", IMAGE), []).json["outputs"]
        np.testing.assert_allclose(in_message[0]["data"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("document", "status", "message"),
    [
        ([], 400, "the request must be an object in JSON"),
        ({}, 400, "'key' must be the name of a shared memory object, got None"),
        ({"key": 5}, 400, "'key' must be the name"),
        ({"key": "\ud800"}, 400, "'key' must be the name"),
        ({"key": PREFIX, "byte_size": -1}, 400, "'byte_size' must be a number of bytes, got -1"),
        ({"key": PREFIX, "byte_size": 2**64}, 400, "'byte_size' must be a number of bytes"),
        ({"key": PREFIX, "byte_size": 1.5}, 400, "'byte_size' must be a number of bytes"),
        ({"key": PREFIX, "byte_size": True}, 400, "'byte_size' must be a number of bytes"),
        ({"key": PREFIX, "byte_size": "1"}, 400, "'byte_size' must be a number of bytes"),
        ({"key": PREFIX, "offset": -1, "byte_size": 1}, 400, "'offset' must be a number of bytes"),
        ({"key": f"{PREFIX}gone", "byte_size": 1}, 400, "No such file or directory"),
        ({"key": "other", "byte_size": 1}, 403, "may be registered on this server"),
    ],
)
def test_regions_that_cannot_be_registered(sharing: Server, document: Any, status: int, message: str) -> None:
    """With the status of the error."""
    answer = _register(sharing, "one", document)
    assert (answer.status, message in answer.json["error"]) == (status, True), answer.json


@pytest.mark.parametrize(
    ("tensor", "status", "message"),
    [
        (_place("unknown", IMAGE), 404, "there is no shared memory region 'unknown'"),
        (_place("in", IMAGE, -1), 400, "parameter 'shared_memory_offset' must be a nonnegative integer"),
        (_place("in", 2**63 - 1), 400, "but region 'in' has 3,072 bytes"),
        (_place("in", 2**63), 400, "parameter 'shared_memory_byte_size' must be a boolean, a number or text"),
        (_place("in", "3072"), 400, "parameter 'shared_memory_byte_size' must be a nonnegative integer"),
        (_place("in", IMAGE) | {"data": [0] * IMAGE}, 400, "the request must not contain it"),
        ({"parameters": {"shared_memory_region": "in"}}, 400, "a positive shared_memory_byte_size"),
    ],
)
def test_tensors_that_are_not_in_their_region(
    sharing: Server, tensor: dict[str, Any], status: int, message: str
) -> None:
    """With the status of the error."""
    with segment(bytes(IMAGE)) as made:
        assert _register(sharing, "in", {"key": made.name, "byte_size": IMAGE}).status == 200
        answer = _infer(sharing, tensor, [])
        assert (answer.status, message in answer.json["error"]) == (status, True), answer.json


def test_large_tensors_wait_for_the_memory_of_what_is_received(sharing: Server) -> None:
    """A request of some bytes could otherwise take as much as the largest message, any number of times at once."""
    most, many = sharing._options.max_queue_mib * 2**20, 1024
    with segment(bytes(many * IMAGE)) as made:
        assert _register(sharing, "in", {"key": made.name, "byte_size": many * IMAGE}).status == 200
        tensor = {"name": "pixels", "shape": [many, 32, 32, 3], "datatype": "UINT8"} | _place("in", many * IMAGE)
        request = json.dumps({"inputs": [tensor], "parameters": {"timeout": 300_000}}).encode()
        taken = most - many * IMAGE + 1
        sharing._budget.take(taken)
        try:
            answer = call(sharing, "/v2/models/colors/infer", request)
            assert (answer.status, "before the request could be received" in answer.json["error"]) == (504, True)
            assert _infer(sharing, _place("in", IMAGE), []).status == 200
        finally:
            sharing._budget.give(taken)
        without_timeout = json.dumps({"inputs": [tensor]}).encode()
        assert call(sharing, "/v2/models/colors/infer", without_timeout).status == 200
        sharing._budget.take(most)  # nothing is held
        sharing._budget.give(most)


def test_what_is_not_there_is_not_found(sharing: Server) -> None:
    """A region; CUDA's regions; and a path with a slash in the name."""
    assert call(sharing, f"{ROOT}/region/unknown/status").status == 404
    assert call(sharing, "/v2/cudasharedmemory/region/unknown/status").status == 404
    assert call(sharing, f"{ROOT}/region/a/b/status").status == 404
    assert call(sharing, f"{ROOT}/status", b"").status == 405
    assert call(sharing, f"{ROOT}/region/one/register").status == 405


def test_cuda_shared_memory_is_not_supported(sharing: Server) -> None:
    """Calls that clean up succeed."""
    root = "/v2/cudasharedmemory"
    assert call(sharing, f"{root}/status").json == []
    assert call(sharing, f"{root}/unregister", b"").status == 200
    assert call(sharing, f"{root}/region/one/unregister", b"").status == 200
    answer = call(sharing, f"{root}/region/one/register", b'{"raw_handle": {"b64": ""}, "byte_size": 1}')
    assert (answer.status, "use system shared memory" in answer.json["error"]) == (501, True)


def test_regions_are_the_same_as_over_grpc(sharing: Server, http: Server) -> None:
    """And where shared memory is off, HTTP refuses it too."""
    with segment(bytes(IMAGE)) as made:
        document = {"key": made.name, "byte_size": IMAGE}
        assert _register(sharing, "one", document).status == 200
        assert _register(sharing, "one", document).status == 409
        assert _register(http, "one", document).status == 403
    assert call(http, f"{ROOT}/status").json == []
    assert "system_shared_memory" in call(sharing, "/v2").json["extensions"]
    assert "system_shared_memory" not in call(http, "/v2").json["extensions"]

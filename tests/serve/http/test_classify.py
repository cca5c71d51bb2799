"""Image files over HTTP: answers, refusals, limits, overload, callers that leave, and the end of the server."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.http import call, encode_form
from support.servers import running_server, server_in_thread

from unfreeze.serve.client.blocking import Client
from unfreeze.serve.server import Server
from unfreeze.serve.status import ERRORS_BY_STATUS

pytestmark = pytest.mark.xdist_group("serve")

PATH = "/v1/models/colors:classify"


def test_a_file_is_classified_as_over_grpc(http: Server, images: list[bytes]) -> None:
    """With the version that answered, and as many labels as requested."""
    with Client(f"127.0.0.1:{http.port}") as client:
        expected = client.predict(images)
    for image, labels in zip(images, expected, strict=True):
        answer = call(http, f"{PATH}?top_k=2", image)
        assert answer.status == 200
        document = answer.json
        assert (document["model"], document["version"]) == ("colors", "1")
        assert document["milliseconds"] > 0
        (found,) = document["predictions"]
        assert found["file"] == ""
        assert found["unsure"] is None
        assert [one["label"] for one in found["labels"]] == [one.label for one in labels[:2]]
        assert [one["score"] for one in found["labels"]] == pytest.approx([one.score for one in labels[:2]], abs=1e-6)
    assert call(http, "/v1/models/colors/versions/1:classify", images[0]).status == 200


def test_files_below_the_threshold_are_unsure(careful_server: Server, images: list[bytes], unsure: list[bool]) -> None:
    """With the model's threshold, whatever the number of labels; None for a model without one."""
    body, kind = encode_form([("", image) for image in images])
    for path, expected in (("careful:classify?top_k=1", unsure), ("colors:classify", [None] * len(images))):
        answer = call(careful_server, f"/v1/models/{path}", body, {"Content-Type": kind})
        assert [one["unsure"] for one in answer.json["predictions"]] == expected


def test_a_form_has_many_files(http: Server, images: list[bytes]) -> None:
    """In their order, with their names; other fields are ignored."""
    names = [f"ü{number}.jpg" for number in range(len(images))]
    body, kind = encode_form([*zip(names, images, strict=True)], {"comment": "none"})
    answer = call(http, PATH, body, {"Content-Type": kind})
    assert answer.status == 200
    assert [one["file"] for one in answer.json["predictions"]] == names
    alone = [call(http, PATH, image).json["predictions"][0]["labels"][0]["label"] for image in images]
    assert [one["labels"][0]["label"] for one in answer.json["predictions"]] == alone


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/unknown:classify", 404, "unknown model"),
        ("/v1/models/colors/versions/9:classify", 404, "version"),
        (f"{PATH}?top_k=0", 400, "top_k must be a positive integer"),
        (f"{PATH}?top_k=x", 400, "top_k must be a positive integer"),
        (f"{PATH}?timeout_ms=-1", 400, "timeout_ms must be a positive integer"),
        ("/v1/model/colors", 404, "there is no '/v1/model/colors'"),
        ("/v1/models/colors:other", 405, "POST is not allowed here"),
        ("/v2/models/colors", 405, "POST is not allowed here"),
    ],
)
def test_wrong_requests_are_refused(http: Server, images: list[bytes], path: str, status: int, message: str) -> None:
    """With the status that belongs to each."""
    answer = call(http, path, images[0])
    assert answer.status == status
    assert message in answer.json["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_hostile_images_get_the_refusals_of_grpc(http: Server, images: list[bytes]) -> None:
    """The same messages, counted as the same errors."""
    before = ERRORS_BY_STATUS["INVALID_ARGUMENT"]
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\x86\xa0\0\1\x86\xa0\x08\2\0\0\0" + b"\0" * 40
    for hostile in (b"", b"GIF", images[0][:-40], bomb):
        answer = call(http, PATH, hostile, {"Content-Length": str(len(hostile))})
        assert answer.status == 400
        with Client(f"127.0.0.1:{http.port}") as client:
            (outcome,) = client.classify([hostile])
        assert answer.json["error"].partition(": ")[2] in str(outcome.error)
    assert ERRORS_BY_STATUS["INVALID_ARGUMENT"] >= before + 4


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary="]
)
def test_malformed_forms_are_refused(http: Server, kind: str) -> None:
    """Whatever is wrong with them."""
    for body in (b"", b"--y\r\n", b"--x\r\n\r\n\r\n--x--\r\n", b"\0" * 1000):
        answer = call(http, PATH, body, {"Content-Type": kind})
        assert answer.status == 400
        assert "form" in answer.json["error"]


def test_bodies_are_limited(repository: Path, images: list[bytes]) -> None:
    """By what is declared, and by what arrives; compressed ones are refused."""
    with server_in_thread(repository, http=0, max_message_mib=1) as server:
        large = b"\0" * (2**20 + 1)
        answer = call(server, PATH, large)
        assert answer.status == 413
        assert "--max-message-mib" in answer.json["error"]
        assert server.http is not None
        connection = http.client.HTTPConnection("127.0.0.1", server.http.port)
        connection.request("POST", PATH, iter([b"\0" * 2**19] * 3), encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        assert call(server, PATH, b"", {"Content-Length": "0" * 5000 + "5"}, method="POST").status == 400
        assert call(server, PATH, images[0], {"Content-Encoding": "gzip"}).status == 415
        assert call(server, PATH, images[0]).status == 200


def test_deadlines_and_overload_are_refused_at_once(repository: Path, images: list[bytes]) -> None:
    """With 504, and with 429 and when to retry; whoever is accepted gets an answer."""
    with server_in_thread(repository, http=0, max_queue=4, instances=1, max_batch=1, threads=1) as server:
        body, kind = encode_form([("a", images[0])] * 4)
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: call(server, PATH, body, {"Content-Type": kind}), range(96)))
        counts = {answer.status for answer in answers}
        assert counts == {200, 429}
        refused = next(answer for answer in answers if answer.status == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert "queue" in refused.json["error"]


def test_who_leaves_takes_no_place(repository: Path, images: list[bytes]) -> None:
    """Requests of callers that disconnect are dropped from the queue."""
    with server_in_thread(repository, http=0, instances=1, max_batch=1, threads=1) as server:
        assert server.http is not None
        model = next(iter(server._models))
        body, kind = encode_form([("a", images[0])] * 64)
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        leaving = [socket.create_connection(("127.0.0.1", server.http.port)) for _ in range(8)]
        for one in leaving:
            one.sendall(head.encode() + body)
        _wait(lambda: model.pending > 64)
        for one in leaving:
            one.close()
        _wait(lambda: model.pending == 0)
        answered = model.statistics[True].success.count
        assert answered < len(leaving)


def _wait(condition: object) -> None:
    until = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.005)


def test_accepted_requests_are_answered_when_the_server_stops(repository: Path, images: list[bytes]) -> None:
    """SIGTERM during load: every answer is complete, or 503, or the connection was not accepted."""
    with running_server(repository, "--http", "0") as server:
        line = server.process.stdout.readline()  # type: ignore[union-attr]
        assert line.startswith("page to try the models: http://127.0.0.1:")
        port = int(line.rsplit(":", 1)[1].strip("/\n"))
        outcomes: list[int] = []
        stopping = threading.Event()

        def load() -> None:
            while True:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                try:
                    connection.connect()
                except OSError:
                    return
                try:
                    connection.request("POST", PATH, images[0])
                    response = connection.getresponse()
                    answer = json.loads(response.read())
                except (http.client.RemoteDisconnected, ConnectionError):
                    assert stopping.is_set()  # accepted by the kernel, and not by the server
                    return
                finally:
                    connection.close()
                assert (response.status == 200) == ("predictions" in answer)
                outcomes.append(response.status)

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        stopping.set()
        assert server.terminate() == 0
        for thread in threads:
            thread.join()
    assert set(outcomes) <= {200, 503}
    assert outcomes.count(200) > 8

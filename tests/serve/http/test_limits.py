"""What hostile callers cannot do: send endless headers, keep connections, make a request grow, or choose a codec."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http import call, encode_form
from support.servers import server_in_thread

from unfreeze.serve.http import connection
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

PATH = "/v1/models/colors:classify"


@pytest.fixture
def impatient(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with short times and few connections."""
    for name in ("_HEAD_S", "_DISCARD_S", "_KEEP_ALIVE_S", "_UNREAD_S"):
        monkeypatch.setattr(connection, name, 0.3)
    monkeypatch.setattr(connection, "_MOST_CONNECTIONS", 20)
    with server_in_thread(repository, http=0, max_message_mib=1, max_queue_mib=1) as server:
        yield server


def _connect(server: Server) -> socket.socket:
    assert server.http is not None
    return socket.create_connection(("127.0.0.1", server.http.port), timeout=10)


def _is_closed(opened: socket.socket) -> bool:
    """Wait for the end of a connection, and skip what is still sent."""
    try:
        while opened.recv(2**16):
            pass
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",  # and nothing more on the kept connection
        b"POST /v2/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc",  # 404, and no rest
        b"no HTTP\r\n\r\n",
    ],
)
def test_silent_connections_end(impatient: Server, sent: bytes) -> None:
    """Whatever was sent before; the server goes on."""
    with _connect(impatient) as opened:
        opened.sendall(sent)
        assert _is_closed(opened)
    assert call(impatient, "/v2/health/live").status == 200


def test_endless_headers_and_unread_answers_end(impatient: Server) -> None:
    """And many requests at once on one connection."""
    with _connect(impatient) as opened:
        try:
            for _ in range(64):
                opened.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 2**16)
        except ConnectionError:
            pass
        assert _is_closed(opened)
    for requests in (400, 4):
        with _connect(impatient) as opened:
            opened.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * requests)
            time.sleep(0.6)
            assert _is_closed(opened)


def test_too_many_connections_are_told_so(impatient: Server) -> None:
    """In JSON, as every other refusal."""
    opened = [_connect(impatient) for _ in range(20)]
    with _connect(impatient) as one_more:
        answer = one_more.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 503")
    assert "too many connections" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    for one in opened:
        one.close()
    time.sleep(0.1)
    assert call(impatient, "/v2/health/live").status == 200


def test_bodies_that_are_received_share_a_limit(impatient: Server, images: list[bytes]) -> None:
    """Three of 0.6 MB do not fit into 1 MiB; when they are gone, there is room again."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\n\r\n".encode()
    first, second = _connect(impatient), _connect(impatient)
    first.sendall(head + b"a")
    time.sleep(0.1)
    second.sendall(head + b"a")
    answer = second.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 1" in answer
    first.close()
    second.close()
    time.sleep(0.1)
    assert call(impatient, PATH, images[0]).status == 200


def test_who_asks_for_much_gets_it_without_stopping_others(http: Server, images: list[bytes]) -> None:
    """More labels than there are, and numbers with thousands of digits."""
    answer = call(http, f"{PATH}?top_k=999999999", images[0])
    assert len(answer.json["predictions"][0]["labels"]) == 3
    assert call(http, f"{PATH}?top_k={'9' * 5000}", images[0]).status == 400
    length = {"Inference-Header-Content-Length": "1" * 5000}
    assert call(http, "/v2/models/colors/infer", b"{}", length).status == 400


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "utf-7", "unknown"])
def test_the_codec_of_a_form_is_utf_8(http: Server, images: list[bytes], charset: str) -> None:
    """Others take minutes on purpose, or give text that cannot be answered."""
    body, kind = encode_form([("\\ud800.jpg", images[0])], {"text": "a" * 200_000})
    answer = call(http, PATH, body, {"Content-Type": f"{kind}; charset={charset}"})
    assert answer.status == 200
    assert answer.json["predictions"][0]["file"].endswith("ud800.jpg")


def test_a_form_that_is_cut_off_is_refused(http: Server, images: list[bytes]) -> None:
    """Instead of losing its last file."""
    body, kind = encode_form([("a.jpg", images[0]), ("b.jpg", images[1])])
    for cut in (body[:-12], body[: len(body) // 2], body[: -len(b"--\r\n")]):
        answer = call(http, PATH, cut, {"Content-Type": kind})
        assert answer.status == 400
        assert "does not end with its boundary" in answer.json["error"]


def test_what_numpy_would_enlarge_is_refused(http: Server) -> None:
    """One long text among many short ones."""
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": ["x" * 10**6, *[""] * 3071]}
    answer = call(http, "/v2/models/colors/infer", json.dumps({"inputs": [tensor]}).encode())
    assert answer.status == 400
    assert "integers from 0 to 255" in answer.json["error"]


def test_a_page_behind_a_proxy_may_post(http: Server, images: list[bytes]) -> None:
    """Proxies rewrite Host; browsers say themselves that the request is of the same origin."""
    headers = {"Origin": "https://models.example", "Sec-Fetch-Site": "same-origin"}
    assert call(http, PATH, images[0], headers).status == 200
    assert call(http, PATH, images[0], headers | {"Sec-Fetch-Site": "cross-site"}).status == 403

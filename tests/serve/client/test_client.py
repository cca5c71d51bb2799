"""Both clients with fake and real servers: errors, retries, restarts, folders, TLS and tokens."""

import asyncio
import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Authority
from support.echoes import Echo, echoing
from support.servers import running_server, serve_command, server_thread

from unfreeze.contract.errors import (
    DeadlineError,
    DrainingError,
    ForbiddenError,
    ImageError,
    InvalidRequestError,
    OptionsError,
    QueueFullError,
    ServingError,
    UnknownModelError,
)
from unfreeze.serve.client.asynchronous import AsyncClient
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

TRUSTED, OTHER = Authority("trusted"), Authority("other")
Call = Callable[..., Any]


@pytest.fixture(params=["threads", "asyncio"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method of one of the two clients; each test runs with both."""

    def by_client(target: str, method: str, *arguments: object, options: dict[str, Any], **keywords: object) -> object:
        with Client(target, **options) as client:
            found = getattr(client, method)(*arguments, **keywords)
            return list(found) if method == "classify" else found

    async def by_async_client(
        target: str, method: str, *arguments: object, options: dict[str, Any], **keywords: object
    ) -> object:
        async with AsyncClient(target, **options) as client:
            found = getattr(client, method)(*arguments, **keywords)
            return [result async for result in found] if method == "classify" else await found

    def call_method(target: str, method: str, *arguments: object, **keywords: Any) -> object:
        options = keywords.pop("options", {})
        if request.param == "threads":
            return by_client(target, method, *arguments, options=options, **keywords)
        return asyncio.run(by_async_client(target, method, *arguments, options=options, **keywords))

    return call_method


def _numbered(count: int) -> list[bytes]:
    return [f"{number}".encode() for number in range(count)]


def _labels(results: list[Any]) -> list[str]:
    return [result.predictions[0].label if result.error is None else "" for result in results]


def test_retries_after_the_delay_that_the_server_requested(call: Call) -> None:
    """After two errors with a retry delay of 250 ms, the third attempt succeeds, and none was sent too early."""

    def full_at_first(number: int, _: list[bytes]) -> None:
        if number <= 2:
            raise QueueFullError("full", 0.25)

    with echoing(servicer := Echo(full_at_first)) as target:
        (predictions,) = call(target, "predict", [b"ant"])
    assert predictions[0].label == "ant"
    assert len(servicer.times) == 3
    assert all(later - earlier >= 0.249 for earlier, later in itertools.pairwise(servicer.times))


def test_results_say_whether_they_are_below_the_threshold(
    call: Call, careful_server: Server, images: list[bytes], unsure: list[bool]
) -> None:
    """As the model does in-process; None for an image with an error, without a threshold, and of an older server."""
    target = f"127.0.0.1:{careful_server.port}"
    results = call(target, "classify", [*images, b"no image"], model="careful", top_k=1)
    assert [result.unsure for result in results] == [*unsure, None]
    assert [result.unsure for result in call(target, "classify", images, model="colors")] == [None] * len(images)
    with echoing(Echo()) as older:
        (result,) = call(older, "classify", [b"ant"])
    assert (result.predictions[0].label, result.unsure) == ("ant", None)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_gives_up_after_max_attempts(call: Call, max_attempts: int) -> None:
    """Then the error of the server is raised with its message."""

    def full(_number: int, _images: list[bytes]) -> None:
        raise QueueFullError("the queue is full", 0.01)

    with echoing(servicer := Echo(full)) as target, pytest.raises(QueueFullError, match="the queue is full"):
        call(target, "predict", [b"ant"], options={"max_attempts": max_attempts})
    assert len(servicer.times) == max_attempts


def test_large_requests_are_retried_when_the_server_shuts_down(call: Call) -> None:
    """The request is larger than what gRPC buffers for retries by default."""

    def draining_at_first(number: int, _: list[bytes]) -> None:
        if number == 1:
            raise DrainingError("shutting down")

    image = b"ant" + b" " * 2**20
    with echoing(servicer := Echo(draining_at_first)) as target:
        (predictions,) = call(target, "predict", [image])
    assert predictions[0].label.strip() == "ant"
    assert [one.get("grpc-previous-rpc-attempts") for one in servicer.metadata] == [None, "1"]


def test_requests_above_the_size_limit_are_split_and_not_retried(call: Call) -> None:
    """Images that fit are sent one by one; a single image that does not fit gets an error at once."""
    images = [b"%d" % number + b" " * 600_000 for number in range(4)]
    with echoing(servicer := Echo(), max_bytes=2**20) as target:
        results = call(target, "classify", [*images, b"x" * 2**21])
        assert [label.strip() for label in _labels(results)] == ["0", "1", "2", "3", ""]
        assert "image 5: the request exceeds the server's message size limit: send smaller images" in results[4].error
        with pytest.raises(InvalidRequestError, match="--max-message-mib"):
            call(target, "predict", [b"x" * 2**21])
    assert servicer.sizes == [1] * 4

    def too_large(_number: int, _images: list[bytes]) -> None:
        raise QueueFullError("Received message larger than max (5 vs. 4)", 0.01)

    with (
        echoing(servicer := Echo(too_large)) as target,
        pytest.raises(InvalidRequestError, match="exceeds the server's message size limit"),
    ):
        call(target, "predict", [b"ant"])
    assert len(servicer.times) == 1


def test_files_larger_than_a_request_are_not_read(call: Call, tmp_path: Path) -> None:
    """A file above the limit gets an error; the others are classified."""
    huge, small = tmp_path / "huge.jpg", tmp_path / "small.jpg"
    with huge.open("wb") as file:
        file.truncate(2**27)
    small.write_bytes(b"ant")
    with echoing(Echo()) as target:
        results = call(target, "classify", tmp_path, options={"max_message_mib": 1})
    assert [result.name for result in results] == [str(huge), str(small)]
    assert results[0].error == f"{huge}: the image has 128.0 MiB; the limit for a request is 1 MiB"
    assert _labels(results) == ["", "ant"]


def test_calls_survive_a_killed_and_restarted_server(repository: Path, images: list[bytes]) -> None:
    """The server is killed during calls and restarted on the same port: every call returns the right labels."""
    found, stop = [], threading.Event()

    def predict_repeatedly(client: Client) -> None:
        while not stop.is_set():
            found.append([predictions[0].label for predictions in client.predict(images, top_k=1)])

    with (
        running_server(repository) as first,
        Client(first.target, max_attempts=2) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        expected = [predictions[0].label for predictions in client.predict(images, top_k=1)]
        calls = [pool.submit(predict_repeatedly, client) for _ in range(2)]
        _wait_until(lambda: len(found) >= 20)
        first.process.kill()
        first.process.wait()
        before = len(found)
        command = serve_command(repository, first.target.rpartition(":")[2])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as second:
            assert second.stdout.readline().startswith("serving ")
            _wait_until(lambda: len(found) >= before + 20)
            stop.set()
            for call in calls:
                call.result()
            second.send_signal(signal.SIGTERM)
    assert all(labels == expected for labels in found)


def test_async_client_waits_for_a_restarted_server() -> None:
    """A call that is made while the server is down is completed by the restarted server."""

    async def calls() -> list[str]:
        with echoing(Echo()) as target:
            client = AsyncClient(target)
            (before,) = await client.predict([b"before"])
        async with client:
            waiting = asyncio.create_task(client.predict([b"during"]))
            await asyncio.sleep(1)
            assert not waiting.done()
            with echoing(Echo(), port=int(target.rpartition(":")[2])):
                (after,) = await waiting
        return [before[0].label, after[0].label]

    assert asyncio.run(calls()) == ["before", "during"]


def _wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.005)


def test_waits_for_an_unreachable_server_until_the_deadline() -> None:
    """After a first successful call, a call to an unreachable server fails at its deadline."""
    with echoing(Echo()) as target:
        client = Client(target, timeout_s=0.5)
        client.predict([b"before"])
    with client, pytest.raises(DeadlineError, match=re.escape(f"{target} did not respond within 0.5 s")):
        client.predict([b"after"])


def _reject_bad_images(_number: int, images: list[bytes]) -> None:
    """Raise an error about the last bad image; a real server may name any of them."""
    for number in range(len(images), 0, -1):
        if images[number - 1].startswith(b"bad"):
            raise InvalidRequestError(f"image {number} of {len(images)}: not an image")


def test_classify_returns_an_error_for_each_unusable_image(call: Call, tmp_path: Path) -> None:
    """Invalid files, a missing file and a folder among the files get errors; all other images are classified."""
    bad, paths, done = {0, 7, 8, 9, 40, 99}, [], []
    for number in range(100):
        path = tmp_path / f"{number:03}.jpg"
        path.write_bytes(b"bad" if number in bad else f"{number}".encode())
        paths.append(path)
    (tmp_path / "none").mkdir()
    sources = [*paths[:50], tmp_path / "missing.jpg", tmp_path / "none", *map(str, paths[50:])]
    with echoing(servicer := Echo(_reject_bad_images)) as target:
        results = call(target, "classify", sources, progress=done.append)
        of_folder = call(target, "classify", tmp_path)
    expected = ["" if number in bad else f"{number}" for number in range(100)]
    assert _labels(results) == [*expected[:50], "", "", *expected[50:]]
    assert _labels(of_folder) == expected
    assert [result.name for result in results] == [str(path) for path in sources]
    assert {result.error for result in results[:50]} == {
        None,
        *(f"{paths[number]}: not an image" for number in (0, 7, 8, 9, 40)),
    }
    assert results[50].error == f"cannot read {tmp_path / 'missing.jpg'}: No such file or directory"
    assert results[51].error == f"cannot read {tmp_path / 'none'}: Is a directory"
    assert (sum(done), len(done)) == (102, 4)
    assert max(servicer.sizes) == 32
    assert len(servicer.sizes) < 60, "an invalid image must not cause one request for each other image"


def test_strict_raises_for_an_unusable_image(call: Call, tmp_path: Path) -> None:
    """`predict`, and `classify` with `strict`, raise an error that names the image."""
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")
    with echoing(Echo(_reject_bad_images)) as target:
        for method, keywords in (("predict", {}), ("classify", {"strict": True})):
            with pytest.raises(InvalidRequestError, match=rf"{re.escape(str(bad))}: image 2 of 2: not an image"):
                call(target, method, [good, bad], **keywords)
            with pytest.raises(ImageError, match=r"cannot read .*gone\.jpg: No such file"):
                call(target, method, [good, tmp_path / "gone.jpg"], **keywords)
        assert call(target, "predict", good)[0][0].label == "good"
        assert call(target, "predict", b"good")[0][0].label == "good"
        assert call(target, "classify", []) == []


def test_requests_are_concurrent_and_results_in_order(call: Call) -> None:
    """The first response is sent after the third request arrives; results are in the order of the images."""
    third = threading.Event()

    def first_waits(_number: int, images: list[bytes]) -> None:
        if images[0] == b"64":
            third.set()
        if images[0] == b"0" and not third.wait(20):
            raise InvalidRequestError("no concurrent request arrived")

    with echoing(Echo(first_waits)) as target:
        results = call(target, "classify", _numbered(300), options={"max_in_flight": 3})
    assert _labels(results) == [f"{number}" for number in range(300)]


def _endless(taken: list[int]) -> Iterator[bytes]:
    for number in itertools.count():
        taken.append(number)
        yield f"{number}".encode()


def test_images_are_read_lazily() -> None:
    """An endless iterator is consumed only as far as requests are sent; closing the results cancels the rest."""
    enough = threading.Event()

    def only_the_first(_number: int, images: list[bytes]) -> None:
        if images[0] not in (b"0", b"still there"):
            enough.wait(20)

    async def first_by_asyncio(target: str, taken: list[int]) -> tuple[str, int]:
        async with AsyncClient(target, max_in_flight=2) as client:
            results = client.classify(_endless(taken))
            result = await anext(results)
            await results.aclose()
            return result.predictions[0].label, len(asyncio.all_tasks())

    with echoing(Echo(only_the_first)) as target:
        started, taken, taken_too = time.monotonic(), [], []
        with Client(target, max_in_flight=2) as client:
            results = client.classify(_endless(taken))
            assert next(results).predictions[0].label == "0"
            results.close()
            assert client.predict([b"still there"])[0][0].label == "still there"
        assert asyncio.run(first_by_asyncio(target, taken_too)) == ("0", 1)
        assert time.monotonic() - started < 15
        enough.set()
    assert 64 <= len(taken) <= 32 * 3 + 1
    assert 64 <= len(taken_too) <= 32 * 3 + 1


def test_many_clients_complete_with_a_small_queue(repository: Path, images: list[bytes]) -> None:
    """With a queue of four images, six clients complete, each of which starts with a request of twelve images."""
    with server_thread(repository, instances=1, max_queue=4) as target:

        def labels(seed: int) -> list[str]:
            with Client(target, max_attempts=100) as client:
                results = list(client.classify(images[seed:] + images[:seed], top_k=1))
            assert [result.error for result in results] == [None] * len(images)
            return _labels(results[-seed:] + results[:-seed] if seed else results)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(labels, range(6)))
    assert len(set(found[0])) > 1
    assert all(one == found[0] for one in found)


def test_lists_and_describes_models(target: str, call: Call) -> None:
    """Name, state, labels and sizes are those of the server; an unknown model raises an UnknownModelError."""
    (listed,) = call(target, "list_models")
    assert (listed.name, listed.version, listed.state, listed.reason) == ("colors", "1", "READY", "")
    described = call(target, "describe_model")
    assert described == call(target, "describe_model", "colors", "1")
    assert (described.labels, described.input_height, described.input_width) == (("blue", "green", "red"), 32, 32)
    assert (described.precision, described.abstain_below) == ("fp32", None)
    assert described.metrics["val_accuracy"] == pytest.approx(1 / 3)
    assert re.fullmatch("[0-9a-f]{64}", described.sha256)
    with pytest.raises(UnknownModelError, match="unknown model 'unknown'"):
        call(target, "describe_model", "unknown")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of two authorities, and a client certificate of the trusted one."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "trusted.pem").write_bytes(TRUSTED.cert)
    (folder / "other.pem").write_bytes(OTHER.cert)
    TRUSTED.issue("client").write(folder, "client")
    return folder


def _server_credentials(client_authority: bytes | None = None) -> grpc.ServerCredentials:
    pair = TRUSTED.issue("server")
    return grpc.ssl_server_credentials(
        [(pair.key, pair.cert)], client_authority, require_client_auth=client_authority is not None
    )


def test_tls_requires_a_trusted_certificate_authority(
    call: Call, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A given authority and the system's are used, and the token is sent; others and plain connections fail."""
    with echoing(servicer := Echo(), _server_credentials()) as target:
        for options in ({"tls_ca": certificates / "trusted.pem", "token": "secret"}, {"tls": True}):
            monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "trusted.pem"))
            assert call(target, "predict", [b"ant"], options=options)[0][0].label == "ant"
        assert [one.get("authorization") for one in servicer.metadata] == ["Bearer secret", None]
        for options in ({"tls_ca": certificates / "other.pem"}, {}):
            tls = "with TLS" if options else "without TLS"
            with pytest.raises(DrainingError, match=f"cannot connect to a server at {target} {tls}"):
                call(target, "predict", [b"ant"], options={**options, "max_attempts": 1})


def test_sends_its_client_certificate(call: Call, certificates: Path) -> None:
    """A server that requires client certificates accepts the call; without a certificate, the call fails."""
    options = {"tls_ca": certificates / "trusted.pem", "max_attempts": 1}
    pair = {"tls_cert": certificates / "client.pem", "tls_key": certificates / "client.key"}
    with echoing(Echo(), _server_credentials(TRUSTED.cert)) as target:
        assert call(target, "predict", [b"ant"], options=options | pair)[0][0].label == "ant"
        with pytest.raises(DrainingError, match="with TLS"):
            call(target, "predict", [b"ant"], options=options)


def test_token_is_sent_unencrypted_only_to_loopback_or_if_allowed(call: Call) -> None:
    """Other addresses require TLS or `insecure`; the token never appears in messages or representations."""
    with echoing(servicer := Echo()) as target:
        call(target, "predict", [b"ant"], options={"token": "secret"})
        port = target.rpartition(":")[2]
        call(f"localhost:{port}", "predict", [b"ant"], options={"token": "secret"})
        assert [one["authorization"] for one in servicer.metadata] == ["Bearer secret"] * 2
    with pytest.raises(OptionsError, match=r"the token would be sent to 192\.0\.2\.1:8001 unencrypted") as failed:
        Client("192.0.2.1:8001", token="secret")  # noqa: S106 - not a real token
    assert "secret" not in str(failed.value)
    with Client("192.0.2.1:8001", token="secret", insecure=True) as client:  # noqa: S106 - as above
        assert "secret" not in repr(client._options)


@pytest.fixture(scope="module")
def protected_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with TLS and a token."""
    tmp_path = tmp_path_factory.mktemp("protected")
    (tmp_path / "tokens").write_text("right\n")
    (tmp_path / "tokens").chmod(0o600)
    cert, key = TRUSTED.issue("server").write(tmp_path, "server")
    options = {"tls_cert": cert, "tls_key": key, "token_file": tmp_path / "tokens"}
    with server_thread(repository, **options) as address:
        yield address


def test_missing_or_wrong_token_raises(protected_server: str, call: Call, certificates: Path) -> None:
    """The right token is accepted; without it or with another, a ForbiddenError says how to send one."""
    options = {"tls_ca": certificates / "trusted.pem"}
    assert call(protected_server, "list_models", options=options | {"token": "right"})[0].name == "colors"
    for token, why in ((None, "the request has none"), ("wrong", "invalid token")):
        with pytest.raises(ForbiddenError, match=why):
            call(protected_server, "list_models", options=options | {"token": token})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "--timeout-s must be between 0.001 and 86,400, got 0"),
        ({"max_attempts": 0}, "--max-attempts must be between 1 and 1,000, got 0"),
        ({"max_in_flight": 0}, "--max-in-flight must be between 1 and 256, got 0"),
        ({"max_message_mib": 2048}, "--max-message-mib must be between 1 and 2,047, got 2048"),
        ({"tls_cert": "a.pem"}, "give both --tls-cert and --tls-key"),
        ({"tls_ca": "nowhere.pem"}, "cannot read --tls-ca nowhere.pem: No such file"),
        ({"token": "two words"}, "invalid token: it must not be empty"),
        ({"token": ""}, "invalid token: it must not be empty"),
    ],
)
def test_rejects_invalid_options(options: dict[str, Any], message: str) -> None:
    """Each invalid option raises an error that names it, before any connection."""
    for kind in (Client, AsyncClient):
        with pytest.raises(OptionsError, match=message):
            kind("localhost:1", **options)


def test_errors_about_the_request_end_classify(call: Call) -> None:
    """An error that is not about an image is raised, and the request is not repeated."""

    def unknown(_number: int, _images: list[bytes]) -> None:
        raise UnknownModelError("unknown model 'x'")

    with echoing(servicer := Echo(unknown)) as target, pytest.raises(ServingError, match="unknown model 'x'"):
        call(target, "classify", _numbered(20), model="x")
    assert len(servicer.times) == 1

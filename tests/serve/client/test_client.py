"""Both clients, by servers that answer what a test needs and by real ones: refusals, restarts, folders, TLS, tokens."""

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
from support.servers import RunningServer, running_server, serve_command

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

OURS, OTHERS = Authority("ours"), Authority("others")
Ask = Callable[..., Any]


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Ask by one of the two clients: the same claims hold for both."""

    def by_client(target: str, method: str, *arguments: object, options: dict[str, Any], **keywords: object) -> object:
        with Client(target, **options) as client:
            found = getattr(client, method)(*arguments, **keywords)
            return list(found) if method == "classify" else found

    async def by_async_client(
        target: str, method: str, *arguments: object, options: dict[str, Any], **keywords: object
    ) -> object:
        async with AsyncClient(target, **options) as client:
            found = getattr(client, method)(*arguments, **keywords)
            return [answer async for answer in found] if method == "classify" else await found

    def asked(target: str, method: str, *arguments: object, **keywords: Any) -> object:
        options = keywords.pop("options", {})
        if request.param == "threads":
            return by_client(target, method, *arguments, options=options, **keywords)
        return asyncio.run(by_async_client(target, method, *arguments, options=options, **keywords))

    return asked


def _numbered(count: int) -> list[bytes]:
    return [f"{number}".encode() for number in range(count)]


def _labels(answers: list[Any]) -> list[str]:
    return [answer.predictions[0].label if answer.error is None else "" for answer in answers]


def test_a_busy_server_is_asked_again_when_it_said(ask: Ask) -> None:
    """Two refusals with a hint of 250 ms: the third call comes, none came before its time, and the answer is right."""

    def busy_at_first(number: int, _: list[bytes]) -> None:
        if number <= 2:
            raise QueueFullError("full", 0.25)

    with echoing(servicer := Echo(busy_at_first)) as target:
        (answer,) = ask(target, "predict", [b"ant"])
    assert answer[0].label == "ant"
    assert len(servicer.times) == 3
    assert all(later - earlier >= 0.249 for earlier, later in itertools.pairwise(servicer.times))


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_server_that_stays_busy_is_asked_as_often_as_the_option_says(ask: Ask, attempts: int) -> None:
    """Then its refusal is raised, in its words."""

    def busy(_number: int, _images: list[bytes]) -> None:
        raise QueueFullError("it is full", 0.01)

    with echoing(servicer := Echo(busy)) as target, pytest.raises(QueueFullError, match="it is full"):
        ask(target, "predict", [b"ant"], options={"attempts": attempts})
    assert len(servicer.times) == attempts


def test_a_large_request_reaches_the_next_server_too(ask: Ask) -> None:
    """GRPC retries what a draining server refused, though the request is larger than gRPC keeps by default."""

    def draining_at_first(number: int, _: list[bytes]) -> None:
        if number == 1:
            raise DrainingError("going down")

    image = b"ant" + b" " * 2**20
    with echoing(servicer := Echo(draining_at_first)) as target:
        (answer,) = ask(target, "predict", [image])
    assert answer[0].label.strip() == "ant"
    assert [one.get("grpc-previous-rpc-attempts") for one in servicer.metadata] == [None, "1"]


def test_what_is_too_large_for_the_server_is_asked_in_parts_and_never_twice(ask: Ask) -> None:
    """Images that fit one by one are answered so; one that does not is told what to do, at once."""
    images = [b"%d" % number + b" " * 600_000 for number in range(4)]
    with echoing(servicer := Echo(), max_bytes=2**20) as target:
        answers = ask(target, "classify", [*images, b"x" * 2**21])
        assert [label.strip() for label in _labels(answers)] == ["0", "1", "2", "3", ""]
        assert "image 5: the server takes no message of this size: send smaller images" in answers[4].error
        with pytest.raises(InvalidRequestError, match="--max-message-mib"):
            ask(target, "predict", [b"x" * 2**21])
    assert servicer.sizes == [1] * 4

    def too_large(_number: int, _images: list[bytes]) -> None:
        raise QueueFullError("Received message larger than max (5 vs. 4)", 0.01)

    with echoing(servicer := Echo(too_large)) as target, pytest.raises(InvalidRequestError, match="no message"):
        ask(target, "predict", [b"ant"])
    assert len(servicer.times) == 1


def test_what_is_too_large_for_a_request_is_not_even_read(ask: Ask, tmp_path: Path) -> None:
    """A file larger than the option allows, here mostly a hole, is named; the others are answered."""
    huge, small = tmp_path / "huge.jpg", tmp_path / "small.jpg"
    with huge.open("wb") as file:
        file.truncate(2**27)
    small.write_bytes(b"ant")
    with echoing(Echo()) as target:
        answers = ask(target, "classify", tmp_path, options={"max_message_mib": 1})
    assert [answer.name for answer in answers] == [str(huge), str(small)]
    assert answers[0].error == f"{huge}: 128.0 MiB are more than a request of 1 MiB holds"
    assert _labels(answers) == ["", "ant"]


def test_a_killed_server_is_waited_for(repository: Path, images: list[bytes]) -> None:
    """Kill -9 in the middle of calls, and a new server on the same port: every call is answered, and rightly."""
    found, stop = [], threading.Event()

    def go_on(client: Client) -> None:
        while not stop.is_set():
            found.append([answer[0].label for answer in client.predict(images, top=1)])

    with running_server(repository) as first, Client(first.target, attempts=2) as client, ThreadPoolExecutor(2) as pool:
        expected = [answer[0].label for answer in client.predict(images, top=1)]
        calls = [pool.submit(go_on, client) for _ in range(2)]
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


def test_a_restarted_server_is_waited_for_by_asyncio() -> None:
    """A call that is made while there is no server is answered by the one that comes to its port."""

    async def calls() -> list[str]:
        with echoing(Echo()) as target:
            client = AsyncClient(target)
            (before,) = await client.predict([b"before"])
        async with client:
            waiting = asyncio.create_task(client.predict([b"meanwhile"]))
            await asyncio.sleep(1)
            assert not waiting.done()
            with echoing(Echo(), port=int(target.rpartition(":")[2])):
                (after,) = await waiting
        return [before[0].label, after[0].label]

    assert asyncio.run(calls()) == ["before", "meanwhile"]


def _wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


def test_a_server_that_stays_away_is_an_error_at_the_deadline() -> None:
    """Once met, it is waited for, and no longer than was said."""
    with echoing(Echo()) as target:
        client = Client(target, timeout_s=0.5)
        client.predict([b"before"])
    with client, pytest.raises(DeadlineError, match=re.escape(f"{target} did not answer within 0.5 s")):
        client.predict([b"after"])


def _refuse_bad_ones(_number: int, images: list[bytes]) -> None:
    """Name the last bad image: which of several is named is chance."""
    for number in range(len(images), 0, -1):
        if images[number - 1].startswith(b"bad"):
            raise InvalidRequestError(f"image {number} of {len(images)}: no image at all")


def test_what_cannot_be_used_harms_no_other(ask: Ask, tmp_path: Path) -> None:
    """Of bad files, missing ones and a folder in place of a file, each has its error, and all others their answers."""
    bad, paths, done = {0, 7, 8, 9, 40, 99}, [], []
    for number in range(100):
        path = tmp_path / f"{number:03}.jpg"
        path.write_bytes(b"bad" if number in bad else f"{number}".encode())
        paths.append(path)
    (tmp_path / "none").mkdir()
    asked = [*paths[:50], tmp_path / "missing.jpg", tmp_path / "none", *map(str, paths[50:])]
    with echoing(servicer := Echo(_refuse_bad_ones)) as target:
        answers = ask(target, "classify", asked, progress=done.append)
        whole = ask(target, "classify", tmp_path)
    expected = ["" if number in bad else f"{number}" for number in range(100)]
    assert _labels(answers) == [*expected[:50], "", "", *expected[50:]]
    assert _labels(whole) == expected
    assert [answer.name for answer in answers] == [str(path) for path in asked]
    assert {answer.error for answer in answers[:50]} == {
        None,
        *(f"{paths[number]}: no image at all" for number in (0, 7, 8, 9, 40)),
    }
    assert answers[50].error == f"{tmp_path / 'missing.jpg'} cannot be read: No such file or directory"
    assert answers[51].error == f"{tmp_path / 'none'} cannot be read: Is a directory"
    assert (sum(done), len(done)) == (102, 4)
    assert max(servicer.sizes) == 32
    assert len(servicer.sizes) < 60, "a bad image costs a few requests, not one for each of its neighbors"


def test_strict_raises_what_cannot_be_used(ask: Ask, tmp_path: Path) -> None:
    """With `strict`, and always in `predict`, the first image that cannot be used is an error with its name."""
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")
    with echoing(Echo(_refuse_bad_ones)) as target:
        for method, keywords in (("predict", {}), ("classify", {"strict": True})):
            with pytest.raises(InvalidRequestError, match=rf"{re.escape(str(bad))}: image 2 of 2: no image"):
                ask(target, method, [good, bad], **keywords)
            with pytest.raises(ImageError, match=r"gone\.jpg cannot be read: No such file"):
                ask(target, method, [good, tmp_path / "gone.jpg"], **keywords)
        assert ask(target, "predict", good)[0][0].label == "good"
        assert ask(target, "predict", b"good")[0][0].label == "good"
        assert ask(target, "classify", []) == []


def test_requests_overlap_and_keep_their_order(ask: Ask) -> None:
    """The first request is answered when the third has come; answers still come in the order of the images."""
    third = threading.Event()

    def first_waits(_number: int, images: list[bytes]) -> None:
        if images[0] == b"64":
            third.set()
        if images[0] == b"0" and not third.wait(20):
            raise InvalidRequestError("nobody came meanwhile")

    with echoing(Echo(first_waits)) as target:
        answers = ask(target, "classify", _numbered(300), options={"in_flight": 3})
    assert _labels(answers) == [f"{number}" for number in range(300)]


def _endless(taken: list[int]) -> Iterator[bytes]:
    for number in itertools.count():
        taken.append(number)
        yield f"{number}".encode()


def test_images_are_read_when_their_turn_comes() -> None:
    """Of endless images, no more are taken than are at work; who stops to listen need not wait for the others."""
    enough = threading.Event()

    def only_the_first(_number: int, images: list[bytes]) -> None:
        if images[0] not in (b"0", b"still there"):
            enough.wait(20)

    async def first_by_asyncio(target: str, taken: list[int]) -> tuple[str, int]:
        async with AsyncClient(target, in_flight=2) as client:
            answers = client.classify(_endless(taken))
            answer = await anext(answers)
            await answers.aclose()
            return answer.predictions[0].label, len(asyncio.all_tasks())

    with echoing(Echo(only_the_first)) as target:
        started, taken, taken_too = time.monotonic(), [], []
        with Client(target, in_flight=2) as client:
            answers = client.classify(_endless(taken))
            assert next(answers).predictions[0].label == "0"
            answers.close()
            assert client.predict([b"still there"])[0][0].label == "still there"
        assert asyncio.run(first_by_asyncio(target, taken_too)) == ("0", 1)
        assert time.monotonic() - started < 15
        enough.set()
    assert 64 <= len(taken) <= 32 * 3 + 1
    assert 64 <= len(taken_too) <= 32 * 3 + 1


def test_many_clients_get_through_a_narrow_queue(repository: Path, images: list[bytes]) -> None:
    """Where four images may wait, six clients are all answered, who each begin with twelve images in a request."""
    with running_server(repository, "--max-queue", "4", "--instances", "1") as server:

        def labels(seed: int) -> list[str]:
            with Client(server.target, attempts=100) as client:
                answers = list(client.classify(images[seed:] + images[:seed], top=1))
            assert [answer.error for answer in answers] == [None] * len(images)
            return _labels(answers[-seed:] + answers[:-seed] if seed else answers)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(labels, range(6)))
    assert len(set(found[0])) > 1
    assert all(one == found[0] for one in found)


def test_models_are_listed_and_described(server: RunningServer, ask: Ask) -> None:
    """Names, states, labels and sizes as the server has them; an unknown model is an error of ours."""
    (listed,) = ask(server.target, "list_models")
    assert (listed.name, listed.version, listed.state, listed.reason) == ("colors", "1", "READY", "")
    described = ask(server.target, "describe_model")
    assert described == ask(server.target, "describe_model", "colors", "1")
    assert (described.labels, described.height, described.width) == (("blue", "green", "red"), 32, 32)
    assert (described.precision, described.abstain_below) == ("fp32", None)
    assert described.metrics["val_accuracy"] == pytest.approx(1 / 3)
    assert re.fullmatch("[0-9a-f]{64}", described.sha256)
    with pytest.raises(UnknownModelError, match="there is no model 'nobody'"):
        ask(server.target, "describe_model", "nobody")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two authorities' certificates, and of one that ours gave to a client."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "ours.pem").write_bytes(OURS.cert)
    (folder / "others.pem").write_bytes(OTHERS.cert)
    OURS.issue("client").write(folder, "client")
    return folder


def _server_credentials(client_authority: bytes | None = None) -> grpc.ServerCredentials:
    pair = OURS.issue("server")
    return grpc.ssl_server_credentials(
        [(pair.key, pair.cert)], client_authority, require_client_auth=client_authority is not None
    )


def test_tls_is_spoken_with_those_whom_the_authority_vouches_for(
    ask: Ask, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a named authority or by this machine's, and the token with it; another authority or no TLS is an error."""
    with echoing(servicer := Echo(), _server_credentials()) as target:
        for options in ({"tls_ca": certificates / "ours.pem", "token": "secret"}, {"tls": True}):
            monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ours.pem"))
            assert ask(target, "predict", [b"ant"], options=options)[0][0].label == "ant"
        assert [one.get("authorization") for one in servicer.metadata] == ["Bearer secret", None]
        for options in ({"tls_ca": certificates / "others.pem"}, {}):
            how = "with TLS" if options else "without TLS"
            with pytest.raises(DrainingError, match=f"no server answers at {target} {how}"):
                ask(target, "predict", [b"ant"], options={**options, "attempts": 1})


def test_a_server_may_ask_for_a_certificate(ask: Ask, certificates: Path) -> None:
    """With one it answers; without, the call ends."""
    options = {"tls_ca": certificates / "ours.pem", "attempts": 1}
    pair = {"tls_cert": certificates / "client.pem", "tls_key": certificates / "client.key"}
    with echoing(Echo(), _server_credentials(OURS.cert)) as target:
        assert ask(target, "predict", [b"ant"], options=options | pair)[0][0].label == "ant"
        with pytest.raises(DrainingError, match="with TLS"):
            ask(target, "predict", [b"ant"], options=options)


def test_a_token_travels_in_the_clear_only_within_this_machine_or_when_told(ask: Ask) -> None:
    """To a loopback address it is sent; to others it is refused without `insecure`. It is never shown."""
    with echoing(servicer := Echo()) as target:
        ask(target, "predict", [b"ant"], options={"token": "secret"})
        port = target.rpartition(":")[2]
        ask(f"localhost:{port}", "predict", [b"ant"], options={"token": "secret"})
        assert [one["authorization"] for one in servicer.metadata] == ["Bearer secret"] * 2
    with pytest.raises(OptionsError, match=r"others could read the token on its way to 192\.0\.2\.1:8001") as refused:
        Client("192.0.2.1:8001", token="secret")  # noqa: S106 - no secret
    assert "secret" not in str(refused.value)
    with Client("192.0.2.1:8001", token="secret", insecure=True) as client:  # noqa: S106 - as above
        assert "secret" not in repr(client._connection)


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Our own server, with TLS and a token."""
    tmp_path = tmp_path_factory.mktemp("guarded")
    (tmp_path / "tokens").write_text("right\n")
    (tmp_path / "tokens").chmod(0o600)
    cert, key = OURS.issue("server").write(tmp_path, "server")
    given = ("--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(tmp_path / "tokens"))
    with running_server(repository, *given, "--instances", "1") as server:
        yield server


def test_a_server_that_wants_a_token_says_so(guarded: RunningServer, ask: Ask, certificates: Path) -> None:
    """Without its token, or with another, callers are told; with it, they are answered."""
    options = {"tls_ca": certificates / "ours.pem"}
    assert ask(guarded.target, "list_models", options=options | {"token": "right"})[0].name == "colors"
    for token, why in ((None, "the request has none"), ("wrong", "none that this server knows")):
        with pytest.raises(ForbiddenError, match=why):
            ask(guarded.target, "list_models", options=options | {"token": token})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "--timeout-s goes from 0.001 to 86,400, found 0"),
        ({"attempts": 0}, "--attempts goes from 1 to 1,000, found 0"),
        ({"in_flight": 0}, "--in-flight goes from 1 to 256, found 0"),
        ({"max_message_mib": 2048}, "--max-message-mib goes from 1 to 2,047, found 2048"),
        ({"tls_cert": "a.pem"}, "give both --tls-cert and --tls-key"),
        ({"tls_ca": "nowhere.pem"}, "--tls-ca nowhere.pem cannot be read: No such file"),
        ({"token": "two words"}, "the token is empty, or holds characters that no token has"),
        ({"token": ""}, "the token is empty"),
    ],
)
def test_options_are_checked_before_anything_is_asked(options: dict[str, Any], message: str) -> None:
    """Each wrong option is an error that names it."""
    for kind in (Client, AsyncClient):
        with pytest.raises(OptionsError, match=message):
            kind("localhost:1", **options)


def test_a_refusal_of_the_request_ends_a_folder(ask: Ask) -> None:
    """What is no image's fault is raised, and asked once."""

    def unknown(_number: int, _images: list[bytes]) -> None:
        raise UnknownModelError("there is no model 'x'")

    with echoing(servicer := Echo(unknown)) as target, pytest.raises(ServingError, match="there is no model 'x'"):
        ask(target, "classify", _numbered(20), model="x")
    assert len(servicer.times) == 1

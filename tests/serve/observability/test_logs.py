"""What a server logs, and the id by which a request's lines are found."""

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from PIL import Image, PngImagePlugin
from support.logged import LoggedServer, logged_server

from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.observability.logs import LogOptions, start_logging

MADE = re.compile(r"[0-9a-f]{16}")
PREDICT = "/unfreeze.v1.Classifier/Predict"


@pytest.fixture(scope="module")
def logged(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggedServer]:
    """A server that logs everything."""
    with logged_server(repository, tmp_path_factory.mktemp("logs") / "log", "--log-level", "debug") as started:
        yield started


@pytest.fixture
def channel(logged: LoggedServer) -> Iterator[grpc.Channel]:
    """A connection to it."""
    with grpc.insecure_channel(logged.server.target) as connected:
        yield connected


def _returned_id(call: grpc.Call) -> str:
    return dict(call.trailing_metadata())["x-request-id"]


def _predict(channel: grpc.Channel, image: bytes, *metadata: tuple[str, str]) -> grpc.Call:
    call = ClassifierStub(channel).Predict.future(pb.PredictRequest(images=[image]), metadata=metadata)
    call.exception()
    return call


def test_every_line_is_json_with_its_time_level_and_logger(logged: LoggedServer) -> None:
    """The lines of a start have all fields, times are of today and in UTC, and no request is concerned."""
    (line,) = logged.wait_for(lambda line: line["message"].startswith("loaded colors version 1"))
    assert line.keys() == {"time", "level", "message", "logger"}
    assert (line["level"], line["logger"]) == ("INFO", "unfreeze.serve.models.loading")
    time = datetime.fromisoformat(line["time"])
    assert time.utcoffset().total_seconds() == 0
    assert abs((datetime.now(UTC) - time).total_seconds()) < 600


def test_a_callers_id_is_returned_and_logged(logged: LoggedServer, channel: grpc.Channel, images: list[bytes]) -> None:
    """The id of the metadata is in the answer's and in the one line of the request, beside status and duration."""
    assert _returned_id(_predict(channel, images[0], ("x-request-id", "order-17/a"))) == "order-17/a"
    (line,) = logged.wait_for(lambda line: line.get("request_id") == "order-17/a")
    assert (line["level"], line["method"], line["status"]) == ("DEBUG", PREDICT, "OK")
    assert 0 < line["duration_ms"] < 60_000


def test_requests_without_an_id_get_one_each(channel: grpc.Channel, images: list[bytes]) -> None:
    """Two such requests have different ids of 16 digits."""
    made = {_returned_id(_predict(channel, images[0])) for _ in range(2)}
    assert len(made) == 2
    assert all(MADE.fullmatch(one) for one in made)


@pytest.mark.parametrize(
    ("given", "kept"), [("a b {c}", "a_b__c_"), ("x" * 500, "x" * 128), ('"}, {"level', "______level")]
)
def test_strange_ids_are_cleaned(channel: grpc.Channel, images: list[bytes], given: str, kept: str) -> None:
    """What is no letter, digit or mark of an id is replaced, and no id is longer than 128 characters."""
    assert _returned_id(_predict(channel, images[0], ("x-request-id", given))) == kept


def test_a_refusal_is_logged_below_the_default_level(logged: LoggedServer, channel: grpc.Channel) -> None:
    """A bad image leaves the reason and the request's line, both at debug and under its id, which is returned."""
    call = _predict(channel, b"no image", ("x-request-id", "refused-1"))
    assert _returned_id(call) == "refused-1"
    logged.wait_for(lambda line: line.get("method") == PREDICT and line["request_id"] == "refused-1")
    reason, request = (line for line in logged.lines() if line.get("request_id") == "refused-1")
    assert reason["message"].startswith("refused with INVALID_ARGUMENT: image 1 of 1: ")
    assert request["status"] == "INVALID_ARGUMENT"
    assert {reason["level"], request["level"]} == {"DEBUG"}


def test_an_id_and_a_hint_to_retry_are_both_returned(repository: Path, images: list[bytes], tmp_path: Path) -> None:
    """Who finds the queue full is told its id too, and at the default level nothing of requests is logged."""
    arguments = ("--max-queue", "6", "--max-batch", "1", "--max-delay-ms", "0")
    with logged_server(repository, tmp_path / "log", *arguments) as quiet:
        with grpc.insecure_channel(quiet.server.target) as channel:
            request = pb.PredictRequest(images=images[:6])
            calls = [ClassifierStub(channel).Predict.future(request) for _ in range(40)]
            full = [call for call in calls if call.exception() is not None]
            assert {call.code() for call in full} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            for call in full:
                trailing = dict(call.trailing_metadata())
                assert MADE.fullmatch(trailing["x-request-id"])
                assert "grpc-retry-pushback-ms" in trailing
        assert quiet.server.terminate() == 0
        assert not any("request_id" in line for line in quiet.lines())
        assert "draining" in [line["message"] for line in quiet.lines()]


def test_the_messages_of_a_stream_keep_their_own_ids(logged: LoggedServer, channel: grpc.Channel) -> None:
    """Each message's refusal is logged under the id of the protocol, where it has one, else under the stream's."""
    asked = [oip.ModelInferRequest(model_name="nobody", id=name) for name in ("first", "", "second")]
    call = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(asked), metadata=(("x-request-id", "stream-5"),))
    assert len(list(call)) == 3
    assert _returned_id(call) == "stream-5"
    refused = [
        line["request_id"] for line in logged.lines() if line["message"].startswith("refused with NOT_FOUND: there is")
    ]
    assert refused == ["first", "stream-5", "second"]


def test_the_protocols_own_id_names_a_request(channel: grpc.Channel) -> None:
    """ModelInfer's `id` is taken where the metadata has none."""
    stub = GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(oip.ModelInferRequest(model_name="nobody", id="mine"))
    assert _returned_id(refused.value) == "mine"


def test_nothing_of_an_image_is_logged(logged: LoggedServer, channel: grpc.Channel) -> None:
    """A text inside an image stands in no line, however much is logged."""
    info, content = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("Comment", "whose-house-this-is")
    Image.new("RGB", (40, 40)).save(content, "PNG", pnginfo=info)
    for image in (content.getvalue(), content.getvalue()[:-40]):
        assert b"whose-house-this-is" in image
        _predict(channel, image, ("x-request-id", "private"))
    logged.wait_for(lambda line: line.get("request_id") == "private" and line.get("status") == "INVALID_ARGUMENT")
    assert "whose-house" not in logged.log.read_text()


@pytest.fixture
def restored() -> Iterator[None]:
    """Logging as it was before."""
    root, ours = logging.getLogger(), logging.getLogger("unfreeze")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(capture=False)


def test_a_failure_of_ours_is_an_error_with_its_traceback() -> None:
    """It is one JSON line at the level error, under the request's id, and the caller is told the status alone."""
    script = Path(__file__).parents[1] / "failing_session.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    code, details, trailing = json.loads(done.stdout)
    assert (code, trailing["x-request-id"]) == ("INTERNAL", "unlucky")
    assert "nobody" not in details
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["request_id"]) == ("ERROR", "unlucky")
    assert line["exc_info"].startswith("Traceback")
    assert line["exc_info"].endswith("ZeroDivisionError: nobody thought of this")


@pytest.mark.usefixtures("restored")
def test_for_people_an_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks within a message are spaces, so nobody can make a line look like another event."""
    start_logging(LogOptions())
    logging.getLogger("unfreeze.serve.models.registry").warning("cannot\n2026-01-01 ERROR all is lost\r%s", "\u2028no")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+ \S+ WARNING cannot 2026-01-01 ERROR all is lost  no", line)


@pytest.mark.usefixtures("restored")
def test_other_packages_are_never_logged_below_info(capsys: pytest.CaptureFixture[str]) -> None:
    """At debug our own lines are shown, Pillow's are not."""
    start_logging(LogOptions(log_level="debug"))
    logging.getLogger("PIL.PngImagePlugin").debug("STREAM of chunks")
    logging.getLogger("unfreeze.serve.models.registry").debug("ours")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["ours"]


def test_the_level_leaves_out_what_is_below(repository: Path, tmp_path: Path) -> None:
    """At warning a start and an end leave no line."""
    with logged_server(repository, tmp_path / "log", "--log-level", "warning") as quiet:
        assert quiet.server.terminate() == 0
    assert quiet.lines() == []

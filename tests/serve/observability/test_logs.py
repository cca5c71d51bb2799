"""Log lines and request IDs."""

import io
import json
import logging
import os
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

pytestmark = pytest.mark.xdist_group("serve")

GENERATED_ID = re.compile(r"[0-9a-f]{16}")
PREDICT = "/unfreeze.v1.Classifier/Predict"


@pytest.fixture(scope="module")
def logged(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggedServer]:
    """A server with log level debug."""
    with logged_server(repository, tmp_path_factory.mktemp("logs") / "log", "--log-level", "debug") as started:
        yield started


@pytest.fixture
def channel(logged: LoggedServer) -> Iterator[grpc.Channel]:
    """A channel to this server."""
    with grpc.insecure_channel(logged.server.target) as connected:
        yield connected


def _returned_id(call: grpc.Call) -> str:
    return dict(call.trailing_metadata())["x-request-id"]


def _predict(channel: grpc.Channel, image: bytes, *metadata: tuple[str, str]) -> grpc.Call:
    call = ClassifierStub(channel).Predict.future(pb.PredictRequest(images=[image]), metadata=metadata)
    call.exception()
    return call


def test_json_lines_have_time_level_message_and_logger(logged: LoggedServer) -> None:
    """A line of the start has exactly these fields, with the current time in UTC and no request ID."""
    (line,) = logged.wait_for(lambda line: line["message"].startswith("loaded model colors version 1"))
    assert line.keys() == {"time", "level", "message", "logger"}
    assert (line["level"], line["logger"]) == ("INFO", "unfreeze.serve.models.loading")
    time = datetime.fromisoformat(line["time"])
    assert time.utcoffset().total_seconds() == 0
    assert abs((datetime.now(UTC) - time).total_seconds()) < 600


def test_client_request_id_is_returned_and_logged(
    logged: LoggedServer, channel: grpc.Channel, images: list[bytes]
) -> None:
    """The ID in the metadata is returned, and in the request's log line with method, status and duration."""
    assert _returned_id(_predict(channel, images[0], ("x-request-id", "order-17/a"))) == "order-17/a"
    (line,) = logged.wait_for(lambda line: line.get("request_id") == "order-17/a")
    assert (line["level"], line["method"], line["status"]) == ("DEBUG", PREDICT, "OK")
    assert 0 < line["duration_ms"] < 60_000


def test_generates_an_id_for_each_request_without_one(channel: grpc.Channel, images: list[bytes]) -> None:
    """Two such requests have different IDs of 16 hexadecimal digits."""
    generated = {_returned_id(_predict(channel, images[0])) for _ in range(2)}
    assert len(generated) == 2
    assert all(GENERATED_ID.fullmatch(one) for one in generated)


@pytest.mark.parametrize(
    ("sent", "returned"), [("a b {c}", "a_b__c_"), ("x" * 500, "x" * 128), ('"}, {"level', "______level")]
)
def test_sanitizes_request_ids(channel: grpc.Channel, images: list[bytes], sent: str, returned: str) -> None:
    """Disallowed characters are replaced, and IDs are limited to 128 characters."""
    assert _returned_id(_predict(channel, images[0], ("x-request-id", sent))) == returned


def test_failed_request_is_logged_at_debug(logged: LoggedServer, channel: grpc.Channel) -> None:
    """An invalid image causes one line with the reason and one with the status, both with the request ID."""
    call = _predict(channel, b"not an image", ("x-request-id", "failed-1"))
    assert _returned_id(call) == "failed-1"
    logged.wait_for(lambda line: line.get("method") == PREDICT and line["request_id"] == "failed-1")
    reason, request = (line for line in logged.lines() if line.get("request_id") == "failed-1")
    assert reason["message"].startswith("request failed with INVALID_ARGUMENT: image 1 of 1: ")
    assert request["status"] == "INVALID_ARGUMENT"
    assert {reason["level"], request["level"]} == {"DEBUG"}


def test_errors_return_request_id_and_retry_hint(repository: Path, images: list[bytes], tmp_path: Path) -> None:
    """With a full queue both are in the trailing metadata, and at the default level no request is logged."""
    arguments = ("--max-queue", "6", "--max-batch", "1", "--max-delay-ms", "0")
    with logged_server(repository, tmp_path / "log", *arguments) as quiet:
        with grpc.insecure_channel(quiet.server.target) as channel:
            request = pb.PredictRequest(images=images[:6])
            calls = [ClassifierStub(channel).Predict.future(request) for _ in range(40)]
            full = [call for call in calls if call.exception() is not None]
            assert {call.code() for call in full} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            for call in full:
                trailing = dict(call.trailing_metadata())
                assert GENERATED_ID.fullmatch(trailing["x-request-id"])
                assert "grpc-retry-pushback-ms" in trailing
        assert quiet.server.terminate() == 0
        assert not any("request_id" in line for line in quiet.lines())
        assert "draining: finishing accepted requests" in [line["message"] for line in quiet.lines()]


def test_stream_messages_are_logged_with_their_own_ids(logged: LoggedServer, channel: grpc.Channel) -> None:
    """The error of each message is logged with the ID of the message, else with that of the stream."""
    requests = [oip.ModelInferRequest(model_name="unknown", id=name) for name in ("first", "", "second")]
    call = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests), metadata=(("x-request-id", "stream-5"),))
    assert len(list(call)) == 3
    assert _returned_id(call) == "stream-5"
    prefix = "request failed with NOT_FOUND: unknown"
    failed = [line["request_id"] for line in logged.lines() if line["message"].startswith(prefix)]
    assert failed == ["first", "stream-5", "second"]


def test_protocol_id_is_used_as_request_id(channel: grpc.Channel) -> None:
    """The `id` of ModelInfer is used if the metadata has no ID."""
    stub = GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(oip.ModelInferRequest(model_name="unknown", id="custom-id"))
    assert _returned_id(failed.value) == "custom-id"


def test_image_metadata_is_not_logged(logged: LoggedServer, channel: grpc.Channel) -> None:
    """A text chunk of an image does not appear in the log, even at level debug."""
    info, content = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("Comment", "secret-comment")
    Image.new("RGB", (40, 40)).save(content, "PNG", pnginfo=info)
    for image in (content.getvalue(), content.getvalue()[:-40]):
        assert b"secret-comment" in image
        _predict(channel, image, ("x-request-id", "private"))
    logged.wait_for(lambda line: line.get("request_id") == "private" and line.get("status") == "INVALID_ARGUMENT")
    assert "secret-comment" not in logged.log.read_text()


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the logging configuration after the test."""
    root, package = logging.getLogger(), logging.getLogger("unfreeze")
    before = root.handlers[:], root.level, package.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    package.setLevel(before[2])
    logging.captureWarnings(capture=False)


def test_unexpected_errors_are_logged_with_their_traceback() -> None:
    """The log has one JSON line at level error with the request ID; the client gets only the status."""
    script = Path(__file__).parent / "failing_server.py"
    environment = os.environ | {"GRPC_VERBOSITY": "NONE"}  # gRPC's own client, on a busy machine
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    code, details, trailing = json.loads(done.stdout)
    assert (code, trailing["x-request-id"]) == ("INTERNAL", "failing-request")
    assert "division" not in details
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["request_id"]) == ("ERROR", "failing-request")
    assert line["exc_info"].startswith("Traceback")
    assert line["exc_info"].endswith("ZeroDivisionError: division in a service")


@pytest.mark.usefixtures("restored_logging")
def test_human_format_writes_one_line_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks in a message are replaced by spaces, so that a client cannot forge log lines."""
    start_logging(LogOptions())
    logging.getLogger("unfreeze.serve.models.registry").warning("cannot\n2026-01-01 ERROR forged line\r%s", "\u2028no")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+ \S+ WARNING cannot 2026-01-01 ERROR forged line  no", line)


@pytest.mark.usefixtures("restored_logging")
def test_other_packages_are_not_logged_below_info(capsys: pytest.CaptureFixture[str]) -> None:
    """At level debug, debug messages of unfreeze are logged and those of Pillow are not."""
    start_logging(LogOptions(log_level="debug"))
    logging.getLogger("PIL.PngImagePlugin").debug("STREAM of chunks")
    logging.getLogger("unfreeze.serve.models.registry").debug("own")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["own"]


def test_log_level_filters_lines(repository: Path, tmp_path: Path) -> None:
    """At level warning, start and shutdown log nothing."""
    with logged_server(repository, tmp_path / "log", "--log-level", "warning") as quiet:
        assert quiet.server.terminate() == 0
    assert quiet.lines() == []

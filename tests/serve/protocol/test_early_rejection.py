"""Calls that nobody has room or time for are refused before their requests are received."""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from PIL import Image
from support.images import COLORS, draw_image, encode
from support.occupied import occupy
from support.servers import running_server

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

PREDICT = "/unfreeze.v1.Classifier/Predict"
GOOD = encode(draw_image(COLORS["red"], 0))
SLOW = encode(Image.new("RGB", (3000, 3000), (220, 40, 40)), "PNG")
ROOM = 100


@pytest.fixture
def channel(request: pytest.FixtureRequest, published: Published, tmp_path: Path) -> Iterator[grpc.Channel]:
    """A server of some models with little room, and a connection to it."""
    for name in request.param:
        ModelRepository(tmp_path / "models").publish(name, published.path.read_bytes(), published.manifest)
    # Small batches, for models share the threads that decode.
    limits = ["--max-queue", str(ROOM), "--instances", "1", "--threads", "1", "--max-batch", "4", "--poll-s", "0"]
    with running_server(tmp_path / "models", *limits) as server, grpc.insecure_channel(server.target) as connected:
        yield connected


class Unsent:
    """A call whose request is held back."""

    def __init__(self, channel: grpc.Channel, request: pb.PredictRequest, **limits: float) -> None:
        self.send = threading.Event()
        self._request = request
        ask = channel.stream_unary(
            PREDICT, pb.PredictRequest.SerializeToString, response_deserializer=pb.PredictResponse.FromString
        )
        self.call = ask.future(self._requests(), **limits)

    def _requests(self) -> Iterator[pb.PredictRequest]:
        self.send.wait(30)
        yield self._request


def request_of(*images: bytes, model: str = "a") -> pb.PredictRequest:
    """Ask one of the models."""
    return pb.PredictRequest(model=model, images=images)


@pytest.fixture
def full(channel: grpc.Channel) -> Iterator[grpc.Future]:
    """All the room of one model is taken."""
    stub = ClassifierStub(channel)
    call = occupy(stub, request_of(*[SLOW] * ROOM), request_of(GOOD))
    yield call
    call.cancel()


@pytest.mark.parametrize("channel", [["a"]], indirect=True)
def test_a_full_server_refuses_before_it_receives(channel: grpc.Channel, full: grpc.Future) -> None:
    """With the words and the hints that it has for requests that it read."""
    unsent = Unsent(channel, request_of(GOOD))
    error = unsent.call.exception(timeout=20)
    assert not unsent.send.is_set()
    assert not full.done()
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == f"{ROOM} images are waiting for a; no more than {ROOM} may: try later"
    assert {"grpc-retry-pushback-ms", "grpc-status-details-bin"} <= dict(error.trailing_metadata()).keys()
    unsent.send.set()


@pytest.mark.parametrize("channel", [["a", "b"]], indirect=True)
def test_one_full_model_keeps_nobody_from_another(channel: grpc.Channel, full: grpc.Future) -> None:
    """Which model a call asks for stands in its request; while another has room, the server reads on."""
    ClassifierStub(channel).Predict(request_of(GOOD, model="b"))  # has answered once, so it is not merely idle
    occupied = ClassifierStub(channel).Predict.future(request_of(SLOW, model="b"))
    waiting = [Unsent(channel, request_of(GOOD, model=model)) for model in ("a", "b")]
    with pytest.raises(grpc.FutureTimeoutError):
        waiting[1].call.exception(timeout=0.2)
    for one in waiting:
        one.send.set()
    assert waiting[0].call.exception(timeout=20).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(waiting[1].call.result(timeout=20).predictions) == 1
    assert len(occupied.result(timeout=20).predictions) == 1
    assert not full.done()


@pytest.mark.parametrize("channel", [["a"]], indirect=True)
def test_a_request_keeps_its_name(channel: grpc.Channel) -> None:
    """The `id` of an Open Inference request comes back as its request id, however busy the server is."""
    ahead = ClassifierStub(channel).Predict.future(request_of(*[SLOW] * 40))
    raw = struct.pack("<I", len(GOOD)) + GOOD
    request = oip.ModelInferRequest(model_name="a.encoded", id="mine", raw_input_contents=[raw])
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    for _ in range(3):
        response, call = GRPCInferenceServiceStub(channel).ModelInfer.with_call(request)
        assert response.id == dict(call.trailing_metadata())["x-request-id"] == "mine"
    ahead.cancel()


@pytest.mark.parametrize("channel", [["a"]], indirect=True)
def test_calls_that_are_let_in_are_answered_as_ever(channel: grpc.Channel) -> None:
    """While something waits, calls of one message go another way through the server; their answers are the same."""
    stub = ClassifierStub(channel)
    expected = stub.Predict(request_of(GOOD))
    ahead = stub.Predict.future(request_of(*[SLOW] * 40))
    answers = [stub.Predict.future(request_of(GOOD)) for _ in range(3)]
    bad = stub.Predict.future(request_of(b"no image"))
    for answer in answers:
        assert answer.result(timeout=20) == expected
    assert bad.exception(timeout=20).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(ahead.result(timeout=20).predictions) == 40

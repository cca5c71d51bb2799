"""Load shedding: calls that no model can accept are rejected before their messages are received."""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from PIL import Image
from support.images import COLORS, draw_image, encode
from support.occupied import occupy
from support.servers import server_thread

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

pytestmark = pytest.mark.xdist_group("serve")

PREDICT = "/unfreeze.v1.Classifier/Predict"
GOOD = encode(draw_image(COLORS["red"], 0))
SLOW = encode(Image.new("RGB", (3000, 3000), (220, 40, 40)), "PNG")
QUEUE_SIZE = 100


@pytest.fixture
def channel(request: pytest.FixtureRequest, published: Published, tmp_path: Path) -> Iterator[grpc.Channel]:
    """A channel to a server of the given models, each with a queue of 100 images."""
    for name in request.param:
        ModelRepository(tmp_path / "models").publish(name, published.path.read_bytes(), published.manifest)
    # Small batches, because the models share the decoding threads.
    with (
        server_thread(tmp_path / "models", instances=1, threads=1, max_queue=QUEUE_SIZE, max_batch=4) as target,
        grpc.insecure_channel(target) as connected,
    ):
        yield connected


class Unsent:
    """A call whose request message is not sent until `send` is set."""

    def __init__(self, channel: grpc.Channel, request: pb.PredictRequest, **limits: float) -> None:
        self.send = threading.Event()
        self._request = request
        method = channel.stream_unary(
            PREDICT, pb.PredictRequest.SerializeToString, response_deserializer=pb.PredictResponse.FromString
        )
        self.call = method.future(self._requests(), **limits)

    def _requests(self) -> Iterator[pb.PredictRequest]:
        self.send.wait(30)
        yield self._request


def request_of(*images: bytes, model: str = "a") -> pb.PredictRequest:
    """Build a request."""
    return pb.PredictRequest(model=model, images=images)


@pytest.fixture
def full(channel: grpc.Channel) -> Iterator[grpc.Future]:
    """The queue of one model is full."""
    stub = ClassifierStub(channel)
    call = occupy(stub, request_of(*[SLOW] * QUEUE_SIZE), request_of(GOOD))
    yield call
    call.cancel()


@pytest.mark.parametrize("channel", [["a"]], indirect=True)
def test_full_server_rejects_calls_before_receiving_them(channel: grpc.Channel, full: grpc.Future) -> None:
    """The message and the retry hints are those of a request that was read."""
    unsent = Unsent(channel, request_of(GOOD))
    error = unsent.call.exception(timeout=20)
    assert not unsent.send.is_set()
    assert not full.done()
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == (
        f"the queue of model a is full: {QUEUE_SIZE} of at most {QUEUE_SIZE} images are waiting; retry later"
    )
    assert {"grpc-retry-pushback-ms", "grpc-status-details-bin"} <= dict(error.trailing_metadata()).keys()
    unsent.send.set()


@pytest.mark.parametrize("channel", [["a", "b"]], indirect=True)
def test_full_model_does_not_block_other_models(channel: grpc.Channel, full: grpc.Future) -> None:
    """The requested model is known only from the message, so it is read while any model has capacity."""
    ClassifierStub(channel).Predict(request_of(GOOD, model="b"))  # so that it has an estimate of its speed
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
def test_busy_server_returns_the_request_id(channel: grpc.Channel) -> None:
    """The `id` of an Open Inference Protocol request is returned as its request ID."""
    ahead = ClassifierStub(channel).Predict.future(request_of(*[SLOW] * 8))
    raw = struct.pack("<I", len(GOOD)) + GOOD
    request = oip.ModelInferRequest(model_name="a.encoded", id="custom-id", raw_input_contents=[raw])
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    response, call = GRPCInferenceServiceStub(channel).ModelInfer.with_call(request)
    assert response.id == dict(call.trailing_metadata())["x-request-id"] == "custom-id"
    ahead.cancel()


@pytest.mark.parametrize("channel", [["a"]], indirect=True)
def test_accepted_calls_return_the_same_results(channel: grpc.Channel) -> None:
    """While requests are queued, unary calls are handled as streams; their results are the same."""
    stub = ClassifierStub(channel)
    expected = stub.Predict(request_of(GOOD))
    ahead = stub.Predict.future(request_of(*[SLOW] * 8))
    calls = [stub.Predict.future(request_of(GOOD)) for _ in range(3)]
    bad = stub.Predict.future(request_of(b"not an image"))
    for call in calls:
        assert call.result(timeout=20) == expected
    assert bad.exception(timeout=20).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(ahead.result(timeout=20).predictions) == 8

"""What a proxy adds to Ray Serve's handlers, in Ray Serve's own gRPC server: deadlines, statuses that clients retry."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from ray.serve._private.grpc_util import gRPCGenericServer
from ray.serve.grpc_util import RayServegRPCContext
from support.images import draw_image, encode

from unfreeze import Client
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.ray_serve.call_context import CallContext
from unfreeze.ray_serve.proxied_services import add_services
from unfreeze.serve.status import INTERNAL_MESSAGE

pytestmark = pytest.mark.xdist_group("ray")

IMAGE = encode(draw_image((200, 30, 30), 1))
ANSWER = pb.PredictResponse(
    model="m", predictions=[pb.Prediction(labels=[pb.ScoredLabel(label="red", score=1.0, index=0)])]
).SerializeToString()
SLOW = b"slow"
Answer = Callable[[bytes, Any], bytes]


@contextmanager
def _proxy(answer: Answer) -> Iterator[str]:
    """Run Ray Serve's gRPC server with our services, whose handlers call a function as Ray Serve would."""

    def handler_of(*, streaming_type: str, **_: object) -> Callable[..., Any]:
        async def unary(request: bytes, context: Any) -> bytes:
            if request == SLOW:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    context.set_code(grpc.StatusCode.CANCELLED)
                    return b""
            return answer(request, context)

        async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield answer(request, context)

        return stream if streaming_type == "stream_stream" else unary

    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def serve() -> None:
        server, stop = gRPCGenericServer(handler_of), asyncio.Event()
        add_services(None, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        started.set_result((asyncio.get_running_loop(), stop, port))
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, stop, port = started.result()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _fails(code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str], ...] = ()) -> Answer:
    def answer(_: bytes, context: Any) -> bytes:
        context.set_code(code)
        context.set_details(details)
        context.set_trailing_metadata(trailing)
        return b""

    return answer


def _predict(target: str, **arguments: float) -> pb.PredictResponse:
    with grpc.insecure_channel(target) as channel:
        return ClassifierStub(channel).Predict(pb.PredictRequest(images=[IMAGE]), **arguments)


def test_a_message_is_forwarded_as_bytes_with_the_time_that_is_left() -> None:
    """The request is not parsed in the proxy; the replica learns the caller's deadline, if there is one."""
    seen: list[tuple[bytes, float | None]] = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append((request, CallContext(RayServegRPCContext(context)).time_remaining()))
        return ANSWER

    with _proxy(answer) as target:
        assert _predict(target, timeout=60).model == "m"
        assert _predict(target).model == "m"
    (request, remaining), (_, unlimited) = seen
    assert request == pb.PredictRequest(images=[IMAGE]).SerializeToString()
    assert remaining is not None
    assert 50 < remaining <= 60
    assert unlimited is None


@pytest.mark.parametrize(
    ("answer", "code", "details", "hint"),
    [
        (_fails(grpc.StatusCode.INTERNAL, "The actor died"), "UNAVAILABLE", "replica that had this request", "100"),
        (_fails(grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE), "INTERNAL", INTERNAL_MESSAGE, None),
        (_fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "backpressure"), "RESOURCE_EXHAUSTED", "all replicas", "100"),
        (
            _fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "ours", (("grpc-retry-pushback-ms", "7"),)),
            "RESOURCE_EXHAUSTED",
            "ours",
            "7",
        ),
        (_fails(grpc.StatusCode.INVALID_ARGUMENT, "no image"), "INVALID_ARGUMENT", "no image", None),
    ],
)
def test_statuses_of_ray_serve_become_ours(answer: Answer, code: str, details: str, hint: str | None) -> None:
    """A lost replica is UNAVAILABLE, a full queue has a hint when to retry; what a replica answered is not changed."""
    with _proxy(answer) as target, pytest.raises(grpc.RpcError) as raised:
        _predict(target)
    assert raised.value.code().name == code
    assert details in raised.value.details()
    assert dict(raised.value.trailing_metadata()).get("grpc-retry-pushback-ms") == hint


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
def test_a_client_retries_when_no_replica_answered(code: grpc.StatusCode) -> None:
    """A call is retried by gRPC only if it ended without any message, which as Ray Serve's own answer does not."""
    calls: list[bytes] = []

    def answer(request: bytes, context: Any) -> bytes:
        calls.append(request)
        lost = len(calls) <= 2
        return _fails(code, "The actor died")(request, context) if lost else ANSWER

    with _proxy(answer) as target, Client(target) as client:
        assert client.predict([IMAGE])[0][0].label == "red"
    assert len(calls) == 3


def test_a_stream_that_fails_drops_the_empty_message_of_the_replica() -> None:
    """The answers before the failure arrive, then its status."""

    def answer(request: bytes, context: Any) -> bytes:
        return ANSWER if request == b"good" else _fails(grpc.StatusCode.INVALID_ARGUMENT, "bad")(request, context)

    with _proxy(answer) as target, grpc.insecure_channel(target) as channel:
        answers = channel.stream_stream("/unfreeze.v1.Classifier/PredictStream")(iter([b"good", b"bad"]))
        assert next(answers) == ANSWER
        with pytest.raises(grpc.RpcError) as raised:
            next(answers)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_method_is_unimplemented() -> None:
    """Only methods of the services reach a replica."""
    with (
        _proxy(lambda *_: ANSWER) as target,
        grpc.insecure_channel(target) as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary("/unfreeze.v1.Classifier/Guess")(b"")
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["Predict", "PredictStream"])
def test_a_method_that_ray_serve_does_not_forward_is_unimplemented(method: str) -> None:
    """As streams of requests before Ray Serve had them; here a server that forwards nothing."""

    async def call() -> grpc.StatusCode:
        server = grpc.aio.server()
        add_services(None, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            path = f"/unfreeze.v1.Classifier/{method}"
            try:
                if method == "Predict":
                    await channel.unary_unary(path)(b"")
                else:
                    await channel.stream_stream(path)(iter([b""])).read()
            except grpc.aio.AioRpcError as error:
                return error.code()
            finally:
                await server.stop(0)
        return grpc.StatusCode.OK

    assert asyncio.run(call()) == grpc.StatusCode.UNIMPLEMENTED


def test_a_cancelled_call_leaves_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Ray Serve sets a status for a caller that is gone; nothing can be sent any more, and nothing is logged."""
    with _proxy(lambda *_: ANSWER) as target, grpc.insecure_channel(target) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/unfreeze.v1.Classifier/Predict")(SLOW, timeout=0.1)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert _predict(target).model == "m"
    assert caplog.records == []

"""Every row of docs/refusals.md, against a real server: the status, the words, and when to try again."""

import asyncio
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.images import COLORS, draw_image, encode
from support.manifests import MANIFEST
from support.occupied import occupy
from support.servers import RunningServer, running_server

from unfreeze.contract.errors import DrainingError
from unfreeze.contract.model.manifest import METADATA_KEY
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import sealed
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as inference
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.status import STATUS, refusal_of

TABLE = Path(__file__).parents[3] / "docs" / "refusals.md"
ELSEWHERE = {"UNAUTHENTICATED", "PERMISSION_DENIED"}  # held by the tests of tokens and of administration
GOOD = encode(draw_image(COLORS["red"], 0))
BAD = GOOD[:200]
WHITE, BLACK = (encode(Image.new("RGB", (224, 224), color), "PNG") for color in ("white", "black"))
LARGE = encode(Image.new("RGB", (3000, 3000), (220, 40, 40)), "PNG")  # small, and takes a while to decode
MANY = 40
HELD: dict[str, str] = {}

Test = Callable[..., None]


def holds(status: str, what: str) -> Callable[[Test], Test]:
    """Say which row of the table a test holds."""

    def note(test: Test) -> Test:
        HELD[what] = status
        return test

    return note


@pytest.fixture(scope="module")
def models(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of a good model, and of one that fails on images that are bright somewhere."""
    root = tmp_path_factory.mktemp("refusals") / "models"
    ModelRepository(root).publish("colors", published.path.read_bytes(), published.manifest)
    ModelRepository(root).publish("brittle", _brittle(), MANIFEST)
    return root


def _brittle() -> bytes:
    """Look an image's largest value up in a table that ends at 200."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["whole"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", ["whole"], ["brightest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Gather", ["table", "brightest"], ["probabilities"], axis=0),
    ]
    table = numpy_helper.from_array(np.full((201, 2), 0.5, np.float32), "table")
    taken = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *MANIFEST.preprocess.shape])
    given = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "brittle", [taken], [given], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model.metadata_props.add(key=METADATA_KEY, value=MANIFEST.to_json())
    return sealed(model.SerializeToString())


@pytest.fixture(scope="module")
def strict(models: Path) -> Iterator[RunningServer]:
    """A server of both with low limits, whose one instance leaves a request waiting behind another."""
    limits = {"max-queue": 64, "max-queue-mib": 8, "max-message-mib": 16, "max-pixels": 10_000_000, "poll-s": 0}
    plan = {"instances": 1, "threads": 1, "max-batch": 4}
    with running_server(models, *(f"--{name}={value}" for name, value in (limits | plan).items())) as server:
        yield server


@pytest.fixture(scope="module")
def channel(strict: RunningServer) -> Iterator[grpc.Channel]:
    """A connection to it."""
    with grpc.insecure_channel(strict.target) as connected:
        yield connected


@pytest.fixture(scope="module")
def classifier(channel: grpc.Channel) -> ClassifierStub:
    """`unfreeze.v1.Classifier`."""
    return ClassifierStub(channel)


@pytest.fixture(scope="module")
def protocol(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    """`inference.GRPCInferenceService`."""
    return GRPCInferenceServiceStub(channel)


@pytest.fixture
def busy(classifier: ClassifierStub) -> Iterator[grpc.Future]:
    """Forty large images of somebody else's, which are inside until the test is over."""
    call = _occupy(classifier, MANY, 64)
    yield call
    call.cancel()
    _until(lambda: _code(classifier.Predict, _predict(*[GOOD] * 64)) is None)


def _predict(*images: bytes, model: str = "colors") -> pb.PredictRequest:
    return pb.PredictRequest(model=model, images=images)


def _occupy(stub: ClassifierStub, count: int, room: int) -> grpc.Future:
    """Send large images, and come back when they are inside."""
    return occupy(stub, _predict(*[LARGE] * count), _predict(*[GOOD] * (room + 1 - count)))


def _infer(*images: bytes) -> inference.ModelInferRequest:
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    request = inference.ModelInferRequest(model_name="colors.encoded", raw_input_contents=[raw])
    request.inputs.add(name="image", datatype="BYTES", shape=[len(images)])
    return request


def _until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


def _refused(call: Callable[[object], object], request: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call(request)
    details = refused.value.details()
    assert not re.search(r"Traceback|/tmp/|\.py\b|\.onnx|object at", details), details
    return refused.value


def _code(call: Callable[[object], object], request: object) -> grpc.StatusCode | None:
    try:
        call(request)
    except grpc.RpcError as error:
        return error.code()
    return None


def _check(error: grpc.RpcError, status: str, *words: str) -> None:
    assert error.code().name == status, error.details()
    for word in words:
        assert word in error.details()


def _retry_s(metadata: tuple[tuple[str, str | bytes], ...], message: str, code: int) -> float:
    """Read both hints, which are to say the same."""
    hints = dict(metadata)
    status, info = Status.FromString(hints["grpc-status-details-bin"]), RetryInfo()
    assert (status.code, status.message, len(status.details)) == (code, message, 1)
    assert status.details[0].Unpack(info)
    seconds = info.retry_delay.ToTimedelta().total_seconds()
    assert int(hints["grpc-retry-pushback-ms"]) == int(1000 * seconds)
    return seconds


def test_every_row_of_the_table_is_held() -> None:
    """Each row of docs/refusals.md names a refusal that a test here holds, with its status, and none is missing."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.read_text().splitlines() if line[:1] == "|"
    ]
    told = {what: status for what, status, _ in rows[2:]}
    assert {what: status for what, status in told.items() if status not in ELSEWHERE} == HELD
    assert {status.name for status in STATUS.values()} <= set(told.values()) | ELSEWHERE


@holds(
    "INVALID_ARGUMENT",
    "an image that is empty, truncated, no image, of no size, of too many pixels, or of pixels with no agreed range",
)
@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "the image is empty: it has no bytes"),
        (BAD, "the image is truncated or damaged"),
        (b"hello, world", "the bytes are no image that we read"),
        (encode(Image.new("1", (5000, 2001)), "PNG"), "is 5000 x 2001 pixels; at most 10,000,000 are allowed"),
        (encode(Image.new("F", (8, 8), 7), "TIFF"), "the pixels are 32-bit (F)"),
    ],
)
def test_images(image: bytes, why: str, classifier: ClassifierStub, protocol: GRPCInferenceServiceStub) -> None:
    """Both services say which image of the request it is, and why."""
    for call, request in (
        (classifier.Predict, _predict(GOOD, image, GOOD, GOOD)),
        (protocol.ModelInfer, _infer(GOOD, image, GOOD)),
    ):
        error = _refused(call, request)
        _check(error, "INVALID_ARGUMENT", why)
        assert re.match(r"image 2 of [34]: ", error.details())
        assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())


@holds("INVALID_ARGUMENT", "a JPEG of more scans or segments than any encoder writes")
def test_costly_jpegs(classifier: ClassifierStub) -> None:
    """A few kilobytes that would take minutes to decode are refused as any other image is."""
    progressive = encode(draw_image(COLORS["red"], 0), progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xc4") : -2]
    error = _refused(classifier.Predict, _predict(GOOD, progressive[:-2] + 100 * scan + progressive[-2:]))
    _check(error, "INVALID_ARGUMENT", "image 2 of 2: the image is a JPEG of more than 64 scans")


@holds(
    "INVALID_ARGUMENT",
    "a request that does not fit the model: names, types, shapes, lengths, raw and typed contents mixed",
)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda request: setattr(request.inputs[0], "name", "x" * 9999), "takes one input, 'image', found ['xxx"),
        (lambda request: setattr(request.inputs[0], "datatype", "FP32"), "image is of type BYTES, found 'FP32'"),
        (lambda request: request.inputs[0].shape.extend([2, 3]), "the shape [N] or [N, 1], found [1, 2, 3]"),
        (lambda request: request.inputs[0].shape.extend([1] * 10**6), "found [1, 1, 1, 1, 1, 1, 1, 1]"),
        (lambda request: request.inputs.extend(list(request.inputs) * 90_000), "found ['image', 'image', 'image',"),
        (lambda request: request.raw_input_contents.append(b""), "found 2 raw entries"),
        (lambda request: request.raw_input_contents.extend([b""] * 90_000), "found 90001 raw entries"),
        (lambda request: request.inputs[0].contents.bytes_contents.append(GOOD), "either raw, one entry per input"),
        (lambda request: [request.outputs.add(name="probabilities") for _ in "ab"], "the request asks for 2"),
        (
            lambda request: [request.outputs.add(name="probabilities").parameters["x"]],
            "does not know the output parameters ['x']",
        ),
        (lambda request: request.inputs[0].parameters["shared_memory_region"], "this server has no shared memory"),
        (lambda request: request.parameters["timeout"], "the parameter 'timeout' is a whole number"),
    ],
)
def test_requests_that_do_not_fit(
    change: Callable[[inference.ModelInferRequest], object], words: str, protocol: GRPCInferenceServiceStub
) -> None:
    """What was found and what was expected is said in few words, however much was found."""
    request = _infer(GOOD)
    change(request)
    error = _refused(protocol.ModelInfer, request)
    _check(error, "INVALID_ARGUMENT", words)
    assert len(error.details()) < 400


@holds("INVALID_ARGUMENT", "a message that cannot be read as what its method takes")
@pytest.mark.parametrize(
    "method",
    ["inference.GRPCInferenceService/ModelInfer", "unfreeze.v1.Classifier/Predict", "grpc.health.v1.Health/Check"],
)
@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x0b" * 1000, b"\x80" * 2**23, b"\x0a\xff\xff\x7f" + b"\0" * 2**21],
    ids=["cut tag", "cut length", "no UTF-8", "open groups", "endless number", "cut content"],
)
def test_unreadable_messages(method: str, data: bytes, channel: grpc.Channel) -> None:
    """Bytes that are no message, of any service, end only their own call, without Python's words."""
    _check(_refused(channel.unary_unary(f"/{method}"), data), "INVALID_ARGUMENT", "the message cannot be read")


@pytest.mark.parametrize(
    "method", ["unfreeze.v1.Classifier/PredictStream", "inference.GRPCInferenceService/ModelStreamInfer"]
)
def test_an_unreadable_message_ends_its_stream(method: str, channel: grpc.Channel) -> None:
    """What came before it on the stream is answered."""
    good = (_predict(GOOD) if "Predict" in method else _infer(GOOD)).SerializeToString()
    stream = channel.stream_stream(f"/{method}")(iter([good, good, b"\xff", good]))
    assert all(len(next(stream)) > 20 for _ in range(2))
    _check(_refused(next, stream), "INVALID_ARGUMENT", "the message cannot be read")


@holds("INVALID_ARGUMENT", "a message of more than 100,000 fields")
@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("inference.GRPCInferenceService/ModelInfer", b"\x2a\0"),
        ("inference.GRPCInferenceService/ModelInfer", b"\x30\x01"),
        ("inference.GRPCInferenceService/ModelInfer", b"\xfd\x7f\0\0\0\0"),
        ("unfreeze.v1.Classifier/Predict", b"\x1a\0"),
    ],
)
def test_messages_of_countless_fields(method: str, field: bytes, strict: RunningServer, channel: grpc.Channel) -> None:
    """They are refused before they are read, which would take fifty times their size; fewer are read."""
    before = _peak_mib(strict)
    for count, words in ((100_001, "more than 100,000 fields"), (15 * 2**20 // len(field), "more than 100,000 fields")):
        _check(_refused(channel.unary_unary(f"/{method}"), field * count), "INVALID_ARGUMENT", words)
    assert _peak_mib(strict) < before + 100
    assert "fields" not in _refused(channel.unary_unary(f"/{method}"), field * 100_000).details()
    _check(_refused(channel.unary_unary(f"/{method}"), field * 100_000 + field[:1]), "INVALID_ARGUMENT", "fields")


def _peak_mib(server: RunningServer) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


@holds("INVALID_ARGUMENT", "a request without an image, or without a model's name where there are several")
def test_requests_of_nothing(classifier: ClassifierStub, protocol: GRPCInferenceServiceStub) -> None:
    """Both say what is missing."""
    _check(_refused(classifier.Predict, _predict()), "INVALID_ARGUMENT", "the request holds no image")
    _check(_refused(classifier.Predict, _predict(GOOD, model="")), "INVALID_ARGUMENT", "names no model, and there are")
    _check(_refused(protocol.ModelInfer, inference.ModelInferRequest()), "INVALID_ARGUMENT", "names no model")


@holds("NOT_FOUND", "an unknown model or version")
def test_unknown_models(classifier: ClassifierStub, protocol: GRPCInferenceServiceStub) -> None:
    """The models and versions that there are, are listed."""
    error = _refused(classifier.Predict, _predict(GOOD, model="nobody"))
    _check(error, "NOT_FOUND", "there is no model 'nobody'; there are: ", "brittle", "colors")
    request = _infer(GOOD)
    request.model_version = "7"
    _check(_refused(protocol.ModelInfer, request), "NOT_FOUND", "colors has version 1 loaded, not '7'")


@holds("INVALID_ARGUMENT", "more images in one request than may ever wait")
def test_too_many_images(classifier: ClassifierStub, protocol: GRPCInferenceServiceStub) -> None:
    """To try again would not help, and nothing says that it would."""
    for error in (
        _refused(classifier.Predict, _predict(*[GOOD] * 65)),
        _refused(protocol.ModelInfer, _infer(*[GOOD] * 65)),
    ):
        _check(error, "INVALID_ARGUMENT", "the request holds 65 images; no more than 64 may wait for colors")
        assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())


@holds(
    "RESOURCE_EXHAUSTED",
    "more images waiting than `--max-queue`, or more of them in bytes than `--max-queue-mib`",
)
@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([GOOD] * 30, "40 images are waiting for colors; no more than 64 may"),
        ([bytes(9 * 2**20)], " MiB of images are waiting for colors; no more than 8 may"),
    ],
)
@pytest.mark.usefixtures("busy")
def test_full_queues(images: list[bytes], words: str, classifier: ClassifierStub) -> None:
    """It says how many wait, and both of gRPC's and of Google's hints say when to try again."""
    error = _refused(classifier.Predict, _predict(*images))
    _check(error, "RESOURCE_EXHAUSTED", words, "try later")
    assert 0.01 <= _retry_s(error.trailing_metadata(), error.details(), 8) <= 5


@holds("RESOURCE_EXHAUSTED", "a message above `--max-message-mib`")
def test_large_messages(classifier: ClassifierStub) -> None:
    """GRPC itself refuses them, by their length alone."""
    error = _refused(classifier.Predict, _predict(bytes(17 * 2**20)))
    _check(error, "RESOURCE_EXHAUSTED", "larger than max", str(16 * 2**20))
    assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())


@holds("DEADLINE_EXCEEDED", "a deadline that passed while the request waited")
def test_late_requests(models: Path) -> None:
    """The request's own timeout counts as a call's does, and nothing of it is begun."""
    limits = ("--instances=1", "--threads=1", "--max-batch=4", "--max-queue=8")
    with running_server(models, *limits) as server, grpc.insecure_channel(server.target) as channel:
        first = _occupy(ClassifierStub(channel), 5, 8)
        request, protocol = _infer(GOOD), GRPCInferenceServiceStub(channel)
        request.parameters["timeout"].int64_param = 20_000
        request.parameters["priority"].uint64_param = 2000
        error = _refused(protocol.ModelInfer, request)
        _check(error, "DEADLINE_EXCEEDED", "the deadline passed while the request was waiting")
        assert len(first.result().predictions) == 5


@holds("DEADLINE_EXCEEDED", "a deadline that would pass before the answer came, by what goes before it")
def test_hopeless_requests(busy: grpc.Future, protocol: GRPCInferenceServiceStub) -> None:
    """By what is waiting, the server knows so at once, and says it while those before are still inside."""
    request = _infer(GOOD)
    request.parameters["timeout"].int64_param = 1
    error = _refused(protocol.ModelInfer, request)
    _check(error, "DEADLINE_EXCEEDED", "the answer would take about", "longer than the deadline leaves")
    assert not busy.done()


@holds("FAILED_PRECONDITION", "a model that is asked to be loaded, and cannot be")
def test_models_that_cannot_be_loaded(models: Path, protocol: GRPCInferenceServiceStub) -> None:
    """It says why, and not where the repository stands."""
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(grpc.RpcError) as refused:
        protocol.RepositoryModelLoad(inference.RepositoryModelLoadRequest(model_name="broken"))
    _check(refused.value, "FAILED_PRECONDITION", "carries no manifest")
    assert str(models) not in refused.value.details()


@holds("UNAVAILABLE", "the server is going down")
def test_a_server_that_goes(models: Path) -> None:
    """While it finishes what it has, new calls are turned away, and the one that was inside is answered."""
    limits = ("--instances=1", "--threads=1", "--max-batch=4", "--max-queue=32")
    with running_server(models, *limits) as server, grpc.insecure_channel(server.target) as channel:
        stub = ClassifierStub(channel)
        inside = _occupy(stub, 32, 32)
        server.process.terminate()
        _until(lambda: _code(stub.ListModels, pb.ListModelsRequest()) == grpc.StatusCode.UNAVAILABLE)
        assert not inside.done()
        assert len(inside.result().predictions) == 32
        assert server.process.wait(30) == 0


def test_going_down_says_when_to_try_again() -> None:
    """Where our own words reach a caller, both hints go with them."""
    refusal = refusal_of(DrainingError("the server is shutting down; ask another one"))
    assert refusal.status == grpc.StatusCode.UNAVAILABLE
    assert _retry_s(refusal.trailing, refusal.message, 14) == pytest.approx(0.1)


@holds("INTERNAL", "anything else")
def test_failures_of_ours(classifier: ClassifierStub) -> None:
    """A graph that fails on an image is INTERNAL, in the same bare words each time; the next image is answered."""
    for _ in range(2):
        error = _refused(classifier.Predict, _predict(BLACK, WHITE, model="brittle"))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the server failed; its log says why")
        assert "grpc-status-details-bin" not in dict(error.trailing_metadata())
        assert len(classifier.Predict(_predict(BLACK, model="brittle")).predictions) == 1


def test_a_bad_image_fails_nobody_else(strict: RunningServer, classifier: ClassifierStub) -> None:
    """Sixty callers at once, every third with a bad image: each gets its own answer, though they share batches."""
    expected = classifier.Predict(_predict(GOOD)).predictions[0].labels

    async def crowd() -> list[object]:
        async with grpc.aio.insecure_channel(strict.target) as channel:
            stub = ClassifierStub(channel)
            images = [BAD if number % 3 == 0 else GOOD for number in range(60)]
            calls = [stub.Predict(_predict(image)) for image in images]
            return await asyncio.gather(*calls, return_exceptions=True)

    for number, answer in enumerate(asyncio.run(crowd())):
        if number % 3 == 0:
            _check(answer, "INVALID_ARGUMENT", "image 1 of 1: the image is truncated or damaged")
        else:
            assert [one.label for one in answer.predictions[0].labels] == [one.label for one in expected]
            scores = [[one.score for one in labels] for labels in (answer.predictions[0].labels, expected)]
            np.testing.assert_allclose(*scores, atol=1e-5)


def test_cancelled_calls_leave_the_queue(busy: grpc.Future, classifier: ClassifierStub) -> None:
    """Their room is free at once, long before those ahead of them are done."""
    waiting = _occupy(classifier, 24, 24)
    waiting.cancel()
    again = _occupy(classifier, 24, 24)
    assert not again.done(), again.details()
    assert not busy.done()
    again.cancel()

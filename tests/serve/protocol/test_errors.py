"""The errors in docs/refusals.md, returned by a real server: status, message and retry delay."""

import asyncio
import re
import shutil
import struct
import sys
import threading
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
from support.segments import PREFIX, segment
from support.servers import RunningServer, running_server, server_thread

from unfreeze.contract.errors import DrainingError, QueueFullError, RestartingError
from unfreeze.contract.model.manifest import METADATA_KEY
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import sealed
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as inference
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.status import STATUS, status_of

pytestmark = pytest.mark.xdist_group("serve")

TABLE = Path(__file__).parents[3] / "docs" / "refusals.md"
TESTED_ELSEWHERE = {
    "UNAUTHENTICATED",  # in tests/serve/security
    "PERMISSION_DENIED",  # there, and in test_shared_memory.py
    "ALREADY_EXISTS",  # in test_shared_memory.py
    "UNIMPLEMENTED",  # there
}
GOOD = encode(draw_image(COLORS["red"], 0))
BAD = GOOD[:200]
WHITE, BLACK = (encode(Image.new("RGB", (224, 224), color), "PNG") for color in ("white", "black"))
LARGE = encode(Image.new("RGB", (3000, 3000), (220, 40, 40)), "PNG")  # a small file that takes a while to decode
MANY = 40
COVERED: dict[str, str] = {}

Test = Callable[..., None]


def covers(status: str, what: str) -> Callable[[Test], Test]:
    """Mark which row of the table a test covers."""

    def note(test: Test) -> Test:
        COVERED[what] = status
        return test

    return note


@pytest.fixture(scope="module")
def models(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of a valid model, and one whose graph fails for images with a bright pixel."""
    root = tmp_path_factory.mktemp("errors") / "models"
    ModelRepository(root).publish("colors", published.path.read_bytes(), published.manifest)
    ModelRepository(root).publish("failing", _failing_model(), MANIFEST)
    return root


def _failing_model() -> bytes:
    """Look up the maximum pixel value in a table of 201 entries, so that larger values fail at run time."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["integers"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", ["integers"], ["maximum"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Gather", ["table", "maximum"], ["probabilities"], axis=0),
    ]
    table = numpy_helper.from_array(np.full((201, 2), 0.5, np.float32), "table")
    input_ = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *MANIFEST.preprocess.shape])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "failing", [input_], [output], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model.metadata_props.add(key=METADATA_KEY, value=MANIFEST.to_json())
    return sealed(model.SerializeToString())


@pytest.fixture(scope="module")
def strict(models: Path) -> Iterator[RunningServer]:
    """A server of both models with low limits and one instance, so that requests wait for each other."""
    limits = {
        "shared-memory": PREFIX,
        "max-queue": 64,
        "max-queue-mib": 8,
        "max-message-mib": 16,
        "max-pixels": 10_000_000,
        "poll-s": 0,
    }
    plan = {"instances": 1, "threads": 1, "max-batch": 4}
    with running_server(models, *(f"--{name}={value}" for name, value in (limits | plan).items())) as server:
        yield server


@pytest.fixture(scope="module")
def channel(strict: RunningServer) -> Iterator[grpc.Channel]:
    """A channel to this server."""
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
    """The queue contains forty large images of another client for the duration of the test."""
    call = _occupy(classifier, MANY, 64)
    yield call
    call.cancel()
    _until(lambda: _code(classifier.Predict, _predict(*[GOOD] * 64)) is None)


def _predict(*images: bytes, model: str = "colors") -> pb.PredictRequest:
    return pb.PredictRequest(model=model, images=images)


def _occupy(stub: ClassifierStub, count: int, capacity: int) -> grpc.Future:
    """Send large images; returns when they are in the queue."""
    return occupy(stub, _predict(*[LARGE] * count), _predict(*[GOOD] * (capacity + 1 - count)))


def _infer(*images: bytes) -> inference.ModelInferRequest:
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    request = inference.ModelInferRequest(model_name="colors.encoded", raw_input_contents=[raw])
    request.inputs.add(name="image", datatype="BYTES", shape=[len(images)])
    return request


def _until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.005)


def _error(call: Callable[[object], object], request: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failed:
        call(request)
    details = failed.value.details()
    assert not re.search(r"Traceback|/tmp/|\.py\b|\.onnx|object at", details), details
    return failed.value


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
    """Read the retry delay, which both hints must agree on."""
    hints = dict(metadata)
    status, info = Status.FromString(hints["grpc-status-details-bin"]), RetryInfo()
    assert (status.code, status.message, len(status.details)) == (code, message, 1)
    assert status.details[0].Unpack(info)
    seconds = info.retry_delay.ToTimedelta().total_seconds()
    assert int(hints["grpc-retry-pushback-ms"]) == int(1000 * seconds)
    return seconds


def test_documented_errors_are_all_tested() -> None:
    """Each row of docs/refusals.md is covered by a test with its status, and each tested error is documented."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.read_text().splitlines() if line[:1] == "|"
    ]
    documented = {what: status for what, status, _ in rows[2:]}
    assert {what: status for what, status in documented.items() if status not in TESTED_ELSEWHERE} == COVERED
    assert {status.name for status in STATUS.values()} <= set(documented.values()) | TESTED_ELSEWHERE


@covers(
    "INVALID_ARGUMENT",
    "unusable image: empty, truncated, unknown format, no pixels, too many pixels, or pixel type without a value range",
)
@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "the image is empty: it has no bytes"),
        (BAD, "the image is truncated or damaged"),
        (b"hello, world", "not an image in a supported format (JPEG, "),
        (encode(Image.new("1", (5000, 2001)), "PNG"), "is 5000 x 2001 pixels; at most 10,000,000 are allowed"),
        (
            encode(Image.new("F", (8, 8), 7), "TIFF"),
            "the pixels are floating-point numbers, and the model has no range",
        ),
    ],
)
def test_rejects_unusable_images(
    image: bytes, why: str, classifier: ClassifierStub, protocol: GRPCInferenceServiceStub
) -> None:
    """The errors of both services name the image and the reason."""
    for call, request in (
        (classifier.Predict, _predict(GOOD, image, GOOD, GOOD)),
        (protocol.ModelInfer, _infer(GOOD, image, GOOD)),
    ):
        error = _error(call, request)
        _check(error, "INVALID_ARGUMENT", why)
        assert re.match(r"image 2 of [34]: ", error.details())
        assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())


def _many_scans() -> bytes:
    progressive = encode(draw_image(COLORS["red"], 0), progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xc4") : -2]
    return progressive[:-2] + 100 * scan + progressive[-2:]


def _many_tiles() -> bytes:
    data = bytearray(encode(draw_image(COLORS["red"], 0), "JPEG2000"))
    struct.pack_into(">IIIIII", data, data.index(b"\xff\x51") + 6, 3000, 3000, 0, 0, 8, 8)
    return bytes(data)


@covers(
    "INVALID_ARGUMENT",
    "image that would cost far more than its pixels: JPEG scans or segments, PNG chunks, AVIF frames, JPEG 2000 tiles, "
    "code blocks or precincts",
)
@pytest.mark.parametrize(
    ("image", "why"),
    [
        (_many_scans(), "the image is a JPEG with more than 64 scans"),
        (_many_tiles(), "the image is a JPEG 2000 file with 140,625 tiles"),
    ],
)
def test_rejects_images_that_are_slow_to_decode(image: bytes, why: str, classifier: ClassifierStub) -> None:
    """A small file that would take minutes or gigabytes to decode is rejected."""
    _check(_error(classifier.Predict, _predict(GOOD, image)), "INVALID_ARGUMENT", f"image 2 of 2: {why}")


def test_rejects_heic_without_its_decoder(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which extra decodes HEIC."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)
    with server_thread(models, poll_s=0) as target, grpc.insecure_channel(target) as channel:
        error = _error(ClassifierStub(channel).Predict, _predict(heic))
    _check(error, "INVALID_ARGUMENT", "pip install 'unfreeze[heic]'")


@covers(
    "INVALID_ARGUMENT",
    "request that does not match the model: names, datatypes, shapes, lengths, or raw and typed contents mixed",
)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda request: setattr(request.inputs[0], "name", "x" * 9999), "expects one input named 'image', got ['xxx"),
        (
            lambda request: setattr(request.inputs[0], "datatype", "FP32"),
            "input 'image' must have datatype BYTES, got 'FP32'",
        ),
        (lambda request: request.inputs[0].shape.extend([2, 3]), "must have shape [N] or [N, 1], got [1, 2, 3]"),
        (lambda request: request.inputs[0].shape.extend([1] * 10**6), "got [1, 1, 1, 1, 1, 1, 1, 1]"),
        (lambda request: request.inputs.extend(list(request.inputs) * 90_000), "got ['image', 'image', 'image',"),
        (lambda request: request.raw_input_contents.append(b""), "got 2 raw entries"),
        (lambda request: request.raw_input_contents.extend([b""] * 90_000), "got 90001 raw entries"),
        (
            lambda request: request.inputs[0].contents.bytes_contents.append(GOOD),
            "must be either raw, with one entry per input",
        ),
        (
            lambda request: [request.outputs.add(name="probabilities") for _ in "ab"],
            "the output 'probabilities' was requested twice",
        ),
        (
            lambda request: [request.outputs.add(name="probabilities").parameters["x"]],
            "unsupported output parameters ['x']",
        ),
        (
            lambda request: request.inputs[0].parameters["shared_memory_region"],
            "which needs the name of the shared_memory_region and a positive shared_memory_byte_size",
        ),
        (lambda request: request.parameters["timeout"], "parameter 'timeout' must be a nonnegative integer"),
    ],
)
def test_rejects_requests_that_do_not_match_the_model(
    change: Callable[[inference.ModelInferRequest], object], words: str, protocol: GRPCInferenceServiceStub
) -> None:
    """The message gives what was found and expected, and stays short however large the request is."""
    request = _infer(GOOD)
    change(request)
    error = _error(protocol.ModelInfer, request)
    _check(error, "INVALID_ARGUMENT", words)
    assert len(error.details()) < 400


@covers("INVALID_ARGUMENT", "malformed protobuf message")
@pytest.mark.parametrize(
    "method",
    ["inference.GRPCInferenceService/ModelInfer", "unfreeze.v1.Classifier/Predict", "grpc.health.v1.Health/Check"],
)
@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x0b" * 1000, b"\x80" * 2**23, b"\x0a\xff\xff\x7f" + b"\0" * 2**21],
    ids=["truncated tag", "truncated length", "invalid UTF-8", "open groups", "endless varint", "truncated field"],
)
def test_rejects_malformed_messages(method: str, data: bytes, channel: grpc.Channel) -> None:
    """Bytes that are not a valid message end only their own call, without a Python error message."""
    _check(_error(channel.unary_unary(f"/{method}"), data), "INVALID_ARGUMENT", "the request cannot be parsed")


@pytest.mark.parametrize(
    "method", ["unfreeze.v1.Classifier/PredictStream", "inference.GRPCInferenceService/ModelStreamInfer"]
)
def test_malformed_message_ends_its_stream(method: str, channel: grpc.Channel) -> None:
    """Earlier requests of the stream are completed."""
    good = (_predict(GOOD) if "Predict" in method else _infer(GOOD)).SerializeToString()
    stream = channel.stream_stream(f"/{method}")(iter([good, good, b"\xff", good]))
    assert all(len(next(stream)) > 20 for _ in range(2))
    _check(_error(next, stream), "INVALID_ARGUMENT", "the request cannot be parsed")


@covers("INVALID_ARGUMENT", "message with more than 100,000 fields")
@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("inference.GRPCInferenceService/ModelInfer", b"\x2a\0"),
        ("inference.GRPCInferenceService/ModelInfer", b"\x30\x01"),
        ("inference.GRPCInferenceService/ModelInfer", b"\xfd\x7f\0\0\0\0"),
        ("unfreeze.v1.Classifier/Predict", b"\x1a\0"),
    ],
)
def test_rejects_messages_with_too_many_fields(
    method: str, field: bytes, strict: RunningServer, channel: grpc.Channel
) -> None:
    """They are rejected without being parsed, which would take fifty times their size in memory."""
    peak_before = _peak_mib(strict)
    for count, words in ((100_001, "more than 100,000 fields"), (15 * 2**20 // len(field), "more than 100,000 fields")):
        _check(_error(channel.unary_unary(f"/{method}"), field * count), "INVALID_ARGUMENT", words)
    assert _peak_mib(strict) < peak_before + 100
    assert "fields" not in _error(channel.unary_unary(f"/{method}"), field * 100_000).details()
    _check(_error(channel.unary_unary(f"/{method}"), field * 100_000 + field[:1]), "INVALID_ARGUMENT", "fields")


def _peak_mib(server: RunningServer) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


@covers("INVALID_ARGUMENT", "request without images, or without a model name if the server has several models")
def test_rejects_requests_without_images_or_model_name(
    classifier: ClassifierStub, protocol: GRPCInferenceServiceStub
) -> None:
    """The errors of both services say what is missing."""
    _check(_error(classifier.Predict, _predict()), "INVALID_ARGUMENT", "the request has no images")
    _check(
        _error(classifier.Predict, _predict(GOOD, model="")),
        "INVALID_ARGUMENT",
        "the request has no model name; it is required because",
    )
    _check(
        _error(protocol.ModelInfer, inference.ModelInferRequest()), "INVALID_ARGUMENT", "the request has no model name"
    )


@covers("NOT_FOUND", "unknown model or version")
def test_rejects_unknown_models_and_versions(classifier: ClassifierStub, protocol: GRPCInferenceServiceStub) -> None:
    """The message lists the available models and versions."""
    error = _error(classifier.Predict, _predict(GOOD, model="unknown"))
    _check(error, "NOT_FOUND", "unknown model 'unknown'; loaded models: ", "failing", "colors")
    request = _infer(GOOD)
    request.model_version = "7"
    _check(_error(protocol.ModelInfer, request), "NOT_FOUND", "unknown version '7' of model colors; loaded versions: 1")


@covers("NOT_FOUND", "unknown region of shared memory")
def test_rejects_unknown_regions(protocol: GRPCInferenceServiceStub) -> None:
    """Of an input or an output."""
    for tensors in ("inputs", "outputs"):
        request = _infer(GOOD)
        tensor = getattr(request, tensors).add() if tensors == "outputs" else request.inputs[0]
        tensor.name = "probabilities" if tensors == "outputs" else "image"
        tensor.parameters["shared_memory_region"].string_param = "unknown"
        tensor.parameters["shared_memory_byte_size"].int64_param = 12
        _check(_error(protocol.ModelInfer, request), "NOT_FOUND", "there is no shared memory region 'unknown'")


@covers(
    "INVALID_ARGUMENT",
    "region or tensor outside of its shared memory object, output larger than the space for it, object that was "
    "removed, replaced or truncated, or more than 1,024 regions",
)
def test_rejects_tensors_outside_of_their_region(protocol: GRPCInferenceServiceStub) -> None:
    """The message has the sizes; test_shared_memory.py has the other cases."""
    with segment(bytes(100)) as made:
        register = inference.SystemSharedMemoryRegisterRequest(name="in", key=made.name, byte_size=101)
        error = _error(protocol.SystemSharedMemoryRegister, register)
        _check(error, "INVALID_ARGUMENT", "its size 101 bytes, but the shared memory object", "has 100 bytes")
        register.byte_size = 100
        protocol.SystemSharedMemoryRegister(register)
        request = _infer()
        request.ClearField("raw_input_contents")
        request.inputs[0].parameters["shared_memory_region"].string_param = "in"
        request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 101
        _check(_error(protocol.ModelInfer, request), "INVALID_ARGUMENT", "but region 'in' has 100 bytes")
        protocol.SystemSharedMemoryUnregister(inference.SystemSharedMemoryUnregisterRequest(name="in"))


@covers("INVALID_ARGUMENT", "more images in one request than `--max-queue`")
def test_rejects_requests_larger_than_the_queue(classifier: ClassifierStub, protocol: GRPCInferenceServiceStub) -> None:
    """A retry would not help, so there is no retry delay."""
    for error in (
        _error(classifier.Predict, _predict(*[GOOD] * 65)),
        _error(protocol.ModelInfer, _infer(*[GOOD] * 65)),
    ):
        _check(error, "INVALID_ARGUMENT", "the request has 65 images, but at most 64 may wait for model colors")
        assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())


@covers(
    "RESOURCE_EXHAUSTED",
    "queue full: more images than `--max-queue`, or more bytes than `--max-queue-mib`",
)
@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([GOOD] * 30, "the queue of model colors is full: 40 of at most 64 images are waiting"),
        ([bytes(9 * 2**20)], " of at most 8 MiB of images are waiting"),
    ],
)
@pytest.mark.usefixtures("busy")
def test_rejects_requests_when_the_queue_is_full(images: list[bytes], words: str, classifier: ClassifierStub) -> None:
    """The message has the queue length, and gRPC's and Google's retry hints have the same delay."""
    error = _error(classifier.Predict, _predict(*images))
    _check(error, "RESOURCE_EXHAUSTED", words, "retry later")
    assert 0.01 <= _retry_s(error.trailing_metadata(), error.details(), 8) <= 5


@covers("RESOURCE_EXHAUSTED", "message larger than `--max-message-mib`")
def test_rejects_messages_above_the_size_limit(classifier: ClassifierStub) -> None:
    """Their length alone is enough for gRPC to reject them."""
    error = _error(classifier.Predict, _predict(bytes(17 * 2**20)))
    _check(error, "RESOURCE_EXHAUSTED", "larger than max", str(16 * 2**20))
    assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())


@covers("DEADLINE_EXCEEDED", "deadline that passed while the request was queued")
def test_rejects_requests_whose_deadline_passes_in_the_queue(models: Path) -> None:
    """The timeout in the request has the same effect as the deadline of the call."""
    with (
        server_thread(models, instances=1, threads=1, max_batch=4, max_queue=8) as target,
        grpc.insecure_channel(target) as channel,
    ):
        first = _occupy(ClassifierStub(channel), 5, 8)
        request, protocol = _infer(GOOD), GRPCInferenceServiceStub(channel)
        request.parameters["timeout"].int64_param = 20_000
        request.parameters["priority"].uint64_param = 2000
        error = _error(protocol.ModelInfer, request)
        _check(error, "DEADLINE_EXCEEDED", "the deadline passed while the request was waiting")
        assert len(first.result().predictions) == 5


@covers("DEADLINE_EXCEEDED", "deadline that the request would miss, estimated from the queue")
def test_rejects_requests_that_cannot_meet_their_deadline(
    busy: grpc.Future, protocol: GRPCInferenceServiceStub
) -> None:
    """The server estimates this from its queue and responds at once, before the queue is empty."""
    request = _infer(GOOD)
    request.parameters["timeout"].int64_param = 1
    error = _error(protocol.ModelInfer, request)
    _check(error, "DEADLINE_EXCEEDED", "the request would take about", "which is after its deadline")
    assert not busy.done()


@covers("FAILED_PRECONDITION", "request to load a model that cannot be loaded")
def test_loading_an_invalid_model_fails(models: Path, protocol: GRPCInferenceServiceStub) -> None:
    """The message has the reason, but not the path of the repository."""
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(grpc.RpcError) as failed:
        protocol.RepositoryModelLoad(inference.RepositoryModelLoadRequest(model_name="broken"))
    _check(failed.value, "FAILED_PRECONDITION", "has no manifest")
    assert str(models) not in failed.value.details()


@covers("INVALID_ARGUMENT", "traffic with an invalid share or rule")
@covers("NOT_FOUND", "traffic with a version that is not in the repository")
@covers("FAILED_PRECONDITION", "traffic with a version that cannot be loaded")
def test_traffic_that_cannot_be_set_changes_nothing(models: Path, classifier: ClassifierStub) -> None:
    """The message has the value, the versions that there are, or the reason."""
    broken = models / "failing" / "2"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"not a model")
    for versions, status, words in (
        ({"1": -1.0}, "INVALID_ARGUMENT", ("share of version 1 must be", "got -1")),
        ({"1": 1.0, "7": 1.0}, "NOT_FOUND", ("7",)),
        ({"1": 1.0, "2": 1.0}, "FAILED_PRECONDITION", ("has no manifest",)),
    ):
        with pytest.raises(grpc.RpcError) as failed:
            classifier.SetTraffic(pb.SetTrafficRequest(model="failing", split=versions))
        _check(failed.value, status, *words)
        assert str(models) not in failed.value.details()
    shutil.rmtree(broken)
    assert not classifier.GetTraffic(pb.GetTrafficRequest(model="failing")).split
    assert not (models / "failing" / "traffic.json").exists()


@covers("UNAVAILABLE", "server shutting down")
def test_shutdown_completes_accepted_requests(models: Path) -> None:
    """During shutdown, new calls fail with UNAVAILABLE and accepted ones are completed."""
    limits = ("--instances=1", "--threads=1", "--max-batch=4", "--max-queue=16")
    with running_server(models, *limits) as server, grpc.insecure_channel(server.target) as channel:
        stub = ClassifierStub(channel)
        accepted = _occupy(stub, 16, 16)
        server.process.terminate()
        _until(lambda: _code(stub.ListModels, pb.ListModelsRequest()) == grpc.StatusCode.UNAVAILABLE)
        assert not accepted.done()
        assert len(accepted.result().predictions) == 16
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("retry_s", [0.01, 2.5, 5.0])
def test_retry_delays_may_be_seconds(retry_s: float) -> None:
    """Of a long queue; both hints have the same delay."""
    status = status_of(QueueFullError("the queue is full", retry_s))
    assert _retry_s(status.trailing_metadata, status.message, 8) == pytest.approx(retry_s)


def test_shutdown_errors_have_a_retry_delay() -> None:
    """The status of a rejected call has both retry hints."""
    status = status_of(DrainingError("the server is shutting down; retry on another server"))
    assert status.code == grpc.StatusCode.UNAVAILABLE
    assert _retry_s(status.trailing_metadata, status.message, 14) == pytest.approx(0.1)


@covers("UNAVAILABLE", "process of the models restarting, with `--frontends`")
def test_a_restart_can_be_retried() -> None:
    """The whole way is tested in tests/serve/frontends."""
    status = status_of(RestartingError("the process of the models ended and is being restarted; retry"))
    assert status.code == grpc.StatusCode.UNAVAILABLE
    assert status.retry_s is not None


@covers(
    "RESOURCE_EXHAUSTED",
    "no memory to receive the message within ten seconds, or a message that arrives too slowly while others wait",
)
def test_messages_wait_for_memory_until_their_deadline(published: Published) -> None:
    """A call that holds the memory and sends nothing does not hold it for ever, and not beyond a caller's deadline."""
    limits = {"max_queue_mib": 1, "max_message_mib": 1}
    with (
        server_thread(published.path.parents[2], **limits) as target,
        grpc.insecure_channel(target) as first,
        grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as second,
    ):
        go_on = threading.Event()

        def late() -> Iterator[bytes]:
            go_on.wait(30)
            yield pb.PredictRequest(images=[GOOD]).SerializeToString()

        holding = first.stream_unary("/unfreeze.v1.Classifier/Predict").future(late())
        time.sleep(0.3)
        waiting = ClassifierStub(second).Predict.future(pb.PredictRequest(images=[GOOD]), timeout=25)
        with pytest.raises(grpc.FutureTimeoutError):
            waiting.exception(timeout=0.5)
        request = pb.PredictRequest(images=[GOOD])
        late_error = _error(lambda message: ClassifierStub(second).Predict(message, timeout=0.5), request)
        assert late_error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        go_on.set()
        holding.result(timeout=20)
        assert len(waiting.result(timeout=20).predictions) == 1


@covers("INTERNAL", "any other error")
def test_internal_errors_reveal_nothing(classifier: ClassifierStub) -> None:
    """A runtime failure is reported as INTERNAL without details, and later requests succeed."""
    for _ in range(2):
        error = _error(classifier.Predict, _predict(BLACK, WHITE, model="failing"))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error; see the server's log")
        assert "grpc-status-details-bin" not in dict(error.trailing_metadata())
        assert len(classifier.Predict(_predict(BLACK, model="failing")).predictions) == 1


def test_invalid_image_does_not_affect_its_batch(strict: RunningServer, classifier: ClassifierStub) -> None:
    """Of sixty concurrent requests, every third invalid, each gets its own result although they share batches."""
    expected = classifier.Predict(_predict(GOOD)).predictions[0].labels

    async def send_all() -> list[object]:
        async with grpc.aio.insecure_channel(strict.target) as channel:
            stub = ClassifierStub(channel)
            images = [BAD if number % 3 == 0 else GOOD for number in range(60)]
            calls = [stub.Predict(_predict(image)) for image in images]
            return await asyncio.gather(*calls, return_exceptions=True)

    for number, outcome in enumerate(asyncio.run(send_all())):
        if number % 3 == 0:
            _check(outcome, "INVALID_ARGUMENT", "image 1 of 1: the image is truncated or damaged")
        else:
            assert [one.label for one in outcome.predictions[0].labels] == [one.label for one in expected]
            scores = [[one.score for one in labels] for labels in (outcome.predictions[0].labels, expected)]
            np.testing.assert_allclose(*scores, atol=1e-5)


def test_cancelled_calls_free_their_queue_slots(busy: grpc.Future, classifier: ClassifierStub) -> None:
    """The slots are free at once, before the requests ahead are completed."""
    waiting = _occupy(classifier, 24, 24)
    waiting.cancel()
    again = _occupy(classifier, 24, 24)
    assert not again.done(), again.details()
    assert not busy.done()
    again.cancel()

"""Tensors in shared memory: with tritonclient, at every boundary, and with objects that change under the server."""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.segments import PREFIX, Segment, segment
from support.servers import running_server, server_in_thread, server_thread

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

IMAGE = 32 * 32 * 3
CLASSES = 3


@pytest.fixture(scope="module")
def sharing(repository: Path) -> Iterator[Server]:
    """A server in this process that allows the objects of these tests."""
    with server_in_thread(repository, http=0, shared_memory=PREFIX, max_message_mib=4) as server:
        yield server


@pytest.fixture(scope="module")
def channel(sharing: Server) -> Iterator[grpc.Channel]:
    """A channel to it."""
    with grpc.insecure_channel(f"127.0.0.1:{sharing.port}") as connected:
        yield connected


@pytest.fixture
def stub(channel: grpc.Channel) -> Iterator[GRPCInferenceServiceStub]:
    """Its service; regions of a test are gone after it."""
    service = GRPCInferenceServiceStub(channel)
    yield service
    service.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())


@pytest.fixture(scope="module")
def pixels(published: Published, images: list[bytes]) -> np.ndarray:
    """Twelve prepared images."""
    return np.stack([prepare(image, published.manifest.preprocess) for image in images])


@pytest.fixture(scope="module")
def expected(published: Published, images: list[bytes]) -> np.ndarray:
    """Their probabilities, computed in-process."""
    with LocalClassifier(published.path) as local:
        return local.probabilities(images)


def _register(stub: GRPCInferenceServiceStub, name: str, key: str, size: int, offset: int = 0) -> None:
    stub.SystemSharedMemoryRegister(
        pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
    )


def _place(tensor: object, region: object, size: int | None, offset: int = 0) -> None:
    """Set the parameters of a tensor in shared memory."""
    if isinstance(region, str):
        tensor.parameters["shared_memory_region"].string_param = region
    if size is not None:
        tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def _pixels_request(count: int, region: str, offset: int = 0) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="colors")
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=[count, 32, 32, 3])
    _place(tensor, region, count * IMAGE, offset)
    return request


def _probabilities(response: pb.ModelInferResponse) -> np.ndarray:
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)


def _refused(call: Callable[[object], object], request: object, status: str, message: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(request)
    assert (failed.value.code().name, message in failed.value.details()) == (status, True), failed.value.details()
    assert len(failed.value.details()) < 500


def _outcome(stub: GRPCInferenceServiceStub, request: pb.ModelInferRequest) -> tuple[str, str]:
    """Return status and details of a call."""
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_tritons_examples_run(
    kind: str, sharing: Server, images: list[bytes], expected: np.ndarray, tmp_path: Path
) -> None:
    """With the client's own functions; the answers are those of contents in the message."""
    files = [tmp_path / str(number) for number in range(3)]
    for file, image in zip(files, images, strict=False):
        file.write_bytes(image)
    target = f"127.0.0.1:{sharing.port if kind == 'grpc' else sharing.http.port}"
    script = Path(__file__).parent / "triton_shared_memory.py"
    prefix = f"{PREFIX}{kind}-"
    done = subprocess.run(
        [sys.executable, script, kind, target, "colors", prefix, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    np.testing.assert_allclose(results["pixels"], results["expected"], atol=1e-6)
    np.testing.assert_allclose(results["second"], results["expected"][1:2], atol=1e-6)
    np.testing.assert_allclose(results["encoded"], expected[:3], atol=1e-6)
    strings = 3 * 4 + sum(len(image) for image in images[:3])
    assert results["status"] == [
        ["input_data", f"/{prefix}input_simple", 0, 3 * IMAGE],
        ["output_data", f"/{prefix}output_simple", 0, 3 * CLASSES * 4],
        ["strings_data", f"{prefix}strings_simple", 0, strings],
    ]
    assert results["one"] == ["input_data"]
    assert results["again"][0] == ("StatusCode.ALREADY_EXISTS" if kind == "grpc" else "409")
    assert "the shared memory region 'input_data' is registered already" in results["again"][1]
    assert (results["cuda"], results["remaining"], results["mapped"]) == ([], ["input_data", "output_data"], 3)
    assert "system_shared_memory" in results["extensions"]


def test_contents_are_at_their_offsets(
    stub: GRPCInferenceServiceStub, pixels: np.ndarray, expected: np.ndarray
) -> None:
    """Of the region in the object and of the tensor in the region; bytes around an output stay as they were."""
    with segment(bytes(100) + pixels.tobytes() + bytes(7)) as made, segment(b"." * 200) as results:
        _register(stub, "in", made.name, len(pixels) * IMAGE, offset=100)
        _register(stub, "out", "/" + results.name, 150, offset=50)
        request = _pixels_request(2, "in", offset=10 * IMAGE)
        _place(request.outputs.add(name="probabilities"), "out", 30, 5)
        response = stub.ModelInfer(request)
        (output,) = response.outputs
        assert (output.datatype, list(output.shape)) == ("FP32", [2, CLASSES])
        assert output.parameters["shared_memory_region"].string_param == "out"
        assert output.parameters["shared_memory_byte_size"].int64_param == 24
        assert output.parameters["shared_memory_offset"].int64_param == 5
        assert list(response.raw_output_contents) == [b""]
        written = results.get()
        np.testing.assert_allclose(np.frombuffer(written[55:79], "<f4").reshape(2, 3), expected[10:], atol=1e-5)
        assert (written[:55], written[79:]) == (b"." * 55, b"." * 121)


def test_the_last_bytes_of_an_object_can_be_used(
    stub: GRPCInferenceServiceStub, pixels: np.ndarray, expected: np.ndarray
) -> None:
    """Input and output end exactly where the region and the object end."""
    with segment(pixels[:2].tobytes()) as made, segment(bytes(12)) as results:
        _register(stub, "in", made.name, 2 * IMAGE)
        _register(stub, "out", results.name, 12)
        request = _pixels_request(1, "in", offset=IMAGE)
        _place(request.outputs.add(name="probabilities"), "out", 12)
        stub.ModelInfer(request)
        np.testing.assert_allclose(np.frombuffer(results.get(), "<f4"), expected[1], atol=1e-5)
        request.outputs[0].parameters["shared_memory_byte_size"].int64_param = 11
        _refused(
            stub.ModelInfer, request, "INVALID_ARGUMENT", "needs 12 bytes of shared memory, but its shared_memory_b"
        )
        assert len(results.get()) == 12


def test_class_strings_are_written_too(
    stub: GRPCInferenceServiceStub, images: list[bytes], expected: np.ndarray, published: Published
) -> None:
    """Of encoded images in shared memory; without enough space, the message says how many bytes are needed."""
    encoded = b"".join(struct.pack("<I", len(image)) + image for image in images[:2])
    with segment(encoded) as made, segment(bytes(1000)) as results:
        _register(stub, "in", made.name, len(encoded))
        _register(stub, "out", results.name, 1000)
        request = pb.ModelInferRequest(model_name="colors.encoded")
        _place(request.inputs.add(name="image", datatype="BYTES", shape=[2]), "in", len(encoded))
        output = request.outputs.add(name="probabilities")
        output.parameters["classification"].int64_param = 2
        _place(output, "out", 1000)
        (answered,) = stub.ModelInfer(request).outputs
        size, written = answered.parameters["shared_memory_byte_size"].int64_param, results.get()
        assert (answered.datatype, list(answered.shape)) == ("BYTES", [2, 2])
        texts, rest = [], written[:size]
        while rest:
            length = struct.unpack_from("<I", rest)[0]
            texts.append(rest[4 : 4 + length].decode())
            rest = rest[4 + length :]
        order = [int(index) for row in expected[:2] for index in np.argsort(-row, kind="stable")[:2]]
        assert [text.split(":")[1:] for text in texts] == [[str(one), published.manifest.labels[one]] for one in order]
        assert not any(written[size:])
        output.parameters["shared_memory_byte_size"].int64_param = size - 1
        _refused(stub.ModelInfer, request, "INVALID_ARGUMENT", f"needs {size} bytes of shared memory")


def test_large_tensors_are_the_same(stub: GRPCInferenceServiceStub, pixels: np.ndarray, expected: np.ndarray) -> None:
    """They are read in a thread; up to the limit of a message, here 4 MiB."""
    many = 1024
    with segment(np.resize(pixels, (many, 32, 32, 3)).tobytes() + bytes(2 * IMAGE * many)) as made:
        _register(stub, "in", made.name, 3 * many * IMAGE)
        found = _probabilities(stub.ModelInfer(_pixels_request(many, "in")))
        np.testing.assert_allclose(found, np.resize(expected, (many, CLASSES)), atol=1e-5)
        request = _pixels_request(1, "in")
        request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 4 * 2**20 + 1
        _refused(stub.ModelInfer, request, "INVALID_ARGUMENT", "at most 4,194,304 are allowed (--max-message-mib)")


def test_streams_use_shared_memory(stub: GRPCInferenceServiceStub, pixels: np.ndarray, expected: np.ndarray) -> None:
    """A request whose region is unknown fails alone."""
    with segment(pixels.tobytes()) as made:
        _register(stub, "in", made.name, pixels.size)
        requests = [_pixels_request(1, region, offset=IMAGE) for region in ("in", "unknown", "in")]
        first, second, third = stub.ModelStreamInfer(iter(requests))
        assert second.error_message == "there is no shared memory region 'unknown'; register it first"
        for response in (first, third):
            np.testing.assert_allclose(_probabilities(response.infer_response), expected[1:2], atol=1e-5)


INVALID, DENIED = "INVALID_ARGUMENT", "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"name": ""}, INVALID, "the name of a shared memory region must have 1 to 255 bytes, got ''"),
        ({"name": "é" * 128}, INVALID, "must have 1 to 255 bytes"),
        ({"key": ""}, INVALID, "the key must be the name of a shared memory object"),
        ({"key": "/"}, INVALID, "the key must be the name of a shared memory object"),
        ({"key": ".."}, INVALID, "the key must be the name of a shared memory object"),
        ({"key": "/../etc/passwd"}, INVALID, "no slash but one at its start, got '/../etc/passwd'"),
        ({"key": f"//{PREFIX}0"}, INVALID, "no slash but one at its start"),
        ({"key": f"{PREFIX}/../../etc/passwd"}, INVALID, "no slash but one at its start"),
        ({"key": f"{PREFIX}\0"}, INVALID, "the key must be the name of a shared memory object"),
        ({"key": PREFIX + "x" * 5000}, INVALID, "at most 255 bytes"),
        ({"key": "other"}, DENIED, "whose names begin with 'unfreeze-tests-"),
        ({"key": f"x{PREFIX}"}, DENIED, "may be registered on this server"),
        ({"key": f"{PREFIX}gone"}, INVALID, "gone': No such file or directory"),
        ({"byte_size": 0}, INVALID, "its size 0 bytes, but the shared memory object"),
        ({"byte_size": 101}, INVALID, "offset is 0 and its size 101 bytes, but the shared memory object"),
        ({"offset": 1}, INVALID, "has 100 bytes"),
        ({"offset": 2**64 - 1}, INVALID, "has 100 bytes"),
        ({"offset": 2**63, "byte_size": 2**63}, INVALID, "has 100 bytes"),
        ({"byte_size": 2**64 - 1}, INVALID, "has 100 bytes"),
    ],
)
def test_regions_that_cannot_be_registered(
    stub: GRPCInferenceServiceStub, change: dict[str, object], status: str, message: str
) -> None:
    """Nothing is registered then."""
    with segment(bytes(100)) as made:
        values = {"name": "one", "key": made.name, "byte_size": 100} | change
        request = pb.SystemSharedMemoryRegisterRequest(**values)
        _refused(stub.SystemSharedMemoryRegister, request, status, message)
    assert not stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_objects_are_opened(stub: GRPCInferenceServiceStub, kind: str, tmp_path: Path) -> None:
    """No link to another file, no folder, and no pipe, for whose other end the server would wait."""
    target = tmp_path / "secret"
    target.write_bytes(bytes(100))
    path = Path("/dev/shm") / f"{PREFIX}{kind}"  # noqa: S108
    make = {"link": lambda: path.symlink_to(target), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}
    make[kind]()
    try:
        request = pb.SystemSharedMemoryRegisterRequest(name="one", key=path.name, byte_size=100)
        message = "Too many levels of symbolic links" if kind == "link" else "is not a shared memory object"
        _refused(stub.SystemSharedMemoryRegister, request, INVALID, message)
    finally:
        path.rmdir() if kind == "folder" else path.unlink()


@pytest.mark.parametrize(
    ("region", "size", "offset", "message"),
    [
        (None, IMAGE, 0, "needs the name of the shared_memory_region and a positive shared_memory_byte_size"),
        (None, None, 5, "needs the name of the shared_memory_region"),
        ("in", None, 0, "a positive shared_memory_byte_size"),
        ("in", 0, 0, "a positive shared_memory_byte_size"),
        ("in", -1, 0, "parameter 'shared_memory_byte_size' must be a nonnegative integer, got -1"),
        ("in", -(2**63), 0, "must be a nonnegative integer"),
        ("in", IMAGE, -1, "parameter 'shared_memory_offset' must be a nonnegative integer, got -1"),
        ("in", IMAGE, IMAGE + 1, "but region 'in' has 6,144 bytes"),
        ("in", 2**63 - 1, 2**63 - 1, "but region 'in' has 6,144 bytes"),
        ("in", IMAGE, 2**63 - IMAGE, "but region 'in' has 6,144 bytes"),
        ("in", 2 * IMAGE, 0, "input 'pixels' has 6,144 bytes, but its shape requires 3,072"),
        ("in", 1, 0, "input 'pixels' has 1 bytes, but its shape requires 3,072"),
    ],
)
def test_tensors_that_are_not_in_their_region(
    stub: GRPCInferenceServiceStub, region: str | None, size: int | None, offset: int, message: str
) -> None:
    """As inputs and, where the region's bounds are concerned, as outputs."""
    with segment(bytes(2 * IMAGE)) as made:
        _register(stub, "in", made.name, 2 * IMAGE)
        request = pb.ModelInferRequest(model_name="colors")
        tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=[1, 32, 32, 3])
        _place(tensor, region, size, offset)
        _refused(stub.ModelInfer, request, INVALID, message)
        if "shape" in message:
            return
        request = _pixels_request(1, "in")
        _place(request.outputs.add(name="probabilities"), region, size, offset)
        _refused(stub.ModelInfer, request, INVALID, message)
        assert made.get() == bytes(2 * IMAGE)


def test_parameters_of_another_type_are_refused(stub: GRPCInferenceServiceStub) -> None:
    """A region is text, sizes are integers; and contents are in one place."""
    with segment(bytes(IMAGE)) as made:
        _register(stub, "in", made.name, IMAGE)
        for name, field, value in (
            ("shared_memory_region", "int64_param", 1),
            ("shared_memory_byte_size", "string_param", "3072"),
            ("shared_memory_offset", "double_param", 1.0),
            ("shared_memory_offset", "bool_param", True),
        ):
            request = _pixels_request(1, "in")
            setattr(request.inputs[0].parameters[name], field, value)
            _refused(stub.ModelInfer, request, INVALID, "shared_memory")
        request = _pixels_request(1, "in")
        request.raw_input_contents.append(bytes(IMAGE))
        _refused(stub.ModelInfer, request, INVALID, "input 'pixels' is in shared memory, so the request must not con")
        request = _pixels_request(1, "in")
        request.inputs[0].contents.uint_contents.extend([0] * IMAGE)
        _refused(stub.ModelInfer, request, INVALID, "input 'pixels' is in shared memory, so the request must not con")


_signed, _unsigned = st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)
_near = st.integers(-2, 2 * IMAGE + 2)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(offset=0, size=IMAGE, unsigned=True)
@example(offset=IMAGE, size=IMAGE, unsigned=False)
@example(offset=2**64 - IMAGE, size=IMAGE, unsigned=True)
@given(
    offset=st.one_of(_near, _signed, _unsigned),
    size=st.one_of(st.just(IMAGE), _near, _signed, _unsigned),
    unsigned=st.booleans(),
)
def test_only_bytes_of_the_region_are_ever_used(
    offset: int, size: int, *, unsigned: bool, channel: grpc.Channel, bounded: Segment
) -> None:
    """Whatever numbers a client sends: they are inside and answered, or refused as not valid."""
    is_unsigned = (unsigned and min(offset, size) >= 0) or max(offset, size) >= 2**63
    if is_unsigned and min(offset, size) < 0:
        return  # cannot be written in one type
    request = pb.ModelInferRequest(model_name="colors")
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=[1, 32, 32, 3])
    output = request.outputs.add(name="probabilities")
    kind = "uint64_param" if is_unsigned else "int64_param"
    for one in (tensor, output):
        one.parameters["shared_memory_region"].string_param = "bounded"
        setattr(one.parameters["shared_memory_offset"], kind, offset)
        setattr(one.parameters["shared_memory_byte_size"], kind, size)
    status = "OK" if size == IMAGE and 0 <= offset <= IMAGE else INVALID
    assert _outcome(GRPCInferenceServiceStub(channel), request)[0] == status
    content = bounded.get()
    assert (content[:IMAGE], content[-IMAGE:], len(content)) == (b"\x01" * IMAGE, b"\x01" * IMAGE, 4 * IMAGE)


@pytest.fixture
def bounded(stub: GRPCInferenceServiceStub) -> Iterator[Segment]:
    """An object of four images, of which the middle two are registered as the region "bounded"."""
    with segment(b"\x01" * 4 * IMAGE) as made:
        _register(stub, "bounded", made.name, 2 * IMAGE, offset=IMAGE)
        yield made


def test_objects_that_change_are_noticed(stub: GRPCInferenceServiceStub, pixels: np.ndarray) -> None:
    """Truncated, replaced by another one of the same name, or removed; as input and as output."""
    with segment(pixels.tobytes()) as made, segment(bytes(3 * IMAGE)) as results:
        _register(stub, "in", made.name, 12 * IMAGE)
        _register(stub, "out", results.name, 3 * IMAGE)
        request = _pixels_request(1, "in", offset=3 * IMAGE)
        writing = _pixels_request(1, "in")
        _place(writing.outputs.add(name="probabilities"), "out", 12, 100)
        os.truncate(made.path, 4 * IMAGE - 1)
        os.truncate(results.path, 111)
        _refused(
            stub.ModelInfer, request, INVALID, "has been truncated: it has 12,287 bytes, and the request needs 12,288"
        )
        _refused(stub.ModelInfer, writing, INVALID, "has been truncated: it has 111 bytes, and the request needs 112")
        assert results.get() == bytes(111)
        os.truncate(made.path, 12 * IMAGE)
        os.truncate(results.path, 112)
        stub.ModelInfer(request)
        stub.ModelInfer(writing)
        for one in (made, results):
            other = one.path.with_name(one.name + "-other")
            other.write_bytes(bytes(12 * IMAGE))
            other.rename(one.path)
        _refused(stub.ModelInfer, request, INVALID, "of region 'in' has been replaced by another one; unregister the")
        made.path.unlink()
        _refused(stub.ModelInfer, request, INVALID, "No such file or directory")
        with segment(pixels.tobytes()) as third:
            _register(stub, "third", third.name, 12 * IMAGE)
            writing.inputs[0].parameters["shared_memory_region"].string_param = "third"
            _refused(stub.ModelInfer, writing, INVALID, "of region 'out' has been replaced by another one")


def test_a_server_survives_objects_that_are_truncated_while_it_reads_them(
    repository: Path, pixels: np.ndarray, expected: np.ndarray
) -> None:
    """Where it would map them, reading beyond their end would end it with SIGBUS."""
    many = 1000
    content = np.resize(pixels, (many, 32, 32, 3)).tobytes()
    stop = threading.Event()
    with (
        segment(content) as made,
        segment(bytes(many * CLASSES * 4)) as results,
        running_server(repository, "--shared-memory", PREFIX) as server,
        grpc.insecure_channel(server.target) as own,
    ):
        stub = GRPCInferenceServiceStub(own)
        _register(stub, "in", made.name, len(content))
        _register(stub, "out", results.name, many * CLASSES * 4)

        def truncate() -> None:
            while not stop.is_set():
                for one, size in ((made, len(content)), (results, many * CLASSES * 4)):
                    os.truncate(one.path, 0)
                    os.truncate(one.path, size)

        thread = threading.Thread(target=truncate)
        thread.start()
        try:
            request = _pixels_request(many, "in")
            _place(request.outputs.add(name="probabilities"), "out", many * CLASSES * 4)
            answers = [_outcome(stub, request) for _ in range(100)]
        finally:
            stop.set()
            thread.join()
        refused = [details for status, details in answers if status != "OK"]
        assert refused, "no object was truncated while it was needed"
        assert all("has been truncated" in details for details in refused)
        assert server.process.poll() is None
        made.put(content)
        found = _probabilities(stub.ModelInfer(_pixels_request(many, "in")))
        np.testing.assert_allclose(found, np.resize(expected, (many, CLASSES)), atol=1e-5)


def test_regions_are_limited_and_keep_nothing_open(stub: GRPCInferenceServiceStub) -> None:
    """At most 1,024; a region has no descriptor."""
    with segment(bytes(IMAGE)) as made:
        _register(stub, "0", made.name, IMAGE)
        stub.ModelInfer(_pixels_request(1, "0"))
        before = _descriptors()
        for number in range(1, 1024):
            _register(stub, str(number), made.name, IMAGE)
        stub.ModelInfer(_pixels_request(1, "500"))
        assert _descriptors() < before + 100
        request = pb.SystemSharedMemoryRegisterRequest(name="more", key=made.name, byte_size=IMAGE)
        _refused(stub.SystemSharedMemoryRegister, request, INVALID, "1,024 shared memory regions are registered")
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="500"))
        stub.SystemSharedMemoryRegister(request)
        assert len(stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions) == 1024
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        assert not stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions


def test_unknown_regions_are_not_found(stub: GRPCInferenceServiceStub) -> None:
    """To unregister one is no error, as with Triton."""
    _refused(stub.ModelInfer, _pixels_request(1, "unknown"), "NOT_FOUND", "there is no shared memory region 'unknown'")
    _refused(
        stub.SystemSharedMemoryStatus,
        pb.SystemSharedMemoryStatusRequest(name="unknown"),
        "NOT_FOUND",
        "there is no shared memory region 'unknown'",
    )
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="unknown"))


def test_cuda_shared_memory_is_not_supported(stub: GRPCInferenceServiceStub) -> None:
    """There are no regions, and calls that clean up succeed."""
    assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()).regions
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(name="one"))
    request = pb.CudaSharedMemoryRegisterRequest(name="one", raw_handle=bytes(64), byte_size=100)
    _refused(stub.CudaSharedMemoryRegister, request, "UNIMPLEMENTED", "CUDA shared memory is not supported; use system")
    _refused(
        stub.CudaSharedMemoryStatus,
        pb.CudaSharedMemoryStatusRequest(name="one"),
        "NOT_FOUND",
        "there is no CUDA shared",
    )


@pytest.mark.parametrize("options", [{}, {"admin": False}])
def test_shared_memory_is_off_by_default(repository: Path, options: dict[str, object]) -> None:
    """Registering and using regions is refused; calls that clean up succeed, and metadata does not name it."""
    with (
        server_thread(repository, **options) as target,
        grpc.insecure_channel(target) as own,
        segment(bytes(IMAGE)) as made,
    ):
        stub = GRPCInferenceServiceStub(own)
        request = pb.SystemSharedMemoryRegisterRequest(name="in", key=made.name, byte_size=IMAGE)
        message = "shared memory is off on this server (it runs without --shared-memory)"
        _refused(stub.SystemSharedMemoryRegister, request, DENIED, message)
        _refused(stub.ModelInfer, _pixels_request(1, "in"), DENIED, message)
        assert not stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        assert "system_shared_memory" not in stub.ServerMetadata(pb.ServerMetadataRequest()).extensions


def test_a_slash_allows_every_name(repository: Path, pixels: np.ndarray) -> None:
    """As Triton does."""
    with (
        server_thread(repository, shared_memory="/") as target,
        grpc.insecure_channel(target) as own,
        segment(pixels.tobytes()) as made,
    ):
        stub = GRPCInferenceServiceStub(own)
        _register(stub, "in", made.name, pixels.size)
        assert len(_probabilities(stub.ModelInfer(_pixels_request(12, "in")))) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared_memory": ""}, "such as unfreeze_, or / to allow all, got ''"),
        ({"shared_memory": "a/b"}, "must be the beginning of names of shared memory objects"),
        ({"shared_memory": "//"}, "must be the beginning of names of shared memory objects"),
        ({"shared_memory": "a\0"}, "must be the beginning of names of shared memory objects"),
        ({"shared_memory": "a", "admin": False}, "which --no-admin forbids: give one of them"),
    ],
)
def test_options_that_cannot_be_are_errors(options: dict[str, object], message: str) -> None:
    """Before a model is loaded."""
    with pytest.raises(OptionsError, match=message):
        ServeOptions(repository=Path("models"), **options)


def test_a_slash_before_the_prefix_does_not_matter() -> None:
    """Keys may have one too."""
    for given_prefix, prefix in (("unfreeze_", "unfreeze_"), ("/unfreeze_", "unfreeze_"), ("/", "")):
        assert ServeOptions(repository=Path("m"), shared_memory=given_prefix).shared_memory_prefix == prefix

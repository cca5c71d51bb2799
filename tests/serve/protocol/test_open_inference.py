"""The Open Inference Protocol, used with tritonclient and with the generated stub."""

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from unfreeze.contract.images.preprocess import prepare
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.serve.client.local import LocalClassifier

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture(scope="module")
def stub(target: str) -> Iterator[GRPCInferenceServiceStub]:
    """The generated stub, connected to the shared server."""
    with grpc.insecure_channel(target) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def expected(published: Published, images: list[bytes]) -> np.ndarray:
    """The probabilities computed in-process."""
    with LocalClassifier(published.path) as local:
        return local.probabilities(images)


def test_tritonclient_gets_the_same_probabilities(
    target: str, published: Published, images: list[bytes], expected: np.ndarray, tmp_path: Path
) -> None:
    """Unmodified tritonclient, in a process without unfreeze, reads the metadata and gets the in-process results."""
    files = [tmp_path / str(number) for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    script = Path(__file__).parent / "triton_session.py"
    done = subprocess.run(
        [sys.executable, script, target, "colors", *files], capture_output=True, text=True, check=True
    )
    results = json.loads(done.stdout)
    assert (results["live"], results["ready"], results["model_ready"], results["unknown_ready"]) == (True,) * 3 + (
        False,
    )
    assert results["server"]["name"] == "unfreeze"
    assert results["colors"]["metadata"]["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": ["-1", "32", "32", "3"]}
    ]
    assert results["colors.encoded"]["metadata"]["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": ["-1", "1"]}
    ]
    for name in ("colors", "colors.encoded"):
        assert results[name]["metadata"]["outputs"] == [
            {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]}
        ]
        assert results[name]["config"]["max_batch_size"] == published.manifest.max_batch
    np.testing.assert_allclose(results["encoded 1"], expected, atol=1e-5)
    np.testing.assert_allclose(results["encoded 2"], expected, atol=1e-5)
    assert results["id"] == "seven"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with LocalClassifier(published.path) as local:
        np.testing.assert_allclose(results["pixels"], local._runtime.run(pixels), atol=1e-5)
    assert results["error"][0] == "StatusCode.NOT_FOUND"
    assert "unknown model 'unknown'; loaded models: colors" in results["error"][1]


def test_model_config_equals_config_pbtxt(stub: GRPCInferenceServiceStub, published: Published) -> None:
    """ModelConfig returns what Triton reads from the repository, except for Triton's instance and warm-up settings."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    served = stub.ModelConfig(pb.ModelConfigRequest(name="colors")).config
    converted = model_config_pb2.ModelConfig.FromString(served.SerializeToString())
    converted.ClearField("platform")
    written = text_format.Parse(
        (published.path.parents[1] / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    written.ClearField("instance_group")
    written.ClearField("model_warmup")
    assert converted == written


def test_messages_coexist_with_those_of_tritonclient() -> None:
    """Both can be imported in one process, in either order, and are compatible."""
    ours, theirs = "from unfreeze.protos import open_inference_pb2_grpc", "import tritonclient.grpc"
    use = (
        "from unfreeze.protos import open_inference_pb2 as a; from tritonclient.grpc import service_pb2 as b; "
        "m = b.ModelInferRequest(model_name='x', raw_input_contents=[b'1']); "
        "assert a.ModelInferRequest.FromString(m.SerializeToString()).raw_input_contents == [b'1']"
    )
    for first, second in ((ours, theirs), (theirs, ours)):
        subprocess.run([sys.executable, "-c", f"{first}; {second}; {use}"], check=True)


def _pixels_request(pixels: np.ndarray) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="colors", raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
    return request


def _encoded_request(images: list[bytes]) -> pb.ModelInferRequest:
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    request = pb.ModelInferRequest(model_name="colors.encoded", raw_input_contents=[raw])
    request.inputs.add(name="image", datatype="BYTES", shape=[len(images)])
    return request


def _probabilities(response: pb.ModelInferResponse) -> np.ndarray:
    assert [output.name for output in response.outputs] == ["probabilities"]
    assert not response.outputs[0].HasField("contents")
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)


def test_raw_and_typed_contents_give_the_same_result(
    stub: GRPCInferenceServiceStub, published: Published, images: list[bytes], expected: np.ndarray
) -> None:
    """Pixels and encoded images, raw and typed, all give the in-process result, always in raw contents."""
    pixels = np.stack([prepare(image, published.manifest.preprocess) for image in images])
    typed_pixels = _pixels_request(pixels)
    typed_pixels.inputs[0].contents.uint_contents.extend(pixels.ravel().tolist())
    typed_encoded = _encoded_request(images)
    typed_encoded.inputs[0].contents.bytes_contents.extend(images)
    del typed_pixels.raw_input_contents[:], typed_encoded.raw_input_contents[:]
    for request in (_pixels_request(pixels), typed_pixels, _encoded_request(images), typed_encoded):
        np.testing.assert_allclose(_probabilities(stub.ModelInfer(request)), expected, atol=1e-5)


def test_requests_larger_than_a_batch_are_split(
    stub: GRPCInferenceServiceStub, published: Published, images: list[bytes], expected: np.ndarray
) -> None:
    """A request with more images than the maximum batch size returns all results in order."""
    many = images * 12
    assert len(many) > published.manifest.max_batch
    np.testing.assert_allclose(
        _probabilities(stub.ModelInfer(_encoded_request(many))), np.tile(expected, (12, 1)), atol=1e-5
    )


BLANK = np.zeros((1, 32, 32, 3), np.uint8)
Change = Callable[[pb.ModelInferRequest], object]


def _set(path: str, value: object) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        target = request.inputs[0] if path.startswith("input.") else request
        field = path.removeprefix("input.")
        if isinstance(value, list):
            del getattr(target, field)[:]
            getattr(target, field).extend(value)
        else:
            setattr(target, field, value)

    return change


INVALID = [
    (_set("input.name", "image"), "expects one input named 'pixels', got ['image']"),
    (_set("input.datatype", "FP32"), "input 'pixels' must have datatype UINT8, got 'FP32'"),
    (_set("input.shape", [1, 3, 32, 32]), "input 'pixels' must have shape [N, 32, 32, 3], got [1, 3, 32, 32]"),
    (_set("input.shape", [32, 32, 3]), "got [32, 32, 3]"),
    (_set("input.shape", [0, 32, 32, 3]), "got [0, 32, 32, 3]"),
    (_set("input.shape", [-1, 32, 32, 3]), "got [-1, 32, 32, 3]"),
    (_set("input.shape", [1000, 32, 32, 3]), "has 3,072 bytes, but its shape requires 3,072,000"),
    (_set("input.shape", [2**40, 32, 32, 3]), "the request has 1,099,511,627,776 images, but at most 1,024 may"),
    (_set("raw_input_contents", [b"short"]), "input 'pixels' has 5 bytes, but its shape requires 3,072"),
    (_set("raw_input_contents", []), "input 'pixels' has 0 uint_contents"),
    (_set("raw_input_contents", [b"", b""]), "got 2 raw entries"),
    (
        lambda request: request.inputs[0].contents.uint_contents.append(1),
        "either raw, with one entry per input, or typed",
    ),
    (lambda request: request.inputs.add(name="more"), "expects one input"),
    (
        lambda request: request.outputs.add(name="logits"),
        "the output of the model is 'probabilities'; 'logits' was requested",
    ),
    (
        lambda request: request.inputs[0].parameters["shared_memory_region"].__setattr__("string_param", "x"),
        "needs the name of the shared_memory_region and a positive shared_memory_byte_size",
    ),
    (_set("model_name", ""), "the request has no model name"),
]


@pytest.mark.parametrize(("change", "message"), INVALID, ids=[message[:40] for _, message in INVALID])
def test_rejects_invalid_requests(change: Change, message: str, stub: GRPCInferenceServiceStub) -> None:
    """Each invalid request fails with INVALID_ARGUMENT and a message with the found and the expected value."""
    request = _pixels_request(BLANK)
    change(request)
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(request)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in failed.value.details()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x05\0\0\0abc", "element 1 of input 'image' is truncated"),
        (b"\x03", "element 1 of input 'image' is truncated"),
        (b"\xff\xff\xff\xffabc", "element 1 of input 'image' is truncated"),
        (b"", "input 'image' has 0 elements, but its shape requires 1"),
        (b"\0\0\0\0\0\0\0\0", "input 'image' has 2 elements, but its shape requires 1"),
        (b"\0\0\0\0", "image 1 of 1: the image is empty"),
    ],
)
def test_rejects_invalid_bytes_elements(raw: bytes, message: str, stub: GRPCInferenceServiceStub) -> None:
    """BYTES contents with inconsistent lengths fail with INVALID_ARGUMENT."""
    request = _encoded_request([b"x"])
    request.raw_input_contents[0] = raw
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(request)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in failed.value.details()


@pytest.mark.parametrize("call", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(("name", "version"), [("unknown", ""), ("unknown.encoded", ""), ("colors", "9"), ("../x", "")])
def test_unknown_models_and_versions_are_not_found(
    call: str, name: str, version: str, stub: GRPCInferenceServiceStub
) -> None:
    """Metadata and configuration of an unknown model or version fail with NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as failed:
        getattr(stub, call)(getattr(pb, f"{call}Request")(name=name, version=version))
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND


def test_many_empty_elements_do_not_block_other_requests(stub: GRPCInferenceServiceStub) -> None:
    """A request with fifteen million elements instead of one is rejected while other requests are served."""
    request = _encoded_request([b"x"])
    request.raw_input_contents[0] = bytes(60 * 2**20)
    call = stub.ModelInfer.future(request)
    while not call.done():
        started = time.monotonic()
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert time.monotonic() - started < 2
    assert "input 'image' has 2 elements, but its shape requires 1" in call.exception().details()


def test_suffix_alone_is_not_a_model_name(stub: GRPCInferenceServiceStub) -> None:
    """The name `.encoded` does not refer to the only model."""
    assert not stub.ModelReady(pb.ModelReadyRequest(name=".encoded")).ready


def test_rejects_messages_above_the_size_limit(stub: GRPCInferenceServiceStub) -> None:
    """A larger message fails with RESOURCE_EXHAUSTED, and later requests succeed."""
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(_pixels_request(np.zeros((65 * 2**20 // 3072, 32, 32, 3), np.uint8)))
    assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ServerLive(pb.ServerLiveRequest()).live

"""The Open Inference Protocol, asked by NVIDIA's own client and by hand."""

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.servers import RunningServer

from unfreeze.contract.images.preprocess import prepare
from unfreeze.export.run import Published
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.serve.client.local import LocalClassifier


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> GRPCInferenceServiceStub:
    """Our own generated client."""
    with grpc.insecure_channel(server.target) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def expected(published: Published, images: list[bytes]) -> np.ndarray:
    """What the model gives in this process."""
    with LocalClassifier(published.path) as local:
        return local.probabilities(images)


def test_unmodified_tritonclient_gets_the_same_answers(
    server: RunningServer, published: Published, images: list[bytes], expected: np.ndarray, tmp_path: Path
) -> None:
    """tritonclient, in a process of its own, reads metadata and configuration and gets the in-process answers."""
    files = [tmp_path / str(number) for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    script = Path(__file__).parents[1] / "triton_session.py"
    done = subprocess.run(
        [sys.executable, script, server.target, "colors", *files], capture_output=True, text=True, check=True
    )
    answers = json.loads(done.stdout)
    assert (answers["live"], answers["ready"], answers["model_ready"], answers["nobody_ready"]) == (True,) * 3 + (
        False,
    )
    assert answers["server"]["name"] == "unfreeze"
    assert answers["colors"]["metadata"]["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": ["-1", "32", "32", "3"]}
    ]
    assert answers["colors.encoded"]["metadata"]["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": ["-1", "1"]}
    ]
    for name in ("colors", "colors.encoded"):
        assert answers[name]["metadata"]["outputs"] == [
            {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]}
        ]
        assert answers[name]["config"]["max_batch_size"] == published.manifest.max_batch
    np.testing.assert_allclose(answers["encoded 1"], expected, atol=1e-5)
    np.testing.assert_allclose(answers["encoded 2"], expected, atol=1e-5)
    assert answers["id"] == "seven"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with LocalClassifier(published.path) as local:
        np.testing.assert_allclose(answers["pixels"], local._runtime.run(pixels), atol=1e-5)
    assert answers["refused"][0] == "StatusCode.NOT_FOUND"
    assert "there is no model 'nobody'; there are: colors" in answers["refused"][1]


def test_config_equals_the_folders_config_pbtxt(stub: GRPCInferenceServiceStub, published: Published) -> None:
    """ModelConfig says what Triton reads from the repository, in its own schema, but for how Triton is to start it."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    served = stub.ModelConfig(pb.ModelConfigRequest(name="colors")).config
    ours = model_config_pb2.ModelConfig.FromString(served.SerializeToString())
    ours.ClearField("platform")
    written = text_format.Parse(
        (published.path.parents[1] / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    written.ClearField("instance_group")
    written.ClearField("model_warmup")
    assert ours == written


def test_our_messages_and_tritonclients_live_in_one_process() -> None:
    """Importing both, in either order, does not clash in protobuf's pool, and both still speak."""
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


def _answer(response: pb.ModelInferResponse) -> np.ndarray:
    assert [output.name for output in response.outputs] == ["probabilities"]
    assert not response.outputs[0].HasField("contents")
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)


def test_raw_and_typed_contents_give_the_same_answer(
    stub: GRPCInferenceServiceStub, published: Published, images: list[bytes], expected: np.ndarray
) -> None:
    """Pixels and encoded images, raw and typed, all give the in-process answer, always in raw contents."""
    pixels = np.stack([prepare(image, published.manifest.preprocess) for image in images])
    typed_pixels = _pixels_request(pixels)
    typed_pixels.inputs[0].contents.uint_contents.extend(pixels.ravel().tolist())
    typed_encoded = _encoded_request(images)
    typed_encoded.inputs[0].contents.bytes_contents.extend(images)
    del typed_pixels.raw_input_contents[:], typed_encoded.raw_input_contents[:]
    for request in (_pixels_request(pixels), typed_pixels, _encoded_request(images), typed_encoded):
        np.testing.assert_allclose(_answer(stub.ModelInfer(request)), expected, atol=1e-5)


def test_more_images_than_a_batch_holds_are_answered_in_order(
    stub: GRPCInferenceServiceStub, published: Published, images: list[bytes], expected: np.ndarray
) -> None:
    """A request of more images than the largest batch is split and put together again."""
    many = images * 12
    assert len(many) > published.manifest.max_batch
    np.testing.assert_allclose(_answer(stub.ModelInfer(_encoded_request(many))), np.tile(expected, (12, 1)), atol=1e-5)


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
    (_set("input.name", "image"), "takes one input, 'pixels', found ['image']"),
    (_set("input.datatype", "FP32"), "pixels is of type UINT8, found 'FP32'"),
    (_set("input.shape", [1, 3, 32, 32]), "pixels has the shape [N, 32, 32, 3], found [1, 3, 32, 32]"),
    (_set("input.shape", [32, 32, 3]), "found [32, 32, 3]"),
    (_set("input.shape", [0, 32, 32, 3]), "found [0, 32, 32, 3]"),
    (_set("input.shape", [-1, 32, 32, 3]), "found [-1, 32, 32, 3]"),
    (_set("input.shape", [1000, 32, 32, 3]), "holds 3,072 bytes; its shape asks for 3,072,000"),
    (_set("input.shape", [2**40, 32, 32, 3]), "the request holds 1,099,511,627,776 images; no more than 1,024 may"),
    (_set("raw_input_contents", [b"short"]), "pixels holds 5 bytes; its shape asks for 3,072"),
    (_set("raw_input_contents", []), "pixels holds 0 uint_contents"),
    (_set("raw_input_contents", [b"", b""]), "found 2 raw entries"),
    (lambda request: request.inputs[0].contents.uint_contents.append(1), "either raw, one entry per input, or typed"),
    (lambda request: request.inputs.add(name="more"), "takes one input"),
    (lambda request: request.outputs.add(name="logits"), "the one output is 'probabilities', found 'logits'"),
    (
        lambda request: request.inputs[0].parameters["shared_memory_region"].__setattr__("string_param", "x"),
        "no shared",
    ),
    (_set("model_name", ""), "names no model"),
]


@pytest.mark.parametrize(("change", "message"), INVALID, ids=[message[:40] for _, message in INVALID])
def test_wrong_requests_are_invalid_and_say_why(change: Change, message: str, stub: GRPCInferenceServiceStub) -> None:
    """Each way to get a request wrong is INVALID_ARGUMENT with what was found and expected."""
    request = _pixels_request(BLANK)
    change(request)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x05\0\0\0abc", "element 1 of image does not end within the contents"),
        (b"\x03", "element 1 of image does not end within the contents"),
        (b"\xff\xff\xff\xffabc", "element 1 of image does not end within the contents"),
        (b"", "image holds 0 elements; its shape asks for 1"),
        (b"\0\0\0\0\0\0\0\0", "image holds 2 elements; its shape asks for 1"),
        (b"\0\0\0\0", "image 1 of 1: the image is empty"),
    ],
)
def test_wrong_elements_are_invalid_and_say_why(raw: bytes, message: str, stub: GRPCInferenceServiceStub) -> None:
    """BYTES contents that do not add up are INVALID_ARGUMENT, whatever their lengths claim."""
    request = _encoded_request([b"x"])
    request.raw_input_contents[0] = raw
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.details()


@pytest.mark.parametrize("call", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(("name", "version"), [("nobody", ""), ("nobody.encoded", ""), ("colors", "9"), ("../x", "")])
def test_unknown_models_and_versions_are_not_found(
    call: str, name: str, version: str, stub: GRPCInferenceServiceStub
) -> None:
    """Asking for what is not there is NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, call)(getattr(pb, f"{call}Request")(name=name, version=version))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_request_of_countless_empty_elements_holds_nobody_up(stub: GRPCInferenceServiceStub) -> None:
    """Fifteen million empty elements where one is announced: refused at once, and others are answered meanwhile."""
    request = _encoded_request([b"x"])
    request.raw_input_contents[0] = bytes(60 * 2**20)
    refused = stub.ModelInfer.future(request)
    while not refused.done():
        started = time.monotonic()
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert time.monotonic() - started < 2
    assert "image holds 2 elements; its shape asks for 1" in refused.exception().details()


def test_the_suffix_alone_is_no_model(stub: GRPCInferenceServiceStub) -> None:
    """The name ".encoded" does not stand for the only model."""
    assert not stub.ModelReady(pb.ModelReadyRequest(name=".encoded")).ready


def test_too_large_a_message_is_refused(stub: GRPCInferenceServiceStub) -> None:
    """A message above the limit is RESOURCE_EXHAUSTED and the server lives on."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(_pixels_request(np.zeros((65 * 2**20 // 3072, 32, 32, 3), np.uint8)))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ServerLive(pb.ServerLiveRequest()).live

"""Which answers are below the model's threshold: by both gRPC services, compared with in-process prediction."""

import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from unfreeze.contract.images.preprocess import prepare
from unfreeze.export.run import Published
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def stub(careful_server: Server) -> Iterator[ClassifierStub]:
    """The generated stub of our own service."""
    with grpc.insecure_channel(f"127.0.0.1:{careful_server.port}") as channel:
        yield ClassifierStub(channel)


@pytest.fixture(scope="module")
def client(careful_server: Server) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's client."""
    with triton.InferenceServerClient(f"127.0.0.1:{careful_server.port}") as connected:
        yield connected


@pytest.fixture(scope="module")
def encoded(images: list[bytes]) -> triton.InferInput:
    """The images, as they are."""
    given = triton.InferInput("image", [len(images), 1], "BYTES")
    given.set_data_from_numpy(np.array(images, object)[:, None])
    return given


def _outputs(*names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def _names(result: triton.InferResult) -> list[str]:
    return [output.name for output in result.get_response().outputs]


def test_predictions_are_marked_in_unary_calls_and_streams(
    stub: ClassifierStub, images: list[bytes], unsure: list[bool]
) -> None:
    """Whatever the number of labels; of a model without threshold, nothing is said."""
    response = stub.Predict(pb.PredictRequest(model="careful", images=images, top_k=1))
    assert [one.HasField("unsure") and one.unsure for one in response.predictions] == unsure
    assert all(one.HasField("unsure") for one in response.predictions)
    requests = (pb.PredictRequest(model="careful", images=[image]) for image in images)
    streamed = [one.response.predictions[0] for one in stub.PredictStream(requests)]
    assert [(one.HasField("unsure"), one.unsure) for one in streamed] == [(True, mark) for mark in unsure]
    without = stub.Predict(pb.PredictRequest(model="colors", images=images))
    assert not any(one.HasField("unsure") for one in without.predictions)


def test_metadata_and_configuration_list_the_output_for_encoded_images(
    client: triton.InferenceServerClient, careful: Path
) -> None:
    """Only with a threshold; the other name lists what Triton does, whose image_client.py refuses two outputs."""
    listed = {
        name: [(one.name, one.datatype, list(one.shape)) for one in client.get_model_metadata(name).outputs]
        for name in ("careful.encoded", "careful", "colors.encoded")
    }
    scores = ("probabilities", "FP32", [-1, 3])
    assert listed == {
        "careful.encoded": [scores, ("unsure", "BOOL", [-1])],
        "careful": [scores],
        "colors.encoded": [scores],
    }
    types = model_config_pb2.DataType
    _, configured = client.get_model_config("careful.encoded").config.output
    assert (configured.name, configured.data_type, list(configured.dims)) == ("unsure", types.Value("TYPE_BOOL"), [])
    assert len(client.get_model_config("colors.encoded").config.output) == 1
    written = text_format.Parse((careful.parents[1] / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert list(client.get_model_config("careful").config.output) == list(written.output)


@pytest.mark.parametrize(
    ("requested", "returned"),
    [
        ((), ["probabilities", "unsure"]),
        (("probabilities",), ["probabilities"]),
        (("unsure",), ["unsure"]),
        (("unsure", "probabilities"), ["unsure", "probabilities"]),
        (("probabilities", "unsure"), ["probabilities", "unsure"]),
    ],
)
def test_the_requested_outputs_are_returned_in_their_order(
    client: triton.InferenceServerClient,
    encoded: triton.InferInput,
    unsure: list[bool],
    probabilities: np.ndarray,
    requested: Sequence[str],
    returned: list[str],
) -> None:
    """All of them if none is requested; their raw contents in the same order, with a byte for each image."""
    result = client.infer("careful.encoded", [encoded], outputs=_outputs(*requested))
    assert _names(result) == returned
    response = result.get_response()
    sizes = {"probabilities": probabilities.size * 4, "unsure": len(unsure)}
    assert [len(raw) for raw in response.raw_output_contents] == [sizes[name] for name in returned]
    if "unsure" in returned:
        found = result.as_numpy("unsure")
        assert (found.dtype, found.tolist()) == (np.bool_, unsure)
    if "probabilities" in returned:
        np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, atol=1e-5)


def test_prepared_pixels_are_marked_if_it_is_requested(
    client: triton.InferenceServerClient, published: Published, images: list[bytes], unsure: list[bool]
) -> None:
    """A request that names no output gets what Triton returns."""
    pixels = np.stack([prepare(image, published.manifest.preprocess) for image in images])
    given = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    assert _names(client.infer("careful", [given])) == ["probabilities"]
    result = client.infer("careful", [given], outputs=_outputs("unsure"))
    assert _names(result) == ["unsure"]
    assert result.as_numpy("unsure").tolist() == unsure


def test_class_strings_and_marks_are_returned_together(
    client: triton.InferenceServerClient, encoded: triton.InferInput, unsure: list[bool], probabilities: np.ndarray
) -> None:
    """The classification extension applies to the probabilities alone; also in a stream."""
    wanted = [*_outputs("unsure"), triton.InferRequestedOutput("probabilities", class_count=1)]
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: responses.put((result, error)))
    client.async_stream_infer("careful.encoded", [encoded], outputs=wanted)
    streamed, error = responses.get(timeout=TIMEOUT_S)
    client.stop_stream()
    assert error is None
    for result in (client.infer("careful.encoded", [encoded], outputs=wanted), streamed):
        assert result.as_numpy("unsure").tolist() == unsure
        classes = [int(text.decode().split(":")[1]) for (text,) in result.as_numpy("probabilities")]
        assert classes == probabilities.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("model", "outputs", "message"),
    [
        ("colors", _outputs("unsure"), "the model has no output 'unsure', because it has no confidence threshold"),
        (
            "colors",
            _outputs("probabilities", "unsure"),
            "request 'probabilities' only, or serve a model that was tuned",
        ),
        ("colors", _outputs("x"), "the output of the model is 'probabilities'; 'x' was requested"),
        ("careful", _outputs("x"), "the outputs of the model are 'probabilities' and 'unsure'; 'x' was requested"),
        (
            "careful",
            [triton.InferRequestedOutput("unsure", class_count=1)],
            "classification applies to the output 'probabilities' only, not to 'unsure'",
        ),
        ("careful", _outputs("unsure", "unsure"), "the output 'unsure' was requested twice"),
        ("careful", _outputs("probabilities", "unsure", "x", "y", "z"), "a model has at most 4 outputs"),
    ],
)
def test_outputs_that_do_not_exist_are_refused(
    client: triton.InferenceServerClient, encoded: triton.InferInput, model: str, outputs: list[Any], message: str
) -> None:
    """With INVALID_ARGUMENT, and what may be requested."""
    with pytest.raises(InferenceServerException) as failed:
        client.infer(f"{model}.encoded", [encoded], outputs=outputs)
    assert failed.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in failed.value.message()

"""The Open Inference Protocol over HTTP, by the unmodified `tritonclient.http` and by hand."""

import base64
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from support.http import Answer, call
from support.servers import server_in_thread
from tritonclient.utils import InferenceServerException

from unfreeze.contract.images.preprocess import prepare
from unfreeze.export.run import Published
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")


def _client(server: Server) -> triton.InferenceServerClient:
    assert server.http is not None
    return triton.InferenceServerClient(f"127.0.0.1:{server.http.port}")


def _scores(server: Server, images: list[bytes]) -> np.ndarray:
    """What gRPC answers: [N, 3], in the order of the labels."""
    with Client(f"127.0.0.1:{server.port}") as client:
        answers = client.predict(images)
    return np.array([[one.score for one in sorted(answer, key=lambda one: one.index)] for answer in answers])


def test_health_and_metadata_are_those_of_grpc(http: Server) -> None:
    """As tritonclient reads them."""
    client = _client(http)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colors")
    assert client.is_model_ready("colors.encoded", "1")
    assert not client.is_model_ready("unknown")
    assert not client.is_model_ready("colors", "7")
    assert client.get_server_metadata()["name"] == "unfreeze"
    metadata = client.get_model_metadata("colors")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
    config = client.get_model_config("colors.encoded")
    assert config["max_batch_size"] == 64
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert client.get_model_repository_index() == [{"name": "colors", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("answered_binary", [True, False])
def test_pixels_are_classified_as_over_grpc(
    http: Server, published: Published, images: list[bytes], *, sent_binary: bool, answered_binary: bool
) -> None:
    """In both encodings of requests and of answers."""
    pixels = np.stack([prepare(image, published.manifest.preprocess) for image in images])
    given = triton.InferInput("pixels", pixels.shape, "UINT8")
    given.set_data_from_numpy(pixels, binary_data=sent_binary)
    wanted = triton.InferRequestedOutput("probabilities", binary_data=answered_binary)
    answer = _client(http).infer("colors", [given], outputs=[wanted], request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_version"] == "1"
    np.testing.assert_allclose(answer.as_numpy("probabilities"), _scores(http, images), atol=1e-6)


def test_encoded_images_are_classified_as_over_grpc(http: Server, images: list[bytes]) -> None:
    """Binary, in base64, with the classification extension, and asynchronously."""
    client, expected = _client(http), _scores(http, images)
    given = triton.InferInput("image", [len(images), 1], "BYTES")
    given.set_data_from_numpy(np.array(images, object)[:, None])
    answer = client.infer("colors.encoded", [given])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, atol=1e-6)
    waiting = [client.async_infer("colors.encoded", [given]) for _ in range(3)]
    for one in waiting:
        np.testing.assert_allclose(one.get_result().as_numpy("probabilities"), expected, atol=1e-6)
    for binary in (True, False):
        top = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
        found = client.infer("colors.encoded", [given], outputs=[top]).as_numpy("probabilities")
        assert found.shape == (len(images), 2)
        first = [one.decode() if isinstance(one, bytes) else one for one in found[:, 0]]
        assert [int(text.split(":")[1]) for text in first] == expected.argmax(1).tolist()
    tensor = {
        "name": "image",
        "shape": [len(images)],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode() for image in images],
    }
    by_hand = call(http, "/v2/models/colors.encoded/infer", json.dumps({"inputs": [tensor]}).encode())
    assert by_hand.status == 200
    output = by_hand.json["outputs"][0]
    assert output["shape"] == [len(images), 3]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, atol=1e-6)


@pytest.mark.parametrize("marks_binary", [True, False])
@pytest.mark.parametrize("scores_binary", [True, False])
def test_each_output_has_its_own_encoding(
    careful_server: Server,
    images: list[bytes],
    unsure: list[bool],
    probabilities: np.ndarray,
    *,
    marks_binary: bool,
    scores_binary: bool,
) -> None:
    """The output `unsure` before the probabilities, as requested."""
    given = triton.InferInput("image", [len(images), 1], "BYTES")
    given.set_data_from_numpy(np.array(images, object)[:, None])
    wanted = [
        triton.InferRequestedOutput("unsure", binary_data=marks_binary),
        triton.InferRequestedOutput("probabilities", binary_data=scores_binary),
    ]
    answer = _client(careful_server).infer("careful.encoded", [given], outputs=wanted)
    outputs = answer.get_response()["outputs"]
    assert [(one["name"], one["datatype"], one["shape"]) for one in outputs] == [
        ("unsure", "BOOL", [len(images)]),
        ("probabilities", "FP32", [len(images), 3]),
    ]
    assert ["data" not in one for one in outputs] == [marks_binary, scores_binary]
    assert answer.as_numpy("unsure").dtype == np.bool_
    assert answer.as_numpy("unsure").tolist() == unsure
    np.testing.assert_allclose(answer.as_numpy("probabilities"), probabilities, atol=1e-5)


def test_outputs_that_are_not_named_are_all_returned(
    careful_server: Server, images: list[bytes], unsure: list[bool], probabilities: np.ndarray
) -> None:
    """As metadata and configuration list them: to tritonclient in binary, by hand in JSON."""
    client = _client(careful_server)
    listed = client.get_model_metadata("careful.encoded")["outputs"]
    assert listed[1] == {"name": "unsure", "datatype": "BOOL", "shape": [-1]}
    configured = client.get_model_config("careful.encoded")["output"]
    assert [(one["name"], one["data_type"], one["dims"]) for one in configured] == [
        ("probabilities", "TYPE_FP32", [3]),
        ("unsure", "TYPE_BOOL", []),
    ]
    given = triton.InferInput("image", [len(images), 1], "BYTES")
    given.set_data_from_numpy(np.array(images, object)[:, None])
    answer = client.infer("careful.encoded", [given])
    assert [one["name"] for one in answer.get_response()["outputs"]] == ["probabilities", "unsure"]
    assert answer.as_numpy("unsure").tolist() == unsure
    np.testing.assert_allclose(answer.as_numpy("probabilities"), probabilities, atol=1e-5)
    tensor = {
        "name": "image",
        "shape": [len(images)],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode() for image in images],
    }
    document = json.dumps({"inputs": [tensor]}).encode()
    outputs = call(careful_server, "/v2/models/careful.encoded/infer", document).json["outputs"]
    assert outputs[1] == {"name": "unsure", "datatype": "BOOL", "shape": [len(images)], "data": unsure}
    assert {type(mark) for mark in outputs[1]["data"]} == {bool}, "numbers are equal, but no JSON booleans"
    wanted = [triton.InferRequestedOutput("unsure")]
    with pytest.raises(InferenceServerException, match="no confidence threshold"):
        client.infer("colors.encoded", [given], outputs=wanted)


def test_errors_are_those_of_grpc(http: Server, images: list[bytes]) -> None:
    """With the status that belongs to each."""
    client = _client(http)
    given = triton.InferInput("image", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"no image"]], object))
    with pytest.raises(InferenceServerException, match="not an image in a supported format"):
        client.infer("colors.encoded", [given])
    given.set_data_from_numpy(np.array([[images[0]]], object))
    with pytest.raises(InferenceServerException, match="unknown model 'unknown'"):
        client.infer("unknown", [given])
    with pytest.raises(InferenceServerException, match="expects one input named 'pixels'"):
        client.infer("colors", [given])
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer("colors.encoded", [given], timeout=1)


PIXELS = {"name": "pixels", "shape": [1, 32, 32, 3], "datatype": "UINT8"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "the request must be an object"),
        ({"inputs": {}}, "'inputs' must be a list"),
        ({"inputs": [1]}, "each of 'inputs' must be an object"),
        ({"inputs": [{}] * 17}, "17 tensors; at most 16"),
        ({"inputs": []}, "expects one input named 'pixels'"),
        ({"id": 5}, "'id' must be text"),
        ({"id": "\ud800"}, "valid Unicode"),
        ({"parameters": {"\ud800": 1}}, "valid Unicode"),
        ({"parameters": {"timeout": [1]}}, "'timeout' must be a boolean"),
        ({"parameters": {"timeout": 2**70}}, "'timeout' must be a boolean"),
        ({"inputs": [PIXELS | {"shape": [1] * 9}]}, "at most 8 sizes"),
        ({"inputs": [PIXELS | {"shape": [-1, 32, 32, 3]}]}, "shape must have"),
        ({"inputs": [PIXELS | {"shape": [True, 32, 32, 3]}]}, "shape must have"),
        ({"inputs": [PIXELS | {"data": [1, 2]}]}, "has 2 values, but its shape requires 3,072"),
        ({"inputs": [PIXELS | {"data": [256] * 3072}]}, "from 0 to 255"),
        ({"inputs": [PIXELS | {"data": [0.5] * 3072}]}, "from 0 to 255"),
        ({"inputs": [PIXELS | {"data": [[1], 2]}]}, "ragged"),
        ({"inputs": [PIXELS | {"parameters": {"binary_data_size": 5}}]}, "but 0 bytes are left"),
        ({"inputs": [PIXELS | {"parameters": {"binary_data_size": 0}, "data": []}]}, "both data and binary_data_size"),
        ({"inputs": [PIXELS | {"parameters": {"shared_memory_region": "a"}, "data": [0] * 3072}]}, "shared memory"),
        ({"inputs": [PIXELS | {"data": [0] * 3072}], "outputs": [{"name": "x"}]}, "output of the model is"),
    ],
)
def test_malformed_requests_are_refused(http: Server, document: Any, message: str) -> None:
    """With 400, and what is wrong."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    answer = call(http, "/v2/models/colors/infer", body)
    assert answer.status == 400
    assert message in answer.json["error"]


@pytest.mark.parametrize("length", ["-1", "0", "x", "99999", "٣"])
def test_a_wrong_length_of_the_json_is_refused(http: Server, length: str) -> None:
    """Also if it is no number."""
    answer = call(
        http, "/v2/models/colors/infer", b"{}", {"Inference-Header-Content-Length": length.encode().decode("latin-1")}
    )
    assert answer.status == 400


def test_bytes_that_belong_to_no_input_are_refused(http: Server) -> None:
    """Instead of being ignored."""
    answer = call(http, "/v2/models/colors/infer", b'{"inputs": []}abc', {"Inference-Header-Content-Length": "14"})
    assert answer.status == 400
    assert "3 bytes follow the JSON" in answer.json["error"]


def test_large_json_is_refused_but_not_large_tensors(http: Server) -> None:
    """Parsed JSON takes many times its size."""
    large = json.dumps({"inputs": [PIXELS | {"data": [[]] * 1_500_000}]}).encode()
    answer = call(http, "/v2/models/colors/infer", large)
    assert answer.status == 400
    assert "send tensors as binary data" in answer.json["error"]
    count = 1000
    pixels = np.zeros((count, 32, 32, 3), np.uint8)
    given = triton.InferInput("pixels", pixels.shape, "UINT8")
    given.set_data_from_numpy(pixels)
    assert _client(http).infer("colors", [given]).as_numpy("probabilities").shape == (count, 3)


def test_models_are_loaded_and_unloaded(published: Published) -> None:
    """Only with --admin; statistics count what was classified."""
    repository = published.path.parents[2]
    with server_in_thread(repository, http=0, poll_s=0.0) as server:
        client = _client(server)
        client.unload_model("colors")
        assert not client.is_model_ready("colors")
        client.load_model("colors")
        assert client.is_model_ready("colors")
        assert client.get_inference_statistics("colors")["model_stats"][0]["inference_count"] == 0
        assert _refused(call(server, "/v2/repository/models/colors/load", b'{"parameters": {"config": "{}"}}'), 400)
    with server_in_thread(repository, http=0, admin=False) as server:
        with pytest.raises(InferenceServerException, match="--no-admin"):
            _client(server).unload_model("colors")
        assert _refused(call(server, "/v2/repository/models/colors/unload", b""), 403)


def _refused(answer: Answer, status: int) -> bool:
    return answer.status == status and bool(answer.json["error"])

"""The calls of NVIDIA's example programs `image_client.py` and `grpc_image_client.py`, with unmodified tritonclient.

Both programs read the model's metadata and configuration, stop if the input format is neither NHWC nor NCHW, and
request a classification output.
"""

import io
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from unfreeze.export.run import Published
from unfreeze.serve.client.local import LocalClassifier

pytestmark = pytest.mark.xdist_group("serve")

MODEL = "colors"
TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What the example programs read from the metadata and the configuration."""

    max_batch_size: int
    input_name: str
    output_name: str
    height: int
    width: int
    channels: int
    channels_last: bool
    datatype: str


def parse_model(metadata: Any, config: Any) -> ModelInfo:
    """Apply the checks of the example programs."""
    assert (len(metadata.inputs), len(metadata.outputs), len(config.input)) == (1, 1, 1)
    input_, output = metadata.inputs[0], metadata.outputs[0]
    assert output.datatype == "FP32"
    batch_dims = 1 if config.max_batch_size > 0 else 0
    assert sum(size > 1 for size in output.shape[batch_dims:]) <= 1, "the output must be a vector"
    assert len(input_.shape) == 3 + batch_dims
    model_input = config.input[0]
    formats = {model_input.FORMAT_NHWC: True, model_input.FORMAT_NCHW: False}
    assert model_input.format in formats, f"expecting FORMAT_NCHW or FORMAT_NHWC, got {model_input.format}"
    channels_last = formats[model_input.format]
    first, second, third = input_.shape[batch_dims:]
    height, width, channels = (first, second, third) if channels_last else (second, third, first)
    return ModelInfo(
        max_batch_size=config.max_batch_size,
        input_name=input_.name,
        output_name=output.name,
        height=height,
        width=width,
        channels=channels,
        channels_last=channels_last,
        datatype=input_.datatype,
    )


def preprocess(encoded: bytes, info: ModelInfo) -> np.ndarray:
    """Resize an image to the size of the model's input, without scaling its values."""
    assert info.channels == 3
    resized = (
        Image.open(io.BytesIO(encoded)).convert("RGB").resize((info.width, info.height), Image.Resampling.BILINEAR)
    )
    pixels = np.asarray(resized).astype(triton_to_np_dtype(info.datatype))
    return pixels if info.channels_last else pixels.transpose(2, 0, 1)


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's client."""
    with triton.InferenceServerClient(target) as connected:
        yield connected


@pytest.fixture(scope="module")
def info(client: triton.InferenceServerClient) -> ModelInfo:
    """The parsed metadata and configuration."""
    return parse_model(client.get_model_metadata(MODEL), client.get_model_config(MODEL).config)


@pytest.fixture(scope="module")
def batches(info: ModelInfo, images: list[bytes]) -> list[np.ndarray]:
    """Preprocessed images: a batch of one, and batches of three."""
    pixels = np.stack([preprocess(image, info) for image in images])
    return [pixels[:1], *(pixels[start : start + 3] for start in range(0, len(pixels), 3))]


@pytest.fixture(scope="module")
def expected(batches: list[np.ndarray], published: Published) -> list[list[str]]:
    """The label of each image of each batch, computed in-process."""
    with LocalClassifier(published.path) as local:
        return [[local.manifest.labels[row.argmax()] for row in local._runtime.run(batch)] for batch in batches]


def _labels(classes: np.ndarray, batch_size: int) -> list[str]:
    """Parse a classification output of `value:index:label` strings."""
    assert len(classes) == batch_size
    return [row[0].decode().split(":")[2] for row in classes]


def _tensors(batch: np.ndarray, info: ModelInfo) -> dict[str, list[Any]]:
    tensor = triton.InferInput(info.input_name, list(batch.shape), info.datatype)
    tensor.set_data_from_numpy(batch)
    return {"inputs": [tensor], "outputs": [triton.InferRequestedOutput(info.output_name, class_count=1)]}


def _receive(responses: "queue.Queue[tuple[Any, Any]]", result: Any, error: Any) -> None:
    responses.put((result, error))


def _synchronous(client: triton.InferenceServerClient, batches: list[np.ndarray], info: ModelInfo) -> list[Any]:
    return [
        client.infer(MODEL, request_id=str(number), model_version="", **_tensors(batch, info))
        for number, batch in enumerate(batches, start=1)
    ]


def _asynchronous(client: triton.InferenceServerClient, batches: list[np.ndarray], info: ModelInfo) -> list[Any]:
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for number, batch in enumerate(batches, start=1):
        client.async_infer(
            MODEL, callback=partial(_receive, responses), request_id=str(number), **_tensors(batch, info)
        )
    return _in_request_order(responses, len(batches))


def _streaming(client: triton.InferenceServerClient, batches: list[np.ndarray], info: ModelInfo) -> list[Any]:
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(partial(_receive, responses))
    for number, batch in enumerate(batches, start=1):
        client.async_stream_infer(MODEL, request_id=str(number), **_tensors(batch, info))
    results = _in_request_order(responses, len(batches))
    client.stop_stream()
    return results


def _in_request_order(responses: "queue.Queue[tuple[Any, Any]]", count: int) -> list[Any]:
    received = [responses.get(timeout=TIMEOUT_S) for _ in range(count)]
    assert [error for _, error in received] == [None] * count
    return sorted((result for result, _ in received), key=lambda result: int(result.get_response().id))


@pytest.mark.parametrize("send", [_synchronous, _asynchronous, _streaming])
def test_image_client_classifies_images(
    send: Callable[..., list[Any]],
    client: triton.InferenceServerClient,
    info: ModelInfo,
    batches: list[np.ndarray],
    expected: list[list[str]],
) -> None:
    """Synchronous, asynchronous and streaming inference, of single images and of batches, return the right labels."""
    assert max(len(batch) for batch in batches) <= info.max_batch_size
    results = send(client, batches, info)
    found = [
        _labels(result.as_numpy(info.output_name), len(batch)) for result, batch in zip(results, batches, strict=True)
    ]
    assert found == expected


def test_grpc_image_client_classifies_images(
    target: str, info: ModelInfo, batches: list[np.ndarray], expected: list[list[str]]
) -> None:
    """The same with tritonclient's generated stubs instead of its client class."""
    with grpc.insecure_channel(target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=MODEL))
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=MODEL)).config
        assert parse_model(metadata, config) == info
        found = []
        for batch in batches:
            request = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[batch.tobytes()])
            request.inputs.add(name=info.input_name, datatype=info.datatype, shape=batch.shape)
            request.outputs.add(name=info.output_name).parameters["classification"].int64_param = 1
            response = stub.ModelInfer(request, timeout=TIMEOUT_S)
            classes = deserialize_bytes_tensor(response.raw_output_contents[0]).reshape(response.outputs[0].shape)
            found.append(_labels(classes, len(batch)))
    assert found == expected


def test_preprocessed_input_has_format_nhwc_and_encoded_input_none(client: triton.InferenceServerClient) -> None:
    """Triton allows a format only for inputs with three dimensions, which encoded images do not have."""
    formats = {name: client.get_model_config(name).config.input[0].format for name in (MODEL, f"{MODEL}.encoded")}
    names = triton.model_config_pb2.ModelInput.Format
    assert formats == {MODEL: names.Value("FORMAT_NHWC"), f"{MODEL}.encoded": names.Value("FORMAT_NONE")}

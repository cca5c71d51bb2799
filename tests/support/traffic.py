"""Requests whose answers name the version, over every protocol, and the traffic of a server."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from support.canaries import BRIGHT, DARK, MODEL
from support.http import call
from support.manifests import MANIFEST
from support.servers import server_in_thread
from unfreeze.contract.images.preprocess import prepare
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.server import Server

STICKY = "x-unfreeze-sticky"
PIXELS = np.stack([prepare(image, MANIFEST.preprocess) for image in (DARK, BRIGHT)])


@contextmanager
def serving(repository: Path, **options: object) -> Iterator[tuple[Server, grpc.Channel]]:
    """Serve a repository that is looked at 20 times a second, over gRPC and HTTP."""
    with (
        server_in_thread(repository, **{"poll_s": 0.05, "http": 0, "instances": 1, "threads": 1} | options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield server, channel


def predict(channel: grpc.Channel, key: str = "", image: bytes = DARK, version: str = "") -> str:
    """Classify an image, and return the version that answered."""
    request = pb.PredictRequest(images=[image], version=version)
    return ClassifierStub(channel).Predict(request, metadata=_metadata(key)).version


def predict_stream(channel: grpc.Channel, key: str, count: int) -> list[str]:
    """Classify an image several times in one stream."""
    requests = iter([pb.PredictRequest(images=[DARK])] * count)
    answers = ClassifierStub(channel).PredictStream(requests, metadata=_metadata(key))
    return [answer.response.version for answer in answers]


def infer(channel: grpc.Channel, key: str = "", identity: str = "") -> str:
    """Classify pixels by the Open Inference Protocol."""
    response = GRPCInferenceServiceStub(channel).ModelInfer(_infer_request(identity), metadata=_metadata(key))
    return response.model_version


def infer_stream(channel: grpc.Channel, identities: Iterable[str]) -> list[str]:
    """Classify pixels in one stream, each with an id of its own."""
    answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([_infer_request(one) for one in identities]))
    return [answer.infer_response.model_version for answer in answers]


def classify_http(server: Server, key: str = "") -> str:
    """Classify an image over HTTP."""
    answer = call(server, f"/v1/models/{MODEL}:classify", DARK, dict(_metadata(key)))
    return answer.json["version"]


def infer_http(server: Server, identity: str) -> str:
    """Classify pixels over HTTP, by the Open Inference Protocol."""
    tensor = {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": [1, *PIXELS.shape[1:]],
        "data": PIXELS[0].ravel().tolist(),
    }
    document = json.dumps({"id": identity, "inputs": [tensor]}).encode()
    return call(server, f"/v2/models/{MODEL}/infer", document).json["model_version"]


def traffic(channel: grpc.Channel) -> pb.Traffic:
    """Return the traffic of the server's only model."""
    return ClassifierStub(channel).GetTraffic(pb.GetTrafficRequest())


def set_traffic(channel: grpc.Channel, **fields: Any) -> pb.Traffic:
    """Set it."""
    return ClassifierStub(channel).SetTraffic(pb.SetTrafficRequest(**fields))


def until(condition: Callable[[], Any], timeout_s: float = 30) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)


def _metadata(key: str) -> tuple[tuple[str, str], ...]:
    return ((STICKY, key),) if key else ()


def _infer_request(identity: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=MODEL, id=identity, raw_input_contents=[PIXELS[0].tobytes()])
    request.inputs.add(name="pixels", datatype="UINT8", shape=[1, *PIXELS.shape[1:]])
    return request

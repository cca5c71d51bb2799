"""Prometheus metrics of a real server, read over HTTP."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.cli import run_cli
from support.logged import LoggedServer, logged_server
from support.servers import server_thread

from unfreeze.contract.model.manifest import INPUT
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.scheduling.statistics import BUCKETS

pytestmark = pytest.mark.xdist_group("serve")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ENCODED, PREPROCESSED = {"model": "colors.encoded", "version": "1"}, {"model": "colors", "version": "1"}


@pytest.fixture(scope="module")
def samples(repository: Path, images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    """The metrics of a server after 4 successful requests with 8 images in total, and 3 failed requests."""
    with logged_server(repository, tmp_path_factory.mktemp("metrics") / "log") as logged:
        _send_requests(logged, images)
        yield _samples(logged.metrics_url())


def _send_requests(logged: LoggedServer, images: list[bytes]) -> None:
    with grpc.insecure_channel(logged.server.target) as channel:
        stub = ClassifierStub(channel)
        for count in (1, 2, 3):
            stub.Predict(pb.PredictRequest(images=images[:count]))
        GRPCInferenceServiceStub(channel).ModelInfer(_preprocessed_request(2))
        for invalid in ([b"not an image"], [images[0], b""], []):
            with pytest.raises(grpc.RpcError):
                stub.Predict(pb.PredictRequest(images=invalid))


def _preprocessed_request(count: int) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="colors")
    request.inputs.add(name=INPUT, datatype="UINT8", shape=[count, 32, 32, 3])
    request.raw_input_contents.append(np.zeros((count, 32, 32, 3), np.uint8).tobytes())
    return request


def _samples(url: str) -> Samples:
    with urlopen(url, timeout=10) as response:  # noqa: S310 - a test server
        text = response.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_counts_requests_and_images(samples: Samples) -> None:
    """Encoded and preprocessed images are counted separately, and failed requests are not successes."""
    for labels, requests, images in ((ENCODED, 3, 6), (PREPROCESSED, 1, 2)):
        assert _value(samples, "nv_inference_request_success", **labels) == requests
        assert _value(samples, "nv_inference_count", **labels) == images
        assert 1 <= _value(samples, "nv_inference_exec_count", **labels) <= images


def test_counts_failures_by_reason_and_status(samples: Samples) -> None:
    """The three invalid requests are counted, and nothing else failed."""
    failures = {labels: value for (name, labels), value in samples.items() if name == "nv_inference_request_failure"}
    assert failures == {tuple(sorted({**ENCODED, "reason": "InvalidRequestError"}.items())): 3}
    assert _value(samples, "unfreeze_request_errors_total", status="INVALID_ARGUMENT") == 3
    assert _value(samples, "unfreeze_request_errors_total", status="RESOURCE_EXHAUSTED") == 0


@pytest.mark.parametrize("stage", ["queue", "decode", "infer", "request"])
def test_histograms_agree_with_counters(samples: Samples, stage: str) -> None:
    """Buckets are cumulative, the last one counts all requests, and sums equal Triton's counters."""
    counter = {"decode": "compute_input", "infer": "compute_infer"}.get(stage, stage)
    for labels, requests in ((ENCODED, 3), (PREPROCESSED, 1)):
        bounds = [*map(str, BUCKETS), "+Inf"]
        counts = [_value(samples, f"unfreeze_{stage}_duration_seconds_bucket", **labels, le=bound) for bound in bounds]
        assert counts == sorted(counts)
        assert counts[-1] == _value(samples, f"unfreeze_{stage}_duration_seconds_count", **labels) == requests
        seconds = _value(samples, f"unfreeze_{stage}_duration_seconds_sum", **labels)
        assert 1e6 * seconds == pytest.approx(_value(samples, f"nv_inference_{counter}_duration_us", **labels))
    assert _value(samples, "unfreeze_request_duration_seconds_sum", **ENCODED) > _value(
        samples, "unfreeze_infer_duration_seconds_sum", **ENCODED
    )


def test_reports_readiness_queue_and_process_metrics(samples: Samples) -> None:
    """The model is ready, the queue is empty, and the memory of the process is reported."""
    assert _value(samples, "unfreeze_model_ready", **PREPROCESSED) == 1
    assert _value(samples, "nv_inference_pending_request_count", **PREPROCESSED) == 0
    assert _value(samples, "process_resident_memory_bytes") > 1e6


def test_metrics_endpoint_rejects_post(repository: Path) -> None:
    """Only GET is allowed."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with server_thread(repository, metrics=True, metrics_port=port):
        url = f"http://127.0.0.1:{port}/metrics"
        assert "unfreeze_model_ready" in urlopen(url, timeout=10).read().decode()
        with pytest.raises(HTTPError, match="405"):
            urlopen(url, data=b"a post", timeout=10)


def test_used_metrics_port_is_an_error(repository: Path) -> None:
    """A server whose metrics port is in use does not start; with --no-metrics it does."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        done = run_cli("serve", "--repository", repository, "--port", 0, "--metrics-port", port)
        assert (done.returncode, done.stdout) == (1, "")
        message = " ".join(done.stderr.split())
        assert f"cannot listen for metrics on 127.0.0.1:{port}: Address already in use" in message
        assert "change --metrics-port or --metrics-host" in message
        with server_thread(repository, metrics_port=port) as target, Client(target) as client:
            assert [model.name for model in client.list_models()] == ["colors"]

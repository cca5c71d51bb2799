"""What Prometheus is told, by a real server over HTTP."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.logged import LoggedServer, logged_server
from support.servers import serve_command

from unfreeze.contract.model.manifest import INPUT
from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.scheduling.statistics import BUCKETS

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ENCODED, PREPARED = {"model": "colors.encoded", "version": "1"}, {"model": "colors", "version": "1"}


@pytest.fixture(scope="module")
def told(repository: Path, images: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    """The metrics of a server that answered 4 requests of 8 images, and refused 3."""
    with logged_server(repository, tmp_path_factory.mktemp("metrics") / "log") as logged:
        _ask(logged, images)
        yield _samples(logged.metrics_url())


def _ask(logged: LoggedServer, images: list[bytes]) -> None:
    with grpc.insecure_channel(logged.server.target) as channel:
        stub = ClassifierStub(channel)
        for count in (1, 2, 3):
            stub.Predict(pb.PredictRequest(images=images[:count]))
        GRPCInferenceServiceStub(channel).ModelInfer(_prepared(2))
        for wrong in ([b"no image"], [images[0], b""], []):
            with pytest.raises(grpc.RpcError):
                stub.Predict(pb.PredictRequest(images=wrong))


def _prepared(count: int) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="colors")
    request.inputs.add(name=INPUT, datatype="UINT8", shape=[count, 32, 32, 3])
    request.raw_input_contents.append(np.zeros((count, 32, 32, 3), np.uint8).tobytes())
    return request


def _samples(url: str) -> Samples:
    with urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
        text = response.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(told: Samples, name: str, **labels: str) -> float:
    return told[name, tuple(sorted(labels.items()))]


def test_requests_and_images_are_counted_exactly(told: Samples) -> None:
    """Encoded and prepared images count for models of their own, and what was refused is no success."""
    for labels, requests, images in ((ENCODED, 3, 6), (PREPARED, 1, 2)):
        assert _value(told, "nv_inference_request_success", **labels) == requests
        assert _value(told, "nv_inference_count", **labels) == images
        assert 1 <= _value(told, "nv_inference_exec_count", **labels) <= images


def test_failures_are_counted_by_reason(told: Samples) -> None:
    """Three requests were refused for what was in them, and nothing else failed."""
    failures = {labels: value for (name, labels), value in told.items() if name == "nv_inference_request_failure"}
    assert failures == {tuple(sorted({**ENCODED, "reason": "InvalidRequestError"}.items())): 3}
    assert _value(told, "unfreeze_refused", status="INVALID_ARGUMENT") == 3
    assert _value(told, "unfreeze_refused", status="RESOURCE_EXHAUSTED") == 0


@pytest.mark.parametrize("stage", ["queue", "decode", "infer", "request"])
def test_histograms_agree_with_the_counters(told: Samples, stage: str) -> None:
    """Buckets only grow, the last and the count are all requests, and sums are those of Triton's counters."""
    counter = {"decode": "compute_input", "infer": "compute_infer"}.get(stage, stage)
    for labels, requests in ((ENCODED, 3), (PREPARED, 1)):
        bounds = [*map(str, BUCKETS), "+Inf"]
        counts = [_value(told, f"unfreeze_{stage}_seconds_bucket", **labels, le=bound) for bound in bounds]
        assert counts == sorted(counts)
        assert counts[-1] == _value(told, f"unfreeze_{stage}_seconds_count", **labels) == requests
        seconds = _value(told, f"unfreeze_{stage}_seconds_sum", **labels)
        assert 1e6 * seconds == pytest.approx(_value(told, f"nv_inference_{counter}_duration_us", **labels))
    assert _value(told, "unfreeze_request_seconds_sum", **ENCODED) > _value(
        told, "unfreeze_infer_seconds_sum", **ENCODED
    )


def test_what_is_loaded_and_waits_is_told(told: Samples) -> None:
    """The version is ready, nothing waits any more, and the process tells of itself."""
    assert _value(told, "unfreeze_model_ready", **PREPARED) == 1
    assert _value(told, "nv_inference_pending_request_count", **PREPARED) == 0
    assert _value(told, "process_resident_memory_bytes") > 1e6


def test_a_taken_port_is_an_error_that_says_so(repository: Path, tmp_path: Path) -> None:
    """A second server with the same port for metrics does not start; without metrics, it does."""
    with logged_server(repository, tmp_path / "log") as logged:
        port = logged.metrics_url().rpartition(":")[2].partition("/")[0]
        command = [*serve_command(repository)[:-1], port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"cannot listen for metrics on 127.0.0.1:{port}: Address already in use" in done.stderr
        assert "choose another --metrics-port" in done.stderr
        with logged_server(repository, tmp_path / "second", "--no-metrics") as second:
            assert not any("metrics on" in line["message"] for line in second.lines())
        with pytest.raises(HTTPError, match="405"):
            urlopen(logged.metrics_url(), data=b"a post", timeout=10)  # noqa: S310 - as above

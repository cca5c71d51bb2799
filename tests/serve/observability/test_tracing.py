"""OpenTelemetry traces of a real server, received by a collector."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.logged import LoggedServer, logged_server

from unfreeze.protos import open_inference_pb2 as oip
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

pytestmark = pytest.mark.xdist_group("serve")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PREDICT, STREAM = "/unfreeze.v1.Classifier/Predict", "/inference.GRPCInferenceService/ModelStreamInfer"


class _Collector(TraceServiceServicer):
    """Stores the spans that it receives."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def Export(  # noqa: N802 - the name in the protocol
        self,
        request: ExportTraceServiceRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> ExportTraceServiceResponse:
        """Receive spans."""
        for resource_spans in request.resource_spans:
            attributes = {one.key: one.value.string_value for one in resource_spans.resource.attributes}
            self.services.add(attributes["service.name"])
            self.spans += [span for scope in resource_spans.scope_spans for span in scope.spans]
        return ExportTraceServiceResponse()

    def wait_for(self, name: str) -> list[Span]:
        """Wait until there is a span of this name; returns all of them."""
        until = time.monotonic() + 20
        while not (found := [span for span in self.spans if span.name == name]):
            assert time.monotonic() < until, [span.name for span in self.spans]
            time.sleep(0.01)
        return found


@contextmanager
def _traced(repository: Path, log: Path, **environment: str) -> Iterator[tuple[LoggedServer, _Collector]]:
    collector = _Collector()
    receiving = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(collector, receiving)
    port = receiving.add_insecure_port("127.0.0.1:0")
    receiving.start()
    exporter = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_INSECURE": "true"}
    with logged_server(repository, log, "--tracing", **exporter, **environment) as logged:
        yield logged, collector
    receiving.stop(0).wait()


def test_request_spans_are_children_of_the_clients_span(repository: Path, images: list[bytes], tmp_path: Path) -> None:
    """Each unary call and each stream has one span with parent, method, status and service name."""
    with _traced(repository, tmp_path / "log", OTEL_BSP_SCHEDULE_DELAY="100") as (logged, collector):
        with grpc.insecure_channel(logged.server.target) as channel:
            stub, metadata = ClassifierStub(channel), (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
            stub.Predict(pb.PredictRequest(images=images[:2]), metadata=metadata)
            (span,) = collector.wait_for(PREDICT)
            assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
            assert span.kind == Span.SPAN_KIND_SERVER
            assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
            attributes = {one.key: one.value for one in span.attributes}
            assert attributes["rpc.method"].string_value == "Predict"
            assert attributes["rpc.grpc.status_code"].int_value == 0
            requests = [oip.ModelInferRequest(model_name="unknown")] * 2
            assert len(list(GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests)))) == 2
            assert len(collector.wait_for(STREAM)) == 1
        assert collector.services == {"unfreeze"}


def test_remaining_spans_are_exported_at_shutdown(repository: Path, tmp_path: Path) -> None:
    """The span of a failed request has its status, and is exported although the next export is in an hour."""
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_SERVICE_NAME": "custom-name"}
    with _traced(repository, tmp_path / "log", **environment) as (logged, collector):
        with grpc.insecure_channel(logged.server.target) as channel, pytest.raises(grpc.RpcError) as failed:
            ClassifierStub(channel).Predict(pb.PredictRequest(images=[b"not an image"]))
        assert "x-request-id" in dict(failed.value.trailing_metadata())
        assert collector.spans == []
        assert logged.server.terminate() == 0
        (span,) = collector.spans
        attributes = {one.key: one.value for one in span.attributes}
        assert attributes["rpc.grpc.status_code"].int_value == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert collector.services == {"custom-name"}


def test_missing_opentelemetry_is_an_error(repository: Path) -> None:
    """Without OpenTelemetry, `--tracing` exits with code 1 and the extra to install."""
    command = ["unfreeze", "serve", "--repository", str(repository), "--port", "0", "--no-metrics", "--tracing"]
    script = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'opentelemetry':
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = {command!r}
from unfreeze.command import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--tracing requires OpenTelemetry" in done.stderr
    assert "pip install 'unfreeze[tracing]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_opentelemetry_is_imported_only_for_tracing() -> None:
    """`import unfreeze.serve.server` does not import OpenTelemetry."""
    script = "import unfreeze.serve.server, sys; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

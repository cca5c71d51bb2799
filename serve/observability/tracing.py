"""OpenTelemetry tracing: one span per request, exported with OTLP as configured by the OTEL_* environment variables."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from unfreeze.contract.errors import ServingError, first_line

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_DEFAULT_SERVICE_NAME = "unfreeze"


class Tracing:
    """Creates a span for each request and exports spans in batches; `close` exports the remaining ones.

    Args:
        traced: whether a call gets a span.

    Raises:
        ServingError: OpenTelemetry is not installed, or an OTEL_* variable has an unsupported value.
    """

    def __init__(self, traced: Callable[[grpc.HandlerCallDetails], bool]) -> None:
        try:
            from opentelemetry.instrumentation.grpc import aio_server_interceptor

            self._provider = _tracer_provider()
        except ImportError as error:
            raise ServingError(
                f"--tracing requires OpenTelemetry ({first_line(error)}): pip install 'unfreeze[tracing]'"
            ) from error
        except ValueError as error:
            raise ServingError(
                f"cannot start OpenTelemetry; check the OTEL_* environment variables: {first_line(error)}"
            ) from error
        self.interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(
            tracer_provider=self._provider, filter_=traced
        )

    def close(self) -> None:
        """Export the remaining spans; blocks for at most OTEL_EXPORTER_OTLP_TIMEOUT."""
        self._provider.shutdown()


def _tracer_provider() -> "TracerProvider":
    """Create a tracer provider that exports spans over gRPC."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _DEFAULT_SERVICE_NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider

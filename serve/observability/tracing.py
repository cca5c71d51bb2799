"""OpenTelemetry traces of requests: a span for each, below the caller's, sent as the OTEL_* variables say."""

from typing import TYPE_CHECKING

import grpc

from unfreeze.contract.errors import ServingError, first_line

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NAME = "unfreeze"


class Tracing:
    """Spans for every request, in batches to an OTLP collector; `close` sends those that are left.

    Raises:
        ServingError: OpenTelemetry is not installed, or its variables ask for what it does not know.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry.instrumentation.grpc import aio_server_interceptor

            self._provider = _provider()
        except ImportError as error:
            raise ServingError(
                f"--tracing needs OpenTelemetry ({first_line(error)}): pip install 'unfreeze[tracing]'"
            ) from error
        except ValueError as error:
            raise ServingError(
                f"OpenTelemetry cannot be started; see its OTEL_* variables: {first_line(error)}"
            ) from error
        self.interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(tracer_provider=self._provider)

    def close(self) -> None:
        """Send what is left; blocks, for as long as OTEL_EXPORTER_OTLP_TIMEOUT says at most."""
        self._provider.shutdown()


def _provider() -> "TracerProvider":
    """Make what collects spans and sends them, by gRPC."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: _NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider

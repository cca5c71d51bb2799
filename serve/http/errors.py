"""How errors become HTTP responses: the status that corresponds to the one of gRPC, and `{"error": message}`."""

import math

import grpc
from starlette.responses import JSONResponse, Response

from unfreeze.serve.status import status_of

HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.INTERNAL: 500,
}
CLIENT_CLOSED = 499  # never received by anybody; as nginx logs it


class RefusedError(Exception):
    """A request that HTTP itself refuses.

    Args:
        status: HTTP status.
        message: for the caller.
        headers: further headers of the response.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


def error_response(error: Exception) -> Response:
    """Return the response to a request that failed; errors other than `RefusedError` are counted."""
    if isinstance(error, RefusedError):
        return _response(error.status, str(error), error.headers)
    status = status_of(error)
    headers = {} if status.retry_s is None else {"retry-after": str(math.ceil(status.retry_s))}
    return _response(HTTP_STATUS[status.code], status.message, headers)


def _response(status: int, message: str, headers: dict[str, str]) -> Response:
    return JSONResponse({"error": message}, status, headers)

"""Read the body of a request: no larger and no slower than allowed, and not too many at a time."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self

from starlette.requests import Request

from unfreeze.contract.errors import InvalidRequestError
from unfreeze.serve.http.errors import RefusedError
from unfreeze.serve.http.numbers import parse_number
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget

_RECEIVE_S = 60.0
_MOST_DIGITS = 12
_DOCUMENT_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """Limits of bodies.

    Args:
        most_bytes: of one body.
        budget: of all requests that are being received, also over gRPC; a body counts until it has been worked on.
    """

    most_bytes: int
    budget: ReceiveBudget


class Body:
    """The body of a request; what it holds of the limits is released at the end of `with`.

    Args:
        request: whose body has not been read.
        limits: of the server.
    """

    def __init__(self, request: Request, limits: BodyLimits) -> None:
        self._request, self._limits, self._held = request, limits, 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self._limits.budget.give(self._held)

    async def read(self, most_bytes: int | None = None) -> bytes:
        """Read it.

        Args:
            most_bytes: its largest size, by default that of the server.

        Raises:
            RefusedError: it is larger, is compressed, or takes longer than 60 seconds.
            InvalidRequestError: the declared length is no number.
            QueueFullError: too many bodies are held.
        """
        headers, most = self._request.headers, most_bytes or self._limits.most_bytes
        if headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(415, "compressed requests are not supported: send the body without Content-Encoding")
        declared = parse_number(headers.get("content-length", "0"), most_digits=_MOST_DIGITS)
        if declared is None:
            raise InvalidRequestError(f"Content-Length must be a number of at most {_MOST_DIGITS} digits")
        self._hold(declared, most)
        chunks, received = [], 0
        try:
            async with asyncio.timeout(_RECEIVE_S):
                async for chunk in self._request.stream():
                    received += len(chunk)
                    self._hold(received, most)
                    chunks.append(chunk)
        except TimeoutError:
            raise RefusedError(408, f"the request was not received within {_RECEIVE_S:g} seconds") from None
        return b"".join(chunks)

    def _hold(self, size: int, most_bytes: int) -> None:
        if size > most_bytes:
            raise RefusedError(413, f"the request is larger than the {most_bytes:,} bytes allowed (--max-message-mib)")
        more = max(0, size - self._held)
        self._limits.budget.take(more)
        self._held += more


async def read_document(request: Request, limits: BodyLimits) -> dict[str, Any]:
    """Read a small body: an object in JSON; without a body, an empty one.

    Args:
        request: whose body has not been read.
        limits: of the server.

    Raises:
        RefusedError: as for `Body.read`.
        InvalidRequestError: it is not an object in JSON.
        QueueFullError: too many bodies are held.
    """
    with Body(request, limits) as receiving:
        body = await receiving.read(_DOCUMENT_BYTES)
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidRequestError("the request must be an object in JSON")
    return document

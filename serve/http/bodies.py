"""Read the body of a request: no larger and no slower than allowed, and not too many at a time."""

import asyncio
import json
from typing import Any, Self

from starlette.requests import Request

from unfreeze.contract.errors import InvalidRequestError, QueueFullError
from unfreeze.serve.http.errors import RefusedError
from unfreeze.serve.http.numbers import parse_number

_RECEIVE_S = 60.0
_RETRY_S = 0.5
_MOST_DIGITS = 12
_DOCUMENT_BYTES = 2**20


class BodyLimits:
    """Limits of bodies.

    Args:
        most_bytes: of one body.
        most_held_bytes: of all bodies that are being received or worked on.
    """

    def __init__(self, most_bytes: int, most_held_bytes: int) -> None:
        self.most_bytes, self._most_held, self._held = most_bytes, most_held_bytes, 0

    def change(self, count: int) -> None:
        """Count bytes that are received, or released if negative.

        Raises:
            QueueFullError: there are too many.
        """
        self._held += count
        if count > 0 and self._held > self._most_held:
            raise QueueFullError(
                f"the requests that are being received have more than {self._most_held:,} bytes; retry later", _RETRY_S
            )


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
        self._limits.change(-self._held)

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
        self._held += more
        self._limits.change(more)


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

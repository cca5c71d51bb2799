"""What front-end processes and the process of the models tell each other: fixed records over a Unix socket.

Images and probabilities are in shared memory; records say where. Documents in JSON follow those that are rare.
"""

import asyncio
import enum
import json
import struct
from typing import Any, NamedTuple, Protocol, runtime_checkable

from unfreeze.contract import errors
from unfreeze.contract.errors import QueueFullError, UnfreezeError

_RECORD = struct.Struct("<B??xIIIQqddd")
_NO_DEADLINE = float("inf")


class Kind(enum.IntEnum):
    """What a record says."""

    CLASSIFY = 1  # front end: classify images
    CANCEL = 2  # front end: the caller no longer waits
    RELEASE = 3  # front end: a version that was replaced is no longer used here
    CALL = 4  # front end: a document that asks for something
    COUNTS = 5  # front end: a document with its counters
    ANSWER = 6  # models: probabilities are in the region
    FAILURE = 7  # models: a document with the error of a request or a call
    RESULT = 8  # models: the document that answers a call
    MODELS = 9  # models: a document with the loaded versions


_WITH_DOCUMENT = frozenset({Kind.CALL, Kind.COUNTS, Kind.FAILURE, Kind.RESULT, Kind.MODELS})


class Record(NamedTuple):
    """A record.

    Args:
        kind: what it says.
        encoded: whether the caller sent encoded images.
        sampled: whether a shadow gets a copy of the request.
        number: number of the request or call.
        handle: number of the loaded version.
        size: number of images, or of bytes in the document that follows.
        begin: where the images begin in the region; the probabilities follow them.
        priority: requests with lower numbers are executed first.
        deadline: on the clock of `time.monotonic`; infinity for none.
        started: of an answer, when the first image joined a batch, on the same clock.
        infer_s: of an answer, seconds in the runtime.
    """

    kind: int
    encoded: bool = False
    sampled: bool = False
    number: int = 0
    handle: int = 0
    size: int = 0
    begin: int = 0
    priority: int = 0
    deadline: float = _NO_DEADLINE
    started: float = 0.0
    infer_s: float = 0.0


@runtime_checkable
class Receiver(Protocol):
    """Takes what arrives on a link."""

    def on_connected(self, link: "Link") -> None:
        """Take the link to send on."""

    def on_record(self, record: Record, document: Any) -> None:
        """Take a record and the document after it, if it has one."""

    def on_closed(self) -> None:
        """Take note that the other process has gone."""


class Link(asyncio.Protocol):
    """One end of a connection.

    Args:
        receiver: takes what arrives.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of the socket that it was created for
        self._transport = transport
        self._receiver.on_connected(self)

    def connection_lost(self, _: Exception | None) -> None:
        """End."""
        self._transport = None
        self._receiver.on_closed()

    def data_received(self, data: bytes) -> None:
        """Pass on the records that are complete."""
        received, offset, size = self._received + data, 0, _RECORD.size
        while len(received) - offset >= size:
            record = Record._make(_RECORD.unpack_from(received, offset))
            after, document = offset + size, None
            if record.kind in _WITH_DOCUMENT:
                after += record.size
                if len(received) < after:
                    break
                document = json.loads(received[offset + size : after])
            offset = after
            self._receiver.on_record(record, document)
        self._received = received[offset:]

    def send(self, record: Record, document: Any = None) -> None:
        """Send a record at the end of this iteration of the event loop; nothing is sent to a process that has gone.

        Args:
            record: the record.
            document: follows it, if it is of a kind that has a document.
        """
        if self._transport is None:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        if record.kind not in _WITH_DOCUMENT:
            self._unsent.append(_RECORD.pack(*record))
            return
        text = json.dumps(document).encode()
        self._unsent += _RECORD.pack(*record._replace(size=len(text))), text

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def close(self) -> None:
        """Close the connection after what was sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()


def error_document(error: BaseException) -> dict[str, Any]:
    """Describe an error to the other process; one that is not ours has only its type."""
    if not isinstance(error, UnfreezeError):
        return {"type": "", "message": type(error).__name__}
    retry_s = error.retry_s if isinstance(error, QueueFullError) else 0.0
    return {"type": type(error).__name__, "message": str(error), "retry_s": retry_s}


def error_from(document: dict[str, Any]) -> Exception:
    """Return the error that the other process described."""
    kind, message = getattr(errors, document["type"] or "_", None), document["message"]
    if kind is QueueFullError:
        return QueueFullError(message, document["retry_s"])
    if isinstance(kind, type) and issubclass(kind, UnfreezeError):
        return kind(message)
    return RuntimeError(f"{message} in the process of the models; see its log")

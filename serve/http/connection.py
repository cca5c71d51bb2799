"""A connection with limits: none waits for ever, sends endless headers, or keeps answers that it does not read."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_CONNECTIONS = 1000
_MOST_HEAD_BYTES = 2**16  # of the request line and the headers
_MOST_PIPELINED = 16
_HEAD_S, _DISCARD_S, _KEEP_ALIVE_S, _UNREAD_S = 30.0, 10.0, 60.0, 60.0
_BUSY = b'{"error": "the server has too many connections; retry later"}'
_TOO_LONG = b'{"error": "the headers are longer than 65,536 bytes"}'


class LimitedConnection(HttpToolsProtocol):
    """A connection that is aborted when its peer takes too long.

    It may take 30 seconds to send the headers of a request, 10 seconds to send what is left of a body that was refused,
    60 seconds until the next request, and 60 seconds to read an answer. Bodies that are read have their own limit.
    """

    _timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = False
    _is_received = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many."""
        super().connection_made(transport)
        self._abort_after(_HEAD_S)
        if len(self.connections) > _MOST_CONNECTIONS:
            self._refuse(b"503 Service Unavailable", _BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        for timer in (self._timer, self._unread_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Receive data; count it while headers are being received."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large", _TOO_LONG)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._is_received = True, 0, False
        self._abort_after(_HEAD_S)

    def on_headers_complete(self) -> None:
        """Begin the body; its handler limits the time from now on."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()
        if len(self.pipeline) > _MOST_PIPELINED:
            self.transport.abort()

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self._is_received = True
        if self.cycle is not None and self.cycle.response_complete:
            self._abort_after(_KEEP_ALIVE_S)

    def on_response_complete(self) -> None:
        """End an answer; the rest of a body that was not read may follow."""
        super().on_response_complete()
        if not self.transport.is_closing() and not self._in_head:
            self._abort_after(_KEEP_ALIVE_S if self._is_received else _DISCARD_S)

    def pause_writing(self) -> None:
        """Wait until the peer reads."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def _abort_after(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _refuse(self, status: bytes, body: bytes) -> None:
        headers = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n" + body)
        self.transport.close()

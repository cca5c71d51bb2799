"""A web server of files with ranges and entity tags, which can be slow, break off, or do something at a chosen byte."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_CHUNK = 1 << 14


@dataclass
class FileServer:
    """What a server does, and what it has seen.

    Args:
        folder: that it serves.
        url: of the folder.
        ranges: whether it knows ranges.
        break_after: close the connection after so many bytes of a file, once; None never.
        breaks_always: and not only once.
        at_bytes: call `reached` when so many bytes of models were sent in all; None never.
        reached: what is called.
        requests: path and Range header of each request.
        access: Authorization header of each request.
        sent: bytes of models that were sent.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    break_after: int | None = None
    breaks_always: bool = False
    at_bytes: int | None = None
    reached: Callable[[], None] = lambda: None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    access: list[str | None] = field(default_factory=list)
    sent: int = 0

    def models_requested(self) -> list[str | None]:
        """Return the Range header of each request for a model."""
        return [wanted for path, wanted in self.requests if path.endswith("model.onnx")]


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve a folder on a free port of this machine."""
    state = FileServer(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, state)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, state: FileServer) -> None:
    path, wanted = handler.path.partition("?")[0].lstrip("/"), handler.headers.get("Range")
    state.requests.append((path, wanted))
    state.access.append(handler.headers.get("Authorization"))
    file = state.folder / unquote(path)
    if not file.is_file():
        handler.send_error(404)
        return
    content = file.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()}"'
    start = 0
    if state.ranges and wanted and handler.headers.get("If-Range") in (None, tag):
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
        handler.send_response(200)
    handler.send_header("ETag", tag)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    try:
        _send(handler, state, content[start:], is_model=file.name == "model.onnx")
    except (BrokenPipeError, ConnectionResetError):
        handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, state: FileServer, content: bytes, *, is_model: bool) -> None:
    for at in range(0, len(content), _CHUNK):
        if is_model and state.break_after is not None and at >= state.break_after:
            state.break_after = state.break_after if state.breaks_always else None
            handler.close_connection = True
            return
        if is_model and state.at_bytes is not None and state.sent >= state.at_bytes:
            state.at_bytes = None
            state.reached()
        handler.wfile.write(content[at : at + _CHUNK])
        state.sent += len(content[at : at + _CHUNK]) if is_model else 0
